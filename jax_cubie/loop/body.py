"""A lane inside an emitter's body: everything by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel.device import View, each
from ..kernel.emitter import Emitter
from .functions import Sink, into_view

if TYPE_CHECKING:
    from .lane import Lane


class Body:
    """One lane: its operands and results, its buffers, its counters, and the user's functions.

    members: those of `Lane.struct`. emitter: writes at the place where the body is used. buf: the buffers as attributes, each
    a `View`. direction: 1, or -1 where t1 < t0. dtype: the solve's. states: components of the state.
    """

    def __init__(self, lane: Lane, emitter: Emitter, members: Any):
        self.lane, self.emitter = lane, emitter
        self.words, self.bases, self.direction = members.words, members.bases, members.direction
        self.buf, self._cells = members.buffers, members.cells
        self.dtype, self.states = lane.problem.dtype, lane.problem.states

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

    def cell(self, name: str) -> Cell:
        """A scalar that `Lane.cell` declared."""
        return Cell(self.emitter, getattr(self._cells, name), self.lane.cells[name])

    def new_cell(self, dtype: str, value: Any) -> Cell:
        """A scalar of this emitter's body alone, that it changes also inside of a loop that it emits."""
        cell = Cell(self.emitter, _Scalar(self.emitter, dtype), dtype)
        cell.set(value)
        return cell

    def row(self, view: View, number: int) -> View:
        """Row `number` of an array of rows as long as the state."""
        return view.part(number * self.states, self.states)

    def call(self, name: str, *, t: Any, y: View, out: View | Sink) -> None:
        """Writes one evaluation of a function of the user's at the time t (counted from 0) and the state y."""
        self.lane.functions[name].emit(self, {"t": t, "y": y}, into_view(out) if isinstance(out, View) else out)

    def evaluate(self, since_t0: Any, state: View, rhs: View) -> None:
        """rhs = f(t0 + since_t0, state)."""
        time = self.emitter.add(self.dtype, self.op("t0"), since_t0)
        self.call("f", t=time, y=state, out=rhs)


class _Scalar:
    """A local variable, with a `View`'s load and store."""

    def __init__(self, emitter: Emitter, dtype: str):
        self._emitter, self._dtype = emitter, dtype
        self._pointer = emitter.alloca(dtype, 1)

    def load(self, index: int) -> Any:
        return self._emitter.load(self._pointer, index, self._dtype)

    def store(self, index: int, value: Any) -> None:
        self._emitter.store(self._pointer, index, value, self._dtype)


class Cell:
    """A scalar that can be changed."""

    def __init__(self, emitter: Emitter, place: View | _Scalar, dtype: str):
        self._emitter, self._place, self.dtype = emitter, place, dtype

    def get(self) -> Any:
        """Its value."""
        return self._place.load(0)

    def set(self, value: Any) -> None:
        """Changes it."""
        self._place.store(0, value)


class Counter:
    """A slot of the buffer `counters`."""

    def __init__(self, emitter: Emitter, counters: View, slot: int):
        self._emitter, self._counters, self._slot = emitter, counters, slot

    def get(self) -> Any:
        """How many so far, int32."""
        return self._counters.load(self._slot)

    def add(self, more: Any = 1) -> Any:
        """Counts `more` (a Python int or an int32 value); answers with the new number."""
        more = self._emitter.constant("int32", more) if isinstance(more, int) else more
        total = self._emitter.add("int32", self.get(), more)
        self._counters.store(self._slot, total)
        return total
