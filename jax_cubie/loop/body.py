"""A lane inside an emitter's body: everything by its name."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

from llvmlite import ir

from ..kernel.device import View, each
from ..kernel.emitter import Emitter
from ..kernel.scalar import Scalar, most
from ..operands import LEG, TIME, Piece, in_order, tangent_name
from .clock import inside_of_leg
from .cursors import find
from .functions import Sink, into_view
from .legs import SINCE_T0

if TYPE_CHECKING:
    from ..operands import Function
    from .lane import Lane


class Body:
    """One lane: its operands and results, its buffers, its counters, and the user's functions.

    members: those of `Lane.struct`. emitter: writes at the place where the body is used. buf: the buffers as attributes, each
    a `View`. direction: 1, or -1 where t1 < t0. dtype: the solve's. states: components of the state; the first `primal` of them
    are those that norms look at, all others are tangents.
    """

    def __init__(self, lane: Lane, emitter: Emitter, members: Any):
        self.lane, self.emitter = lane, emitter
        self.words, self.bases, self.direction = members.words, members.bases, members.direction
        self.buf, self._cells = members.arrays.buffers, members.arrays.cells
        for name, kind in lane.empty.items():
            setattr(self.buf, name, View(emitter, ir.Constant(kind.pointer, ir.Undefined), kind))
        self.dtype, self.states = lane.problem.dtype, lane.problem.states
        self.primal = lane.problem.primal_states

    def with_buffers(self, views: Mapping[str, View]) -> Self:
        """This lane with these views in `buf`, by their names."""
        other = copy.copy(self)
        other.buf = copy.copy(self.buf)
        for name, view in views.items():
            setattr(other.buf, name, view)
        return other

    def each(self, body: Callable[[Any], None], size: int | None = None) -> None:
        """`body(index)` for every component of the state, or for every index below `size`."""
        each(self.emitter, self.states if size is None else size, self.lane.plan.unroll, body)

    def real(self, value: float) -> Any:
        """A constant of the solve's dtype."""
        return self.emitter.constant(self.dtype, value)

    def int32(self, value: int) -> Any:
        """A constant."""
        return self.emitter.constant("int32", value)

    def op(self, name: str, index: Any = 0) -> Any:
        """Element `index` of an operand; one that is a scalar has the same for all."""
        shape = self.lane.operand(name).shape
        return self.lane.addressing.load(
            self.emitter, self.words, self.bases, self.lane.operand_number(name), index if shape else 0
        )

    def res(self, name: str, index: Any, value: Any) -> None:
        """Writes element `index` (flat; a Python int or an int64 value) of a result."""
        number = self.lane.result_number(name)
        self.lane.addressing.store(self.emitter, self.words, self.bases, number, index, value)

    def counter(self, name: str) -> Counter:
        """One of the lane's counters."""
        return Counter(self.emitter, self.buf.counters, self.lane.plan.counters.index(name))

    def get(self, name: str) -> Scalar:
        """The present value of a cell, a scalar that `Lane.cell` declared."""
        return Scalar(self.emitter, self.lane.cells[name], getattr(self._cells, name).load(0))

    def put(self, **values: Scalar | float) -> None:
        """Changes cells."""
        for name, value in values.items():
            raw = value.value if isinstance(value, Scalar) else self.emitter.constant(self.lane.cells[name], value)
            getattr(self._cells, name).store(0, raw)

    def number(self, name: str, index: Any = 0) -> Scalar:
        """Element `index` of an operand, to compute with."""
        return Scalar(self.emitter, self.lane.operand(name).dtype, self.op(name, index))

    def scalar(self, value: Any, dtype: str | None = None) -> Scalar:
        """An llvmlite value of the solve's dtype, or of `dtype`, to compute with; a Python number becomes a constant."""
        dtype = dtype or self.dtype
        raw = self.emitter.constant(dtype, value) if isinstance(value, (bool, int, float)) else value
        return Scalar(self.emitter, dtype, raw)

    def when(self, condition: Scalar) -> AbstractContextManager:
        """What is written inside of `with` is done where the condition holds."""
        return self.emitter.builder.if_then(condition.value)

    def repeat_while(self, condition: Callable[[], Scalar], body: Callable[[], None]) -> None:
        """`body` again and again, as long as `condition`, looked at before each turn, holds."""
        self.emitter.repeat_while(lambda: condition().value, body)

    def variable(self, value: Any, dtype: str | None = None) -> Variable:
        """A scalar of this emitter's body alone, that it changes also inside of a loop that it emits."""
        return Variable(self.emitter, dtype or self.dtype, value)

    def row(self, view: View, number: int) -> View:
        """Row `number` of an array of rows as long as the state."""
        return view.part(number * self.states, self.states)

    @property
    def moving(self) -> tuple[int, ...]:
        """The orders of the tangents that times have."""
        return self.lane.problem.moving

    def orders_with(self, moved: int) -> list[int]:
        """The orders of those tangents of the state on which one of times, of the order `moved`, has an effect."""
        return [piece.order for piece in self.lane.problem.pieces if piece.order & moved == moved]

    @property
    def pieces(self) -> list[tuple[int, Piece]]:
        """The pieces of the state, with where they begin."""
        pieces = self.lane.problem.pieces
        return list(zip(itertools.accumulate((piece.size for piece in pieces), initial=0), pieces, strict=False))

    def piece(self, view: View, order: int) -> View:
        """The components of one order of an array that is as long as the state."""
        begin, piece = next(one for one in self.pieces if one[1].order == order)
        return view.part(begin, piece.size)

    def by_pieces(self, name: str, view: View) -> dict[str, View]:
        """An array that is as long as the state, as functions of the user's take it."""
        return {in_order(name, piece.order): view.part(begin, piece.size) for begin, piece in self.pieces}

    def begin_piece(self, piece: Piece) -> None:
        """Makes a piece of the state what it is at t0; an operand that is the same for all directions has one of them."""
        name, state = piece.initial, self.piece(self.buf.state, piece.order)
        size = piece.size if name is None else self.lane.operand(name).size
        for begin in range(0, piece.size, size):
            part = state.part(begin, size)
            self.each(lambda i, part=part: part.store(i, self.real(0) if name is None else self.op(name, i)), size)

    def tangent(self, name: str, order: int, index: Any = 0) -> Scalar:
        """The tangent of an operand, 0 where it has none of that order."""
        name = tangent_name(name, order)
        return self.number(name, index) if self.lane.has_operand(name) else self.scalar(0.0)

    def call(self, name: str, *, out: View | Sink, **given: Any) -> None:
        """Writes one evaluation of a function of the user's, at what it is given: the time t, as `instant` has it, the state y.

        Arrays as long as the state are given, and written, piece by piece. Cursors are looked up.
        """
        arrays = [(one, view) for one, view in given.items() if isinstance(view, View) and view.size == self.states]
        for one, view in arrays:
            given |= self.by_pieces(one, view)
        begins = [begin for begin, _ in self.pieces]
        self._emit(name, into_view(out, begins) if isinstance(out, View) else out, given)

    def call_primal(self, name: str, *, out: View | Sink, **given: Any) -> None:
        """The same of a function of the primal state alone, whose arrays are given, and written, as they are."""
        self._emit(name, into_view(out, [0]) if isinstance(out, View) else out, given)

    def call_pieces(self, name: str, given: Mapping[str, Any], out: Sink) -> None:
        """The same, of arrays that are given piece by piece already: others may be as long as the state."""
        self._emit(name, out, given)

    def _emit(self, name: str, out: Sink, given: Mapping[str, Any]) -> None:
        function = self.lane.functions[name]
        function.emit(self, {**given, **self._numbers(function.function, given)}, out)

    def _numbers(self, function: Function, given: Mapping[str, Any]) -> dict[str, Any]:
        """The time, if it is not given, where cursors stand, and the leg; 0 for what a function does not depend on."""
        problem, found = self.lane.problem, {}
        if problem.counts_from_t0 and TIME not in given:
            timed = "t" in given  # what has no time does not depend on it
            found[TIME] = self.emitter.add(self.dtype, self.op("t0"), given["t"]) if timed else self.real(0)
        for cursor in problem.cursors:
            inputs = cursor.inputs(self.dtype)
            if function.depends_on.isdisjoint(inputs):
                found |= {name: self.emitter.constant(dtype, 0) for name, dtype in inputs.items()}
            else:
                found |= find(self, cursor, given["t"])
        if LEG in function.inputs:
            found[LEG] = self.counter("jumps").get() if LEG in function.depends_on else self.int32(0)
        return found

    def evaluate(self, since_t0: Any, state: View, rhs: View, into: Fraction | int = 0) -> None:
        """rhs = f(t0 + since_t0, state), the fraction `into` of a step."""
        self.call("f", y=state, out=rhs, **self.instant(since_t0, into))

    def given_time(self, time: Any, since_t0: Any) -> dict[str, Any]:
        """A time, which they are given as it is, as functions of the user's take it."""
        problem = self.lane.problem
        if not problem.counts_from_t0:
            return {"t": time}
        if problem.jumps:
            since_t0 = inside_of_leg(self, self.scalar(since_t0), SINCE_T0).value
        return {"t": since_t0, TIME: time}

    def instant(self, since_t0: Any, into: Fraction | float = 0) -> dict[str, Any]:
        """The time and its tangents as functions of the user's take them: where they count it from t0, that, and itself."""
        given = self._times(since_t0)
        for order in self.moving:
            moved = self.get(f"start_{order}")
            moved = moved if self.lane.problem.counts_from_t0 else moved + self.tangent("t0", order)
            given[tangent_name("t", order)] = self.get(f"size_{order}").fused(float(into), moved).value
        return given

    def time_of(self, since_t0: Any) -> Any:
        """A time since t0 as functions of the user's take it in the leg at hand."""
        return self._times(since_t0)["t"]

    def held_back(self, since_t0: Any) -> Scalar:
        """How much earlier than it is that time is to functions of the user's, at the end of a leg behind which they jump."""
        given, exact = self._times(since_t0), {"t": self.emitter.add(self.dtype, self.op("t0"), since_t0)}
        if self.lane.problem.counts_from_t0:
            exact = {"t": since_t0, TIME: exact["t"]}
        held, forwards = self.scalar(0.0), self.scalar(self.direction)
        for name, time in given.items():
            held = most(forwards * (self.scalar(exact[name]) - self.scalar(time)), held)
        return held

    def _times(self, since_t0: Any) -> dict[str, Any]:
        from_t0, jumps = self.lane.problem.counts_from_t0, self.lane.problem.jumps
        time = self.emitter.add(self.dtype, self.op("t0"), since_t0)
        if jumps:
            time = inside_of_leg(self, self.scalar(time)).value
        if not from_t0:
            return {"t": time}
        since_t0 = inside_of_leg(self, self.scalar(since_t0), SINCE_T0).value if jumps else since_t0
        return {"t": since_t0, TIME: time}


class Variable:
    """A local variable of an emitter's body."""

    def __init__(self, emitter: Emitter, dtype: str, value: Any):
        self._emitter, self._dtype = emitter, dtype
        self._pointer = emitter.alloca(dtype, 1)
        self.set(value)

    def get(self) -> Any:
        """Its value."""
        return self._emitter.load(self._pointer, 0, self._dtype)

    def set(self, value: Any) -> None:
        """Changes it."""
        self._emitter.store(self._pointer, 0, value, self._dtype)


class Counter:
    """A slot of the buffer `counters`."""

    def __init__(self, emitter: Emitter, counters: View, slot: int):
        self._emitter, self._counters, self._slot = emitter, counters, slot

    def get(self) -> Any:
        """How many so far, int32."""
        return self._counters.load(self._slot)

    def set(self, value: Any) -> None:
        """Changes it to an int32 value."""
        self._counters.store(self._slot, value)

    def add(self, more: Any = 1) -> Any:
        """Counts `more` (a Python int or an int32 value); answers with the new number."""
        more = self._emitter.constant("int32", more) if isinstance(more, int) else more
        total = self._emitter.add("int32", self.get(), more)
        self._counters.store(self._slot, total)
        return total
