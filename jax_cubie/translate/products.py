"""Products of a matrix in memory and a vector: the instruction `sums`, and what rules make of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Array, Index, Lazy, Memory, Registers, Store, allocate, registers
from .builder import Builder, Scalar
from .program import Program, Region, Sums, chains, regions_of

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
    sums: list[Sums] = field(default_factory=list)
    others: bool = False


def transposable(program: Program) -> frozenset[int]:
    """The inputs that nothing but products read, and those along the terms: matrices that were better transposed. Where
    there are few sums of a vector in memory, their chains stand side by side, and so should their terms."""
    reads = [_Reads() for _ in program.inputs]

    def look(region: Region) -> None:
        for _, op, _, _, attribute in region:
            if op == "load" and attribute[0] == "input":
                reads[attribute[1]].others = True
            if op == "sums":
                if attribute.matrix[0] == "input":
                    reads[attribute.matrix[1]].sums.append(attribute)
                if attribute.vector is not None and attribute.vector[0] == "input":
                    reads[attribute.vector[1]].others = True
        for instruction in region:
            for inner in regions_of(instruction):
                look(inner)

    look(program.instructions)

    def better(number: int) -> bool:
        shape = program.inputs[number][0]
        return len(shape) >= 2 and all(
            (one.across, one.along, one.terms) == (shape[-1], 1, shape[-1]) and (one.many <= 4 or one.vector is None)
            for one in reads[number].sums
        )

    return frozenset(k for k, read in enumerate(reads) if read.sums and not read.others and better(k))


def transposed(program: Program, inputs: frozenset[int]) -> Program:
    """The program that reads these inputs with their last two dimensions in the other order of memory."""

    def change(region: Region) -> Region:
        changed = []
        for dest, op, dtype, args, attribute in region:
            if op == "sums" and attribute.matrix[0] == "input" and attribute.matrix[1] in inputs:
                rows = program.inputs[attribute.matrix[1]][0][-2]
                attribute = replace(attribute, across=1, along=rows)
            elif op == "for":
                attribute = (attribute[0], change(attribute[1]))
            elif op in ("while", "if"):
                attribute = tuple(change(inner) for inner in attribute)
            changed.append((dest, op, dtype, args, attribute))
        return tuple(changed)

    return replace(program, instructions=change(program.instructions)) if inputs else program


def weights_of(program: Program) -> list[int]:
    """The inputs that products read as matrices, in order."""
    found = (i[4].matrix for i, _ in program.walk() if i[1] == "sums")
    return sorted({number for space, number in found if space == "input"})
