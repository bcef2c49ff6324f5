"""Weights that every lane of a block reads: a CUDA block copies them once into its shared memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from ..buffers.memory import shared_array
from ..kernel.emitter import LLVM_TYPES, Emitter
from ..kernel.memory import barrier, load_global

if TYPE_CHECKING:
    from .lane import Lane


def staged_pointer(emitter: Emitter, lane: Lane, name: str) -> Any:
    """Where a staged operand begins."""
    space = lane.device.backend.SHARED_SPACE
    begin = emitter.builder.gep(
        shared_array(emitter.builder.module, space),
        [emitter.constant("int32", 0), emitter.constant("int64", lane.plan.staged[name])],
    )
    return emitter.builder.bitcast(begin, ir.PointerType(LLVM_TYPES[lane.operand(name).dtype], space))


def build_staging(lane: Lane) -> Callable[..., None] | None:
    """The device function `(words, thread)` by which all threads of a block copy what is staged, and wait for one another; None
    where nothing is."""
    plan = lane.plan
    if not plan.staged:
        return None

    @lane.device.emitted()
    def stage(emitter, words, thread):
        builder, block = emitter.builder, plan.block
        for name in plan.staged:
            operand, target = lane.operand(name), staged_pointer(emitter, lane, name)
            address = builder.extract_value(words, lane.operand_number(name))
            with emitter.loop(-(-operand.size // block)) as turn:
                index = emitter.add("int64", emitter.mul("int64", turn, emitter.constant("int64", block)), thread)
                with builder.if_then(emitter.compare("lt", "int64", index, emitter.constant("int64", operand.size))):
                    value = load_global(emitter, address, operand.dtype, index)
                    emitter.store(target, index, value, operand.dtype)
        barrier(emitter)

    return stage
