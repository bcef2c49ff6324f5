"""The time of a lane: where it ends, how many fixed steps there are, and how its sums are kept.

Time is counted from t0 and runs forwards inside: a solve with t1 < t0 is integrated in t0 - t.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..kernel.memory import opaque
from ..kernel.scalar import Scalar, least, most, where
from .legs import SINCE_T0, TIMES, edges

if TYPE_CHECKING:
    from .body import Body
    from .part import Hooks

# A step ends at t1 if it would come this close, in units in the last place of t1 - t0: an adaptive one as diffrax 0.7.2 has
# it; fixed ones are all of one size, so the last may be longer by no more than what is rounded in their sum.
_CLIP_ULPS = {True: 100, False: 4}


def end_of(b: Body) -> Scalar:
    """t1, counted from t0."""
    return b.scalar(b.direction) * b.number("span")


def floor_of(b: Body, end: Scalar | None = None) -> Scalar:
    """Some units in the last place before the end, t1 unless it is given: a step that would end later ends at the end."""
    adaptive, end = b.lane.problem.adaptive, end_of(b) if end is None else end
    integer = "int32" if b.dtype == "float32" else "int64"

    def less(time: Scalar) -> Scalar:
        """A time that is not negative, less those units."""
        bits = b.scalar(b.emitter.bitcast(time.value, integer), integer)
        lower = where(bits > _CLIP_ULPS[adaptive], bits - _CLIP_ULPS[adaptive], bits)
        return b.scalar(b.emitter.bitcast(lower.value, b.dtype))

    floor = less(end)
    if not adaptive:
        return floor
    if b.dtype == "float64":
        # diffrax counts in units of t1, and so do those who have t1 as t0 + n * dt0. In float32 these may be seconds.
        time = abs(b.number("t0") + b.number("span"))
        lower = end - (time - less(time))
        floor = where(lower < floor, lower, floor)
    # Inside of the loop it would be computed again in every step.
    return b.scalar(opaque(b.emitter, b.dtype, floor.value))


# By how many units in the last place the times that f is given in a leg differ at least from those at which it jumps: units of
# the time or of that since t0, whatever is larger, of which t0 + (t - t0) may be one off.
_APART_ULPS = 2


def edges_of(b: Body, begin: Scalar, end: Scalar, home: Scalar | None = None) -> dict[str, Scalar]:
    """The first and the last time that the functions of a leg are given, for their cells; from one jump to the next. home:
    whether it ends at t1.

    Of TIMES, t0 and t1 are such times. Of SINCE_T0 they are not: a table may jump there, and what counts is its side inside.
    """
    integer = "int32" if b.dtype == "float32" else "int64"

    def inside(time: Scalar, sign: int, pair: tuple[str, str]) -> Scalar:
        """A time since t0 as functions are given it, but somewhat further towards the inside of the leg."""
        since_t0 = b.scalar(b.direction) * time
        given = b.number("t0") + since_t0 if pair == TIMES else since_t0
        size = most(abs(given), abs(since_t0))
        bits = b.scalar(b.emitter.bitcast(size.value, integer), integer) + _APART_ULPS
        # No less than what a host that makes denormal numbers 0 can tell from it.
        apart = most(b.scalar(b.emitter.bitcast(bits.value, b.dtype)) - size, b.scalar(float(np.finfo(b.dtype).tiny)))
        return (b.scalar(b.direction) * sign).fused(apart, given)

    unbounded, found = b.scalar(b.direction) * float("inf"), {}
    for pair in edges(b.lane.problem):
        stop = end if home is None or pair == SINCE_T0 else where(home, float("inf"), end)
        first = where(begin > 0.0, inside(begin, 1, pair), -unbounded) if pair == TIMES else inside(begin, 1, pair)
        found |= {pair[0]: first, pair[1]: where(stop < float("inf"), inside(stop, -1, pair), unbounded)}
    return found


def inside_of_leg(b: Body, time: Scalar, pair: tuple[str, str] = TIMES) -> Scalar:
    """The time, no earlier than the first one and no later than the last one of the leg."""
    first, last, forwards = b.get(pair[0]), b.get(pair[1]), b.scalar(b.direction) > 0.0
    low, high = where(forwards, first, last), where(forwards, last, first)
    return most(low, least(high, time))


# So many units in the last place in front of the end of a leg does an event happen that would be at it: so far that what is
# just behind the event is nearer to it than to that end.
_IN_FRONT_ULPS = 4


def in_front_of(b: Body, time: Scalar) -> Scalar:
    """The time of an event at the end of a leg: so there is a step from the one to the other, and each moves by itself."""
    return (time.bits - _IN_FRONT_ULPS).float(b.dtype)


def until(b: Body, end: Scalar, clips: Iterable[Hooks]) -> Scalar:
    """Up to which time points are those of a step that ends there: `Step.until`."""
    found = end
    for part in clips if b.lane.problem.cuts else ():
        stop = part.clip(b)
        found = where(b.get("exact") & in_front_of(b, stop).equals(end), stop, found)
    return found


def whole_steps(b: Body, step_size: Scalar, floor: Scalar) -> Scalar:
    """How many fixed steps from t0 on end no later than `floor`, at most max_steps: int32."""

    def end_in_time(count: Scalar) -> Scalar:
        return count.fused(step_size, b.scalar(0.0)) <= floor

    # The quotient is rounded, so it may be one off either way.
    count = b.scalar(b.emitter.apply("floor", b.dtype, (floor / step_size).value))
    count = where(end_in_time(count), count, count - 1.0)
    more = count + 1.0
    count = where(end_in_time(more), more, count)
    # As integers, of which a float does not hold all.
    whole, limit = count.to("int64"), b.number("max_steps").to("int64")
    whole = where(whole > 0, whole, 0)
    return where(whole < limit, whole, limit).to("int32")
