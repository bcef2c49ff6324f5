"""The proportional-integral-derivative controller, with the rules and defaults of diffrax 0.7.2's `PIDController`.

Soederlind, Digital filters in adaptive time-stepping, ACM Trans. Math. Softw. 29 (2003); for the choice of the first step
see `first_step`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, PyTree, Real

from ..settings import Component, check_choice

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

    def __check_init__(self) -> None:
        check_choice("force_dtmin", self.force_dtmin, (True, False))

    def content(self) -> tuple:
        """What machine code depends on."""
        return (self.kind, self.force_dtmin)

    def coefficients(self, order: int) -> dict[str, Any]:
        """The numbers that the kernel is handed, by name; the exponents come divided by the order."""
        return {
            "beta1": (self.pcoeff + self.icoeff + self.dcoeff) / order,
            "beta2": -(self.pcoeff + 2 * self.dcoeff) / order,
            "beta3": self.dcoeff / order,
            "safety": self.safety,
            "factormin": self.factormin,
            "factormax": self.factormax,
            "dtmin": self.dtmin,
            "dtmax": self.dtmax,
        }


def build_decide(device: Device, dtype: str, force_dtmin: bool) -> Callable:
    """The device function

    `decide(square, step_size, last, before, at_dtmin, coefficients) -> (accepted, step_size, last, before, at_dtmin, failed)`

    square: the mean square of the scaled error. last, before: the logarithms (base 2) of the inverse scaled errors of the
    last two accepted steps; 0 at first. coefficients: in the order of `PID.coefficients`.
    """
    from ..kernel.memory import quick

    one, zero, infinity = (np.dtype(dtype).type(value) for value in (1, 0, np.inf))

    @device.emitted(dtype)
    def inverse_log(emitter: Emitter, square: Any) -> Any:
        """log2(1 / scaled error); an error that is NaN counts as infinite."""
        infinite = emitter.constant(dtype, float("inf"))
        safe = emitter.select(emitter.compare("ne", dtype, square, square), infinite, square)
        return emitter.mul(dtype, emitter.constant(dtype, -0.5), quick(emitter, "log2", dtype, safe))

    @device.emitted(dtype)
    def power_of_two(emitter: Emitter, exponent: Any) -> Any:
        return quick(emitter, "exp2", dtype, exponent)

    @device.function
    def decide(square, step_size, last, before, at_dtmin, coefficients):
        beta1, beta2, beta3, safety, factormin, factormax, dtmin, dtmax = coefficients
        accepted = square < one or at_dtmin
        current = inverse_log(square)
        # A zero coefficient takes no part, even where the error is 0 or infinite.
        exponent = beta2 * last + beta3 * before
        if beta1 != zero:
            exponent = exponent + beta1 * current
        factor = safety * power_of_two(exponent)
        if accepted:
            factor = min(max(factor, one), factormax)
        else:
            factor = min(max(factor, factormin), safety)
        step_size = min(step_size * factor, dtmax)
        failed = False
        if not force_dtmin:
            failed = step_size < dtmin
        if at_dtmin and factor == one:
            step_size = dtmin
        at_dtmin = step_size <= dtmin
        step_size = max(step_size, dtmin)
        if accepted:
            before = last
            # After an exact or a hopeless step the history says nothing.
            last = current if abs(current) < infinity else zero
        return accepted, step_size, last, before, at_dtmin, failed

    return decide
