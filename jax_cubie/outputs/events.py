"""Events: where they are looked for, what is done there, and what is told of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from ..buffers import BACKWARD, Buffer
from ..loop import AdjointHooks, Dimensions, Hooks, Part
from ..operands import Result, primal_name
from .event import EventRecord

if TYPE_CHECKING:
    from ..loop.lane import Lane

# So often is the time of an event corrected at most.
MOST_CORRECTIONS = 3


@dataclasses.dataclass(frozen=True)
class Kind:
    """What code for an event depends on. ends_at: the occurrence at which the lane ends, 0: none. affects: whether it changes
    the state. record: how many are kept."""

    boolean: bool
    direction: int
    ends_at: int
    affects: bool
    record: int

    @property
    def cuts(self) -> bool:
        """Whether the step at hand has to end there: also for the sake of what is kept."""
        return self.affects or self.ends_at > 0 or self.record > 0


@dataclasses.dataclass(frozen=True)
class Events(Part):
    """The events of a solve, in the user's order.

    Functions: "events", of the time and the state, gives all conditions as floats; "event_slopes", of these and the slope of
    the state, how fast they change; "affect0" and so on the new state. mass: whether there is a mass matrix: then
    "event_slopes" finds the slope of the state, which f is not, by itself.
    """

    kinds: tuple[Kind, ...]
    mass: bool = False

    @property
    def inside(self) -> bool:
        return not all(kind.boolean for kind in self.kinds)

    @property
    def slopes(self) -> bool:
        return self.inside and not self.mass

    @property
    def stops(self) -> bool:
        return any(kind.ends_at for kind in self.kinds)

    @property
    def divides(self) -> bool:
        return True

    @property
    def cuts(self) -> bool:
        return True

    @staticmethod
    def buffers() -> tuple[Buffer, ...]:
        return (
            # At the end of a step: the conditions and how fast they change; and the conditions with their tangents.
            Buffer("event_values", 0),
            Buffer("event_tangents", 0, live=frozenset({"step/accept"})),
            # Inside of it: the conditions at a trial, and at the one before; and the state there.
            Buffer("event_trial", 0, live=frozenset({"step/accept"})),
            Buffer("event_state", 0, live=frozenset({"step/accept"})),
            # Backwards: the cotangent of the state in front of a step, as far as the time of the event at its end is fixed.
            Buffer("event_adjoint", 0, live=BACKWARD),
            Buffer("event_cotangent", 0, live=BACKWARD),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        count = len(self.kinds)
        return {
            "event_values": 2 * count,
            "event_tangents": count * dimensions.orders if dimensions.orders > 1 else 0,
            "event_trial": 2 * count if self.inside else 0,
            "event_state": dimensions.states,
            "event_adjoint": dimensions.states if dimensions.backward else 0,
            "event_cotangent": count * dimensions.orders if dimensions.backward else 0,
        }

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        found = [Result(counted(number), (), "int32") for number in range(len(self.kinds))]
        found.append(Result("event_ended", (len(self.kinds),), "bool"))
        for number, kind in enumerate(self.kinds):
            if kind.record:
                nan = float("nan")
                found.append(Result(named("times", number), (kind.record,), dtype, unwritten=nan))
                found.append(Result(named("states", number), (kind.record, states), dtype, unwritten=nan))
        return tuple(found)

    def copies(self) -> dict[str, int]:
        """At the beginning of a leg, at the end of a step, and inside of it."""
        affects = {name: 1 for one in self.affects for name in (one, f"{one}_vjp")}
        places = 2 + self.inside
        return {"events": places, primal_name("events"): places, "event_slopes": 2, "events_vjp": 1, **affects}

    @property
    def affects(self) -> tuple[str, ...]:
        """The functions that change the state."""
        return tuple(f"affect{number}" for number, kind in enumerate(self.kinds) if kind.affects)

    @property
    def primal_too(self) -> tuple[str, ...]:
        return ("events",)

    @property
    def moves(self) -> bool:
        return self.inside

    @property
    def transposed(self) -> tuple[str, ...]:
        return ("events", *self.affects)

    def hooks(self, lane: Lane) -> Hooks:
        from .event_hooks import build_hooks

        return build_hooks(lane, self)

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        counts = ((counted(number), "int32") for number in range(len(self.kinds)))
        looked = [(side(n),) if kind.boolean else (side(n), changing(n)) for n, kind in enumerate(self.kinds)]
        return (("events_fired", "int32"), *counts, *((name, "float") for names in looked for name in names))

    def adjoint(self, lane: Lane) -> AdjointHooks:
        from .event_adjoint import build_adjoint

        return build_adjoint(lane, self)

    def present(self, found: Mapping[str, Any], request: Any) -> dict[str, Any]:
        times, dtype, records = request.times, request.state.dtype, []
        for number, kind in enumerate(self.kinds):
            shape = (kind.record, request.state.size)
            nothing = jax.numpy.zeros(shape, dtype)
            states = found[named("states", number)] if kind.record else nothing
            when = times.t0 + found[named("times", number)] if kind.record else nothing[:, 0]
            ended = found["event_ended"][number]
            records.append(EventRecord(found[counted(number)], ended, when, request.state.unflatten(states)))
        return {"events": jax.tree.unflatten(request.events, records)}


def counted(number: int) -> str:
    """The cell, and the result, of how often an event happened."""
    return named("count", number)


def side(number: int) -> str:
    """The cell of what a condition was in front of the step, whose sign is the side on which it is."""
    return f"event_side_{number}"


def changing(number: int) -> str:
    """The cell of how fast it changed there."""
    return f"event_change_{number}"


def named(what: str, number: int) -> str:
    """The name of a result of an event."""
    return f"event_{what}_{number}"
