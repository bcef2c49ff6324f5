"""Writes a program as LLVM IR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from ..kernel.emitter import Emitter, Value
from .lifetimes import PRIVATE
from .program import Program, Region, regions_of

_SHORT = 8
_SMALL_BODY = 32


def emit_program(emitter: Emitter, program: Program, load: Callable[[int, Any], Value],
                 store: Callable[[int, Any, Value], None]) -> None:
    """Write a program at the builder's place.

    ``load(input_number, flat_index)`` gives a scalar, ``store(output_number, flat_index, value)`` keeps one; the
    index is an int where it is known, else an i64 value, and a bool scalar is an i1. The memory that ``store``
    writes must not overlap what ``load`` reads.
    """
    values: dict[int, Value] = {}
    known: dict[int, int] = {}
    local: dict[int, tuple[Value, str]] = {}
    b = emitter.builder

    def place(number: int) -> Value | int:
        found = known.get(number)
        return values[number] if found is None else found

    def go(region: Region) -> None:
        for dest, op, dtype, args, attribute in region:
            if op == "const":
                if dtype == "int64":
                    known[dest] = attribute
                value = float.fromhex(attribute) if isinstance(attribute, str) else attribute
                values[dest] = emitter.constant(dtype, value)
            elif op == "load":
                space, k = attribute
                if space == "input":
                    values[dest] = load(k, place(args[0]))
                else:
                    values[dest] = emitter.load(local[k][0], place(args[0]), dtype)
            elif op == "store":
                space, k = attribute
                if space == "output":
                    store(k, place(args[0]), values[args[1]])
                else:
                    emitter.store(local[k][0], place(args[0]), values[args[1]], dtype)
            elif op == "alloc":
                local[attribute[0]] = (_array(emitter, dtype, *attribute), dtype)
            elif op == "cast":
                values[dest] = emitter.cast(values[args[0]], dtype, attribute)
            elif op == "bitcast":
                values[dest] = emitter.bitcast(values[args[0]], attribute)
            elif op == "for":
                with emitter.loop(attribute[0], _copies(*attribute)) as index:
                    values[dest] = index
                    go(attribute[1])
            elif op == "while":
                head, body = b.append_basic_block("while"), b.append_basic_block("do")
                end = b.append_basic_block("end")
                b.branch(head)
                b.position_at_end(head)
                go(attribute[0])
                b.cbranch(values[args[0]], body, end)
                b.position_at_end(body)
                go(attribute[1])
                b.branch(head)
                b.position_at_end(end)
            elif op == "if":
                with b.if_else(values[args[0]]) as (then, otherwise):
                    with then:
                        go(attribute[0])
                    with otherwise:
                        go(attribute[1])
            else:
                values[dest] = emitter.apply(op, dtype, *[values[a] for a in args])

    go(program.instructions)


# The arrays of a function that is being written. Its copies of programs run one after another, and use the same.
_ARRAYS: WeakKeyDictionary[Any, dict[tuple[str, int, int], Value]] = WeakKeyDictionary()


def _array(emitter: Emitter, dtype: str, number: int, size: int) -> Value:
    if size <= PRIVATE:
        return emitter.alloca(dtype, size)
    arrays = _ARRAYS.setdefault(emitter.builder.function, {})
    if (dtype, number, size) not in arrays:
        arrays[dtype, number, size] = emitter.alloca(dtype, size)
    return arrays[dtype, number, size]


def _copies(extent: int, body: Region) -> int | None:
    """How often a loop's body may stand in the code: long loops are not unrolled whole, or they would not be loops."""
    if extent <= _SHORT:
        return None
    return 2 if len(body) <= _SMALL_BODY and not any(map(regions_of, body)) else 1
