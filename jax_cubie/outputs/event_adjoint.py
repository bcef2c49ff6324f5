"""The cotangents of events, on the way from t1 to t0.

A step that ended at an event depends on the state in front of it in two ways: as any step does, and by its end. Of the time T
at which g(T, y(T)) = 0 the cotangent c gives that of y(T), at T held fixed, -c dg/dy divided by dg/dt along the solution (the
implicit function theorem); with it the step is gone back over once more, and its share added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernel.device import View
from ..kernel.scalar import Scalar, where
from ..loop import AdjointHooks, Step
from ..loop.cotangents import gather, into_adjoints
from ..operands import cotangent_name
from .events import counted, named

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .events import Events


def build_adjoint(lane: Lane, events: Events) -> AdjointHooks:
    """The places of events in the backward loop."""
    made = _Adjoint(lane, events)

    return AdjointHooks(restored=made.restored, step=made.step, corner=made.corner, implies=made.implies, imply=made.imply)


class _Adjoint:
    """Writes them."""

    def __init__(self, lane: Lane, events: Events):
        self._kinds = events.kinds
        self._real = [number for number, kind in enumerate(events.kinds) if not kind.boolean]
        self._given = set(lane.adjoint.cotangents)

    def _fires(self, b: Body, number: int) -> Scalar:
        return ~(b.get("events_fired") & (1 << number)).equals(0)

    def restored(self, b: Body) -> None:
        b.put(exact=~b.get("events_fired").equals(0), events_level=0, events_rapid=0, events_end=False, events_wrong=False)

    def corner(self, b: Body, step: Step) -> None:
        """Through what events changed, the last of them first: each of the state that the ones before it had made."""
        affecting = [number for number, kind in enumerate(self._kinds) if kind.affects]
        instant = b.instant((b.scalar(b.direction) * step.end).value, into=1)
        state, before, kept = b.buf.adjoint, b.buf.event_adjoint, b.buf.event_state
        for place in reversed(range(len(affecting))):
            with b.when(self._fires(b, affecting[place])):
                self._copy(b, kept, b.buf.proposed_state)
                for earlier in affecting[:place]:
                    with b.when(self._fires(b, earlier)):
                        b.call(f"affect{earlier}", y=kept, out=before, **instant)
                        self._copy(b, kept, before)
                self._copy(b, before, state)
                name = f"affect{affecting[place]}"
                given = {cotangent_name(name): before}
                b.call(f"{name}_vjp", y=kept, out=into_adjoints(b, f"{name}_vjp", state), **instant, **given)
                value = b.scalar(b.buf.time_adjoint.load(0))
                gather(b, t0_0=value, pending_0=value)

    def step(self, b: Body, step: Step) -> None:
        """What was kept of the events at its end; and of the time at which the lane ended."""
        for number, kind in enumerate(self._kinds):
            times, states = cotangent_name(named("times", number)), cotangent_name(named("states", number))
            index = b.get(counted(number))
            if not kind.record or not {times[:-1], states[:-1]} & self._given:
                continue
            with b.when(self._fires(b, number) & (index < kind.record)):
                if times[:-1] in self._given:
                    gather(b, pending_0=b.number(times, index.to("int64").value))
                if states[:-1] in self._given:
                    first, adjoint = index.to("int64") * b.primal, b.buf.adjoint

                    def add(i: Any, states: str = states, first: Scalar = first, adjoint: View = adjoint) -> None:
                        place = first + b.scalar(b.emitter.constant("int64", i) if isinstance(i, int) else i, "int64")
                        adjoint.store(i, (b.scalar(adjoint.load(i)) + b.number(states, place.value)).value)

                    b.each(add, b.primal)
        if "reached" in self._given:
            last = b.get("behind").equals(b.get("taken") - 1) & ~step.last
            gather(b, pending_0=where(last, b.number(cotangent_name("reached")), 0.0))

    def implies(self, b: Body) -> Scalar:
        return ~(b.get("events_fired") & sum(1 << number for number in self._real)).equals(0)

    def imply(self, b: Body, step: Step, value: Scalar) -> None:
        state, values, ours = b.buf.adjoint, b.buf.event_values, b.buf.event_cotangent
        count = len(self._kinds)
        instant = b.instant((b.scalar(b.direction) * step.end).value, into=1)
        slope = b.buf.event_state  # f there, which not every method has at hand
        b.call("f", y=b.buf.proposed_state, out=slope, **instant)
        b.call("event_slopes", y=b.buf.proposed_state, dy=slope, out=values.part(count, count), **instant)
        taken = b.scalar(False, "bool")
        for number in range(count):
            if number not in self._real:
                ours.store(number, b.real(0))
                continue
            first = self._fires(b, number) & ~taken
            share = -(value / b.scalar(values.load(count + number)))
            ours.store(number, where(first, share, 0.0).value)
            taken = taken | first
        into = into_adjoints(b, "events_vjp", state)
        b.call("events_vjp", y=b.buf.proposed_state, out=into, **instant, **{cotangent_name("events"): ours})
        gather(b, t0_0=b.scalar(b.buf.time_adjoint.load(0)))

    @staticmethod
    def _copy(b: Body, target: View, source: View) -> None:
        b.each(lambda index: target.store(index, source.load(index)))
