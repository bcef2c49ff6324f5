"""A function of the user's inside a kernel: emitted in line where that is little code, once as a function where it is much."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from .addressing import Addressing
from .kernel.device import View
from .kernel.emitter import Emitter
from .kernel.memory import undefined_words
from .translate import Program
from .translate.emit import emit_program

if TYPE_CHECKING:
    from .plan import Plan

Store = Callable[[int, Any, Any], None]  # (output number, flat index, value)


@dataclasses.dataclass(frozen=True)
class Sink:
    """Where the outputs of a function go, in the function that holds the copy or in one that it calls.

    name: tells apart what `store` depends on. values: what it needs, as LLVM values; bases: the numbers of the bases that it
    needs. store: from an emitter, the words, the bases and those values, a function that keeps a value.
    """

    name: str
    values: tuple[Any, ...]
    bases: tuple[int, ...]
    store: Callable[[Emitter, Any, Any, Sequence[Any]], Store]


def into_view(view: View) -> Sink:
    """The one output of a function goes into an array of the lane."""

    def store(emitter: Emitter, words: Any, bases: Any, values: Sequence[Any]) -> Store:
        target = View(emitter, values[0], view.type)
        return lambda _, index, value: target.store(index, value)

    return Sink(f"view_{view.type.stride}_{view.type.space}", (view.pointer,), (), store)


def into_row(memory: Addressing, first: int, sizes: Sequence[int], row: Any) -> Sink:
    """The outputs of a function, of `sizes` elements, go into row `row` (int32) of the results from number `first` on."""

    def store(emitter: Emitter, words: Any, bases: Any, values: Sequence[Any]) -> Store:
        row = emitter.cast(values[0], "int32", "int64")

        def store_output(number: int, index: Any, value: Any) -> None:
            begin = emitter.mul("int64", row, emitter.constant("int64", sizes[number]))
            place = emitter.add("int64", begin, emitter.constant("int64", index) if isinstance(index, int) else index)
            memory.store(emitter, words, bases, first + number, place, value)

        return store_output

    begin = len(memory.words.operands) + first
    return Sink("row", (row,), tuple(range(begin, begin + len(sizes))), store)


class UserFunction:
    """Writes evaluations of a function of time, state and operands for one plan.

    operands: the numbers of what the program reads after time and state. inline: whether it is written at each place.
    """

    def __init__(self, plan: Plan, program: Program, operands: Sequence[int], *, name: str, inline: bool):
        self.plan, self.program, self.operands, self.name, self.inline = plan, program, operands, name, inline
        self._memory = Addressing(plan.words)
        self._in_place = sorted({number for number in operands if number not in plan.parameter_offsets})

    def emit(
        self, emitter: Emitter, words: Any, bases: Any, parameters: View, time: Any, state: View, sink: Sink
    ) -> None:
        """Writes one evaluation at the emitter's place."""
        if self.inline:
            self._body(emitter, words, bases, parameters, time, state, sink.store(emitter, words, bases, sink.values))
        else:
            self._call(emitter, words, bases, parameters, time, state, sink)

    def _body(
        self, emitter: Emitter, words: Any, bases: Any, parameters: View, time: Any, state: View, store: Store
    ) -> None:
        plan = self.plan

        def load(number: int, index: Any) -> Any:
            if number == 0:
                return time
            if number == 1:
                return state.load(index)
            operand = self.operands[number - 2]
            offset = plan.parameter_offsets.get(operand)
            if offset is None:
                return self._memory.load(emitter, words, bases, operand, index)
            return parameters.part(offset, plan.words.operands[operand].size).load(index)

        if plan.problem.fastmath:
            emitter = Emitter(emitter.builder, emitter.platform, fma=emitter.use_fma, fastmath=True)
        emit_program(emitter, self.program, load, store)

    def _call(self, emitter: Emitter, words: Any, bases: Any, parameters: View, time: Any, state: View, sink: Sink) -> None:
        builder = emitter.builder
        read = [*self._in_place, *sink.bases]
        sizes = range(self.plan.words.lanes, self.plan.words.count)
        arguments = [time, state.pointer, parameters.pointer, *sink.values]
        arguments += [builder.extract_value(bases, number) for number in read]
        arguments += [builder.extract_value(words, number) for number in sizes]
        views = (state, parameters)
        name = "_".join((self.name, *(f"{view.type.stride}_{view.type.space}" for view in views), sink.name))
        function = builder.module.globals.get(name)
        if function is None:
            function = self._define(emitter, name, [argument.type for argument in arguments], views, sink, read, sizes)
        builder.call(function, arguments)

    def _define(
        self, emitter: Emitter, name: str, kinds: list, views: tuple[View, View], sink: Sink, read: list[int], sizes: range
    ) -> Any:
        function = ir.Function(emitter.builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block())
        inner = Emitter(builder, emitter.platform, fma=emitter.use_fma)
        given = iter(function.args)
        time, *pointers = (next(given) for _ in range(1 + len(views)))
        state, parameters = (View(inner, pointer, view.type) for pointer, view in zip(pointers, views, strict=True))
        values = [next(given) for _ in sink.values]
        bases, words = undefined_words(self.plan.words.lanes), undefined_words(self.plan.words.count)
        for number in read:
            bases = builder.insert_value(bases, next(given), number)
        for number in sizes:
            words = builder.insert_value(words, next(given), number)
        self._body(inner, words, bases, parameters, time, state, sink.store(inner, words, bases, values))
        builder.ret_void()
        return function
