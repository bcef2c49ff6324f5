"""The device functions of the predictive controller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..kernel.memory import quick
from ..kernel.scalar import Scalar, most, where
from ..loop.part import Control
from ..settings import Range
from .adaptive_control import clipped, hold, is_accepted, valid_numbers, within_limits
from .first_step import first_step
from .norms import scaled_error

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .predictive import PredictiveControl

# What the error of the step before counts as at least, as in RADAU5: a very small one tells nothing about its growth.
_LEAST_ERROR = 1e-2


def build_control(lane: Lane, control: PredictiveControl, ranges: Mapping[str, Range]) -> Control:
    """The controller's places in the loop. ranges: what each coefficient may be."""
    # The logarithm (base 2) of the scaled error of the last accepted step, its size, 0 before there is one; log_safety: of the
    # coefficient.
    for name in ("last_log", "last_size", "log_safety"):
        lane.cell(name, lane.problem.dtype)
    for name in ("rejected_before", "at_dtmin"):
        lane.cell(name, "bool")

    def begin(b: Body, step_size: Scalar) -> Scalar:
        b.put(last_log=0, last_size=0, rejected_before=False, at_dtmin=False)
        return within_limits(b, control, step_size)

    return Control(
        valid=lambda b: b.scalar(valid_numbers(b, control, ranges), "bool"),
        first_step=first_step,
        begin=begin,
        settle=lambda b: b.put(log_safety=b.scalar(quick(b.emitter, "log2", b.dtype, b.op("safety")))),
        error=lambda b: b.scalar(scaled_error(b)),
        decide=lambda b, total: _decide(b, control, total),
    )


def _decide(b: Body, control: PredictiveControl, total: Scalar) -> None:
    size, last_size = b.get("step_size"), b.get("last_size")
    accepted = is_accepted(b, control, total)
    share = -1.0 / b.lane.problem.method.error_order
    # Of e_n, of what it asks for, and of what the growth of errors foretells.
    logarithm = b.scalar(0.5).fused(_log2(b, total), b.scalar(-0.5 * math.log2(b.primal)))
    plain = b.scalar(share).fused(logarithm, b.get("log_safety"))
    foretold = plain + _log2(b, size / last_size) + share * (logarithm - b.get("last_log"))
    predicts = accepted & (last_size > 0.0) & (foretold < plain)
    factor = b.scalar(quick(b.emitter, "exp2", b.dtype, where(predicts, foretold, plain).value))
    high = where(accepted, where(b.get("rejected_before"), 1.0, b.number("factormax")), b.number("safety"))
    factor = clipped(b, factor, b.number("factormin"), high)
    # A forced step may have an error that is not finite, and tells nothing then.
    known = most(logarithm, b.scalar(math.log2(_LEAST_ERROR)))
    told = accepted & (known < float("inf"))
    b.put(last_log=where(told, known, b.get("last_log")), last_size=where(told, size, last_size), rejected_before=~accepted)
    b.put(accepted=accepted, next_size=hold(b, control, size * factor, factor))


def _log2(b: Body, value: Scalar) -> Scalar:
    return b.scalar(quick(b.emitter, "log2", b.dtype, value.value))
