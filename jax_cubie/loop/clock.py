"""The time of a lane: where it ends, which of its steps is the last, and its sums.

Time is counted from t0 and runs forwards inside: a solve with t1 < t0 is integrated in t0 - t.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ..kernel.memory import make_tuple, opaque
from .lane import Lane

# A step ends at t1 if it would come this close, in units in the last place of t1 - t0: an adaptive one as diffrax 0.7.2 has
# it; fixed ones are all of one size, so the last may be longer by no more than what is rounded in their sum.
_CLIP_ULPS = {True: 100, False: 4}


@dataclasses.dataclass(frozen=True)
class Clock:
    """The device functions

    - `times(b) -> (t0, direction, end, floor)`: a step that would end beyond `floor` ends at `end`
    - `whole_steps(start, floor, step_size, max_steps)`: how many fixed steps end no later than `floor`, at most max_steps
    - `fused(count, step_size, start)`: start + count * step_size, rounded once where the target can
    """

    times: Callable
    whole_steps: Callable
    fused: Callable


def build_clock(lane: Lane) -> Clock:
    """The clock of one plan."""
    dtype, adaptive = lane.problem.dtype, lane.problem.adaptive

    def clip_floor(emitter: Any, end: Any, t1: Any) -> Any:
        """`end`, which is not negative, less some units in the last place: a step that would end later ends at `end`."""
        integer = "int32" if dtype == "float32" else "int64"
        ulps = emitter.constant(integer, _CLIP_ULPS[adaptive])

        def less(time: Any) -> Any:
            bits = emitter.bitcast(time, integer)
            enough = emitter.compare("gt", integer, bits, ulps)
            return emitter.bitcast(emitter.select(enough, emitter.sub(integer, bits, ulps), bits), dtype)

        floor = less(end)
        if not adaptive:
            return floor
        if dtype == "float64":
            # diffrax counts in units of t1, and so do those who have t1 as t0 + n * dt0. In float32 these may be seconds.
            time = emitter.abs(dtype, t1)
            lower = emitter.sub(dtype, end, emitter.sub(dtype, time, less(time)))
            floor = emitter.select(emitter.compare("lt", dtype, lower, floor), lower, floor)
        # Inside of the loop it would be computed again in every step.
        return opaque(emitter, dtype, floor)

    @lane.emitted((dtype, 4))
    def times(b):
        emitter, t0, span = b.emitter, b.op("t0"), b.op("span")
        end = emitter.mul(dtype, b.direction, span)
        floor = clip_floor(emitter, end, emitter.add(dtype, t0, span))
        return make_tuple(dtype, [t0, b.direction, end, floor], emitter)

    @lane.device.emitted("int32")
    def whole_steps(emitter, start, floor, step_size, max_steps):
        span = emitter.sub(dtype, floor, start)
        count = emitter.apply("floor", dtype, emitter.div(dtype, span, step_size))

        def ends_in_time(number):
            return emitter.compare("le", dtype, emitter.fma(dtype, number, step_size, start), floor)

        # The quotient is rounded, so it may be one off either way.
        less = emitter.sub(dtype, count, emitter.constant(dtype, 1))
        count = emitter.select(ends_in_time(count), count, less)
        more = emitter.add(dtype, count, emitter.constant(dtype, 1))
        count = emitter.select(ends_in_time(more), more, count)
        # As integers, of which a float does not hold all.
        whole = emitter.cast(count, dtype, "int64")
        limit, zero = emitter.cast(max_steps, "int32", "int64"), emitter.constant("int64", 0)
        whole = emitter.select(emitter.compare("gt", "int64", whole, zero), whole, zero)
        whole = emitter.select(emitter.compare("lt", "int64", whole, limit), whole, limit)
        return emitter.cast(whole, "int64", "int32")

    @lane.device.emitted(dtype)
    def fused(emitter, count, step_size, start):
        if count.type == emitter.constant("int32", 0).type:
            count = emitter.cast(count, "int32", dtype)
        return emitter.fma(dtype, count, step_size, start)

    return Clock(times, whole_steps, fused)
