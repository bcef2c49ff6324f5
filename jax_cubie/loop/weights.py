"""Weights of products: how they lie in memory. And which of them, and of tables, a CUDA block keeps in its shared memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..operands import Function, Operand, window_of
from ..translate.products import reads_of, transposed, weights_of
from ..translate.warp_products import by_warps, pitches, row_words

if TYPE_CHECKING:
    from ..kernel.emitter import Emitter

# Shared memory up to which a block also keeps weights there: what every device gives without being asked, and of which
# some blocks fit into a multiprocessor.
_SHARED_WITH_WEIGHTS = 48 * 1024
# Elements from which on an operand beside products that warps compute is worth a place there.
_VECTOR = 8


@dataclasses.dataclass(frozen=True)
class Arranged:
    """Functions and operands of a plan. sources: for each operand, the number of the array that it is handed as."""

    functions: tuple[Function, ...]
    operands: tuple[Operand, ...]
    sources: tuple[int, ...]


def arranged(functions: Sequence[Function], operands: Sequence[Operand], *, both: bool) -> Arranged:
    """Functions and operands, with weights transposed where products would rather have them so: then they read them along their
    outputs. both: weights that are wanted both ways are there both ways, an operand more; else they stay as they are."""
    wanted, kept = set(), set()
    reads = {function.name: reads_of(function.program) for function in functions}
    for function in functions:
        for number, name in _inputs(function):
            along, others = reads[function.name][number]
            wanted |= {name} if along else set()
            kept |= {name} if others else set()
    copied = [operand.name for operand in operands if operand.name in wanted & kept] if both else []
    chosen = wanted - kept

    def changed(function: Function) -> Function:
        places = {number: number for number, name in _inputs(function) if name in chosen}
        names = [(number, name) for number, name in _inputs(function) if name in copied and reads[function.name][number][0]]
        count = len(function.arguments)
        places |= {number: count + place for place, (number, _) in enumerate(names)}
        more = tuple(_copy(name) for _, name in names)
        return dataclasses.replace(
            function, program=transposed(function.program, places), arguments=(*function.arguments, *more),
            operands=(*function.operands, *more),
        )

    named = {operand.name: number for number, operand in enumerate(operands)}
    copies = [dataclasses.replace(operands[named[name]].transposed(), name=_copy(name)) for name in copied]
    return Arranged(
        tuple(map(changed, functions)),
        (*(operand.transposed() if operand.name in chosen else operand for operand in operands), *copies),
        (*range(len(operands)), *(named[name] for name in copied)),
    )


def _copy(name: str) -> str:
    """What an operand is called where it lies the other way round."""
    return f"{name}^T"


@dataclasses.dataclass(frozen=True)
class Staged:
    """An operand in a block's shared memory: from which byte on, and up to which; its rows of `columns` elements are `pitch`
    apart."""

    begin: int
    end: int
    columns: int
    pitch: int

    def place(self, emitter: Emitter, index: Any) -> Any:
        """Where element `index` (flat; a Python int or an int64 value) lies."""
        if self.pitch == self.columns:
            return index
        if isinstance(index, int):
            return index // self.columns * self.pitch + index % self.columns
        columns, gap = emitter.constant("int64", self.columns), emitter.constant("int64", self.pitch - self.columns)
        return emitter.add("int64", index, emitter.mul("int64", emitter.builder.udiv(index, columns), gap))


def stage(
    functions: Sequence[Function], operands: Sequence[Operand], dtype: str, used: int, limit: int | None
) -> dict[str, Staged]:
    """Where in a block's shared memory each of the functions' weights and tables lies that fits there, `used` bytes of it being
    taken. limit: how far it goes, where warps compute products.

    Those are the weights that all lanes read; every thread of a warp takes the same at the same time. And tables of which a
    function is handed some rows: the lanes of a warp read different ones at a time.
    """
    named, places = {operand.name: operand for operand in operands}, {}
    limit = _SHARED_WITH_WEIGHTS if limit is None else limit
    for function in functions:
        numbers = weights_of(function.program)
        apart = {function.arguments[number]: pitch for number, pitch in pitches(function.program).items()}
        wanted = [name for number, name in _inputs(function) if number in numbers]
        wanted += [name for name in function.operands if window_of(function.windows, name) is not None]
        if apart:  # those have to be there; and what is added to their products is read as often as these
            read = function.program.reads()
            vectors = [name for number, name in _inputs(function) if number in read and named[name].size >= _VECTOR]
            wanted = sorted(dict.fromkeys([*wanted, *vectors]), key=lambda name: (name not in apart, named[name].size))
        for name in wanted:
            operand = named[name]
            if operand.batched or operand.dtype != dtype or name in places:
                continue
            begin = -(-used // 16) * 16
            columns, pitch = apart.get(name, (1, 1))
            end = begin + operand.size // columns * pitch * (4 if dtype == "float32" else 8)
            if end <= limit:
                places[name], used = Staged(begin, end, columns, pitch), end
    return places


def multiplied_by_warps(function: Function, operands: Sequence[Operand], dtype: str) -> Function:
    """The function with products computed by warps: those of matrices that all lanes read."""
    shared = {operand.name for operand in operands if not operand.batched and operand.dtype == dtype}
    numbers = {number for number, name in _inputs(function) if name in shared}
    return dataclasses.replace(function, program=by_warps(function.program, numbers))


def warp_bytes(function: Function, block: int) -> int:
    """Shared memory that a block needs for what warps compute of a function: rows and matrices. 0 where that is nothing."""
    words = row_words(function.program)
    if not words:
        return 0
    inputs = function.program.inputs
    matrices = sum(
        math.prod(inputs[number][0]) // columns * pitch
        for number, (columns, pitch) in pitches(function.program).items()
    )
    return 4 * (words * block + matrices)


def _inputs(function: Function) -> Sequence[tuple[int, str]]:
    """The operands that a function reads as a whole, with the numbers of the program's inputs."""
    whole = [name for name in function.operands if window_of(function.windows, name) is None]
    return [(number, name) for number, name in enumerate(function.arguments) if name in whole]
