"""A program: what a traced function computes, as typed scalar instructions in plain tuples.

An instruction is ``(dest, op, dtype, args, attribute)``:

- ``dest`` numbers the scalar that it defines (-1: none); numbers are unique and count up through the program;
- ``dtype`` is the type the operation works in; the result has it too, except for comparisons and ``is_finite``
  (bool) and for ``cast`` and ``bitcast`` (the attribute);
- ``args`` are numbers of scalars;
- ``attribute`` is plain data: a constant's value (floats as ``float.hex`` text, so that equality is that of the
  bits), a memory ``(space, number)``, or the regions of a loop.

Memory is named ``("input", k)``, ``("output", k)`` or ``("local", k)`` and is flat, in C order.

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
==========  ==============================  ==================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from jax.dtypes import float0

Instruction = tuple[int, str, str, tuple[int, ...], Any]
Region = tuple[Instruction, ...]

FLOATS = ("float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
DTYPES = ("bool", *SIGNED, *UNSIGNED, *FLOATS)

PREDICATES = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "is_finite"})
"""Operations whose result is bool, whatever they work in."""


@cache
def dtype_name(dtype: Any) -> str:
    """The name of a dtype; NumPy takes its time to say it.

    JAX's float0, the dtype of a derivative by integers, holds nothing: it is carried about as False, as XLA is told, too.
    """
    return "bool" if dtype == float0 else str(dtype)


def regions_of(instruction: Instruction) -> tuple[Region, ...]:
    """The regions inside an instruction."""
    op, attribute = instruction[1], instruction[4]
    if op == "for":
        return (attribute[1],)
    if op in ("while", "if"):
        return attribute
    return ()


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
        return sum(instruction[1] not in ("const", "alloc") for instruction, _ in self.walk())

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
