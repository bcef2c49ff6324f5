"""What the device functions of one plan are written with."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from ..buffers import Slot
from ..buffers.memory import LaneMemory
from ..kernel.device import Device, make_struct
from ..kernel.emitter import LLVM_TYPES
from ..kernel.numba_types import Slice, Struct, numba_type, types
from ..operands import Operand
from .addressing import Addressing
from .body import Body
from .functions import FunctionCode

if TYPE_CHECKING:
    from ..plan import Plan
    from .adjoint import Adjoint


class Lane:
    """Makes device functions for one plan: `function` of plain Python, `emitted` of bodies that write LLVM IR.

    problem, plan: what they are made for. functions: the user's, by name. cells: the scalars that parts keep, by name.
    """

    def __init__(self, plan: Plan):
        self.plan, self.problem = plan, plan.problem
        self.device = Device(plan.target)
        self.memory = LaneMemory(self.device, plan.layout, plan.problem.dtype, plan.block)
        self.addressing = Addressing(plan.words)
        self.cells: dict[str, str] = {}
        self._look: Callable[[Body], Body] = lambda b: b
        self._operands = {operand.name: number for number, operand in enumerate(plan.words.operands)}
        self._results = {result.name: number for number, result in enumerate(plan.words.results)}
        self.functions = {
            function.name: FunctionCode(self, function, inline=plan.inlines(function)) for function in plan.functions
        }

    def seen(self, look: Callable[[Body], Body]) -> Self:
        """This one, for code to which a lane b is to look like `look(b)`."""
        other = copy.copy(self)
        other._look = look
        return other

    @property
    def adjoint(self) -> Adjoint:
        """The backward pass that the plan is."""
        assert self.problem.adjoint is not None
        return self.problem.adjoint

    def operand_number(self, name: str) -> int:
        """Where an operand stands among the launch's words."""
        return self._operands[name]

    def has_operand(self, name: str) -> bool:
        """Whether the plan has such an operand."""
        return name in self._operands

    def operand(self, name: str) -> Operand:
        """One of the plan's operands."""
        return self.plan.words.operands[self._operands[name]]

    def result_number(self, name: str) -> int:
        """Where a result stands among the plan's."""
        return self._results[name]

    def cell(self, name: str, dtype: str) -> None:
        """Declares a scalar that lives as long as the lane. Before the first function is compiled."""
        self.cells[name] = dtype

    def function(self, function: Callable) -> Callable:
        """`function`, compiled by Numba, for other device functions to call."""
        return self.device.function(function)

    def emitted(self, result: Any = "void") -> Callable[[Callable], Callable]:
        """Decorates `body(b, *arguments)`, which writes LLVM IR, as a device function; as `Device.emitted`, but that a lane
        arrives as its `Body`."""

        def decorate(body: Callable) -> Callable:
            @self.device.emitted(result)
            @functools.wraps(body)
            def write(emitter, members, *arguments):
                return body(self._look(Body(self, emitter, members)), *arguments)

            return write

        return decorate

    @functools.cached_property
    def struct(self) -> Struct:
        """The type of a lane in compiled code."""
        words = self.plan.words
        return Struct(
            {
                "words": types.UniTuple(types.int64, words.count),
                "bases": types.UniTuple(types.int64, words.lanes),
                "direction": numba_type(self.problem.dtype),
                "arrays": self._arrays,
            }
        )

    @functools.cached_property
    def _arrays(self) -> Struct:
        return Struct({"buffers": self._buffers, "cells": self._cells})

    @functools.cached_property
    def _buffers(self) -> Struct:
        return Struct({slot.name: self.memory.slice_of(slot) for slot in self._slots})

    @functools.cached_property
    def _slots(self) -> list[Slot]:
        """Of the buffers that have a word here: each member takes compile time wherever a lane is handed on."""
        return [slot for slot in self.plan.layout.slots if slot.size]

    @functools.cached_property
    def empty(self) -> dict[str, Slice]:
        """The buffers that have none."""
        return {slot.name: self.memory.slice_of(slot) for slot in self.plan.layout.slots if not slot.size}

    @functools.cached_property
    def _cells(self) -> Struct:
        return Struct({name: Slice(dtype, 1) for name, dtype in self.cells.items()})

    def allocate(self) -> Callable:
        """The device function `(thread, base) -> arrays`: the buffers and cells of whatever lane a thread is at."""
        memory, layout = self.memory, self.plan.layout
        make_primary, make_fallback = memory.make_window(fallback=False), memory.make_window(fallback=True)
        make_persistent = memory.make_local(layout.persistent_words, "float")
        allocators = {slot.name: layout.allocator(slot.name, memory) for slot in self._slots}

        @self.device.emitted(lambda *_: self._arrays)
        def allocate(emitter, thread, base):
            primary, fallback = (make.emit(emitter, base, thread) for make in (make_primary, make_fallback))
            regions = [primary, make_persistent.emit(emitter), fallback]
            buffers = {name: make.emit(emitter, *regions).pointer for name, make in allocators.items()}
            with emitter.builder.goto_entry_block():
                cells = {name: emitter.builder.alloca(LLVM_TYPES[dtype]) for name, dtype in self.cells.items()}
            return make_struct(
                emitter,
                self._arrays,
                {
                    "buffers": make_struct(emitter, self._buffers, buffers),
                    "cells": make_struct(emitter, self._cells, cells),
                },
            )

        return allocate

    def locate(self) -> Callable:
        """The device function `(words, lane, arrays) -> b`: a lane by its number."""
        dtype = self.problem.dtype

        @self.device.emitted(lambda *_: self.struct)
        def locate(emitter, words, lane, arrays):
            bases = self.addressing.bases(emitter, words, lane)
            span = self.addressing.load(emitter, words, bases, self.operand_number("span"), 0)
            forwards = emitter.compare("ge", dtype, span, emitter.constant(dtype, 0))
            direction = emitter.select(forwards, emitter.constant(dtype, 1), emitter.constant(dtype, -1))
            members = {"words": words, "bases": bases, "direction": direction, "arrays": arrays.value}
            return make_struct(emitter, self.struct, members)

        return locate
