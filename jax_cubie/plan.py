"""Plan: the sum of every static choice, by content. Equal plans are one image."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from . import loop_buffers
from .buffers import Layout, fit_block
from .kernel.cache import content_key
from .kernel.target import Target
from .operands import Operand, Words
from .problem import Problem
from .translate import Program

# Shared memory that a block may opt in to, in KiB (CUDA C++ Programming Guide, table of technical specifications).
_SHARED_KIB = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}
# A block's window lies on the stack of one of XLA's threads on the host.
_HOST_WINDOW_BYTES = 256 * 1024
_AUTO_BLOCK = {"cpu": 8, "cuda": 128}
# The least lanes that a block is cut down to: fewer than a warp would leave lanes of the GPU idle.
_LEAST_BLOCK = {"cpu": 1, "cuda": 32}
# A lane's own memory: what a CUDA thread can address (the same table); half of what code for the host reaches in a frame.
_LOCAL_BYTES = {"cpu": 2**30, "cuda": 512 * 1024}
# In all copies of a function of the user's: from here on a call costs less than the copies cost the compiler, or the stack.
_INLINE_STATEMENTS = 3000
_INLINE_BYTES = 16 * 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """A problem under its vmaps, for one target."""

    problem: Problem
    operands: tuple[Operand, ...]
    levels: int
    target: Target

    @functools.cached_property
    def words(self) -> Words:
        """The launch's words."""
        return Words(self.operands, self.problem.results, self.levels)

    @functools.cached_property
    def parameter_offsets(self) -> dict[int, int]:
        """Where in the buffer `parameters` each operand of f that is kept there begins.

        Those are the batched leaves of the solve's dtype that are small; the others are read in place.
        """
        offsets, used = {}, 0
        for number in self.problem.field_operands:
            operand = self.operands[number]
            if operand.batched and operand.dtype == self.problem.dtype and operand.size <= self.problem.unroll:
                offsets[number] = used
                used += operand.size
        return offsets

    @functools.cached_property
    def layout(self) -> Layout:
        """Where every buffer lies."""
        problem, states = self.problem, self.problem.states
        parameters = sum(self.operands[number].size for number in self.parameter_offsets)
        saving, method = problem.saving, problem.method
        errors = method.error_rows if problem.adaptive else 0
        output = saving.points > 0 and saving.function is not None
        sizes = loop_buffers.sizes(states, parameters, errors=errors, output=output)
        sizes |= method.buffer_sizes(states, problem.dense)
        if unsized := [buffer.name for buffer in problem.registry if buffer.name not in sizes]:
            raise ValueError(
                f"buffers without a size: {', '.join(unsized)}; `sizes` in loop_buffers.py, or the method's `buffer_sizes`, "
                "has to name each buffer that is registered"
            )
        return problem.registry.resize(**sizes).layout()

    @property
    def field_copies(self) -> int:
        """Places where f is evaluated: at t0, in the choice of the first step, in each stage after the first, at the end of
        a step."""
        problem, method = self.problem, self.problem.method
        stages = method.tableau.stages + (len(method.dense_stages) if problem.dense else 0)
        return stages + (not problem.first_step_given) + (not method.tableau.fsal)

    @property
    def output_copies(self) -> int:
        """Places where a point is saved: t0 and times equal to it, inside of steps, the ends of steps, t1."""
        saving = self.problem.saving
        return saving.t0 + 2 * (saving.points > 0) + (saving.steps > 0) + saving.t1

    @functools.cached_property
    def inlines_field(self) -> bool:
        """Whether f is written at each place where it is evaluated, or called there."""
        return self._inlines(self.problem.program, self.field_copies)

    @functools.cached_property
    def inlines_output(self) -> bool:
        """The same of the function that is saved."""
        function = self.problem.saving.function
        return function is not None and self._inlines(function, self.output_copies)

    def _inlines(self, program: Program, copies: int) -> bool:
        chosen = self.problem.inline_f
        if not isinstance(chosen, str):
            return chosen
        return (
            program.statement_count() * copies <= _INLINE_STATEMENTS
            and program.local_bytes() * copies <= _INLINE_BYTES
        )

    def check_memory(self) -> None:
        """Raises ValueError where a lane's arrays can't be: a compiler takes long to say so, or crashes.

        Whether they fit into what the machine has is checked when the image is run.
        """
        limit = _LOCAL_BYTES[self.target.platform]
        word = 4 if self.problem.dtype == "float32" else 8
        arrays = {slot.name: slot.size * word for slot in self.layout.slots if slot.region in ("local", "persistent")}
        arrays["the arrays inside of f"] = self.problem.program.local_bytes()
        if (output := self.problem.saving.function) is not None:
            arrays["the arrays inside of SaveAt.fn"] = output.local_bytes()
        total = sum(arrays.values())
        if total <= limit:
            return
        largest = sorted(arrays.items(), key=lambda item: -item[1])[:3]
        raise ValueError(
            f"a lane needs {total:,} bytes of its thread's own memory, and {self.target} has {limit:,} for it. The largest: "
            + ", ".join(f"{name} ({size:,} bytes)" for name, size in largest)
            + ". This is made for many small systems: use float32, a method with fewer stages, or smaller arrays in f"
        )

    @functools.cached_property
    def block(self) -> int:
        """Lanes of a block. Raises ValueError where the shared buffers of a block do not fit."""
        cpu = self.target.platform == "cpu"
        limit = _HOST_WINDOW_BYTES if cpu else _SHARED_KIB[self.target.architecture] * 1024
        chosen = self.problem.block
        wanted = _AUTO_BLOCK[self.target.platform] if chosen == "auto" else int(chosen)
        word = 4 if self.problem.dtype == "float32" else 8
        least = _LEAST_BLOCK[self.target.platform]
        fitting = fit_block(self.layout, word, wanted, limit, least=least, device=str(self.target))
        if chosen != "auto" and fitting != wanted:
            raise ValueError(
                f"block={wanted}: its shared buffers take {self.layout.window_words * word * wanted:,} bytes, and "
                f"{self.target} has {limit:,} for a block; {fitting} lanes fit (block='auto' finds that by itself)"
            )
        return fitting

    @functools.cached_property
    def key(self) -> str:
        """The content hash, without importing Numba."""
        problem = self.problem
        host: tuple = ()
        if self.target.platform == "cpu":
            from .kernel.host_object import processor

            host = processor()
        dense = problem.method.tableau.dense
        return content_key(
            self.target,
            host,
            problem.program.digest,
            problem.method.tableau.content(),
            dense.content() if problem.dense and dense is not None else None,
            problem.controller,
            self.layout.content(),
            tuple(sorted(self.parameter_offsets.items())),
            tuple(operand.content() for operand in self.operands),
            tuple((result.name, result.shape, result.dtype) for result in problem.results),
            problem.field_operands,
            problem.saving.content(),
            (problem.dtype, problem.dense, problem.first_step_given),
            (problem.fastmath, problem.unroll, problem.inline_f, self.block, self.levels),
        )

    def launch(self) -> list[int]:
        """The launch's numbers for the handler."""
        if self.target.platform == "cpu":
            return [1, self.block]
        return [-self.block, 1, 1, self.block, 1, 1, self.window_bytes]

    @property
    def window_bytes(self) -> int:
        """Shared memory of a block."""
        word = 4 if self.problem.dtype == "float32" else 8
        return self.layout.window_words * word * self.block


def batch_operands(operands: tuple[Operand, ...], axes: tuple[Any, ...]) -> tuple[Operand, ...]:
    """The operands under one more vmap."""
    return tuple(operand.batch(axis) for operand, axis in zip(operands, axes, strict=True))
