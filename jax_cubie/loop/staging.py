"""Weights that every lane of a block reads: a CUDA block copies them once into its shared memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from ..buffers.memory import shared_array
from ..kernel import warp
from ..kernel.emitter import LLVM_TYPES, Emitter
from ..kernel.memory import barrier, load_global
from ..translate.emit_warp_sums import Rows, Weights

if TYPE_CHECKING:
    from ..operands import Function
    from .lane import Lane


def staged_pointer(emitter: Emitter, lane: Lane, name: str) -> Any:
    """Where a staged operand begins."""
    space = lane.device.backend.SHARED_SPACE
    begin = emitter.builder.gep(
        shared_array(emitter.builder.module, space),
        [emitter.constant("int32", 0), emitter.constant("int64", lane.plan.staged[name].begin)],
    )
    return emitter.builder.bitcast(begin, ir.PointerType(LLVM_TYPES[lane.operand(name).dtype], space))


def rows_of(emitter: Emitter, lane: Lane, function: Function) -> Rows:
    """The rows that the threads of a warp share, and the matrices of a function's products."""
    builder, plan, space = emitter.builder, lane.plan, lane.device.backend.SHARED_SPACE
    thread = builder.zext(warp.thread_of_block(emitter), LLVM_TYPES["int64"])
    first = builder.and_(thread, emitter.constant("int64", -warp.WARP))

    def row(number: Any) -> Any:
        place = emitter.add("int64", emitter.constant("int64", plan.rows_begin), emitter.mul(
            "int64", number, emitter.constant("int64", 4 * plan.row_words)))
        begin = builder.gep(shared_array(builder.module, space), [emitter.constant("int32", 0), place])
        return builder.bitcast(begin, ir.PointerType(LLVM_TYPES["float32"], space))

    def weights(number: int) -> Weights:
        name = function.arguments[number]
        return Weights(staged_pointer(emitter, lane, name), plan.staged[name].pitch)

    return Rows(row(thread), row(first), plan.row_words, weights)


def build_staging(lane: Lane) -> Callable[..., None] | None:
    """The device function `(words, thread)` by which all threads of a block copy what is staged, and wait for one another; None
    where nothing is."""
    plan = lane.plan
    if not plan.staged:
        return None

    @lane.device.emitted()
    def stage(emitter, words, thread):
        builder, block = emitter.builder, plan.block
        for name, staged in plan.staged.items():
            operand, target = lane.operand(name), staged_pointer(emitter, lane, name)
            address = builder.extract_value(words, lane.operand_number(name))
            with emitter.loop(-(-operand.size // block)) as turn:
                index = emitter.add("int64", emitter.mul("int64", turn, emitter.constant("int64", block)), thread)
                with builder.if_then(emitter.compare("lt", "int64", index, emitter.constant("int64", operand.size))):
                    value = load_global(emitter, address, operand.dtype, index)
                    emitter.store(target, staged.place(emitter, index), value, operand.dtype)
        barrier(emitter)

    return stage
