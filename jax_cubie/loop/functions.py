"""The user's functions inside a kernel: written in line where that is little code, once as a function where it is much."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from ..kernel.device import View
from ..kernel.emitter import Emitter
from ..kernel.memory import undefined_words
from ..kernel.scalar import shifted
from ..operands import window_of
from ..translate.emit import emit_program
from ..translate.warp_products import row_words
from .staging import rows_of, staged_pointer

if TYPE_CHECKING:
    from ..operands import Function
    from .body import Body
    from .lane import Lane

@dataclasses.dataclass(frozen=True)
class Store:
    """Keeps what a function gives.

    one(output number, flat index, value). together: outputs of which WARP elements that follow one another had better be kept
    at once, by several(output number, flat index of the first, values).
    """

    one: Callable[[int, Any, Any], None]
    together: frozenset[int] = frozenset()
    several: Callable[[int, Any, Sequence[Any]], None] | None = None


@dataclasses.dataclass(frozen=True)
class Sink:
    """Where the outputs of a function go, in the function that holds the copy or in one that it calls.

    name: tells apart what `store` depends on. values: what it needs, as LLVM values; results: those that it writes. store:
    from an emitter, the words, the bases and those values, a function that keeps a value.
    """

    name: str
    values: tuple[Any, ...]
    results: tuple[str, ...]
    store: Callable[[Emitter, Any, Any, Sequence[Any]], Store]


def into_view(view: View, begins: Sequence[int]) -> Sink:
    """The outputs of a function go into an array of the lane, each from its element of `begins` on."""

    def store(emitter: Emitter, words: Any, bases: Any, values: Sequence[Any]) -> Store:
        target = View(emitter, values[0], view.type)
        return Store(lambda output, index, value: target.store(shifted(emitter, index, begins[output]), value))

    return Sink(f"view_{view.type.stride}_{view.type.space}", (view.pointer,), (), store)


def into_output(view: View, number: int) -> Sink:
    """Only that output of a function goes into an array of the lane."""

    def store(emitter: Emitter, words: Any, bases: Any, values: Sequence[Any]) -> Store:
        target = View(emitter, values[0], view.type)

        def keep(output: int, index: Any, value: Any) -> None:
            if output == number:
                target.store(index, value)

        return Store(keep)

    return Sink(f"output_{number}_{view.type.stride}_{view.type.space}", (view.pointer,), (), store)


def into_row(lane: Lane, results: Sequence[str], sizes: Sequence[int], row: Any) -> Sink:
    """The outputs of a function, of `sizes` elements, go into row `row` (int32) of `results`."""
    numbers = [lane.result_number(name) for name in results]

    def store(emitter: Emitter, words: Any, bases: Any, values: Sequence[Any]) -> Store:
        row = emitter.cast(values[0], "int32", "int64")

        def store_output(output: int, index: Any, value: Any) -> None:
            begin = emitter.mul("int64", row, emitter.constant("int64", sizes[output]))
            place = emitter.add("int64", begin, emitter.place(index))
            lane.addressing.store(emitter, words, bases, numbers[output], place, value)

        return Store(store_output)

    return Sink("row", (row,), tuple(results), store)


class FunctionCode:
    """Writes evaluations of a function for one plan. inline: whether it is written at each place."""

    def __init__(self, lane: Lane, function: Function, *, inline: bool):
        self.lane, self.function, self.inline = lane, function, inline
        # What is read where it lies: each operand that neither the lane nor its block keeps a copy of.
        self._in_place = sorted(
            {
                lane.operand_number(name)
                for name in function.operands
                if name not in lane.plan.parameter_offsets and name not in lane.plan.staged
            }
        )

    def emit(self, b: Body, given: dict[str, Any], sink: Sink) -> None:
        """Writes one evaluation at the place of the body. given: the function's own inputs, by name."""
        inputs = {name: given[name] for name in self.function.inputs}
        if self.inline:
            store = sink.store(b.emitter, b.words, b.bases, sink.values)
            self._write(b.emitter, b.words, b.bases, inputs, b.buf.parameters, store)
        else:
            self._call(b, inputs, sink)

    def _write(self, emitter: Emitter, words: Any, bases: Any, inputs: dict[str, Any], parameters: Any, store: Store) -> None:
        lane, function = self.lane, self.function
        offsets, staged = lane.plan.parameter_offsets, lane.plan.staged

        def load(number: int, index: Any) -> Any:
            name = function.arguments[number]
            if name in inputs:
                given = inputs[name]
                return given.load(index) if isinstance(given, View) else given
            index = self._in_table(emitter, name, index, inputs)
            if name in staged:
                place = staged[name].place(emitter, index)
                return emitter.load(staged_pointer(emitter, lane, name), place, lane.operand(name).dtype)
            if name not in offsets:
                return lane.addressing.load(emitter, words, bases, lane.operand_number(name), index)
            return parameters.part(offsets[name], lane.operand(name).size).load(index)

        def load_several(number: int, index: Any, count: int, aligned: bool) -> Any:
            name = function.arguments[number]
            if name in inputs or name in offsets:
                return None
            if window_of(function.windows, name) is not None:
                index, aligned = self._in_table(emitter, name, index, inputs), False
            if name not in staged:
                return lane.addressing.load_several(emitter, words, bases, lane.operand_number(name), index, count, aligned)
            pointer = staged_pointer(emitter, lane, name)
            if staged[name].pitch != staged[name].columns and (staged[name].columns % count or not aligned):
                return None
            return emitter.load_several(pointer, staged[name].place(emitter, index), count, lane.operand(name).dtype, aligned)

        pulled = dict(function.pulled)

        def keep(output: int, index: Any, value: Any) -> None:
            store.one(output, self._in_table(emitter, pulled[output], index, inputs) if output in pulled else index, value)

        if lane.problem.fastmath:
            emitter = Emitter(emitter.builder, emitter.platform, fma=emitter.use_fma, fastmath=True)
        rows = rows_of(emitter, lane, function) if row_words(function.program) else None
        emit_program(emitter, function.program, load, keep, load_several, store.together, store.several, rows)

    def _in_table(self, emitter: Emitter, name: str, index: Any, inputs: dict[str, Any]) -> Any:
        """Where element `index` of what is handed over of an operand lies in it."""
        window = window_of(self.function.windows, name)
        if window is None:
            return index
        operand = self.lane.operand(name)
        row = math.prod(operand.shape[1 + operand.directed :])
        begin = emitter.cast(inputs[window.cursor], "int32", "int64")
        begin = emitter.mul("int64", begin, emitter.constant("int64", row)) if row != 1 else begin
        if operand.directed:  # the rows of each direction lie together
            skipped = (operand.shape[1] - window.rows) * row
            if isinstance(index, int):
                index += index // (window.rows * row) * skipped
            else:
                direction = emitter.div("int64", index, emitter.constant("int64", window.rows * row))
                moved = emitter.mul("int64", direction, emitter.constant("int64", skipped))
                index = emitter.add("int64", index, moved)
        return shifted(emitter, begin, index) if isinstance(index, int) else emitter.add("int64", begin, index)

    def _call(self, b: Body, inputs: dict[str, Any], sink: Sink) -> None:
        builder, words = b.emitter.builder, self.lane.plan.words
        views = [given for given in (*inputs.values(), b.buf.parameters) if isinstance(given, View)]
        first = len(words.operands)
        read = [*self._in_place, *(first + self.lane.result_number(name) for name in sink.results)]
        sizes = range(words.lanes, words.count)
        arguments = [given.pointer if isinstance(given, View) else given for given in (*inputs.values(), b.buf.parameters)]
        arguments += sink.values
        arguments += [builder.extract_value(b.bases, number) for number in read]
        arguments += [builder.extract_value(b.words, number) for number in sizes]
        program = self.function.program.digest[:16]
        places = (f"{view.type.stride}_{view.type.space}" for view in views)
        name = "_".join((f"jax_cubie_{self.function.name}", program, *places, sink.name))
        function = builder.module.globals.get(name)
        if function is None:
            kinds = [argument.type for argument in arguments]
            function = self._define(b, name, kinds, {**inputs, "parameters": b.buf.parameters}, sink, read, sizes)
        builder.call(function, arguments)

    def _define(
        self, b: Body, name: str, kinds: list, like: dict[str, Any], sink: Sink, read: list[int], sizes: range
    ) -> Any:
        emitter, words_of = b.emitter, self.lane.plan.words
        function = ir.Function(emitter.builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        if self.lane.plan.in_step:
            function.attributes.add("convergent")
        builder = ir.IRBuilder(function.append_basic_block())
        inner = Emitter(builder, emitter.platform, fma=emitter.use_fma)
        given = iter(function.args)
        inputs = {
            name: View(inner, next(given), one.type) if isinstance(one, View) else next(given) for name, one in like.items()
        }
        parameters = inputs.pop("parameters")
        values = [next(given) for _ in sink.values]
        bases, words = undefined_words(words_of.lanes), undefined_words(words_of.count)
        for number in read:
            bases = builder.insert_value(bases, next(given), number)
        for number in sizes:
            words = builder.insert_value(words, next(given), number)
        self._write(inner, words, bases, inputs, parameters, sink.store(inner, words, bases, values))
        builder.ret_void()
        return function
