"""The proportional-integral-derivative controller, with the rules and defaults of diffrax 0.7.2's `PIDController`.

Soederlind, Digital filters in adaptive time-stepping, ACM Trans. Math. Softw. 29 (2003); for the choice of the first step
see `first_step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree, Real

from ..settings import Component, Range, check_choice, concrete

if TYPE_CHECKING:
    from ..kernel.device import Device
    from ..kernel.emitter import Emitter

Number = Real[Array, ""] | float | int


class PID(Component):
    """Chooses the step size from the error estimates of the last three steps.

    The scaled error of a step is the root mean square of error / (atol + rtol * max(|y0|, |y1|)); a step is accepted where
    it is below 1. The next step is the last one times

        safety * (1/e_n)^(b1/k) * (1/e_n-1)^(b2/k) * (1/e_n-2)^(b3/k)

    with b1 = pcoeff + icoeff + dcoeff, b2 = -(pcoeff + 2 dcoeff), b3 = dcoeff and k the order of the method, held to
    [1, factormax] after an accepted step and to [factormin, safety] after a rejected one, and to [dtmin, dtmax].
    rtol, atol: the tolerances, each a scalar or a pytree like y0.
    force_dtmin: whether a step at dtmin is accepted whatever its error; if not, the solve ends with a code.
    """

    pcoeff: Number = 0.0
    icoeff: Number = 1.0
    dcoeff: Number = 0.0
    safety: Number = 0.9
    factormin: Number = 0.2
    factormax: Number = 10.0
    dtmin: Number = 0.0
    dtmax: Number = float("inf")
    rtol: PyTree[Number] = 1e-6
    atol: PyTree[Number] = 1e-6
    force_dtmin: bool = eqx.field(static=True, default=True)

    kind: ClassVar[str] = "pid"
    # What each coefficient may be: looked at where a solver is made or used, and in the kernel for what is traced.
    RANGES: ClassVar[dict[str, Range]] = {
        "pcoeff": Range(),
        "icoeff": Range(),
        "dcoeff": Range(),
        "safety": Range(0, 1, high_allowed=True),
        "factormin": Range(0, 1, high_allowed=True),
        "factormax": Range(1, low_allowed=True, high_allowed=True),
        "dtmin": Range(0, low_allowed=True),
        "dtmax": Range(0, high_allowed=True),
    }
    TOLERANCE: ClassVar[Range] = Range(0, low_allowed=True, high_allowed=True)

    def __check_init__(self) -> None:
        check_choice("force_dtmin", self.force_dtmin, (True, False))
        self.check()

    def check(self) -> None:
        """Raises ValueError or TypeError for numbers that are known and wrong."""
        for name, allowed in self.RANGES.items():
            allowed.check(name, getattr(self, name))
        for name in ("rtol", "atol"):
            tree = getattr(self, name)
            for leaf in jax.tree.leaves(tree) or [tree]:
                self.TOLERANCE.check(name, leaf)
        dtmin, dtmax = concrete(self.dtmin), concrete(self.dtmax)
        if dtmin is not None and dtmax is not None and not np.all(dtmin <= dtmax):
            raise ValueError(f"dtmin={self.dtmin} and dtmax={self.dtmax} leave no step size: expected dtmin <= dtmax")

    @property
    def has_history(self) -> bool:
        """Whether earlier errors have a say; known without when both coefficients are the plain number 0."""
        return not (_is_plain(self.pcoeff, 0) and _is_plain(self.dcoeff, 0))

    @property
    def has_limits(self) -> bool:
        """Whether step sizes are held to a range; known without when it is plainly 0 to infinity."""
        return not (_is_plain(self.dtmin, 0) and _is_plain(self.dtmax, float("inf")))

    def content(self) -> tuple:
        """What machine code depends on."""
        return (self.kind, self.force_dtmin, self.has_history, self.has_limits)

    def coefficients(self) -> dict[str, Any]:
        """The numbers that the kernel is handed, by name, as the user gave them."""
        names = ["icoeff", "safety", "factormin", "factormax"]
        names += ["pcoeff", "dcoeff"] if self.has_history else []
        names += ["dtmin", "dtmax"] if self.has_limits else []
        return {name: getattr(self, name) for name in names}


def _is_plain(value: Any, number: float) -> bool:
    return isinstance(value, (int, float)) and value == number


def build_pid(device: Device, dtype: str, states: int, order: int, controller: tuple) -> tuple[Callable, Callable]:
    """The device functions

    - `start(step_size, coefficients) -> (step_size, exponents)`: the first step within the limits, and the coefficients as
      `decide` wants them
    - `decide(total, step_size, exponents, last, before, at_dtmin, coefficients)`
      `-> (accepted, step_size, last, before, at_dtmin, failed)`

    total: the sum of the squares of the scaled error. last, before: the logarithms (base 2) of the inverse scaled errors of
    the last two accepted steps; 0 at first. coefficients: in the order of `PID.coefficients`. controller: `PID.content()`.
    """
    from ..kernel.memory import make_tuple, quick

    _, force_dtmin, has_history, has_limits = controller
    real = np.dtype(dtype).type
    one, zero, infinity, count = real(1), real(0), real(np.inf), real(states)
    minus_half, half_log = real(-0.5), real(0.5 * math.log2(states))
    low, high = (6, 7) if has_history else (4, 5)  # where dtmin and dtmax stand

    # factor = safety * (1 / e)^beta1 with e^2 = total / states, as a power of two: 2^(offset + slope * log2(total)).
    @device.emitted((dtype, 4))
    def exponents_of(emitter: Emitter, pcoeff: Any, icoeff: Any, dcoeff: Any, safety: Any) -> Any:
        """slope, offset, beta2 and beta3."""
        add, mul, constant = emitter.add, emitter.mul, emitter.constant
        by_order = constant(dtype, 1 / order)
        beta1 = mul(dtype, add(dtype, add(dtype, pcoeff, icoeff), dcoeff), by_order)
        twice = mul(dtype, constant(dtype, -2), dcoeff)
        beta2 = mul(dtype, emitter.sub(dtype, twice, pcoeff), by_order)
        beta3 = mul(dtype, dcoeff, by_order)
        scale = constant(dtype, 0.5 * math.log2(states))
        offset = emitter.fma(dtype, scale, beta1, quick(emitter, "log2", dtype, safety))
        return make_tuple(dtype, [mul(dtype, constant(dtype, -0.5), beta1), offset, beta2, beta3], emitter)

    @device.emitted(dtype)
    def logarithm(emitter: Emitter, total: Any) -> Any:
        return quick(emitter, "log2", dtype, total)

    @device.emitted(dtype)
    def linear(emitter: Emitter, slope: Any, value: Any, offset: Any) -> Any:
        return emitter.fma(dtype, slope, value, offset)

    @device.emitted(dtype)
    def power_of_two(emitter: Emitter, exponent: Any) -> Any:
        return quick(emitter, "exp2", dtype, exponent)

    @device.emitted(dtype)
    def held(emitter: Emitter, value: Any, least: Any, most: Any) -> Any:
        """`value` in the range; `least` where it is NaN, as it is where the error is."""
        value = quick(emitter, "max", dtype, value, least)
        return emitter.select(emitter.compare("lt", dtype, value, most), value, most)

    @device.function
    def start(step_size, coefficients):
        pcoeff, dcoeff = zero, zero
        if has_history:
            pcoeff, dcoeff = coefficients[4], coefficients[5]
        exponents = exponents_of(pcoeff, coefficients[0], dcoeff, coefficients[1])
        if has_limits:
            step_size = max(min(step_size, coefficients[high]), coefficients[low])
        return step_size, exponents

    @device.function
    def decide(total, step_size, exponents, last, before, at_dtmin, coefficients):
        safety, factormin, factormax = coefficients[1], coefficients[2], coefficients[3]
        accepted = total < count or (force_dtmin and at_dtmin)
        logarithm_of_total = logarithm(total)
        exponent = linear(exponents[0], logarithm_of_total, exponents[1])
        if has_history:
            exponent = exponent + (exponents[2] * last + exponents[3] * before)
        factor = power_of_two(exponent)
        if accepted:
            factor = held(factor, one, factormax)
        else:
            factor = held(factor, factormin, safety)
        step_size = step_size * factor
        failed = False
        if has_limits:
            dtmin = coefficients[low]
            step_size = min(step_size, coefficients[high])
            if not force_dtmin:
                failed = step_size < dtmin
            if at_dtmin and factor == one:
                step_size = dtmin
            at_dtmin = step_size <= dtmin
            step_size = max(step_size, dtmin)
        if has_history and accepted:
            before = last
            current = linear(minus_half, logarithm_of_total, half_log)
            # After an exact or a hopeless step the history says nothing.
            last = current if abs(current) < infinity else zero
        return accepted, step_size, last, before, at_dtmin, failed

    return start, decide
