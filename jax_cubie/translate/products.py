"""Products of a matrix in memory and a vector: the instruction `sums`, and what rules make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Array, Index, Lazy, Memory, Registers, Store, allocate, registers
from .builder import Builder, Scalar
from .program import Program, Region, Sums, chains

if TYPE_CHECKING:
    from .context import Context

TOGETHER = 4
"""Elements that a GPU computes at once: they share the vector, and four weights are one load of 16 bytes."""


@dataclass(frozen=True)
class Grouped(Lazy):
    """A vector whose elements are computed some at once where it is written in order: products, and what is made of them."""

    @property
    def at_once(self) -> bool:
        return True

    def write(self, b: Builder, store: Store) -> None:
        (size,) = self.shape
        whole = size // TOGETHER

        def put(begin: Scalar, count: int) -> None:
            indices = [b.add(begin, b.index(r)) for r in range(count)]
            with b.group(begin, indices):
                values = [self.at(b, (index,)) for index in indices]
            for index, value in zip(indices, values, strict=True):
                store((index,), value)

        if whole:
            with b.loop(whole) as block:
                put(b.mul(block, b.index(TOGETHER)), TOGETHER)
        if size > whole * TOGETHER:
            put(b.index(whole * TOGETHER), size - whole * TOGETHER)


@dataclass(frozen=True)
class Matrix:
    """Where the weights of a product lie: element (output, term) at `offset + output * across + term * along`."""

    place: tuple[str, int]
    offset: Scalar
    across: int
    along: int


def product(context: Context, dtype: str, outputs: int, terms: int, matrix: Matrix, vector: Array) -> Array:
    """The product of a matrix in memory and a vector."""
    b, many = context.b, chains(terms, outputs)
    alone = terms <= TOGETHER or (context.unrolls(terms) and (context.platform == "cuda" or isinstance(vector, Registers)))
    if alone:
        x: Array = registers(b, vector)
    else:
        x = context.addressable(vector)
    scalars = tuple(int(number) for number in x.ids) if isinstance(x, Registers) else ()

    def sums(begin: Scalar, count: int) -> Memory:
        out = allocate(b, (count,), dtype)
        if isinstance(x, Memory):
            sums = Sums(out.place[1], count, matrix.place, matrix.across, matrix.along, terms, many, x.place, x.strides[0])
            b.sums(dtype, (begin, matrix.offset, x.offset), sums)
        else:
            sums = Sums(out.place[1], count, matrix.place, matrix.across, matrix.along, terms, many)
            b.sums(dtype, (begin, matrix.offset, *scalars), sums)
        return out

    def loaded(begin: Scalar, count: int) -> list[Scalar]:
        def compute() -> list[Scalar]:
            out = sums(begin, count)
            return [b.load(out.place, dtype, b.index(r), fresh=True) for r in range(count)]

        return b.once(("sums", matrix, x.ids.tobytes() if isinstance(x, Registers) else x, begin, count), compute)

    if context.platform == "cpu":
        return context.settle(sums(b.index(0), outputs))
    if outputs <= TOGETHER:
        return Registers((outputs,), dtype, np.array(loaded(b.index(0), outputs), dtype=np.int64))

    def element(index: Index) -> Scalar:
        begin, indices = b.group_of(index[0])
        return loaded(begin, len(indices))[indices.index(index[0])]

    return Grouped((outputs,), dtype, element)


@dataclass
class _Reads:
    along: bool = False
    others: bool = False


def reads_of(program: Program) -> list[tuple[bool, bool]]:
    """For each input whether products read it along their terms that had better read it along their outputs, a matrix the other
    way round; and whether anything else reads it."""
    reads = [_Reads() for _ in program.inputs]
    for (_, op, _, _, attribute), _ in program.walk():
        if op == "load" and attribute[0] == "input":
            reads[attribute[1]].others = True
        if op == "sums":
            if attribute.matrix[0] == "input":
                read = reads[attribute.matrix[1]]
                wants = _wants_transposed(attribute, program.inputs[attribute.matrix[1]][0])
                read.along, read.others = read.along or wants, read.others or not wants
            if attribute.vector is not None and attribute.vector[0] == "input":
                reads[attribute.vector[1]].others = True
    return [(read.along, read.others) for read in reads]


def _wants_transposed(sums: Sums, shape: tuple[int, ...]) -> bool:
    """Where there are few sums of a vector in memory, their chains stand side by side, and so should their terms."""
    if len(shape) < 2 or (sums.across, sums.along, sums.terms) != (shape[-1], 1, shape[-1]):
        return False
    return sums.many <= 4 or sums.vector is None


def transposed(program: Program, places: Mapping[int, int]) -> Program:
    """The program whose products that want so read a matrix, by its input's number, in the input of the other number, which has
    its last two dimensions in the other order of memory. That may be a new one, behind the others."""

    def change(region: Region) -> Region:
        changed = []
        for dest, op, dtype, args, attribute in region:
            if op == "sums" and attribute.matrix[0] == "input" and attribute.matrix[1] in places:
                number = attribute.matrix[1]
                shape = program.inputs[number][0]
                if _wants_transposed(attribute, shape):
                    attribute = replace(attribute, matrix=("input", places[number]), across=1, along=shape[-2])
            elif op == "for":
                attribute = (attribute[0], change(attribute[1]))
            elif op in ("while", "if"):
                attribute = tuple(change(inner) for inner in attribute)
            changed.append((dest, op, dtype, args, attribute))
        return tuple(changed)

    if not places:
        return program
    new = sorted((place, number) for number, place in places.items() if place >= len(program.inputs))
    inputs = (*program.inputs, *(program.inputs[number] for _, number in new))
    return replace(program, inputs=inputs, instructions=change(program.instructions))


def weights_of(program: Program) -> list[int]:
    """The inputs that products read as matrices, in order."""
    found = {i[4].matrix for i, _ in program.walk() if i[1] in ("sums", "warp_sums")}
    return sorted(number for space, number in found if space == "input")
