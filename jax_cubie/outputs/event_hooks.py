"""How a lane finds the events of a step, and what it does at them.

At the end of each step its conditions are looked at; where one is on the other side, or may have been there in between, the
time of the first event is searched for inside of the step (`event_search`). Where all events are only counted, and the ends of
a step tell all of them, there is no search.

Where that is an event that changes the state, ends the lane or is kept, the step is taken once more, to end there; where it
then turns out that another such event is inside of it, too, it happens at its end. All others are counted, and looked for
behind. Values between steps have rounding and errors of their own, so at the end of that step the time is corrected by
Newton's method, and the step taken again, until time does not resolve more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..kernel.scalar import Scalar, least, most, where
from ..loop import Hooks, Step
from ..loop.clock import in_front_of
from ..loop.functions import into_view
from ..solution import CODES
from .event_conditions import Conditions, alike
from .event_search import PARTS, Search
from .events import MOST_CORRECTIONS, changing, counted, side

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .events import Events

# So many legs, one behind the other, of so many units in the last place of the time at most, end a lane.
_MOST_RAPID, _RAPID = 64, 256.0


def build_hooks(lane: Lane, events: Events) -> Hooks:
    """The places of events in the loop."""
    places = _Places(lane, events)
    for name in ("events_fired", "events_before", "events_rapid", "events_level", "events_corrected"):
        lane.cell(name, "int32")
    for name in ("events_end", "events_vague"):
        lane.cell(name, "bool")
    lane.cell("events_limit", lane.problem.dtype)
    if places.counts_beside:
        lane.cell("events_beside", "int32")
    for name, kind in events.remembered[1:]:
        lane.cell(name, lane.problem.dtype if kind == "float" else kind)
    return Hooks(
        start=places.start, set_off=places.set_off, locate=places.locate, corner=places.corner, end=places.end
    )


class _Places:
    """Writes them. Cells: events_fired, a bit for each event at which the step ends; events_before, those at which the leg
    began; events_rapid, legs of no length; events_end, whether the lane ends at the end of the step.
    events_beside, a bit for each event at the time of those at which the step ends that is only counted; events_corrected, how
    often their time was; events_level, how many levels of its tangents are known; events_vague, whether a condition has left
    its zero, rather than come to it, on the side where it was; events_limit, the latest time of an event in the leg at hand.

    Where the state has tangents the step that ends at an event is taken once for each of their levels more: of the tangents of
    the conditions at that time come those of the time (the implicit function theorem), and with these it is taken again.
    """

    def __init__(self, lane: Lane, events: Events):
        self._events, self._conditions, self._method = events, Conditions(lane, events), lane.problem.method
        self._search = Search(lane, self._conditions)

    @property
    def counts_beside(self) -> bool:
        """Whether there are events that are only counted beside some at which steps end."""
        return bool(self._conditions.beside)

    # --- The places in the loop

    def start(self, b: Body) -> None:
        b.put(events_fired=0, events_before=0, events_rapid=0, events_level=0, events_corrected=0)
        b.put(events_end=False, events_vague=False, events_limit=0)
        if self._conditions.beside:
            b.put(events_beside=0)
        for name, _ in self._events.remembered[1:]:
            b.put(**{name: 0})

    def set_off(self, b: Body) -> None:
        """On which side each condition is at the beginning of a leg."""
        time = b.get("start")
        # What they were at the end of the step tells how far from its zero an event was that happened there.
        reached = [self._conditions.value(b, number) for number in range(self._conditions.count)]
        self._conditions.evaluate(b, time, b.buf.state, self._method.start_rhs)
        self._conditions.tell_wrong(b)
        for number in self._conditions.real:
            value, change = self._conditions.value(b, number), self._conditions.change(b, number)
            of_others = number in self._conditions.beside
            fired = self._conditions.is_beside(b, number) if of_others else self._conditions.fires(b, number)
            near = most(self._conditions.resolution(b, number, time), where(fired, 4.0 * abs(reached[number]), 0.0))
            standing = abs(value) <= near
            tiny = where(change > 0.0, 1.0, where(change < 0.0, -1.0, b.scalar(0.0))) * float(np.finfo(b.dtype).tiny)
            # What nothing has changed, and has not happened, is still to come, be it ever so near.
            awaited = value.equals(reached[number]) & ~fired & (time > 0.0)
            before = where(awaited, b.get(side(number)), where(standing, tiny, value))
            b.put(**{side(number): before, changing(number): self._conditions.rate(b, number)})
        for number in self._conditions.bools:
            value = self._conditions.value(b, number)
            # What a jump has made True or False becomes so at the end of the next step, as what was taken back does.
            towards = least if self._conditions.kinds[number].direction > 0 else most
            b.put(**{side(number): where(time > 0.0, towards(value, reached[number]), value)})
        b.put(events_fired=0, events_level=0, events_corrected=0)
        if self._conditions.beside:
            b.put(events_beside=0)

    def locate(self, b: Body, step: Step) -> Scalar:
        """Looks at the step; whether it should have ended earlier."""
        conditions = self._conditions
        conditions.evaluate(b, step.end, b.buf.proposed_state, self._method.end_rhs)
        cut, eventful = b.variable(b.emitter.constant("bool", 0), "bool"), conditions.come_near(b, step) | b.get("exact")
        for number in conditions.bools:
            eventful = eventful | self._holds(b, number)
        with b.emitter.builder.if_else(eventful.value) as (seldom, otherwise):
            with seldom:
                time = self._look_closely(b, step)
                cut.set((time < float("inf")).value)
                b.put(cut_at=time)
            with otherwise:
                self._pass_end(b, {number: conditions.value(b, number) for number in conditions.real})
        return b.scalar(cut.get(), "bool")

    def corner(self, b: Body, time: Scalar) -> Scalar | None:
        """What events change, in their order."""
        # A way that is gone back over had an end.
        number_rapid = self._count_rapid(b, time) if self._conditions.records else None
        for number, kind in enumerate(self._conditions.kinds):
            if not kind.affects:
                continue
            with b.when(self._conditions.fires(b, number) & b.get("result").equals(CODES["successful"])):
                since_t0 = (b.scalar(b.direction) * time).value
                b.call(f"affect{number}", y=b.buf.state, out=b.buf.event_state, **b.instant(since_t0))
                b.each(lambda index: b.buf.state.store(index, b.buf.event_state.load(index)))
        if number_rapid is None:
            return None
        code = b.scalar(CODES["successful"], "int32")
        return where(number_rapid > _MOST_RAPID, CODES["events_accumulate"], code)

    def end(self, b: Body, result: Scalar) -> Scalar:
        for number, kind in enumerate(self._conditions.kinds):
            count = b.get(counted(number))
            b.res(counted(number), 0, count.value)
            ended = (count >= kind.ends_at) & b.get("events_end") if kind.ends_at else b.scalar(False, "bool")
            b.res("event_ended", number, ended.value)
        return result

    # --- The end of a step

    def _look_closely(self, b: Body, step: Step) -> Scalar:
        """Of a step at whose ends a condition is near to 0, or that ends at an event: the time at which it should have ended;
        infinity, if it should not."""
        conditions = self._conditions
        conditions.reach_end(b, step, conditions.part(b.buf.event_values, 0))
        found, suspicious = b.variable(b.real(float("inf"))), conditions.suspicious(b, step)
        if not any(kind.cuts for kind in conditions.kinds):
            suspicious = suspicious & ~self._count_simple(b, step)
        eventful = suspicious | b.get("exact")
        for number in conditions.bools:
            eventful = eventful | self._holds(b, number)
        with b.when(eventful):
            conditions.tell_wrong(b)
            found.set(self._look(b, step, suspicious).value)
        with b.when(~(b.scalar(found.get()) < float("inf"))):
            values = {}
            for number in conditions.real:
                before, value = b.get(side(number)), conditions.value(b, number)
                # One that is 0 has been counted, and is on the other side; and so is what has been looked for in vain.
                stays = where(eventful, ~alike(before, value), value.equals(0.0))
                values[number] = where(stays, before, value)
            self._pass_end(b, values)
        return b.scalar(found.get())

    def _pass_end(self, b: Body, values: Mapping[int, Scalar]) -> None:
        """The end of the step is the beginning of the next."""
        for number, value in values.items():
            b.put(**{side(number): value, changing(number): self._conditions.rate(b, number)})
        for number in self._conditions.bools:
            b.put(**{side(number): self._conditions.value(b, number)})

    def _count_simple(self, b: Body, step: Step) -> Scalar:
        """Whether all of the step is understood from its ends; then what is only counted is so without a search."""
        simple = self._conditions.simple(b, step)
        for number in self._conditions.real:
            before, value = b.get(side(number)), self._conditions.value(b, number)
            crossed, event = self._conditions.is_beyond(b, number, value)
            b.put(**{counted(number): b.get(counted(number)) + (event & simple).to("int32")})
            b.put(**{side(number): where(crossed & simple, self._conditions.beyond(b, before, value), before)})
        return simple

    def _look(self, b: Body, step: Step, suspicious: Scalar) -> Scalar:
        """Of a step in which something may happen the time at which it should have ended, or infinity; then that is done."""
        found, exact = b.variable(b.real(float("inf"))), b.get("exact")
        counts = {counted(number): b.get(counted(number)) for number in range(self._conditions.count)}
        sides = {side(number): b.get(side(number)) for number in self._conditions.real}
        if self._conditions.real:
            with b.when(suspicious & ~exact if self._conditions.cutting == self._conditions.real else suspicious):
                found.set(self._search.first(b, step, exact).value)
                if self._conditions.cutting:
                    with b.when(~exact & (b.scalar(found.get()) < float("inf"))):
                        b.put(events_limit=self._limit(b, step))
                        found.set(least(b.scalar(found.get()), b.get("events_limit")).value)
        sooner = b.scalar(found.get()) < float("inf")
        for number, kind in enumerate(self._conditions.kinds):
            if kind.cuts:
                more = self._holds(b, number) & ~sooner if kind.boolean else self._comes_along(b, step, number) & exact
                with b.when(more & ~self._conditions.fires(b, number)):
                    found.set(step.end.value)
                    with b.when(self._of_time(b).equals(0)):
                        # That of where it has ended anyway; or the tangents are still to be found.
                        for order in self._conditions.orders:
                            moved = b.get(f"start_{order}") + b.get(f"size_{order}") if kind.boolean else 0
                            b.put(**{f"goal_{order}": moved})
                    b.put(events_fired=b.get("events_fired") | (1 << number))
        if self._conditions.cutting:
            corrected = self._corrected(b, step)
            with b.when(exact & (corrected < float("inf"))):
                found.set(corrected.value)
                b.put(events_corrected=b.get("events_corrected") + 1)
        if self._conditions.orders:
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
        for number in self._conditions.cutting:
            before = b.get(side(number))
            leaves = alike(before, self._conditions.value(b, number)) & alike(before, self._conditions.change(b, number))
            vague = vague | (leaves & self._conditions.fires(b, number))
        b.put(events_vague=vague)
        for number, kind in enumerate(self._conditions.kinds):
            if kind.cuts:
                happens = exact & self._conditions.fires(b, number)
            elif kind.boolean:
                happens = self._holds(b, number)
            elif self._conditions.beside:
                happens = exact & self._conditions.is_beside(b, number)
            else:
                continue
            with b.when(happens & ~again):
                self._conditions.happen(b, step.end, number, b.buf.proposed_state)
        return b.scalar(found.get())

    def _holds(self, b: Body, number: int) -> Scalar:
        """Whether a bool is at the end of the step as its event wants it."""
        direction = self._conditions.kinds[number].direction
        before, value = b.get(side(number)), self._conditions.value(b, number)
        if direction == 0:
            return value > 0.0
        return (value > 0.0) & ~(before > 0.0) if direction > 0 else ~(value > 0.0) & (before > 0.0)

    def _comes_along(self, b: Body, step: Step, number: int) -> Scalar:
        """Whether a condition has changed its side in a step that ends at another event, or does so as soon as one can tell."""
        before, value = b.get(side(number)), self._conditions.value(b, number)
        _, event = self._conditions.is_beyond(b, number, value)
        ahead = alike(before, value) & alike(before, -self._conditions.change(b, number))
        ahead = ahead & self._conditions.may_cross(b, number)
        return event | (ahead & (abs(value) <= self._conditions.resolution(b, number, step.end)))

    def _of_time(self, b: Body) -> Scalar:
        """The bits of those events at which the step ends whose time depends on the state."""
        return b.get("events_fired") & sum(1 << number for number in self._conditions.real)

    def _find_tangents(self, b: Body, step: Step) -> None:
        """Those of the time of the first of these events, of the level at hand, from what its condition's are at that time."""
        level = b.get("events_level") + 1
        values = b.buf.event_tangents
        sink = into_view(values, [number * self._conditions.count for number in range(len(b.pieces))])
        instant = b.instant((b.scalar(b.direction) * step.end).value, into=1)
        b.call("events", y=b.buf.proposed_state, out=sink, **instant)
        for order in self._conditions.orders:
            place, moved = order * self._conditions.count, b.scalar(0.0)
            for number in reversed(self._conditions.real):
                change = b.scalar(b.buf.event_values.load(self._conditions.count + number))
                own = -(b.scalar(values.load(place + number)) / change)
                moved = where(self._conditions.fires(b, number), own, moved)
            name = f"goal_{order}"
            b.put(**{name: where(level.equals(order.bit_count()), moved, b.get(name))})
        b.put(events_level=level)

    def _corrected(self, b: Body, step: Step) -> Scalar:
        """The time of the first of the events at which a step ends, by its condition there; infinity where it is as good."""
        moved = b.scalar(0.0)
        for number in reversed(self._conditions.cutting):
            fires = self._conditions.fires(b, number)
            moved = where(fires, -(self._conditions.value(b, number) / self._conditions.change(b, number)), moved)
        time = least(step.end + moved, b.get("events_limit"))
        near = (abs(moved) <= step.size / PARTS) & (time > step.start)
        more = ~time.equals(step.end) & (b.get("events_corrected") < MOST_CORRECTIONS)
        return where(near & more, time, float("inf"))

    def _limit(self, b: Body, step: Step) -> Scalar:
        """The latest time at which an event of this leg may be: in front of the leg's end, which moves by itself. At t1 it is
        that, for what ends the lane or changes the state there: nothing is changed any more."""
        kinds = self._conditions.kinds
        final = sum(1 << number for number in self._conditions.cutting if kinds[number].affects or kinds[number].ends_at)
        end, finally_ = b.get("end"), b.get("home") & ~(b.get("events_fired") & final).equals(0)
        earlier = in_front_of(b, end)
        return where(finally_ | ~(earlier > step.start), end, earlier)

    def _count_rapid(self, b: Body, time: Scalar) -> Scalar:
        """How many legs of no length there have been, one behind the other; more than may be, where there is no end to them."""
        length, fired = time - b.get("leg"), b.get("events_fired")
        rapid = (length <= _RAPID * self._conditions.eps * time) & ~fired.equals(0)
        # Behind an event its condition goes to the other side, unless what changed the state was too little to take it there,
        # or it comes back before values between steps can tell.
        at_once = (length <= 2.0 * self._conditions.eps * time) & ~(fired & b.get("events_before")).equals(0)
        at_once = at_once | (rapid & b.get("events_vague"))
        number_rapid = where(at_once, _MOST_RAPID + 1, where(rapid, b.get("events_rapid") + 1, 0))
        b.put(events_rapid=number_rapid, events_before=fired)
        return number_rapid
