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


def thread_of_block(emitter: Emitter) -> Any:
    """The thread's number in its block, uint32."""
    return call(emitter, "llvm.nvvm.read.ptx.sreg.tid.x", INT32)


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


def synchronise(emitter: Emitter) -> None:
    """The threads of the warp wait for one another, and see what each has written."""
    call(emitter, "llvm.nvvm.bar.warp.sync", ir.VoidType(), INT32(_ALL))


def multiply_add(emitter: Emitter, left: Sequence[Any], right: Sequence[Any], totals: Sequence[Any]) -> list[Any]:
    """totals + left x right, of 16 x 8, 16 x 8 and 8 x 8 elements, on tensor cores: products of 11 bits each, sums of float32.

    With r = thread // 4 and c = thread % 4, a thread has of `left` the elements (r, c), (r + 8, c), (r, c + 4), (r + 8, c + 4),
    of `right` (c, r), (c + 4, r), as the bits of float32, of which the lowest 13 are ignored; of `totals` (r, 2 c),
    (r, 2 c + 1), (r + 8, 2 c), (r + 8, 2 c + 1). (PTX ISA, "Matrix Fragments for mma.m16n8k8"; from sm_80 on.)
    """
    kind = ir.LiteralStructType([ir.FloatType()] * 4)
    form = ir.FunctionType(kind, [INT32] * 6 + [ir.FloatType()] * 4)
    code = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$0, $1, $2, $3};"
    assembly = ir.InlineAsm(form, code, "=f,=f,=f,=f,r,r,r,r,r,r,0,1,2,3", True)
    found = emitter.builder.call(assembly, [*left, *right, *totals], attrs=("convergent",))
    return [emitter.builder.extract_value(found, number) for number in range(4)]
