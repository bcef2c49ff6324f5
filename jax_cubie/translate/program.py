"""A program: what a traced function computes, as typed scalar instructions in plain tuples.

An instruction is ``(dest, op, dtype, args, attribute)``:

- ``dest`` numbers the scalar that it defines (-1: none); numbers are unique and count up through the program;
- ``dtype`` is the type the operation works in; the result has it too, except for comparisons and ``is_finite``
  (bool) and for ``cast`` and ``bitcast`` (the attribute);
- ``args`` are numbers of scalars;
- ``attribute`` is plain data: a constant's value (floats as ``float.hex`` text, so that equality is that of the
  bits), a memory ``(space, number)``, or the regions of a loop.

Memory is named ``("input", k)``, ``("output", k)`` or ``("local", k)`` and is flat, in C order; ``("row", 0)`` is what a thread
shares with its warp.

==========  ==============================  ==================================================================
op          args                            attribute
==========  ==============================  ==================================================================
const                                       value
load        index                           memory
store       index, value                    memory
alloc                                       (number, size)
cast        value                           result dtype
bitcast     value                           result dtype
for                                         (extent, body): ``dest`` is the int64 index
while       condition, made by the region   (condition region, body)
if          condition                       (then, else)
sums        first output, matrix's offset,  `Sums`
            then the terms, or the offset
            of the vector
warp_sums   the terms, or the offset of     `WarpSums`
            the vector, or none
take        first element                   (local array, count, memory that they are copied from)
==========  ==============================  ==================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from jax.dtypes import float0

Memory = tuple[str, int]
Instruction = tuple[int, str, str, tuple[int, ...], Any]
Region = tuple[Instruction, ...]

FLOATS = ("float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
DTYPES = ("bool", *SIGNED, *UNSIGNED, *FLOATS)

ROW = ("row", 0)

PREDICATES = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "is_finite"})
"""Operations whose result is bool, whatever they work in."""


@cache
def dtype_name(dtype: Any) -> str:
    """The name of a dtype; NumPy takes its time to say it.

    JAX's float0, the dtype of a derivative by integers, holds nothing: it is carried about as False, as XLA is told, too.
    """
    return "bool" if dtype == float0 else str(dtype)


def chains(terms: int, outputs: int | None = None) -> int:
    """How many partial sums a sum of products has: the k-th term belongs to number k modulo that, each is a chain of fused
    products in the order of the terms, and `joined` adds them up.

    So a long sum does not wait for each of its products, even where there are few of them, the `outputs` of a matrix and a
    vector; and there is one order, whatever the platform, the limit of unrolling and the place of the operands.
    """
    many = 4 if outputs is None or outputs > 4 else 8 if outputs > 2 else 16
    return many if terms >= 2 * many else 4 if terms >= 16 else 1


def joined(add: Callable[[Any, Any], Any], partial: Sequence[Any]) -> Any:
    """The sum of the partial sums: of neighbours, then of neighbours among these."""
    while len(partial) > 1:
        partial = [add(x, y) for x, y in zip(partial[::2], partial[1::2], strict=True)]
    return partial[0]


@dataclass(frozen=True)
class Sums:
    """Elements of the product of a matrix and a vector: `count` of them from the first output on go into local array `out`.

    Element (output, term) of the matrix lies at `offset + output * across + term * along`. The vector's elements are
    arguments, or lie in the memory `vector`, `stride` apart. many: partial sums, as `chains` says.
    """

    out: int
    count: int
    matrix: tuple[str, int]
    across: int
    along: int
    terms: int
    many: int
    vector: tuple[str, int] | None = None
    stride: int = 1


@dataclass(frozen=True)
class WarpSums:
    """The whole product of a matrix, all of an input, and a vector, which a warp computes for its 32 threads at once.

    The elements begin the thread's row, over what was there. fast: whether outputs, not terms, run fastest in the matrix. The
    vector's elements are arguments, lie in the memory `vector`, `stride` apart, or begin the row already.
    """

    matrix: tuple[str, int]
    fast: bool
    outputs: int
    terms: int
    vector: tuple[str, int] | None = None
    stride: int = 1

    @property
    def columns(self) -> int:
        """Elements of a row of the matrix, as it lies in memory."""
        return self.outputs if self.fast else self.terms

    @property
    def words(self) -> int:
        """Of the thread's row."""
        return max(self.outputs, -(-self.terms // 8) * 8)


def regions_of(instruction: Instruction) -> tuple[Region, ...]:
    """The regions inside an instruction."""
    op, attribute = instruction[1], instruction[4]
    if op == "for":
        return (attribute[1],)
    if op in ("while", "if"):
        return attribute
    return ()


def walk(region: Region) -> Iterator[Instruction]:
    """Each instruction, those inside of regions after the one that holds them."""
    for instruction in region:
        yield instruction
        for inner in regions_of(instruction):
            yield from walk(inner)


def local_reads(instruction: Instruction) -> list[int]:
    """The local arrays that an instruction reads."""
    op, attribute = instruction[1], instruction[4]
    if op == "load":
        read = [attribute]
    elif op in ("sums", "warp_sums"):
        read = [attribute.matrix, *([] if attribute.vector is None else [attribute.vector])]
    elif op == "take":
        read = [attribute[2]]
    else:
        read = []
    return [number for space, number in read if space == "local"]


def local_writes(instruction: Instruction) -> list[int]:
    """The local arrays that an instruction writes."""
    op, attribute = instruction[1], instruction[4]
    if op == "sums":
        return [attribute.out]
    if op == "take":
        return [attribute[0]]
    return [attribute[1]] if op == "store" and attribute[0] == "local" else []


@dataclass(frozen=True)
class Program:
    """A translated function; equal functions give equal programs.

    jaxpr: what it was translated from, as text; for `JAX_CUBIE_DUMP` alone, and empty without it.
    """

    inputs: tuple[tuple[tuple[int, ...], str], ...]
    instructions: Region
    outputs: tuple[tuple[tuple[int, ...], str], ...]
    jaxpr: str = field(default="", compare=False, repr=False)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.inputs, self.instructions, self.outputs))

    @cached_property
    def digest(self) -> str:
        """A hash of the content that is the same in every process."""
        return hashlib.sha256(repr((self.inputs, self.instructions, self.outputs)).encode()).hexdigest()

    def statement_count(self) -> int:
        """How many instructions there are, each counted once however often it runs; constants are none."""
        return sum(_statements(instruction) for instruction, _ in self.walk())

    def reads(self) -> frozenset[int]:
        """The inputs that it reads."""
        found = set()
        for (_, op, _, _, attribute), _ in self.walk():
            memories = [attribute] if op == "load" else []
            if op in ("sums", "warp_sums"):
                memories = [attribute.matrix, attribute.vector]
            found |= {memory[1] for memory in memories if memory is not None and memory[0] == "input"}
        return frozenset(found)

    def has_long_sums(self) -> bool:
        """Whether it has products of a matrix and a vector that is in memory, loops each, or long: much code in each copy."""
        sums = (attribute for (_, op, _, _, attribute), _ in self.walk() if op in ("sums", "warp_sums"))
        return any(one.vector is not None or one.terms >= 16 for one in sums)

    def local_bytes(self) -> int:
        """The memory of its own arrays."""
        return sum(i[4][1] * np.dtype(i[2]).itemsize for i, _ in self.walk() if i[1] == "alloc")

    def walk(self) -> Iterator[tuple[Instruction, int]]:
        """Each instruction with its depth, those inside regions after the one that holds them."""

        def go(region: Region, depth: int) -> Iterator[tuple[Instruction, int]]:
            for instruction in region:
                yield instruction, depth
                for inner in regions_of(instruction):
                    yield from go(inner, depth + 1)

        return go(self.instructions, 0)

    def describe(self) -> str:
        """The program for a reader, one instruction a line."""
        lines = [f"input {k}: {dtype}{list(shape)}" for k, (shape, dtype) in enumerate(self.inputs)]
        lines += [f"output {k}: {dtype}{list(shape)}" for k, (shape, dtype) in enumerate(self.outputs)]
        _describe(self.instructions, "  ", lines)
        return "\n".join(lines)


def _statements(instruction: Instruction) -> int:
    """What a sum is worth where its terms stand in the code one by one: a load, and a product for each output."""
    op, attribute = instruction[1], instruction[4]
    if op == "sums":
        return attribute.terms * (1 + min(attribute.count, 4)) if attribute.vector is None else 8
    return int(op not in ("const", "alloc"))


def _describe(region: Region, indent: str, lines: list[str]) -> None:
    for dest, op, dtype, args, attribute in region:
        names = ", ".join(f"%{a}" for a in args)
        target = f"{indent}%{dest}:{dtype} = " if dest >= 0 else indent
        if op == "const":
            shown = float.fromhex(attribute) if isinstance(attribute, str) else attribute
            lines.append(f"{target}{shown}")
        elif op == "load":
            lines.append(f"{target}{attribute[0]} {attribute[1]} [{names}]")
        elif op == "store":
            lines.append(f"{target}{attribute[0]} {attribute[1]} [%{args[0]}] = %{args[1]}")
        elif op == "sums":
            begin, offset, *terms = names.split(", ")
            vector = f"({', '.join(terms)})" if attribute.vector is None else (
                f"{attribute.vector[0]} {attribute.vector[1]} [{terms[0]} + {attribute.stride} k]")
            lines.append(
                f"{indent}local {attribute.out} [i < {attribute.count}] = sum over k < {attribute.terms}: "
                f"{attribute.matrix[0]} {attribute.matrix[1]} [{offset} + {attribute.across} ({begin} + i) + "
                f"{attribute.along} k] * {vector}")
        elif op == "warp_sums":
            kind = "[k, i]" if attribute.fast else "[i, k]"
            vector = "row" if attribute.vector == ROW else f"({names})" if attribute.vector is None else (
                f"{attribute.vector[0]} {attribute.vector[1]} [{names} + {attribute.stride} k]")
            lines.append(
                f"{indent}row [i < {attribute.outputs}] = by warp, sum over k < {attribute.terms}: "
                f"input {attribute.matrix[1]} {kind} * {vector}")
        elif op == "take":
            out, count, (space, number) = attribute
            place = "row" if attribute[2] == ROW else f"{space} {number}"
            lines.append(f"{indent}local {out} [i < {count}] = {place} [{names} + i]")
        elif op == "alloc":
            lines.append(f"{target}local {attribute[0]} : {dtype}[{attribute[1]}]")
        elif op in ("cast", "bitcast"):
            lines.append(f"{indent}%{dest}:{attribute} = {op} {names}")
        elif op == "for":
            lines.append(f"{indent}for %{dest} in range({attribute[0]}):")
            _describe(attribute[1], indent + "  ", lines)
        elif op == "while":
            lines.append(f"{indent}while:")
            _describe(attribute[0], indent + "  ", lines)
            lines.append(f"{indent}{names} do:")
            _describe(attribute[1], indent + "  ", lines)
        elif op == "if":
            lines.append(f"{indent}if {names}:")
            _describe(attribute[0], indent + "  ", lines)
            lines.append(f"{indent}else:")
            _describe(attribute[1], indent + "  ", lines)
        else:
            lines.append(f"{target}{op} {names}")
