"""How a lane finds the events of a step.

A condition has a side, the sign that it had in front of the step. At the end of each step it is looked at; where it is on the
other side, or may have been there in between, the step's values between are looked at in sixteenths, in the order of time. In
the first of these in which a condition changes its side the time is found by the ITP method (Oliveira and Takahashi, An
enhancement of the bisection method average performance preserving minmax optimality, ACM Trans. Math. Softw. 47 (2020)): of
the smallest of the conditions times their sides, so that the first of several events is found. Where all events are only
counted, and the ends of a step tell all of them, there is no search.

Where that is an event that changes the state, ends the lane or is kept, the step is taken once more, to end there; where it
then turns out that another such event is inside of it, too, it happens at its end. All others are counted, and looked for
behind. Values between steps have rounding and errors of their own, so at the end of that step the time is corrected by
Newton's method, and the step taken again, until time does not resolve more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel.device import View
from ..kernel.scalar import Scalar, least, most, where
from ..loop import Hooks, Step
from ..loop.functions import into_view
from ..operands import primal_name, tangent_name
from ..solution import CODES
from .events import MOST_CORRECTIONS, changing, counted, named, side

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .events import Events

# Into how many parts a step is divided.
_PARTS = 16
# In the resolution of time, how near to its zero a condition at the beginning of a leg may be to count as being there.
_STANDING = 16.0
# So many legs, one behind the other, of so many units in the last place of the time at most, end a lane.
_MOST_RAPID, _RAPID = 64, 256.0
_SCAN, _REFINE, _CONFIRM, _OVER = 0, 1, 2, 3


def build_hooks(lane: Lane, events: Events) -> Hooks:
    """The places of events in the loop."""
    search = _Search(lane, events)
    for name in ("events_fired", "events_before", "events_rapid", "events_level", "events_corrected"):
        lane.cell(name, "int32")
    for name in ("events_end", "events_wrong", "events_vague"):
        lane.cell(name, "bool")
    if search.beside:
        lane.cell("events_beside", "int32")
    for name, kind in events.remembered[1:]:
        lane.cell(name, lane.problem.dtype if kind == "float" else kind)
    return Hooks(
        start=search.start, set_off=search.set_off, locate=search.locate, accepted=search.accepted, corner=search.corner,
        end=search.end,
    )  # fmt: skip


class _Search:
    """Writes them. Cells: events_fired, a bit for each event at which the step ends; events_before, those at which the leg
    began; events_rapid, legs of no length;
    events_end, whether the lane ends at the end of the step; events_wrong, whether a condition was no number. Of each condition
    event_side, what it was in front of the step (its sign is the side), and event_change, how fast it changed there.
    events_beside, a bit for each event at the time of those at which the step ends that is only counted; events_corrected, how
    often their time was; events_vague, whether a condition has left its zero, rather than come to it, on the side where it was.

    Where the state has tangents the step that ends at an event is taken once for each of their levels more: of the tangents of
    the conditions at that time come those of the time (the implicit function theorem), and with these it is taken again.
    """

    def __init__(self, lane: Lane, events: Events):
        self._events, self._kinds, self._count = events, events.kinds, len(events.kinds)
        self._real = [number for number, kind in enumerate(events.kinds) if not kind.boolean]
        self._bools = [number for number, kind in enumerate(events.kinds) if kind.boolean]
        self._cutting = [number for number in self._real if events.kinds[number].cuts]
        self.beside = [number for number in self._real if number not in self._cutting] if self._cutting else []
        self._method = lane.problem.method
        self._eps = float(np.finfo(lane.problem.dtype).eps)
        self._orders, self._records = lane.problem.moving, lane.problem.adjoint is None
        self._plain = primal_name("events") if lane.problem.depth else "events"

    # --- The places in the loop

    def start(self, b: Body) -> None:
        b.put(events_fired=0, events_before=0, events_rapid=0, events_level=0, events_corrected=0)
        b.put(events_end=False, events_wrong=False, events_vague=False)
        if self.beside:
            b.put(events_beside=0)
        for name, _ in self._events.remembered[1:]:
            b.put(**{name: 0})

    def set_off(self, b: Body) -> None:
        """On which side each condition is at the beginning of a leg."""
        time = b.get("start")
        # What they were at the end of the step tells how far from its zero an event was that happened there.
        reached = [self._value(b, number) for number in range(self._count)]
        self._evaluate(b, time, b.buf.state, self._method.start_rhs)
        self._tell_wrong(b)
        for number in self._real:
            value, change = self._value(b, number), self._change(b, number)
            fired = self._is_beside(b, number) if number in self.beside else self._fires(b, number)
            near = most(self._resolution(b, number, time), where(fired, 4.0 * abs(reached[number]), 0.0))
            standing = abs(value) <= near
            tiny = where(change > 0.0, 1.0, where(change < 0.0, -1.0, b.scalar(0.0))) * float(np.finfo(b.dtype).tiny)
            # What nothing has changed, and has not happened, is still to come, be it ever so near.
            awaited = value.equals(reached[number]) & ~fired & (time > 0.0)
            before = where(awaited, b.get(side(number)), where(standing, tiny, value))
            b.put(**{side(number): before, changing(number): change})
        for number in self._bools:
            b.put(**{side(number): self._value(b, number)})
        b.put(events_fired=0, events_level=0, events_corrected=0)
        if self.beside:
            b.put(events_beside=0)

    def locate(self, b: Body, step: Step) -> Scalar:
        """Looks at the step; the time at which it should have ended, or infinity."""
        self._evaluate(b, step.end, b.buf.proposed_state, self._method.end_rhs)
        found, suspicious = b.variable(b.real(float("inf"))), self._suspicious(b, step)
        if not any(kind.cuts for kind in self._kinds):
            suspicious = suspicious & ~self._count_simple(b, step)
        eventful = suspicious | b.get("exact")
        for number in self._bools:
            eventful = eventful | self._holds(b, number)
        with b.emitter.builder.if_else(eventful.value) as (seldom, otherwise):
            with seldom:
                self._tell_wrong(b)
                found.set(self._look(b, step, suspicious).value)
                with b.when(~(b.scalar(found.get()) < float("inf"))):
                    for number in self._real:
                        before, value = b.get(side(number)), self._value(b, number)
                        self._pass_end(b, number, where(_alike(before, value), value, before))
                    self._pass_bools(b)
            with otherwise:
                for number in self._real:
                    value = self._value(b, number)  # one that is 0 has been counted, and is on the other side
                    self._pass_end(b, number, where(value.equals(0.0), b.get(side(number)), value))
                self._pass_bools(b)
        return b.scalar(found.get())

    def _pass_end(self, b: Body, number: int, value: Scalar) -> None:
        """The end of the step is the beginning of the next."""
        b.put(**{side(number): value, changing(number): self._change(b, number)})

    def _pass_bools(self, b: Body) -> None:
        for number in self._bools:
            b.put(**{side(number): self._value(b, number)})

    def _count_simple(self, b: Body, step: Step) -> Scalar:
        """Whether all of the step is understood from its ends; then what is only counted is so without a search."""
        simple = self._simple(b, step)
        for number in self._real:
            before, value = b.get(side(number)), self._value(b, number)
            crossed, event = self._is_beyond(b, number, value)
            b.put(**{counted(number): b.get(counted(number)) + (event & simple).to("int32")})
            b.put(**{side(number): where(crossed & simple, self._beyond(b, before, value), before)})
        return simple

    def _look(self, b: Body, step: Step, suspicious: Scalar) -> Scalar:
        """Of a step in which something may happen the time at which it should have ended, or infinity; then that is done."""
        found, exact = b.variable(b.real(float("inf"))), b.get("exact")
        counts = {counted(number): b.get(counted(number)) for number in range(self._count)}
        sides = {side(number): b.get(side(number)) for number in self._real}
        if self._real:
            with b.when(suspicious & ~exact if self._cutting == self._real else suspicious):
                found.set(self._search(b, step, exact).value)
        sooner = b.scalar(found.get()) < float("inf")
        for number, kind in enumerate(self._kinds):
            if kind.cuts:
                more = self._holds(b, number) & ~sooner if kind.boolean else self._comes_along(b, step, number) & exact
                with b.when(more & ~self._fires(b, number)):
                    found.set(step.end.value)
                    with b.when(self._of_time(b).equals(0)):
                        # That of where it has ended anyway; or the tangents are still to be found.
                        for order in self._orders:
                            moved = b.get(f"start_{order}") + b.get(f"size_{order}") if kind.boolean else 0
                            b.put(**{f"goal_{order}": moved})
                    b.put(events_fired=b.get("events_fired") | (1 << number))
        if self._cutting:
            corrected = self._corrected(b, step)
            with b.when(exact & (corrected < float("inf"))):
                found.set(corrected.value)
                b.put(events_corrected=b.get("events_corrected") + 1)
        if self._orders:
            missing = (b.get("events_level") < b.lane.problem.depth) & ~self._of_time(b).equals(0)
            with b.when(exact & ~(b.scalar(found.get()) < float("inf")) & missing):
                self._find_tangents(b, step)
                found.set(step.end.value)
        else:
            b.put(events_level=0)
        again = b.scalar(found.get()) < float("inf")
        with b.when(again):  # all of it is looked at once more
            b.put(**counts, **sides)
        vague = b.scalar(False, "bool")
        for number in self._cutting:
            before = b.get(side(number))
            leaves = _alike(before, self._value(b, number)) & _alike(before, self._change(b, number))
            vague = vague | (leaves & self._fires(b, number))
        b.put(events_vague=vague)
        for number, kind in enumerate(self._kinds):
            if kind.cuts:
                happens = exact & self._fires(b, number)
            elif kind.boolean:
                happens = self._holds(b, number)
            elif self.beside:
                happens = exact & self._is_beside(b, number)
            else:
                continue
            with b.when(happens & ~again):
                self._happen(b, step.end, number, b.buf.proposed_state)
        return b.scalar(found.get())

    def _holds(self, b: Body, number: int) -> Scalar:
        """Whether a bool is at the end of the step as its event wants it."""
        direction, before, value = self._kinds[number].direction, b.get(side(number)), self._value(b, number)
        if direction == 0:
            return value > 0.0
        return (value > 0.0) & ~(before > 0.0) if direction > 0 else ~(value > 0.0) & (before > 0.0)

    def _comes_along(self, b: Body, step: Step, number: int) -> Scalar:
        """Whether a condition has changed its side in a step that ends at another event, or does so as soon as one can tell."""
        before, value = b.get(side(number)), self._value(b, number)
        _, event = self._is_beyond(b, number, value)
        ahead = _alike(before, value) & _alike(before, -self._change(b, number)) & self._may_cross(b, number)
        return event | (ahead & (abs(value) <= self._resolution(b, number, step.end)))

    def _resolution(self, b: Body, number: int, time: Scalar) -> Scalar:
        """By how much a condition changes while time hardly does."""
        return abs(self._change(b, number)) * (_STANDING * self._eps * most(abs(b.number("t0")), time))

    def _is_beside(self, b: Body, number: int) -> Scalar:
        return ~(b.get("events_beside") & (1 << number)).equals(0)

    def _fires(self, b: Body, number: int) -> Scalar:
        """Whether the step ends at that event."""
        return ~(b.get("events_fired") & (1 << number)).equals(0)

    def _of_time(self, b: Body) -> Scalar:
        """The bits of those events at which the step ends whose time depends on the state."""
        return b.get("events_fired") & sum(1 << number for number in self._real)

    def _find_tangents(self, b: Body, step: Step) -> None:
        """Those of the time of the first of these events, of the level at hand, from what its condition's are at that time."""
        level = b.get("events_level") + 1
        values = b.buf.event_tangents
        sink = into_view(values, [number * self._count for number in range(len(b.pieces))])
        instant = b.instant((b.scalar(b.direction) * step.end).value, into=1)
        b.call("events", y=b.buf.proposed_state, out=sink, **instant)
        for order in self._orders:
            place, moved = order * self._count, b.scalar(0.0)
            for number in reversed(self._real):
                change = b.scalar(b.buf.event_values.load(self._count + number))
                own = -(b.scalar(values.load(place + number)) / change)
                moved = where(self._fires(b, number), own, moved)
            name = f"goal_{order}"
            b.put(**{name: where(level.equals(order.bit_count()), moved, b.get(name))})
        b.put(events_level=level)

    def accepted(self, b: Body, step: Step) -> Scalar:
        code = where(b.get("events_end"), b.scalar(CODES["event_occurred"], "int32"), CODES["successful"])
        return where(b.get("events_wrong"), CODES["not_finite"], code)

    def corner(self, b: Body, time: Scalar) -> Scalar | None:
        """What events change, in their order."""
        number_rapid = self._count_rapid(b, time) if self._records else None  # a way that is gone back over had an end
        for number, kind in enumerate(self._kinds):
            if not kind.affects:
                continue
            with b.when(self._fires(b, number) & b.get("result").equals(CODES["successful"])):
                since_t0 = (b.scalar(b.direction) * time).value
                b.call(f"affect{number}", y=b.buf.state, out=b.buf.event_state, **b.instant(since_t0))
                b.each(lambda index: b.buf.state.store(index, b.buf.event_state.load(index)))
        if number_rapid is None:
            return None
        code = b.scalar(CODES["successful"], "int32")
        return where(number_rapid > _MOST_RAPID, CODES["events_accumulate"], code)

    def _count_rapid(self, b: Body, time: Scalar) -> Scalar:
        """How many legs of no length there have been, one behind the other; more than may be, where there is no end to them."""
        length, fired = time - b.get("leg"), b.get("events_fired")
        rapid = (length <= _RAPID * self._eps * time) & ~fired.equals(0)
        # Behind an event its condition goes to the other side, unless what changed the state was too little to take it there,
        # or it comes back before values between steps can tell.
        at_once = (length <= 2.0 * self._eps * time) & ~(fired & b.get("events_before")).equals(0)
        at_once = at_once | (rapid & b.get("events_vague"))
        number_rapid = where(at_once, _MOST_RAPID + 1, where(rapid, b.get("events_rapid") + 1, 0))
        b.put(events_rapid=number_rapid, events_before=fired)
        return number_rapid

    def end(self, b: Body, result: Scalar) -> Scalar:
        for number, kind in enumerate(self._kinds):
            count = b.get(counted(number))
            b.res(counted(number), 0, count.value)
            ended = (count >= kind.ends_at) & b.get("events_end") if kind.ends_at else b.scalar(False, "bool")
            b.res("event_ended", number, ended.value)
        return result

    # --- Values

    def _evaluate(self, b: Body, time: Scalar, state: View, slope: Callable[[Body], View]) -> None:
        """The conditions, and how fast they change, into `event_values`. slope: the buffer of f there."""
        instant = b.instant((b.scalar(b.direction) * time).value)
        b.call(self._plain, y=state, out=self._part(b.buf.event_values, 0), **instant)
        if self._real:
            along = {} if self._events.mass else {"dy": slope(b)}
            b.call("event_slopes", y=state, out=self._part(b.buf.event_values, 1), **along, **instant)

    def _tell_wrong(self, b: Body) -> None:
        """Whether a condition is no number; it is suspicious then. With a mass matrix its slope may be none, either."""
        for number in self._real:
            value = self._value(b, number)
            wrong = b.get("events_wrong") | ~value.equals(value)
            b.put(events_wrong=wrong | ~self._change(b, number).is_finite if self._events.mass else wrong)

    def _part(self, view: View, number: int) -> View:
        return view.part(number * self._count, self._count)

    def _value(self, b: Body, number: int) -> Scalar:
        return b.scalar(b.buf.event_values.load(number))

    def _change(self, b: Body, number: int) -> Scalar:
        """How fast a condition changes, while time runs forwards inside."""
        return b.scalar(b.direction) * b.scalar(b.buf.event_values.load(self._count + number))

    def _suspicious(self, b: Body, step: Step) -> Scalar:
        """Whether a condition has changed its side, or may have done so in between."""
        found = b.scalar(False, "bool")
        for number in self._real:
            ends = _Ends(b, self, number, step)
            found = found | ~(ends.value > 0.0) | ends.touching | ends.hiding | ends.on_zero
        return found

    def _simple(self, b: Body, step: Step) -> Scalar:
        """Whether each condition that has changed its side goes one way at both ends of the step, and all others are far from
        0: then the step is looked at as a whole."""
        simple = b.scalar(True, "bool")
        for number in self._real:
            ends = _Ends(b, self, number, step)
            across = (ends.first < 0.0) & (ends.last < 0.0) & (ends.value < 0.0)
            known = ends.value.equals(ends.value)
            simple = simple & (across | ~ends.touching) & ~ends.hiding & ~ends.on_zero & known
        return simple

    # --- One event

    def _happen(self, b: Body, time: Scalar, number: int, state: View) -> None:
        """It does: it is counted, and kept."""
        kind, at = self._kinds[number], b.get(counted(number))
        b.put(**{counted(number): at + 1})
        if kind.record and self._records:
            with b.when(at < kind.record):
                index = at.to("int64")
                b.res(named("times", number), index.value, (b.scalar(b.direction) * time).value)
                for order in self._orders:
                    b.res(tangent_name(named("times", number), order), index.value, b.get(f"goal_{order}").value)
                for begin, piece in b.pieces:
                    name, part = tangent_name(named("states", number), piece.order), state.part(begin, piece.size)

                    def keep(i: Any, name: str = name, part: View = part) -> None:
                        place = b.scalar(b.emitter.place(i), "int64")
                        b.res(name, (index * b.primal + place).value, part.load(i))

                    b.each(keep, b.primal)
        if kind.ends_at:
            b.put(events_end=b.get("events_end") | (at + 1 >= kind.ends_at))

    # --- The search

    def _search(self, b: Body, step: Step, exact: Scalar) -> Scalar:
        """The time of the first event that ends the step. Others in front of it are counted, unless there is one: then they are
        counted in the step that ends there."""
        for number in self._real:
            b.buf.event_trial.store(self._count + number, b.get(side(number)).value)
        size, start = b.scalar(b.direction) * step.size, b.scalar(b.direction) * step.start
        self._method.prepare_between(b, start.value, size.value)
        eps = b.scalar(self._eps)
        tolerance = most(eps, 0.5 * eps * step.end / step.size)
        state = _Variables(b, exact=exact)

        def look() -> None:
            theta = b.scalar(state.theta.get())
            values = self._method.between(b, theta.value, size.value)
            b.each(lambda index: b.buf.event_state.store(index, values(index)))
            time = self._time(b, step, theta)
            trial = self._part(b.buf.event_trial, 0)
            b.call(self._plain, y=b.buf.event_state, out=trial, **b.instant((b.scalar(b.direction) * time).value))
            mode = state.integer("mode")
            with b.emitter.builder.if_else(mode.equals(_SCAN).value) as (scans, others):
                with scans:
                    self._scan(b, state, theta, tolerance)
                with others, b.emitter.builder.if_else(mode.equals(_REFINE).value) as (refines, confirms):
                    with refines:
                        self._refine(b, state, theta, tolerance)
                    with confirms:
                        self._confirm(b, state, theta, time)

        state.parts.set(where(self._simple(b, step), b.scalar(1, "int32"), _PARTS).value)
        state.theta.set(self._node(b, state).value)
        b.repeat_while(lambda: state.integer("mode") < _OVER, look)
        found = state.real("found")
        with b.when(found < float("inf")):
            b.put(**{f"goal_{order}": 0 for order in self._orders})
        return found

    def _corrected(self, b: Body, step: Step) -> Scalar:
        """The time of the first of the events at which a step ends, by its condition there; infinity where it is as good."""
        moved = b.scalar(0.0)
        for number in reversed(self._cutting):
            moved = where(self._fires(b, number), -(self._value(b, number) / self._change(b, number)), moved)
        time = least(step.end + moved, b.scalar(b.direction) * b.number("span"))
        near = (abs(moved) <= step.size / _PARTS) & (time > step.start)
        more = ~time.equals(step.end) & (b.get("events_corrected") < MOST_CORRECTIONS)
        return where(near & more, time, float("inf"))

    def _time(self, b: Body, step: Step, theta: Scalar) -> Scalar:
        """That of a fraction of the step: later than its beginning, no later than its end."""
        time = step.start + theta.fused(step.size, step.residue)
        following = (step.start.bits + 1).float(b.dtype)
        following = most(following, step.start + self._eps * step.size)
        return where(theta < 1.0, least(most(time, following), step.end), step.end)

    def _trial(self, b: Body, number: int) -> Scalar:
        return b.scalar(b.buf.event_trial.load(number))

    def _crossed(self, b: Body, number: int) -> tuple[Scalar, Scalar]:
        """Whether a condition is on the other side at the trial; and whether that is an event."""
        return self._is_beyond(b, number, self._trial(b, number))

    def _is_beyond(self, b: Body, number: int, value: Scalar) -> tuple[Scalar, Scalar]:
        """The same of that value."""
        before = b.get(side(number))
        crossed = ((before > 0.0) & (value <= 0.0)) | ((before < 0.0) & (value >= 0.0))
        return crossed, crossed & self._may_cross(b, number)

    def _may_cross(self, b: Body, number: int) -> Scalar:
        """Whether an event's direction lets its condition leave the side on which it is."""
        before, direction = b.get(side(number)), self._kinds[number].direction
        if direction == 0:
            return b.scalar(True, "bool")
        return before < 0.0 if direction > 0 else before > 0.0

    def _hidden(self, b: Body, state: _Variables, number: int) -> Scalar:
        """Whether nobody looks for an event: in a step that ends at some, these do so at its end, and what is beside them."""
        if self._kinds[number].cuts:
            return state.exact
        if not self.beside:
            return b.scalar(False, "bool")
        return state.exact & self._is_beside(b, number) & (state.integer("part") >= state.integer("parts"))

    def _counts(self, b: Body, state: _Variables, number: int) -> Scalar:
        """Whether a crossing is an event that is looked for."""
        _, event = self._crossed(b, number)
        return event & ~self._hidden(b, state, number)

    def _scan(self, b: Body, state: _Variables, theta: Scalar, tolerance: Scalar) -> None:
        """At the end of a part."""
        bits = b.scalar(0, "int32")
        for number in self._real:
            bits = where(self._counts(b, state, number), bits | (1 << number), bits)
        with b.emitter.builder.if_else(bits.equals(0).value) as (nothing, some):
            with nothing:
                self._pass(b, state, theta)
            with some:
                low, high = (self._least(b, bits, self._part(b.buf.event_trial, row)) for row in (1, 0))
                state.bits.set(bits.value)
                state.high.set(theta.value)
                state.low_value.set(most(low, b.scalar(float(np.finfo(b.dtype).tiny))).value)
                state.high_value.set(high.value)
                state.turns.set(b.int32(0))
                state.width.set((theta - b.scalar(state.low.get())).value)
                state.mode.set(b.int32(_REFINE))
                self._propose(b, state, tolerance)

    def _pass(self, b: Body, state: _Variables, theta: Scalar) -> None:
        """Nothing happens up to there."""
        for number in self._real:
            before, value = b.get(side(number)), self._trial(b, number)
            crossed, _ = self._crossed(b, number)
            changes = (crossed & ~self._hidden(b, state, number)) | before.equals(0.0)
            b.put(**{side(number): where(changes, self._beyond(b, before, value), before)})
            b.buf.event_trial.store(self._count + number, value.value)
        state.low.set(theta.value)
        following = state.integer("part") + (theta >= self._node(b, state)).to("int32")
        state.part.set(following.value)
        over = following > state.integer("parts")
        state.theta.set(where(over, 1.0, self._node(b, state)).value)
        state.mode.set(where(over, _OVER, b.scalar(_SCAN, "int32")).value)

    def _node(self, b: Body, state: _Variables) -> Scalar:
        """The end of the part at hand."""
        return state.integer("part").to(b.dtype) / state.integer("parts").to(b.dtype)

    @staticmethod
    def _beyond(b: Body, before: Scalar, value: Scalar) -> Scalar:
        """A condition that has changed its side, and may be 0."""
        tiny = float(np.finfo(b.dtype).tiny)
        other = where(before > 0.0, b.scalar(-tiny), where(before < 0.0, b.scalar(tiny), 0.0))
        return where(value.equals(0.0), other, value)

    def _least(self, b: Body, bits: Scalar, values: View) -> Scalar:
        """The smallest of the conditions times their sides, of those whose bit is set."""
        smallest = b.scalar(float("inf"))
        for number in self._real:
            value = b.scalar(values.load(number))
            value = where(b.get(side(number)) > 0.0, value, -value)
            smallest = where(~(bits & (1 << number)).equals(0), least(value, smallest), smallest)
        return smallest

    def _refine(self, b: Body, state: _Variables, theta: Scalar, tolerance: Scalar) -> None:
        value = self._least(b, state.integer("bits"), self._part(b.buf.event_trial, 0))
        with b.emitter.builder.if_else((value > 0.0).value) as (above, below):
            with above:
                state.low.set(theta.value)
                state.low_value.set(value.value)
            with below:
                state.high.set(theta.value)
                state.high_value.set(value.value)
                with b.when(value.equals(0.0)):
                    state.low.set(theta.value)
        self._propose(b, state, tolerance)

    def _propose(self, b: Body, state: _Variables, tolerance: Scalar) -> None:
        """The next trial between `low` and `high`; `high`, to look at it once more, where they are close."""
        low, high, first, last = (b.scalar(v.get()) for v in (state.low, state.high, state.low_value, state.high_value))
        width, turns = high - low, state.integer("turns")
        middle = 0.5 * (low + high)
        # That of the secant; moved towards the middle; and no further from there than bisection would be.
        secant = (first * high - last * low) / (first - last)
        towards = where(secant < middle, b.scalar(1.0), -1.0)
        moved = 0.2 / b.scalar(state.width.get()) * width * width
        apart = abs(middle - secant)
        trial = where(moved <= apart, secant + towards * moved, middle)
        halved = b.scalar(state.width.get()) * _power_of_half(b, turns)
        room = most(halved - 0.5 * width, b.scalar(0.0))
        trial = where(abs(trial - middle) <= room, trial, middle - towards * room)
        trial = where((trial > low) & (trial < high), trial, middle)
        state.turns.set((turns + 1).value)
        close = (width <= 2.0 * tolerance) | ~((middle > low) & (middle < high))
        state.theta.set(where(close, high, trial).value)
        state.mode.set(where(close, _CONFIRM, b.scalar(_REFINE, "int32")).value)

    def _confirm(self, b: Body, state: _Variables, theta: Scalar, time: Scalar) -> None:
        """At a time at which something happens."""
        bits = b.scalar(0, "int32")
        for number in self._real:
            bits = where(self._counts(b, state, number), bits | (1 << number), bits)
        cutting = sum(1 << number for number in self._cutting)
        cuts = ~(bits & cutting).equals(0) if cutting else b.scalar(False, "bool")
        with b.emitter.builder.if_else(cuts.value) as (end, otherwise):
            with end:
                b.put(events_fired=bits & cutting)
                if self.beside:
                    b.put(events_beside=bits & sum(1 << number for number in self.beside))
                state.found.set(time.value)
                state.mode.set(b.int32(_OVER))
            with otherwise:
                for number in self._real:
                    if not self._kinds[number].cuts:
                        with b.when(~(bits & (1 << number)).equals(0)):
                            self._happen(b, time, number, b.buf.event_state)
                self._pass(b, state, theta)


class _Ends:
    """What is known of a condition from the ends of a step, times its side in front of it. value: at its end; on_zero: whether
    it began there. first, last: its slopes at both ends, times the size. touching: whether its tangent at either end is on the
    other side at the other end. hiding: whether it changes much, and otherwise than by the mean of these two."""

    def __init__(self, b: Body, search: _Search, number: int, step: Step):
        given, was = b.get(side(number)), b.get(changing(number))
        sign = where(given > 0.0, b.scalar(1.0), -1.0)
        size, before = sign * step.size, abs(given)
        self.on_zero, self.value = given.equals(0.0), sign * search._value(b, number)
        self.first, self.last = size * was, size * search._change(b, number)
        self.touching = (before + self.first < 0.0) | (self.value - self.last < 0.0)
        moved = abs(self.first) + abs(self.last)
        unlike = abs(self.value - before - 0.5 * (self.first + self.last))
        self.hiding = (moved > before + abs(self.value)) & (8.0 * unlike > moved)


def _alike(one: Scalar, other: Scalar) -> Scalar:
    """Whether both are above 0, or below it; their product might be too small to be told from 0."""
    return ((one > 0.0) & (other > 0.0)) | ((one < 0.0) & (other < 0.0))


def _power_of_half(b: Body, turns: Scalar) -> Scalar:
    """2^(-turns), with one turn more for the first."""
    bits = {"float32": (127, 23, "int32"), "float64": (1023, 52, "int64")}[b.dtype]
    exponent = (bits[0] - least(turns, b.scalar(60, "int32"))).to(bits[2])
    return b.scalar(b.emitter.bitcast((exponent << bits[1]).value, b.dtype))


class _Variables:
    """Of a search. theta: the fraction of the step that is looked at; mode: what for; part: of how many parts of the step; low,
    high, with their values: where the event lies between; width: of that at first; turns: so far; bits: of the events looked
    for; found: the time at which the step ends. exact: whether the step ends at an event."""

    def __init__(self, b: Body, exact: Scalar):
        self._b, self.exact = b, exact
        self.theta, self.low, self.high, self.width = (b.variable(b.real(0)) for _ in range(4))
        self.low_value, self.high_value, self.found = (b.variable(b.real(x)) for x in (1.0, -1.0, float("inf")))
        self.mode, self.turns, self.bits = (b.variable(b.int32(0), "int32") for _ in range(3))
        self.part, self.parts = (b.variable(b.int32(1), "int32") for _ in range(2))

    def integer(self, name: str) -> Scalar:
        return self._b.scalar(getattr(self, name).get(), "int32")

    def real(self, name: str) -> Scalar:
        return self._b.scalar(getattr(self, name).get())
