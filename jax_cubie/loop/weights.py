"""Weights of products: how they lie in memory, and which of them a CUDA block keeps in its shared memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..operands import Function, Operand
from ..translate.products import transposable, transposed, weights_of

# Shared memory up to which a block also keeps weights there: what every device gives without being asked, and of which
# some blocks fit into a multiprocessor.
_SHARED_WITH_WEIGHTS = 48 * 1024


def arranged(
    functions: Sequence[Function], operands: Sequence[Operand]
) -> tuple[tuple[Function, ...], tuple[Operand, ...]]:
    """Functions and operands, with those weights transposed that all functions would rather have so: products read them along
    their outputs."""
    wanted, kept = set(), set()
    for function in functions:
        better, read = transposable(function.program), function.program.reads()
        for number, name in _inputs(function):
            if number in read:
                (wanted if number in better else kept).add(name)
    chosen = wanted - kept

    def changed(function: Function) -> Function:
        inputs = frozenset(number for number, name in _inputs(function) if name in chosen)
        return dataclasses.replace(function, program=transposed(function.program, inputs))

    return (
        tuple(map(changed, functions)),
        tuple(operand.transposed() if operand.name in chosen else operand for operand in operands),
    )


def stage(function: Function, operands: Sequence[Operand], dtype: str, used: int) -> dict[str, int]:
    """At which byte of a block's shared memory each of the function's weights begins that fits there, `used` bytes of it being
    taken.

    Those are the weights that all lanes read; every thread of a warp takes the same at the same time.
    """
    named, numbers = {operand.name: operand for operand in operands}, weights_of(function.program)
    places: dict[str, int] = {}
    for number, name in _inputs(function):
        operand = named[name]
        if number not in numbers or operand.batched or operand.dtype != dtype:
            continue
        begin = -(-used // 16) * 16
        end = begin + operand.size * (4 if dtype == "float32" else 8)
        if end <= _SHARED_WITH_WEIGHTS:
            places[name], used = begin, end
    return places


def _inputs(function: Function) -> Sequence[tuple[int, str]]:
    """The operands that a function reads, with the numbers of the program's inputs."""
    return [(number, name) for number, name in enumerate(function.arguments) if name in function.operands]
