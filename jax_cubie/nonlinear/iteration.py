"""How a simplified Newton iteration goes on, and when it ends.

Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8: with the norms n_m of the increments, theta = n_m /
n_(m - 1) and eta = theta / (1 - theta), the error behind an iteration is about eta n_m. It has converged where that is at most
KAPPA; it never will where theta is 1 or more, and not in time where theta^(the iterations that are left) n_m / (1 - theta) is
above KAPPA.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel.memory import quick
from ..kernel.scalar import Scalar, least, most, where
from ..operands import MASS
from ..solution import CODES
from .newton import KAPPA

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body

# What rounding leaves of an increment, in units in the last place of the state; less is never asked for. So does RADAU5 by
# Hairer and Wanner.
ROUNDING = 10.0
# The tolerances, absolute and relative, of steps that are not judged, by the solve's dtype.
UNJUDGED = {"float32": 1e-4, "float64": 1e-8}
# The least eta that one system takes from the one before where equations may be algebraic. An increment of algebraic components
# alone is exact, and says nothing of the next one, of others; and what an algebraic component is wrong by at a step's beginning
# is an error of the step, however small that is.
LEAST_LEARNT = 1e-2


class Iteration:
    """The iterations of one step's systems, one system after the other.

    What one system has shown of the rate goes over to the next. Nothing outlives the step, which so depends on its beginning
    alone.
    """

    def __init__(self, b: Body, fine: Scalar):
        self._b, self._valid = b, _are_valid(b)
        self._ok, self._going = (b.variable((fine & self._valid).value, "bool") for _ in range(2))
        self._eta, self._before, self._rate = b.variable(b.real(1)), b.variable(b.real(0)), b.variable(b.real(0))
        self._linear = b.variable(b.int32(0), "int32")
        self._number, self._count = b.variable(b.int32(0), "int32"), b.variable(b.int32(0), "int32")

    @property
    def ok(self) -> Scalar:
        """Whether all systems so far were solved."""
        return self._b.scalar(self._ok.get(), "bool")

    @property
    def status(self) -> Scalar:
        """0 where they were, else the code of why not."""
        b = self._b
        linear = b.scalar(self._linear.get(), "int32")
        finite = b.scalar(self._before.get()) < math.inf
        reason = where(finite, b.scalar(CODES["nonlinear_divergence"], "int32"), CODES["not_finite"])
        reason = where(linear.equals(0), reason, linear)
        return where(self.ok, 0, where(self._valid, reason, CODES["invalid_input"]))

    @property
    def rate(self) -> Scalar:
        """The largest theta so far."""
        return self._b.scalar(self._rate.get())

    @property
    def count(self) -> Scalar:
        """Iterations so far, int32."""
        return self._b.scalar(self._count.get(), "int32")

    def stop_unless(self, fine: Scalar) -> None:
        """No system is solved any more where that does not hold."""
        self._ok.set((self.ok & fine).value)

    def solve(self, correct: Callable[[], Scalar], magnitude: Callable[[Any], Any]) -> None:
        """Iterates until convergence, unless a system before has failed.

        correct: writes one iteration, which leaves its increments, one as long as the state for each stage, in
        `newton_delta`, and gives the status of its linear systems: 0, or the code of why they were not solved.
        magnitude: of component `index` of the state, for the tolerance. It had better stay the same in all iterations:
        increments of an iterate that grows without bounds are small beside it.
        """
        b = self._b
        self._number.set(b.int32(0))
        self._going.set(self._ok.get())
        # What was learnt is forgotten bit by bit.
        learnt = most(b.scalar(self._eta.get()), b.scalar(float(np.finfo(b.dtype).eps)))
        learnt = _power(b, learnt, b.scalar(0.8))
        self._eta.set((most(learnt, b.scalar(LEAST_LEARNT)) if b.lane.has_operand(MASS) else learnt).value)

        def turn() -> None:
            linear = correct()
            self._linear.set(linear.value)
            self._look(self._norm(magnitude), linear.equals(0))

        b.repeat_while(lambda: b.scalar(self._going.get(), "bool"), turn)

    def _look(self, norm: Scalar, solved: Scalar) -> None:
        """Behind an iteration: whether another one follows. solved: whether its linear systems were."""
        b, number = self._b, self._b.scalar(self._number.get(), "int32")
        first, rate = number.equals(0), norm / b.scalar(self._before.get())
        eta = where(first, b.scalar(self._eta.get()), where(rate < 1.0, rate / (1.0 - rate), 1.0))
        # An increment within the tolerance is the last in any case: rounding may be all that it consists of.
        converged = least(eta, b.scalar(1.0)) * norm <= KAPPA
        left = b.number("newton_max_steps") - number - 1
        coming = _power(b, rate, left.to(b.dtype)) * norm / (1.0 - rate)
        hopeful = (left > 0) & ((first & (norm < math.inf)) | (~first & (rate < 1.0) & (coming <= KAPPA)))
        converged = converged & solved
        going = ~converged & hopeful & solved
        self._going.set(going.value)
        self._ok.set((converged | going).value)
        self._eta.set(eta.value)
        self._rate.set(where(first, self.rate, most(rate, self.rate)).value)
        self._before.set(norm.value)
        self._number.set((number + 1).value)
        self._count.set((self.count + 1).value)

    def _norm(self, magnitude: Callable[[Any], Any]) -> Scalar:
        """The root mean square of the increments over the tolerances."""
        b, delta = self._b, self._b.buf.newton_delta
        total = b.variable(b.real(0))
        for increment in (delta.part(begin, b.primal) for begin in range(0, delta.size, b.primal)):

            def add(index: Any, increment: View = increment) -> None:
                value = quick(b.emitter, "div", b.dtype, increment.load(index), tolerance(b, index, magnitude(index)).value)
                total.set(b.emitter.fma(b.dtype, value, value, total.get()))

            b.each(add, b.primal)
        mean = b.emitter.mul(b.dtype, total.get(), b.real(1 / delta.size))
        return b.scalar(quick(b.emitter, "sqrt", b.dtype, mean))


def tolerance(b: Body, index: Any, magnitude: Any) -> Scalar:
    """That of component `index`, of that magnitude, by newton_rtol and newton_atol or what stands for them."""
    least_rtol = ROUNDING * float(np.finfo(b.dtype).eps) / KAPPA
    rtol, atol = (_setting(b, name, index) for name in ("rtol", "atol"))
    return most(b.scalar(least_rtol), rtol).fused(b.scalar(magnitude), atol)


def _setting(b: Body, name: str, index: Any) -> Scalar:
    known = [one for one in (f"newton_{name}", name) if b.lane.has_operand(one)]
    return b.number(known[0], index) if known else b.scalar(UNJUDGED[b.dtype])


def _are_valid(b: Body) -> Scalar:
    """Whether the settings are what they may be; of those that are known it is known."""
    valid = b.variable((b.number("newton_max_steps") >= 1).value, "bool")
    for name in ("newton_rtol", "newton_atol"):
        if b.lane.has_operand(name):

            def look(index: Any, name: str = name) -> None:
                valid.set((b.scalar(valid.get(), "bool") & (b.number(name, index) >= 0.0)).value)

            b.each(look, b.lane.operand(name).size)
    return b.scalar(valid.get(), "bool")


def _power(b: Body, base: Scalar, exponent: Scalar) -> Scalar:
    """base^exponent, of a base of at least 0; good enough to decide by."""
    logarithm = b.scalar(quick(b.emitter, "log2", b.dtype, base.value))
    return b.scalar(quick(b.emitter, "exp2", b.dtype, (exponent * logarithm).value))
