"""The device functions of the PID controller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..kernel.memory import quick
from ..kernel.scalar import Scalar, where
from ..loop.part import Control
from ..settings import Range
from .adaptive_control import clipped, hold, is_accepted, valid_numbers, within_limits
from .first_step import first_step
from .norms import scaled_error

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .pid import PIDControl


def build_control(lane: Lane, control: PIDControl, ranges: Mapping[str, Range]) -> Control:
    """The controller's places in the loop. ranges: what each coefficient may be."""
    for name in _CELLS:
        lane.cell(name, lane.problem.dtype)
    lane.cell("at_dtmin", "bool")
    return Control(
        valid=lambda b: b.scalar(valid_numbers(b, control, ranges), "bool"),
        first_step=first_step,
        begin=lambda b, step_size: _begin(b, control, step_size),
        settle=lambda b: _settle(b, control),
        error=lambda b: b.scalar(scaled_error(b)),
        decide=lambda b, total: _decide(b, control, total),
    )


# factor = safety * (1 / e)^beta1 with e^2 = total / states, as a power of two: 2^(offset + slope * log2(total)). The logarithms
# (base 2) of the inverse scaled errors of the last two accepted steps are 0 at first.
_CELLS = ("slope", "offset", "beta2", "beta3", "last_log", "before_log")


def _begin(b: Body, control: PIDControl, step_size: Scalar) -> Scalar:
    b.put(last_log=0, before_log=0, at_dtmin=False)
    return within_limits(b, control, step_size)


def _settle(b: Body, control: PIDControl) -> None:
    """The exponents: what the coefficients come to for this method."""
    emitter, states, by_order = b.emitter, b.primal, 1 / b.lane.problem.method.error_order
    pcoeff, dcoeff = (b.number(name) if control.has_history else b.scalar(0.0) for name in ("pcoeff", "dcoeff"))
    beta1 = (pcoeff + b.number("icoeff") + dcoeff) * by_order
    safety = b.scalar(quick(emitter, "log2", b.dtype, b.op("safety")))
    offset = b.scalar(0.5 * math.log2(states)).fused(beta1, safety)
    b.put(slope=-0.5 * beta1, offset=offset, beta2=(-2.0 * dcoeff - pcoeff) * by_order, beta3=dcoeff * by_order)


def _decide(b: Body, control: PIDControl, total: Scalar) -> None:
    accepted = is_accepted(b, control, total)
    logarithm = b.scalar(quick(b.emitter, "log2", b.dtype, total.value))
    exponent = b.get("slope").fused(logarithm, b.get("offset"))
    if control.has_history:
        exponent = exponent + (b.get("beta2") * b.get("last_log") + b.get("beta3") * b.get("before_log"))
    factor = b.scalar(quick(b.emitter, "exp2", b.dtype, exponent.value))
    low = where(accepted, b.scalar(1.0), b.number("factormin"))
    high = where(accepted, b.number("factormax"), b.number("safety"))
    factor = clipped(b, factor, low, high)
    step_size = hold(b, control, b.get("step_size") * factor, factor)
    if control.has_history:
        # After an exact or a hopeless step the history says nothing.
        current = b.scalar(-0.5).fused(logarithm, b.scalar(0.5 * math.log2(b.primal)))
        current = where(abs(current) < float("inf"), current, 0.0)
        b.put(before_log=where(accepted, b.get("last_log"), b.get("before_log")))
        b.put(last_log=where(accepted, current, b.get("last_log")))
    b.put(accepted=accepted, next_size=step_size)
