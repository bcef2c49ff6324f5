"""What a lane knows of the conditions of its events, in front of a step and at its end.

A condition has a side, the sign that it had in front of the step. It may be on the other one in between, where its slopes at
both ends leave that open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel.device import View
from ..kernel.scalar import Scalar, most, where
from ..loop import Step
from ..operands import primal_name, tangent_name
from ..solution import CODES
from .events import changing, counted, named, side

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .events import Events

# In the resolution of time, how near to its zero a condition at the beginning of a leg may be to count as being there.
_STANDING = 16.0


class Conditions:
    """Writes it. Of each condition the cells event_side, what it was in front of the step (its sign is the side), and
    event_change, its derivative by t there.

    kinds: of the events. real, bools: the numbers of those whose conditions are floats, and of others; cutting: of those at
    which a step ends; beside: of those that are only counted, where there are others at which it does.
    """

    def __init__(self, lane: Lane, events: Events):
        self.kinds, self.count, self._mass = events.kinds, len(events.kinds), events.mass
        self.real = [number for number, kind in enumerate(events.kinds) if not kind.boolean]
        self.bools = [number for number, kind in enumerate(events.kinds) if kind.boolean]
        self.cutting = [number for number in self.real if events.kinds[number].cuts]
        self.beside = [number for number in self.real if number not in self.cutting] if self.cutting else []
        self.eps = float(np.finfo(lane.problem.dtype).eps)
        self.orders, self.records = lane.problem.moving, lane.problem.adjoint is None
        self.plain = primal_name("events") if lane.problem.depth else "events"

    def evaluate(self, b: Body, time: Scalar, state: View, slope: Callable[[Body], View]) -> None:
        """The conditions, and how fast they change, into `event_values`. slope: the buffer of f there."""
        instant = b.instant((b.scalar(b.direction) * time).value)
        b.call(self.plain, y=state, out=self.part(b.buf.event_values, 0), **instant)
        if self.real:
            along = {} if self._mass else {"dy": slope(b)}
            b.call("event_slopes", y=state, out=self.part(b.buf.event_values, 1), **along, **instant)

    def reach_end(self, b: Body, step: Step, values: View) -> None:
        """What conditions, `values`, are at the end of a step, where rounding may have them on the other side: how fast they
        change there is in `event_values`.

        At the end of a leg behind which functions jump they are asked at an earlier time: one that comes to 0 by then is 0. One
        that goes to the side on which it was is there, be it also in a step that is as short as time resolves.
        """
        short = self._is_short(b, step)
        held = b.held_back((b.scalar(b.direction) * step.end).value) if b.lane.problem.jumps else b.scalar(0.0)
        for number in self.real:
            value, change, before = b.scalar(values.load(number)), self.change(b, number), b.get(side(number))
            near = (abs(value) <= 2.0 * held * abs(change)) & (held > 0.0)
            value = where(near & alike(before, -change), 0.0, value)
            near = near | (short & (abs(value) <= self.resolution(b, number, step.end)))
            back = near & alike(before, change) & ~alike(before, value)
            values.store(number, where(back, self.beyond(b, -before, b.scalar(0.0)), value).value)

    def tell_wrong(self, b: Body) -> None:
        """Whether a condition is no number; it is suspicious then. With a mass matrix its slope may be none, either."""
        for number in self.real:
            value = self.value(b, number)
            wrong = ~value.equals(value)
            self._end_lane(b, "not_finite", wrong | ~self.change(b, number).is_finite if self._mass else wrong)

    def _end_lane(self, b: Body, code: str, condition: Scalar) -> None:
        """Where it has no other code yet; not on the way back, which knows where it ended."""
        if self.records:
            ends = condition & b.get("result").equals(CODES["successful"])
            b.put(result=where(ends, CODES[code], b.get("result")))

    def part(self, view: View, number: int) -> View:
        return view.part(number * self.count, self.count)

    def value(self, b: Body, number: int) -> Scalar:
        return b.scalar(b.buf.event_values.load(number))

    def change(self, b: Body, number: int) -> Scalar:
        """How fast a condition changes, while time runs forwards inside."""
        return b.scalar(b.direction) * self.rate(b, number)

    def rate(self, b: Body, number: int) -> Scalar:
        """Its derivative by t, which may run backwards."""
        return b.scalar(b.buf.event_values.load(self.count + number))

    def resolution(self, b: Body, number: int, time: Scalar) -> Scalar:
        """By how much a condition changes while time hardly does."""
        return abs(self.change(b, number)) * self._resolved(b, time)

    def _is_short(self, b: Body, step: Step) -> Scalar:
        return step.size <= self._resolved(b, step.end)

    def _resolved(self, b: Body, time: Scalar) -> Scalar:
        """What time hardly tells apart."""
        return _STANDING * self.eps * most(abs(b.number("t0")), time)

    def fires(self, b: Body, number: int) -> Scalar:
        """Whether the step ends at that event."""
        return ~(b.get("events_fired") & (1 << number)).equals(0)

    def is_beside(self, b: Body, number: int) -> Scalar:
        return ~(b.get("events_beside") & (1 << number)).equals(0)

    def is_beyond(self, b: Body, number: int, value: Scalar) -> tuple[Scalar, Scalar]:
        """Whether a condition that is `value` has changed its side, and whether that is one of its event's crossings."""
        before = b.get(side(number))
        crossed = ((before > 0.0) & (value <= 0.0)) | ((before < 0.0) & (value >= 0.0))
        return crossed, crossed & self.may_cross(b, number)

    def may_cross(self, b: Body, number: int) -> Scalar:
        """Whether an event's direction lets its condition leave the side on which it is."""
        before, direction = b.get(side(number)), self.kinds[number].direction
        if direction == 0:
            return b.scalar(True, "bool")
        return before < 0.0 if direction > 0 else before > 0.0

    @staticmethod
    def beyond(b: Body, before: Scalar, value: Scalar) -> Scalar:
        """A condition that has changed its side, and may be 0."""
        tiny = float(np.finfo(b.dtype).tiny)
        other = where(before > 0.0, b.scalar(-tiny), where(before < 0.0, b.scalar(tiny), 0.0))
        return where(value.equals(0.0), other, value)

    def come_near(self, b: Body, step: Step) -> Scalar:
        """Whether a condition has changed its side, or is nearer to 0 at an end of the step than its tangent there leads: only
        then may `_Ends` find anything, and what it costs is spared in most steps."""
        near = b.scalar(False, "bool")
        for number in self.real:
            before, value = b.get(side(number)), self.value(b, number)
            left = (-step.size).fused(abs(b.get(changing(number))), abs(before))
            right = (-step.size).fused(abs(self.rate(b, number)), abs(value))
            near = near | ~((before * value > 0.0) & (left >= 0.0) & (right >= 0.0))
        return near

    def suspicious(self, b: Body, step: Step) -> Scalar:
        """Whether a condition has changed its side, or may have done so in between, of which a short step has nothing."""
        found, short = b.scalar(False, "bool"), self._is_short(b, step)
        for number in self.real:
            ends = _Ends(b, self, number, step)
            found = found | ~(ends.value > 0.0) | (~short & (ends.touching | ends.hiding)) | ends.on_zero
        return found

    def simple(self, b: Body, step: Step) -> Scalar:
        """Whether each condition that has changed its side goes one way at both ends of the step, and all others are far from
        0: then the step is looked at as a whole."""
        simple = b.scalar(True, "bool")
        for number in self.real:
            ends = _Ends(b, self, number, step)
            across = (ends.first < 0.0) & (ends.last < 0.0) & (ends.value < 0.0)
            known = ends.value.equals(ends.value)
            simple = simple & (across | ~ends.touching) & ~ends.hiding & ~ends.on_zero & known
        return simple

    def happen(self, b: Body, time: Scalar, number: int, state: View) -> None:
        """It does: it is counted, and kept."""
        kind, at = self.kinds[number], b.get(counted(number))
        b.put(**{counted(number): at + 1})
        if kind.record and self.records:
            with b.when(at < kind.record):
                index = at.to("int64")
                b.res(named("times", number), index.value, (b.scalar(b.direction) * time).value)
                for order in self.orders:
                    b.res(tangent_name(named("times", number), order), index.value, b.get(f"goal_{order}").value)
                for begin, piece in b.pieces:
                    name, part = tangent_name(named("states", number), piece.order), state.part(begin, piece.size)

                    def keep(i: Any, name: str = name, part: View = part) -> None:
                        place = b.scalar(b.emitter.place(i), "int64")
                        b.res(name, (index * b.primal + place).value, part.load(i))

                    b.each(keep, b.primal)
        if kind.ends_at:
            b.put(events_end=b.get("events_end") | (at + 1 >= kind.ends_at))
            self._end_lane(b, "event_occurred", at + 1 >= kind.ends_at)


class _Ends:
    """What is known of a condition from the ends of a step, times its side in front of it. value: at its end; on_zero: whether
    it began there. first, last: its slopes at both ends, times the size. touching: whether its tangent at either end is on the
    other side at the other end. hiding: whether it changes much, and otherwise than by the mean of these two."""

    def __init__(self, b: Body, conditions: Conditions, number: int, step: Step):
        given, was = b.get(side(number)), b.scalar(b.direction) * b.get(changing(number))
        sign = where(given > 0.0, b.scalar(1.0), -1.0)
        size, before = sign * step.size, abs(given)
        self.on_zero, self.value = given.equals(0.0), sign * conditions.value(b, number)
        self.first, self.last = size * was, size * conditions.change(b, number)
        self.touching = (before + self.first < 0.0) | (self.value - self.last < 0.0)
        moved = abs(self.first) + abs(self.last)
        unlike = abs(self.value - before - 0.5 * (self.first + self.last))
        self.hiding = (moved > before + abs(self.value)) & (8.0 * unlike > moved)


def alike(one: Scalar, other: Scalar) -> Scalar:
    """Whether both are above 0, or below it; their product might be too small to be told from 0."""
    return ((one > 0.0) & (other > 0.0)) | ((one < 0.0) & (other < 0.0))
