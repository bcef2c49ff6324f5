"""What the threads of a CUDA warp do together. Every thread of the warp has to come to each of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from .emitter import Emitter

WARP = 32
INT32, INT64 = ir.IntType(32), ir.IntType(64)
_ALL = 2**WARP - 1


def call(emitter: Emitter, name: str, result: Any, *values: Any) -> Any:
    """A call of an intrinsic that threads of a warp make together."""
    module = emitter.builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(result, [value.type for value in values]), name)
        function.attributes.add("convergent")
        function.attributes.add("nounwind")
    return emitter.builder.call(function, values)


def thread_of_warp(emitter: Emitter) -> Any:
    """The thread's number in its warp, uint32."""
    return call(emitter, "llvm.nvvm.read.ptx.sreg.laneid", INT32)


def some(emitter: Emitter, condition: Any) -> Any:
    """Whether the condition holds in one of the warp's 32 threads."""
    votes = call(emitter, "llvm.nvvm.vote.ballot.sync", INT32, INT32(_ALL), condition)
    return emitter.compare("ne", "uint32", votes, emitter.constant("uint32", 0))


def exchanged(emitter: Emitter, dtype: str, value: Any, distance: int) -> Any:
    """The value of the thread whose number differs in that one bit."""
    if dtype == "float32":
        name = "llvm.nvvm.shfl.sync.bfly.f32"
        return call(emitter, name, ir.FloatType(), INT32(_ALL), value, INT32(distance), INT32(WARP - 1))
    builder = emitter.builder
    word, moved = builder.bitcast(value, INT64), INT64(0)
    for shift in (0, 32):
        half = builder.trunc(builder.lshr(word, INT64(shift)), INT32)
        half = call(emitter, "llvm.nvvm.shfl.sync.bfly.i32", INT32, INT32(_ALL), half, INT32(distance), INT32(WARP - 1))
        moved = builder.or_(moved, builder.shl(builder.zext(half, INT64), INT64(shift)))
    return builder.bitcast(moved, ir.DoubleType())


def total(emitter: Emitter, dtype: str, value: Any) -> Any:
    """The sum over the 32 threads, in each of them: over a tree, neighbours 16 apart first."""
    for distance in (16, 8, 4, 2, 1):
        value = emitter.add(dtype, value, exchanged(emitter, dtype, value, distance))
    return value


def totals(emitter: Emitter, dtype: str, values: Sequence[Any]) -> Any:
    """The sums of 32 values over the 32 threads: each thread has the one of its own number. The same trees as `total`.

    In each round a thread keeps one half of what it has, and hands the other half to its partner: 31 exchanges in all.
    """
    thread, values = thread_of_warp(emitter), list(values)
    assert len(values) == WARP
    for distance in (16, 8, 4, 2, 1):
        bit = emitter.builder.and_(thread, INT32(distance))
        upper = emitter.compare("ne", "uint32", bit, emitter.constant("uint32", 0))
        kept = [emitter.select(upper, values[k + distance], values[k]) for k in range(distance)]
        given = [emitter.select(upper, values[k], values[k + distance]) for k in range(distance)]
        values = [
            emitter.add(dtype, mine, exchanged(emitter, dtype, other, distance))
            for mine, other in zip(kept, given, strict=True)
        ]
    return values[0]
