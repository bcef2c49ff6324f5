"""Device functions that controllers share which choose step sizes by error estimates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..kernel.memory import quick
from ..kernel.scalar import Scalar, least, most, where
from ..settings import Range
from .tolerances import Tolerances

if TYPE_CHECKING:
    from ..loop.body import Body
    from .adaptive import AdaptiveControl


def within_limits(b: Body, control: AdaptiveControl, step_size: Scalar) -> Scalar:
    """A step size, no smaller than dtmin, and no larger than dtmax."""
    return most(b.number("dtmin"), least(b.number("dtmax"), step_size)) if control.has_limits else step_size


def is_accepted(b: Body, control: AdaptiveControl, total: Scalar) -> Scalar:
    """Whether the step is, whose squared scaled errors sum to `total`."""
    accepted = total < float(b.primal)
    return accepted | b.get("at_dtmin") if control.has_limits and control.force_dtmin else accepted


def clipped(b: Body, factor: Scalar, low: Scalar, high: Scalar) -> Scalar:
    """How much larger the next step is, from `low` to `high`: `low` where it is NaN, as it is where the error is."""
    factor = b.scalar(quick(b.emitter, "max", b.dtype, factor.value, low.value))
    return where(factor < high, factor, high)


def hold(b: Body, control: AdaptiveControl, step_size: Scalar, factor: Scalar) -> Scalar:
    """The next step's size within its limits, once `factor` says how much larger than the last it is. Puts what there is to say
    at dtmin."""
    if not control.has_limits:
        return step_size
    dtmin = b.number("dtmin")
    step_size = least(b.number("dtmax"), step_size)
    if not control.force_dtmin:
        b.put(failed=step_size < dtmin)
    step_size = where(b.get("at_dtmin") & factor.equals(1.0), dtmin, step_size)
    at_dtmin = step_size <= dtmin
    step_size = most(dtmin, step_size)
    b.put(at_dtmin=at_dtmin, forced=at_dtmin)
    return step_size


def valid_numbers(b: Body, control: AdaptiveControl, ranges: Mapping[str, Range]) -> Any:
    """Each number is in its range, and no component has two tolerances of 0."""
    emitter, dtype = b.emitter, b.dtype
    valid = emitter.constant("bool", 1)
    for name in control.coefficients:
        valid = emitter.logical_and(valid, _inside(b, b.op(name), ranges[name]))
    if control.has_limits:
        valid = emitter.logical_and(valid, emitter.compare("le", dtype, b.op("dtmin"), b.op("dtmax")))
    held = b.variable(valid, "bool")

    def body(index: Any) -> None:
        rtol, atol = b.op("rtol", index), b.op("atol", index)
        valid = held.get()
        for value in (rtol, atol):
            valid = emitter.logical_and(valid, _inside(b, value, Tolerances.RANGE))
        some = emitter.compare("gt", dtype, emitter.add(dtype, rtol, atol), b.real(0))
        held.set(emitter.logical_and(valid, some))

    b.each(body, max(b.lane.operand(name).size for name in ("rtol", "atol")))
    return held.get()


def _inside(b: Body, value: Any, allowed: Range) -> Any:
    # NaN fails either comparison; a second one with an infinite end that is allowed would tell nothing.
    within = b.emitter.compare("ge" if allowed.low_allowed else "gt", b.dtype, value, b.real(allowed.low))
    if allowed.high == math.inf and allowed.high_allowed:
        return within
    below = b.emitter.compare("le" if allowed.high_allowed else "lt", b.dtype, value, b.real(allowed.high))
    return b.emitter.logical_and(within, below)
