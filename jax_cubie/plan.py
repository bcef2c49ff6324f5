"""Plan: the sum of every static choice, by content. Equal plans are one image."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

from .buffers import Layout, fit_block
from .content import content
from .kernel.cache import content_key
from .kernel.target import Target
from .loop import Dimensions
from .loop import buffers as loop_buffers
from .loop.checkpoints import WINDOW, record_of
from .loop.weights import Arranged, Staged, arranged, multiplied_by_warps, stage, warp_bytes
from .operands import CHUNK, Function, Operand, Words, window_of, word_of
from .problem import PARTS, Problem
from .translate.warp_products import row_words

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
_INLINE_STATEMENTS = {"cpu": 3000, "cuda": 6000}
_INLINE_BYTES = 16 * 1024
# Threads of a multiprocessor that take lanes from a queue: more of them hide more of what each waits for, but have fewer lanes,
# and so idle longer at the end.
_QUEUED_THREADS = 640
# The architecture from which on tensor cores take float32's exponents.
_TENSOR_CORES = 80
# What the user calls the functions of the user's.
_SAID = {"f": "f", "output": "SaveAt.fn", "observables": "observables"}


class _ByWarps(NamedTuple):
    """f with products that warps compute, and the lanes of a block."""

    field: Function
    block: int


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
        return Words(self._arranged.operands, self.problem.results, self.levels, self.queued)

    @property
    def queued(self) -> bool:
        """Whether threads take lanes from a queue. By itself where step sizes are chosen: then lanes end at different times."""
        # The host's threads take chunks of lanes in any case; backwards, sums are of neighbours.
        if self.target.platform == "cpu" or self.problem.adjoint is not None or self._by_warps is not None:
            return False
        return self.problem.adaptive if self.problem.schedule == "auto" else self.problem.schedule == "queue"

    @property
    def summed(self) -> bool:
        """Whether lanes add to results of several."""
        return self.problem.adjoint is not None and bool(self.problem.adjoint.summed)

    @property
    def in_warps(self) -> bool:
        """Whether the threads of a warp sum or multiply what their lanes have: then all threads of a block are there, lane or
        not."""
        return (self.summed and self.target.platform == "cuda") or self._by_warps is not None

    @functools.cached_property
    def in_step(self) -> bool:
        """Whether they do so wherever they come to f or a cotangent, and so take steps together, or go back over them."""
        if self.problem.adjoint is not None:
            return bool(self.problem.adjoint.together(self))
        return self._by_warps is not None

    @functools.cached_property
    def functions(self) -> tuple[Function, ...]:
        """The user's functions as this platform runs them."""
        found = self._by_warps
        return self._arranged.functions if found is None else (found.field, *self._arranged.functions[1:])

    @functools.cached_property
    def _by_warps(self) -> _ByWarps | None:
        """None where there are no products for warps, or lanes come to f each at a time of its own."""
        problem, target = self.problem, self.target
        if target.platform == "cpu" or target.architecture < _TENSOR_CORES or problem.dtype != "float32":
            return None
        if problem.adjoint is not None or problem.checkpoints is not None or problem.divided or problem.schedule == "queue":
            return None
        if not problem.method.in_step(self.dimensions) or any("f" in part.copies() for part in problem.parts):
            return None
        if problem.stops and problem.one_size and problem.moving:
            return None  # where a lane has stopped, it needs the tangents of its last step; those of others move on
        field = multiplied_by_warps(self._arranged.functions[0], self._arranged.operands, problem.dtype)
        for block in (128, 64, 32) if problem.block == "auto" else (int(problem.block),):
            used = warp_bytes(field, block)
            if used and block % CHUNK == 0 and self._lane_bytes * block + used <= self._half_shared:
                return _ByWarps(field, block)
        return None

    @property
    def _half_shared(self) -> int:
        """Shared memory that two blocks of a multiprocessor have each: it has 1 KiB more than a block may opt in to, and each
        block takes 1 KiB besides (see `kernel.occupancy`)."""
        return (_SHARED_KIB[self.target.architecture] - 1) * 512

    @property
    def row_words(self) -> int:
        """Of what each thread shares with its warp."""
        return row_words(self.field.program)

    @property
    def rows_begin(self) -> int:
        """Behind the windows of the lanes."""
        return self._lane_bytes * self.block

    @property
    def sources(self) -> tuple[int, ...]:
        """For each operand of the launch the number of the array that it is: some are there both ways round."""
        return self._arranged.sources

    @functools.cached_property
    def _arranged(self) -> Arranged:
        return arranged(self.problem.on(self.target.platform), self.operands, both=self.problem.adjoint is not None)

    @property
    def field(self) -> Function:
        """f."""
        return self.functions[0]

    @property
    def unroll(self) -> int:
        """Arrays of up to so many elements are unrolled into registers, as in f."""
        return self.field.unroll

    @functools.cached_property
    def staged(self) -> dict[str, Staged]:
        """Where in a block's shared memory each operand lies that it keeps there, behind the windows and rows of its lanes."""
        if self.target.platform == "cpu":
            return {}
        functions = [self.field] if self.problem.adjoint is None else self.functions
        used = self.rows_begin + 4 * self.row_words * self.block
        limit = None if self._by_warps is None else self._half_shared
        return stage(functions, self.words.operands, self.problem.dtype, used, limit)

    @functools.cached_property
    def parameter_offsets(self) -> dict[str, int]:
        """Where in the buffer `parameters` each operand of f that is kept there begins.

        Those are the batched leaves of the solve's dtype that are small; the others are read in place.
        """
        offsets, used = {}, 0
        named = {operand.name: operand for operand in self._arranged.operands}
        field = self._arranged.functions[0]
        for name in field.operands:
            operand = named[name]
            if window_of(field.windows, name) is not None:
                continue  # where its rows begin is known at run time
            if operand.batched and operand.dtype == self.problem.dtype and operand.size <= field.unroll:
                offsets[name] = used
                used += operand.size
        return offsets

    @functools.cached_property
    def dimensions(self) -> Dimensions:
        """What the sizes of buffers depend on."""
        kept = (operand.size for operand in self._arranged.operands if operand.name in self.parameter_offsets)
        return self.problem.dimensions(sum(kept))

    @functools.cached_property
    def counters(self) -> tuple[str, ...]:
        """The slots of the buffer `counters`."""
        parts = [name for part in self.problem.parts for name in part.counters]
        return (*loop_buffers.COUNTERS, *parts, *self.method_counters)

    @property
    def method_counters(self) -> tuple[str, ...]:
        """Those that the method keeps, which are results, too."""
        return self.problem.method.counters(self.dimensions)

    @functools.cached_property
    def layout(self) -> Layout:
        """Where every buffer lies."""
        problem, dimensions = self.problem, self.dimensions
        backward: dict[str, int] = {}
        if problem.adjoint is not None:
            window = problem.adjoint.windows * WINDOW * sum(record_of(problem).words)
            backward = dict(operands=problem.adjoint.words(self), times=len(problem.adjoint.orders), window=window)
        sizes = loop_buffers.sizes(dimensions, errors=problem.method.error_rows, counters=len(self.counters), **backward)
        sizes |= dict.fromkeys((buffer.name for part in PARTS for buffer in part.buffers()), 0)
        for part in problem.parts:  # several may use one
            sizes |= {name: max(words, sizes.get(name, 0)) for name, words in part.sizes(dimensions).items()}
        sizes |= problem.method.sizes(dimensions)
        if unsized := [buffer.name for buffer in problem.registry if buffer.name not in sizes]:
            raise ValueError(f"buffers without a size: {', '.join(unsized)}; their owner's `sizes` has to name each of them")
        return problem.registry.resize(**sizes).layout()

    def copies(self, function: Function) -> int:
        """The places where a function is evaluated; f in the choice of the first step, too."""
        owners = [self.problem.method.copies(self.dimensions), *(part.copies() for part in self.problem.parts)]
        count = sum(owner.get(function.name, 0) for owner in owners)
        return count + (function.name == "f" and self.problem.chooses_first_step)

    def inlines(self, function: Function) -> bool:
        """Whether a function is written at each place where it is evaluated, or called there."""
        chosen = self.problem.inline_f
        if not isinstance(chosen, str):
            return chosen
        program, copies = function.program, self.copies(function)
        if copies > 1 and program.has_long_sums():
            return False  # a call costs nothing beside them
        return (
            program.statement_count() * copies <= _INLINE_STATEMENTS[self.target.platform]
            and program.local_bytes() * copies <= _INLINE_BYTES
        )

    def check_memory(self) -> None:
        """Raises ValueError where a lane's arrays can't be: a compiler takes long to say so, or crashes.

        Whether they fit into what the machine has is checked when the image is run.
        """
        limit = _LOCAL_BYTES[self.target.platform]
        arrays = {
            slot.name: slot.size * self.word_bytes for slot in self.layout.slots if slot.region in ("local", "persistent")
        }
        for function in self.functions:
            arrays[f"the arrays inside of {_said(function.name)}"] = function.program.local_bytes()
        total = sum(arrays.values())
        if total <= limit:
            return
        largest = sorted(arrays.items(), key=lambda item: -item[1])[:3]
        advice = "a method with fewer stages, or smaller arrays in f"
        if self.problem.adjoint is not None and largest[0][0] == "checkpoint_window":
            count, least = self.problem.adjoint.windows * WINDOW, self.problem.adjoint.slots * WINDOW
            fewer = f"max_steps of at most {least:,} ({WINDOW} of them), " if count > WINDOW else ""
            advice = f"fewer states (these are {count} checkpoints), {fewer}or derivatives forwards (jax.jvp, jax.jacfwd)"
        who = "a lane" if self.problem.adjoint is None else "a lane's gradient"
        raise ValueError(
            f"{who} needs {total:,} bytes of its thread's own memory, and {self.target} has {limit:,} for it. The largest: "
            + ", ".join(f"{name} ({size:,} bytes)" for name, size in largest)
            + f". This is made for many small systems: use {'float32, ' * (self.word_bytes > 4)}{advice}"
        )

    @property
    def word_bytes(self) -> int:
        return 4 if self.problem.dtype == "float32" else 8

    @functools.cached_property
    def block(self) -> int:
        """Lanes of a block. Raises ValueError where the shared buffers of a block do not fit."""
        cpu = self.target.platform == "cpu"
        limit = _HOST_WINDOW_BYTES if cpu else _SHARED_KIB[self.target.architecture] * 1024
        chosen = self.problem.block
        if self._by_warps is not None:
            return self._by_warps.block
        wanted = _AUTO_BLOCK[self.target.platform] if chosen == "auto" else int(chosen)
        least = _LEAST_BLOCK[self.target.platform]
        if self.summed and not cpu:
            wanted = -(-wanted // CHUNK) * CHUNK  # a warp's lanes are a chunk's
        fitting = fit_block(self.layout, self.word_bytes, wanted, limit, least=least, device=str(self.target))
        if chosen != "auto" and fitting < int(chosen):
            raise ValueError(
                f"block={wanted}: its shared buffers take {self._lane_bytes * wanted:,} bytes, and "
                f"{self.target} has {limit:,} for a block; {fitting} lanes fit (block='auto' finds that by itself)"
            )
        return fitting

    @functools.cached_property
    def key(self) -> str:
        """The content hash, without importing Numba."""
        host: tuple = ()
        if self.target.platform == "cpu":
            from .kernel.host_object import processor

            host = processor()
        functions = (self.functions, self.parameter_offsets, self.staged)
        launched = (self.words, self.layout, self.block)
        return content_key(self.target, host, content((self.problem, functions, launched)))

    def launch(self) -> list[int]:
        """The launch's numbers for the handler."""
        if self.target.platform == "cpu":
            return [1, math.lcm(self.block, CHUNK) if self.summed else self.block]
        return [-self.block, 1, 1, self.block, 1, 1, self.window_bytes, _QUEUED_THREADS if self.queued else 0]

    @property
    def window_bytes(self) -> int:
        """Shared memory of a block."""
        return max([self._lane_bytes * self.block, *(one.end for one in self.staged.values())])

    @property
    def _lane_bytes(self) -> int:
        """Shared memory of a lane."""
        return self.layout.window_words * self.word_bytes


def _said(function: str) -> str:
    """What the user calls a function, or that of which it is the transpose."""
    name = function.removesuffix("_vjp")
    return _SAID.get(word_of(name), name) + ("'s transpose" if name != function else "")
