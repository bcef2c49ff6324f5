"""Times on which steps end: those at which the vector field or the state jumps, behind which the method starts again, and
others, behind which it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..buffers import Buffer
from ..kernel.scalar import Scalar, where
from ..loop import AdjointHooks, Dimensions, Hooks, Part, Step
from ..operands import cotangent_name, tangent_name
from ..settings import concrete, is_number, refuse_symbolic
from ..solution import CODES
from ..times import as_array, difference, listed
from .steady_doses import TOLERANCES, look

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane

_NAMES = TIMES, INCREMENTS, KEPT, LOOKS, RESTARTS = (
    "jump_times", "jump_increments", "jump_kept", "jump_looks", "jump_restarts"
)  # fmt: skip
OPERANDS = (*_NAMES, *TOLERANCES)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Jumps of one lane, in the order in which they are come to.

    times: [jumps], counted from t0, in the solve's dtype; infinite ones are never reached. increments: [jumps, components],
    what is added to the state; None: nothing is. kept: [jumps], by what the state is multiplied before, 1 or 0; None: 1. rates:
    [jumps + 1, number of `infused`], what is added to these components of f before the first jump, between them, and behind the
    last; None: nothing is. looks: [jumps], int32, what is done there with the state before it is changed, as `steady_doses` has
    it; None: nothing. restarts: [jumps], booleans whether the method starts again there, of those of one time the first if
    any, or one for all. exact: [m], of `times` those at which f jumps as the user has written it, so that they are what they
    are; of those of one time these come first, then those of drivers, in their order. None: there are none.
    """

    times: Any
    increments: Any = None
    kept: Any = None
    rates: Any = None
    looks: Any = None
    restarts: Any = True
    infused: tuple[int, ...] = ()
    exact: Any = None

    @property
    def changes_state(self) -> bool:
        """Whether the state may jump, rather than f alone."""
        return self.increments is not None or self.kept is not None

    @property
    def operands(self) -> dict[str, Any]:
        """What the kernel is handed."""
        restarts = None if isinstance(self.restarts, bool) else self.restarts
        given = {TIMES: self.times, INCREMENTS: self.increments, KEPT: self.kept, LOOKS: self.looks, RESTARTS: restarts}
        return {name: array for name, array in given.items() if array is not None}


def read_jumps(jump_ts: Any, step_ts: Any, t0: Any, t1: Any, dtype: str, others: Sequence[Any] = ()) -> Schedule | None:
    """The schedule of times at which steps end; None where there are none. others: more times at which f jumps, counted from
    t0, of which those before t0 don't matter.

    Raises TypeError or ValueError for what is no such array, or known and wrong.
    """
    given = {"jump_ts": jump_ts, "step_ts": step_ts}
    checked = {name: _checked(name, times, t0, t1) for name, times in given.items() if times is not None}
    span = as_array(difference(t1, t0, dtype), dtype)
    offsets = {name: _ahead(difference(times, t0, dtype), span) for name, times in checked.items() if np.shape(times)[0]}
    if not offsets and not others:
        return None
    if len(offsets) == 1 and not others:
        ((name, times),) = offsets.items()
        return Schedule(times, restarts=name == "jump_ts", exact=offsets.get("jump_ts"))
    arrays = [*offsets.values(), *others]
    if any(isinstance(one, jax.ShapeDtypeStruct) for one in (*arrays, span)):
        count = sum(one.shape[0] for one in arrays)
        restarts = jax.ShapeDtypeStruct((count,), jnp.dtype(bool)) if "step_ts" in offsets else True
        return Schedule(jax.ShapeDtypeStruct((count,), jnp.dtype(dtype)), restarts=restarts)
    backwards = span < 0
    ahead = [jnp.where(backwards, jnp.where(one < 0, one, -jnp.inf), jnp.where(one > 0, one, jnp.inf)) for one in others]
    if "step_ts" not in offsets:
        together = jnp.concatenate([*offsets.values(), *ahead])
        return Schedule(jnp.where(backwards, -jnp.sort(-together), jnp.sort(together)), exact=offsets.get("jump_ts"))
    # Of one time those at which the method starts again come first.
    soft = offsets.pop("step_ts")
    together = jnp.concatenate([*offsets.values(), *ahead, soft])
    order = jnp.argsort(jax.lax.stop_gradient(jnp.where(backwards, -together, together)), stable=True)
    return Schedule(together[order], restarts=order < together.size - soft.size, exact=offsets.get("jump_ts"))


def _ahead(offsets: Any, span: Any) -> Any:
    """Times since t0 as an array, of which those that are infinite lie behind all others, in either direction of time; NaN
    where they do not."""
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in (offsets, span)):
        return as_array(offsets, span.dtype)
    never = jnp.isinf(offsets)
    followed = jax.lax.cummax((~never).astype(jnp.int32), reverse=True) > 0
    return jnp.where(never, jnp.where(followed, jnp.nan, jnp.where(span < 0, -jnp.inf, jnp.inf)), offsets)


def _checked(name: str, times: Any, t0: Any, t1: Any) -> Any:
    times = listed(times)
    if not is_number(times) or len(np.shape(times)) != 1:
        raise ValueError(f"{name} is {times!r}: expected a one-dimensional array of times, [jumps]")
    refuse_symbolic(name, times)
    known, begin, end = concrete(times), concrete(t0), concrete(t1)
    if known is None or begin is None or end is None:
        return times
    sign = 1 if end >= begin else -1
    if np.isnan(known).any():
        raise ValueError(f"{name}={times} has times that are no numbers; infinite ones are never reached")
    real = known[np.isfinite(known)]
    word = "non-decreasing" if sign == 1 else "non-increasing, since t1 < t0"
    if (np.diff(sign * real) < 0).any() or np.isfinite(known[len(real) :]).any():
        raise ValueError(f"{name}={times} is not in order: expected it {word}, with infinite times behind all others")
    if real.size and sign * (real[0] - begin) < 0:
        raise ValueError(f"{name} begins with {real[0]}: expected times from t0={t0} on")
    return times


@dataclasses.dataclass(frozen=True)
class Jumps(Part):
    """Ends legs at the times of a schedule, and adds its increments to the state. count: the jumps of a lane, at most. looks:
    whether steady states are looked for. leaping, plain: whether the method starts again behind some of them, and goes on
    behind some."""

    count: int
    adds: bool
    keeps: bool
    looks: bool
    leaping: bool
    plain: bool

    @classmethod
    def of(cls, schedule: Schedule) -> Jumps:
        """Those of a schedule."""
        restarts = schedule.restarts
        return cls(
            schedule.times.shape[0],
            adds=schedule.increments is not None,
            keeps=schedule.kept is not None,
            looks=schedule.looks is not None,
            leaping=restarts is not False,
            plain=restarts is not True,
        )

    @property
    def divides(self) -> bool:
        return True

    @property
    def jumps(self) -> bool:
        return self.leaping

    @property
    def changes_start(self) -> bool:
        return self.adds or self.keeps

    @property
    def goes_on(self) -> bool:
        return self.plain

    @property
    def counters(self) -> tuple[str, ...]:
        """Jumps that lie behind."""
        return ("jumps",)

    @staticmethod
    def buffers() -> tuple[Buffer, ...]:
        """The state, without tangents, in front of the last dose of those that lead to a steady state."""
        return (Buffer("steady_dose_state", 0),)

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        looking = self.looks and not dimensions.backward  # a way that is gone back over was as it should be
        return {"steady_dose_state": dimensions.primal if looking else 0}

    def hooks(self, lane: Lane) -> Hooks:
        def start(b: Body) -> Scalar:
            early = self._next(b) < 0.0
            return where(early, CODES["invalid_input"], self._pass(b, b.scalar(0.0)))

        restarts = self._restarts if self.plain else None
        return Hooks(start=start, clip=self._next, clip_tangent=self._next_tangent, restarts=restarts, corner=self._pass)

    def _restarts(self, b: Body) -> Scalar:
        """Whether the method starts again at the next jump."""
        return b.number(RESTARTS, self._index(b)[0].value) if self.leaping else b.scalar(False, "bool")

    def _index(self, b: Body) -> tuple[Scalar, Scalar]:
        """That of the next jump, int64, and whether there is one."""
        number = b.scalar(b.counter("jumps").get(), "int32")
        left = number < self.count
        return where(left, number, 0).to("int64"), left

    def _next(self, b: Body) -> Scalar:
        """The time of the next jump."""
        index, left = self._index(b)
        return where(left, b.scalar(b.direction) * b.number(TIMES, index.value), float("inf"))

    def _next_tangent(self, b: Body, order: int) -> Scalar:
        return b.tangent(TIMES, order, self._index(b)[0].value)

    def _pass(self, b: Body, time: Scalar) -> Scalar:
        """All jumps up to that time."""
        ordered = b.variable(b.emitter.constant("bool", 1), "bool")
        looking = self.looks and b.lane.problem.adjoint is None
        code = b.variable(b.int32(CODES["successful"]), "int32") if looking else None

        def jump() -> None:
            before, (index, _) = self._next(b), self._index(b)
            if code is not None:
                look(b, b.number(LOOKS, index.value), code)
            self._change(b, index)
            b.counter("jumps").add()
            ordered.set(b.emitter.logical_and(ordered.get(), (self._next(b) >= before).value))

        b.repeat_while(lambda: self._next(b) <= time, jump)
        # What is not a number is neither reached nor passed.
        following = self._next(b)
        valid = b.scalar(ordered.get(), "bool") & (following > time)
        found = b.scalar(CODES["successful"] if code is None else code.get(), "int32")
        return where(valid, found, CODES["invalid_input"])

    def _change(self, b: Body, index: Scalar) -> None:
        """The state at a jump."""
        for begin, piece in b.pieces:
            state = b.buf.state.part(begin, piece.size)
            if self.keeps:
                kept = b.number(KEPT, index.value)
                b.each(lambda i, kept=kept, s=state: s.store(i, (kept * b.scalar(s.load(i))).value), piece.size)
            name = tangent_name(INCREMENTS, piece.order)
            if not b.lane.has_operand(name):
                continue
            operand = b.lane.operand(name)
            for number in range(max(piece.directions, 1)):
                part = state.part(number * b.primal, b.primal)
                first = index * b.primal + (number * self.count * b.primal if operand.directed else 0)

                def add(i: Any, name: str = name, part: Any = part, first: Scalar = first) -> None:
                    more = b.number(name, (first + b.scalar(b.emitter.place(i), "int64")).value)
                    part.store(i, (b.scalar(part.load(i)) + more).value)

                b.each(add, b.primal)

    @property
    def remembered_counters(self) -> tuple[str, ...]:
        return ("jumps",)

    def adjoint(self, lane: Lane) -> AdjointHooks:
        def end(b: Body) -> None:
            self._go_back(b, b.scalar(0, "int32"), b.scalar(0.0))

        def corner(b: Body, step: Step) -> None:
            self._go_back(b, b.scalar(b.counter("jumps").get(), "int32"), step.end)

        def leg_tangent(b: Body, order: int) -> Scalar:
            behind = b.scalar(b.counter("jumps").get(), "int32")
            index = where(behind > 0, behind - 1, 0).to("int64")
            inside = (behind > 0) & (b.scalar(b.direction) * b.number(TIMES, index.value) > 0.0)
            return where(inside, b.tangent(TIMES, order, index.value), 0.0)

        def clip_cotangent(b: Body, order: int, value: Scalar) -> None:
            name = cotangent_name(tangent_name(TIMES, order))
            if name in {result.name for result in lane.plan.words.results}:
                b.res(name, self._index(b)[0].value, value.value)

        return AdjointHooks(end=end, leg_tangent=leg_tangent, corner=corner, clip_cotangent=clip_cotangent)

    def _go_back(self, b: Body, first: Scalar, time: Scalar) -> None:
        """The cotangent of the state in front of the jumps from number `first` on up to that time, from that behind them."""
        number = b.variable(first.value, "int32")

        def index() -> Scalar:
            return b.scalar(number.get(), "int32")

        def behind() -> Scalar:
            inside = index() < self.count
            return inside & (b.scalar(b.direction) * b.number(TIMES, where(inside, index(), 0).to("int64").value) <= time)

        b.repeat_while(behind, lambda: number.set((index() + 1).value))
        written = {result.name for result in b.lane.plan.words.results}

        def undo() -> None:
            number.set((index() - 1).value)
            place = index().to("int64")
            for begin, piece in b.pieces:
                adjoint, name = b.buf.adjoint.part(begin, piece.size), cotangent_name(tangent_name(INCREMENTS, piece.order))
                if name in written:

                    def write(i: Any, name: str = name, adjoint: Any = adjoint) -> None:
                        b.res(name, (place * b.primal + b.scalar(b.emitter.place(i), "int64")).value, adjoint.load(i))

                    b.each(write, b.primal)
                if self.keeps:
                    kept = b.number(KEPT, place.value)
                    b.each(lambda i, a=adjoint, kept=kept: a.store(i, (kept * b.scalar(a.load(i))).value), piece.size)

        b.repeat_while(lambda: index() > first, undo)
