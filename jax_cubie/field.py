"""The user's vector field inside a kernel: emitted in line where it is small, once as a function where it is large."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from .addressing import Addressing
from .kernel.device import View
from .kernel.emitter import Emitter
from .kernel.memory import undefined_words
from .translate.emit import emit_program

if TYPE_CHECKING:
    from .plan import Plan

# From here on a call costs less than a copy of the code at each stage costs the compiler.
INLINE_STATEMENTS = 400


class VectorField:
    """Writes evaluations of f for one plan."""

    def __init__(self, plan: Plan):
        self.plan = plan
        problem = plan.problem
        if problem.inline_f == "auto":
            self.inline = problem.program.statement_count() <= INLINE_STATEMENTS
        else:
            self.inline = problem.inline_f
        self._memory = Addressing(plan.words)
        used = {number for number in problem.field_operands if number not in plan.parameter_offsets}
        self._in_place = sorted(used)

    def evaluator(self, emitter: Emitter, words: Any, bases: Any, parameters: View) -> Callable[[Any, View, View], None]:
        """A function `(time, state, right-hand side)` that writes one evaluation at the emitter's place."""

        def evaluate(time: Any, state: View, rhs: View) -> None:
            if self.inline:
                self._body(emitter, time, state, rhs, words, bases, parameters)
            else:
                self._call(emitter, time, state, rhs, words, bases, parameters)

        return evaluate

    def _body(
        self, emitter: Emitter, time: Any, state: View, rhs: View, words: Any, bases: Any, parameters: View
    ) -> None:
        plan = self.plan
        operands = plan.problem.field_operands

        def load(number: int, index: Any) -> Any:
            if number == 0:
                return time
            if number == 1:
                return state.load(index)
            operand = operands[number - 2]
            offset = plan.parameter_offsets.get(operand)
            if offset is None:
                return self._memory.load(emitter, words, bases, operand, index)
            return parameters.part(offset, plan.words.operands[operand].size).load(index)

        def store(_: int, index: Any, value: Any) -> None:
            rhs.store(index, value)

        field_emitter = emitter
        if plan.problem.fastmath:
            field_emitter = Emitter(emitter.builder, emitter.platform, fma=emitter.use_fma, fastmath=True)
        emit_program(field_emitter, plan.problem.program, load, store)

    def _call(
        self, emitter: Emitter, time: Any, state: View, rhs: View, words: Any, bases: Any, parameters: View
    ) -> None:
        builder = emitter.builder
        sizes = range(self.plan.words.lanes + 1, self.plan.words.count)
        passed = [builder.extract_value(bases, number) for number in self._in_place]
        passed += [builder.extract_value(words, number) for number in sizes]
        arguments = [time, state.pointer, rhs.pointer, parameters.pointer, *passed]
        views = (state, rhs, parameters)
        name = "jax_cubie_field_" + "_".join(f"{view.type.stride}_{view.type.space}" for view in views)
        function = builder.module.globals.get(name)
        if function is None:
            function = self._define(emitter, name, [argument.type for argument in arguments], views, sizes)
        builder.call(function, arguments)

    def _define(self, emitter: Emitter, name: str, kinds: list, views: tuple[View, View, View], sizes: range) -> Any:
        function = ir.Function(emitter.builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block())
        inner = Emitter(builder, emitter.platform, fma=emitter.use_fma)
        time, *pointers = function.args[:4]
        state, rhs, parameters = (
            View(inner, pointer, view.type) for pointer, view in zip(pointers, views, strict=True)
        )
        rest = iter(function.args[4:])
        bases, words = undefined_words(self.plan.words.lanes), undefined_words(self.plan.words.count)
        for number in self._in_place:
            bases = builder.insert_value(bases, next(rest), number)
        for number in sizes:
            words = builder.insert_value(words, next(rest), number)
        self._body(inner, time, state, rhs, words, bases, parameters)
        builder.ret_void()
        return function
