"""The cotangents of events, on the way from t1 to t0.

A step that ended at an event depends on the state in front of it in two ways: as any step does, and by its end. Of the time T
at which g(T, y(T)) = 0 the cotangent c gives that of y(T), at T held fixed, -c dg/dy divided by dg/dt along the solution (the
implicit function theorem); with it the step is gone back over once more, and its share added.

Where the state has tangents, so has T: that of an order makes the tangent of g of that order 0, which is linear in it, with the
factor dg/dt again. It depends on tangents of T of lower levels besides; the level is the number of differentiations, bits of
the order. So cotangents of T are come to from the highest level down, each with a pass over the step that adds to those of
lower ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..kernel.device import View
from ..kernel.scalar import Scalar, where
from ..loop import AdjointHooks, Step
from ..loop.cotangents import gather, into_adjoints
from ..operands import cotangent_name, in_order, tangent_name
from .events import MOST_CORRECTIONS, counted, named

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
        self._kinds, self._mass = events.kinds, events.mass
        self._real = [number for number, kind in enumerate(events.kinds) if not kind.boolean]
        self._given = set(lane.adjoint.cotangents)

    def _fires(self, b: Body, number: int) -> Scalar:
        return ~(b.get("events_fired") & (1 << number)).equals(0)

    @staticmethod
    def _is_last(b: Body) -> Scalar:
        """Whether the lane has no step behind the one at hand."""
        return b.get("behind").equals(b.get("taken") - 1)

    def restored(self, b: Body) -> None:
        # Where a step that ended at an event ended, and the tangents of that, are known.
        exact, depth = ~b.get("events_fired").equals(0), b.lane.problem.depth
        none = b.scalar(0, "int32")
        b.put(exact=exact, events_level=where(exact, depth, none), events_corrected=where(exact, MOST_CORRECTIONS, none))
        b.put(events_end=False)

    def corner(self, b: Body, step: Step) -> None:
        """Through what events changed, the last of them first: each of the state that the ones before it had made. Where the
        lane ended they changed nothing."""
        ended = self._is_last(b)
        affecting = [number for number, kind in enumerate(self._kinds) if kind.affects]
        instant = b.instant((b.scalar(b.direction) * step.end).value, into=1)
        state, before, kept = b.buf.adjoint, b.buf.event_adjoint, b.buf.event_state
        for place in reversed(range(len(affecting))):
            with b.when(self._fires(b, affecting[place]) & ~ended):
                self._copy(b, kept, b.buf.proposed_state)
                for earlier in affecting[:place]:
                    with b.when(self._fires(b, earlier)):
                        b.call(f"affect{earlier}", y=kept, out=before, **instant)
                        self._copy(b, kept, before)
                self._copy(b, before, state)
                name = f"affect{affecting[place]}"
                given = {cotangent_name(name): before}
                b.call(f"{name}_vjp", y=kept, out=into_adjoints(b, f"{name}_vjp", state), **instant, **given)
                for order, value in self._pull_time(b).items():
                    gather(b, **{f"pending_{order}": value})

    def step(self, b: Body, step: Step) -> None:
        """What was kept of the events at its end; and of the time at which the lane ended."""
        for number, kind in enumerate(self._kinds):
            if not kind.record:
                continue
            index = b.get(counted(number))
            with b.when(self._fires(b, number) & (index < kind.record)):
                for _, piece in b.pieces:
                    self._add_kept(b, number, piece.order, index.to("int64"))
        last = self._is_last(b) & ~step.last
        for order in b.lane.adjoint.orders:
            reached = tangent_name("reached", order)
            if reached in self._given:
                gather(b, **{f"pending_{order}": where(last, b.number(cotangent_name(reached)), 0.0)})

    def _add_kept(self, b: Body, number: int, order: int, index: Scalar) -> None:
        """The cotangents, or those of tangents of that order, of what was kept in a row."""
        times, states = (tangent_name(named(what, number), order) for what in ("times", "states"))
        if times in self._given:
            gather(b, **{f"pending_{order}": b.number(cotangent_name(times), index.value)})
        if states in self._given:
            first, adjoint = index * b.primal, b.piece(b.buf.adjoint, order)

            def add(i: Any) -> None:
                place = first + b.scalar(b.emitter.place(i), "int64")
                adjoint.store(i, (b.scalar(adjoint.load(i)) + b.number(cotangent_name(states), place.value)).value)

            b.each(add, b.primal)

    def implies(self, b: Body) -> Scalar:
        return ~(b.get("events_fired") & sum(1 << number for number in self._real)).equals(0)

    def imply(self, b: Body, step: Step, level: Scalar, values: Mapping[int, Scalar]) -> None:
        slopes, ours, count = b.buf.event_values, b.buf.event_cotangent, len(self._kinds)
        instant = b.instant((b.scalar(b.direction) * step.end).value, into=1)
        along = {} if self._mass else {"dy": b.buf.event_state}  # f there, which not every method has at hand
        for slope in along.values():
            b.call("f", y=b.buf.proposed_state, out=slope, **instant)
        b.call("event_slopes", y=b.buf.proposed_state, out=slopes.part(count, count), **along, **instant)
        given = b.by_pieces("y", b.buf.proposed_state)
        for order, value in values.items():
            own, taken = ours.part(order * count, count), ~level.equals(order.bit_count())
            for number in range(count):
                first = self._fires(b, number) & ~taken if number in self._real else b.scalar(False, "bool")
                share = -(value / b.scalar(slopes.load(count + number)))
                own.store(number, where(first, share, 0.0).value)
                taken = taken | first
            given[in_order(cotangent_name("events"), order)] = own
        b.call_pieces("events_vjp", {**given, **instant}, into_adjoints(b, "events_vjp", b.buf.adjoint))
        for order, value in self._pull_time(b).items():
            gather(b, **{f"start_{order}": value, f"size_{order}": value})

    @staticmethod
    def _pull_time(b: Body) -> dict[int, Scalar]:
        """The cotangents of the time that functions were given last, by order; those of t0 are added to what has gathered."""
        found = {order: b.scalar(b.buf.time_adjoint.load(place)) for place, order in enumerate(b.lane.adjoint.orders)}
        if not b.lane.problem.counts_from_t0:
            gather(b, **{f"t0_{order}": value for order, value in found.items()})
        return found

    @staticmethod
    def _copy(b: Body, target: View, source: View) -> None:
        b.each(lambda index: target.store(index, source.load(index)))
