"""Events: where they are looked for, what is done there, and what is told of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from ..buffers import Buffer
from ..loop import AdjointHooks, Dimensions, Hooks, Part
from ..operands import Result
from .event import EventRecord

if TYPE_CHECKING:
    from ..loop.lane import Lane


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
        """Whether the step at hand has to end there."""
        return self.affects or self.ends_at > 0


@dataclasses.dataclass(frozen=True)
class Events(Part):
    """The events of a solve, in the user's order.

    Functions: "events", of the time and the state, gives all conditions as floats; "event_slopes", of these and the slope of
    the state, how fast they change; "affect0" and so on the new state.
    """

    kinds: tuple[Kind, ...]

    @property
    def inside(self) -> bool:
        return not all(kind.boolean for kind in self.kinds)

    @property
    def stops(self) -> bool:
        return any(kind.ends_at for kind in self.kinds)

    @property
    def divides(self) -> bool:
        return True

    @property
    def cuts(self) -> bool:
        return True

    @property
    def refusal(self) -> str:
        return (
            "a solve with events= has no derivatives yet: for the gradient of what does not depend on when an event happens, "
            "find its time first, and solve again with jump_ts= of it"
        )

    @property
    def counters(self) -> tuple[str, ...]:
        """How often each happened."""
        return tuple(map(counted, range(len(self.kinds))))

    @staticmethod
    def buffers() -> tuple[Buffer, ...]:
        return (
            # In front of the step at hand: the conditions, how fast they change, and the conditions once more.
            Buffer("event_before", 0),
            # At its end: the conditions and how fast they change.
            Buffer("event_values", 0),
            # Inside of it: the conditions at a trial, and at the one before; and the state there.
            Buffer("event_trial", 0, live=frozenset({"step/accept"})),
            Buffer("event_state", 0, live=frozenset({"step/accept"})),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        count = len(self.kinds)
        return {
            "event_before": 3 * count,
            "event_values": 2 * count,
            "event_trial": 2 * count if self.inside else 0,
            "event_state": dimensions.states,
        }

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        found = [Result(counted(number), (), "int32") for number in range(len(self.kinds))]
        found.append(Result("event_ended", (len(self.kinds),), "bool"))
        for number, kind in enumerate(self.kinds):
            if kind.record:
                nan = float("nan")
                found.append(Result(named("times", number), (kind.record,), dtype, unwritten=nan, fixed=True))
                found.append(Result(named("states", number), (kind.record, states), dtype, unwritten=nan, fixed=True))
        return tuple(found)

    def copies(self) -> dict[str, int]:
        """At the beginning of a leg, at the end of a step, and inside of it."""
        affects = {f"affect{number}": 1 for number, kind in enumerate(self.kinds) if kind.affects}
        return {"events": 2 + self.inside, "event_slopes": 2, **affects}

    def hooks(self, lane: Lane) -> Hooks:
        from .event_search import build_hooks

        return build_hooks(lane, self)

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        return ()

    @property
    def remembered_counters(self) -> tuple[str, ...]:
        return ()

    def adjoint(self, lane: Lane) -> AdjointHooks:
        raise NotImplementedError(self.refusal)

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
    """The counter, and the result, of how often an event happened."""
    return named("count", number)


def named(what: str, number: int) -> str:
    """The name of a result of an event."""
    return f"event_{what}_{number}"
