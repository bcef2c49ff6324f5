"""A device function of one lane -> an image that runs it for every lane of a launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .device import Device
from .emitter import LLVM_TYPES
from .memory import undefined_words
from .target import Image


def compile_lanes(
    run: Callable[..., None],
    device: Device,
    *,
    words: int,
    lanes: int,
    block: int,
    shared_bytes: int,
    queued: bool = False,
    whole: bool = False,
    dump: Callable[[str, str], None],
    prepare: Callable[..., None] | None = None,
) -> Image:
    """Compiles `run(words, lane, thread, base)` for each lane.

    words: how many 64-bit words a launch has; word number `lanes` is the number of lanes. thread: the lane's number in its
    block. base: on the host the address of the block's memory (`shared_bytes` of it), on CUDA unused. All are int64. queued:
    on CUDA `run` goes from lane to lane by itself, with a `Queue`, and the lane that it is given means nothing. whole: on CUDA
    all threads of a block run `run`, those beyond the last lane, too. prepare: on CUDA all threads of a block run
    `prepare(words, thread)` before its lanes start.
    """
    if device.target.platform == "cpu":
        return _compile_host(run, device, words, block, shared_bytes, dump)
    return _compile_cuda(run, prepare, device, words, lanes, block, queued or whole, dump)


def _compile_host(run: Any, device: Device, words: int, block: int, shared_bytes: int, dump: Any) -> Image:
    @device.emitted(("int64", words))
    def unpack(emitter, arguments):
        values = undefined_words(words)
        for number in range(words):
            values = emitter.builder.insert_value(values, emitter.load(arguments, number, "int64"), number)
        return values

    @device.emitted("int64")
    def block_memory(emitter):
        if shared_bytes == 0:
            return emitter.constant("int64", 0)
        with emitter.builder.goto_entry_block():
            array = emitter.builder.alloca(ir.ArrayType(LLVM_TYPES["int8"], shared_bytes))
            array.align = 64
        return emitter.builder.ptrtoint(array, LLVM_TYPES["int64"])

    def entry(start, stop, arguments):
        values = unpack(arguments)
        base = block_memory()
        for lane in range(start, stop):
            run(values, lane, lane % block, base)

    return device.backend.compile_entry(entry, device.target, dump=dump)


def _compile_cuda(
    run: Any, prepare: Any, device: Device, words: int, lanes: int, block: int, whole: bool, dump: Any
) -> Image:
    from numba import cuda

    zero, width = np.int64(0), np.int64(block)

    @device.emitted()
    def nothing(emitter, values, thread):
        pass

    first = nothing if prepare is None else prepare

    def entry(values):
        thread = np.int64(cuda.threadIdx.x)
        lane = np.int64(cuda.blockIdx.x) * width + thread
        first(values, thread)
        if whole or lane < values[lanes]:
            run(values, lane, thread, zero)

    return device.backend.compile_entry(entry, device.target, words=words, block=block, dump=dump)
