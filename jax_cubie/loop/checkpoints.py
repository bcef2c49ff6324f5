"""Checkpoints: what a lane was like at the beginning of an accepted step, so that it can take that step again.

A forward kernel keeps the beginning of every 2^k-th accepted step in a fixed number of slots; when they run out, every other
one is given up, and k is one more. So no bound on steps is needed. A backward kernel goes through the steps from the last one
on: from the slot before a step it takes the steps again, and keeps some of their beginnings in a window of its own, from these
again in the next window, until it has each.

A checkpoint is words of unsigned integers: of depth 0 what a solve without tangents has, of depth k what is added by the
tangents of differentiation number k.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel.scalar import Scalar, shifted, where
from ..operands import Result
from .legs import edges

if TYPE_CHECKING:
    from ..problem import Problem
    from .body import Body

# Entries of each window, and how many windows there are at most, one within another: 32 slots and three windows are 2^20 steps,
# each of them taken again three times at most.
WINDOW, WINDOWS = 32, 3
WINDOW_BITS = WINDOW.bit_length() - 1


def windows_for(slots: int, max_steps: int | None) -> int:
    """How many windows a lane of so many steps can need; max_steps: None where nobody knows."""
    wanted = (count for count in range(1, WINDOWS) if max_steps is not None and slots * WINDOW**count >= max_steps)
    return next(wanted, WINDOWS)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """What a kernel keeps. slots: a power of two. depth: of how many differentiations the tangents are kept, too."""

    slots: int
    depth: int


@dataclasses.dataclass(frozen=True)
class Record:
    """What a checkpoint of a problem consists of.

    cells, with their dtypes, and counters: one word each; the sign of `step_size`, which is a positive number, says whether the
    step is the last. before: the cells that the step itself changes, of which it is kept what they were in front of it. moved:
    of each depth the cells with tangents of times that no operand names. sizes: of each depth the components of the state.
    rows: the arrays as long as the state that outlive a step, the state itself among them; primal_rows: those as long as its
    primal piece.
    """

    cells: tuple[tuple[str, str], ...]
    before: frozenset[str]
    counters: tuple[str, ...]
    moved: tuple[tuple[str, ...], ...]
    sizes: tuple[int, ...]
    rows: int
    primal_rows: int

    @property
    def words(self) -> tuple[int, ...]:
        """Words of each depth."""
        first, *rest = [self.rows * size + len(moved) for size, moved in zip(self.sizes, self.moved, strict=True)]
        return (len(self.cells) + len(self.counters) + first + self.primal_rows * self.sizes[0], *rest)

    def save(self, b: Body, write: Callable[[int, Any, Any], None]) -> None:
        """Hands over `write(depth, index, word)` each word of the lane as it is at the beginning of the step at hand."""
        index = 0
        for name, dtype in self.cells:
            word = to_word(b, b.get(f"{name}_before" if name in self.before else name).value, dtype)
            if name == "step_size":
                last = b.get("last").to(word_dtype(b.dtype))
                word = (last << _sign_of(b) | b.scalar(word, word_dtype(b.dtype))).value
            write(0, index, word)
            index += 1
        for name in self.counters:
            write(0, index, to_word(b, b.counter(name).get(), "int32"))
            index += 1
        for depth, names in enumerate(self.moved):
            for place, name in enumerate(names):
                write(depth, place, to_word(b, b.get(name).value, b.dtype))

        def save(depth: int, index: Any, view: Any, element: Any) -> None:
            write(depth, index, to_word(b, view.load(element), b.dtype))

        self._each(b, index, save)

    def restore(self, b: Body, read: Callable[[int, Any], Any]) -> None:
        """The lane as it was, from its words `read(depth, index)`."""
        index = 0
        for name, dtype in self.cells:
            word = b.scalar(read(0, index), word_dtype(b.dtype))
            if name == "step_size":
                b.put(last=~(word >> _sign_of(b)).equals(0))
                word = word & (2 ** _sign_of(b) - 1)
            b.put(**{name: b.scalar(from_word(b, word.value, dtype), dtype)})
            index += 1
        for name in self.counters:
            b.counter(name).set(from_word(b, read(0, index), "int32"))
            index += 1
        for depth, names in enumerate(self.moved):
            for place, name in enumerate(names):
                b.put(**{name: b.scalar(from_word(b, read(depth, place), b.dtype))})

        def restore(depth: int, index: Any, view: Any, element: Any) -> None:
            view.store(element, from_word(b, read(depth, index), b.dtype))

        self._each(b, index, restore)

    def _each(self, b: Body, first: int, visit: Callable[[int, Any, Any, Any], None]) -> None:
        """`visit(depth, index, view, element)` for each element of the rows."""
        begin = 0
        for depth, size in enumerate(self.sizes):
            offset = len(self.moved[depth]) if depth else first
            for row in (b.buf.state, *b.lane.problem.method.carried(b)):
                if row.size <= begin:
                    continue
                view = row.part(begin, size)

                def body(element: Any, depth: int = depth, offset: int = offset, view: Any = view) -> None:
                    visit(depth, shifted(b.emitter, element, offset), view, element)

                b.each(body, size)
                offset += size
            begin += size


def record_of(problem: Problem) -> Record:
    """What a checkpoint of a problem has in it."""
    dtype = problem.dtype
    # Where all steps have one size, their number says it all.
    cells = [] if problem.one_size else [("start", dtype), ("step_size", dtype)]
    if problem.adaptive:
        cells += [("residue", dtype)]
    elif not problem.one_size:
        cells += [("stop", dtype)]
    before = [(name, dtype if kind == "float" else kind) for name, kind in problem.remembered]
    if problem.divided:
        cells += [("end", dtype)]
        cells += [("resume", dtype)] if problem.adaptive else [("leg", dtype), ("paces", "int32")]
        cells += [("leg", dtype)] if problem.adaptive and problem.cuts else []
    cells += [(name, dtype) for pair in edges(problem) for name in pair]
    counters = [name for part in problem.parts for name in part.remembered_counters]
    others = [one for part in problem.parts if not part.cuts for one in part.remembered]
    cells += [(name, dtype if kind == "float" else kind) for name, kind in others]
    depth = (len(problem.pieces) - 1).bit_length()
    sizes = [sum(piece.size for piece in problem.pieces if piece.order.bit_length() == one) for one in range(depth + 1)]
    moving = problem.moving if problem.cuts else ()
    moved = [
        tuple(f"{name}_{order}" for order in moving if order.bit_length() == one for name in ("leg", "goal"))
        for one in range(depth + 1)
    ]
    rows, primal = 1 + problem.method.carried_rows, problem.method.carried_primal_rows
    # Steps of one size are kept in front of them, too; what they remember changes behind them.
    changed = frozenset() if problem.one_size else frozenset(name for name, _ in before)
    return Record(tuple(cells + before), changed, tuple(counters), tuple(moved), tuple(sizes), rows, primal)


def checkpoint_results(problem: Problem, checkpoints: Checkpoints) -> tuple[Result, ...]:
    """The arrays that checkpoints are kept in. Behind the slots of depth 0 stand the number of accepted steps, and the code."""
    dtype = word_dtype(problem.dtype)
    words = record_of(problem).words[: checkpoints.depth + 1]
    sizes = [checkpoints.slots * count + (2 if depth == 0 else 0) for depth, count in enumerate(words)]
    return tuple(Result(checkpoint_name(depth), (size,), dtype) for depth, size in enumerate(sizes))


def checkpoint_name(depth: int) -> str:
    """The result that checkpoints of one depth are in."""
    return f"checkpoints.{depth}"


def word_dtype(dtype: str) -> str:
    """The words of a checkpoint."""
    return "uint32" if dtype == "float32" else "uint64"


def _sign_of(b: Body) -> int:
    """The bit of a word that is a float's sign."""
    return 31 if b.dtype == "float32" else 63


def to_word(b: Body, value: Any, dtype: str) -> Any:
    """A scalar as a word."""
    word = word_dtype(b.dtype)
    return b.emitter.bitcast(value, word) if dtype == b.dtype else b.emitter.cast(value, dtype, word)


def from_word(b: Body, word: Any, dtype: str) -> Any:
    """A word as a scalar."""
    return b.emitter.bitcast(word, dtype) if dtype == b.dtype else b.emitter.cast(word, word_dtype(b.dtype), dtype)


def slot_of(b: Body, number: Scalar, turn: Scalar, slots: int) -> Scalar:
    """The slot of entry `number` (int32), the beginning of step number * 2^shift; `turn`: `turn_of` that shift.

    When slots run out, those of odd numbers are given to the second half of all: so a number is turned to the left by a bit
    each time.
    """
    bits = slots.bit_length() - 1
    if bits == 0:
        return b.scalar(0, "int32")
    return ((number << turn) | (number >> (bits - turn))) & (slots - 1)


def turn_of(b: Body, shift: Scalar, slots: int) -> Scalar:
    """By how many bits the numbers of entries are turned, int32."""
    bits = slots.bit_length() - 1
    return b.scalar(b.emitter.apply("rem", "int32", shift.value, b.int32(bits)) if bits else b.int32(0), "int32")


class Recording:
    """Writes checkpoints into results of the launch. Cells: recorded, accepted steps so far; thinned, the k of
    above; due, the next step to keep.

    A step whose size may be rejected is kept once it is accepted. Of steps of one size, which are taken in a loop of their own,
    none is looked at: that loop ends in front of the one to keep.
    """

    def __init__(self, problem: Problem, checkpoints: Checkpoints):
        self._record, self._checkpoints = record_of(problem), checkpoints

    def begin(self, b: Body) -> None:
        b.put(recorded=0, thinned=0, due=0)

    def accepted(self, b: Body) -> None:
        """At the end of an accepted step, before anything of it is forgotten."""
        self.keep(b)
        self.passed(b, b.scalar(1, "int32"))

    def passed(self, b: Body, steps: Scalar) -> None:
        """So many have been accepted."""
        b.put(recorded=b.get("recorded") + steps)

    def ahead(self, b: Body) -> Scalar:
        """How many steps there are in front of the next one to keep."""
        return b.get("due") - b.get("recorded")

    def keep(self, b: Body) -> None:
        """The beginning of the step at hand, if it is one to keep."""
        slots, step, shift = self._checkpoints.slots, b.get("recorded"), b.get("thinned")
        with b.when(step.equals(b.get("due"))):
            number = step >> shift
            full = number.equals(slots)
            b.put(thinned=where(full, shift + 1, shift))
            b.put(due=step + power(b, b.get("thinned")))
            number = where(full, slots // 2, number)
            slot = slot_of(b, number, turn_of(b, b.get("thinned"), slots), slots).to("int64")

            def write(depth: int, index: Any, word: Any) -> None:
                if depth <= self._checkpoints.depth:
                    begin = b.emitter.mul("int64", slot.value, b.emitter.constant("int64", self._record.words[depth]))
                    index = b.emitter.place(index)
                    b.res(checkpoint_name(depth), b.emitter.add("int64", begin, index), word)

            self._record.save(b, write)

    def end(self, b: Body) -> None:
        behind = self._checkpoints.slots * self._record.words[0]
        for offset, name in enumerate(("recorded", "result")):
            b.res(checkpoint_name(0), behind + offset, to_word(b, b.get(name).value, "int32"))


def power(b: Body, exponent: Scalar) -> Scalar:
    """2^exponent, int32."""
    return b.scalar(1, "int32") << exponent
