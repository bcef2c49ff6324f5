"""The arrays of a lane in compiled code: its windows of shared memory, its persistent region, its local arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ..kernel.device import Device
from ..kernel.emitter import LLVM_TYPES
from ..kernel.numba_types import Slice
from .layout import Layout, Slot

_SHARED_SYMBOL = "jax_cubie_shared"


class LaneMemory:
    """Makes a layout's arrays for one target; `Layout.allocator` takes it as its memory.

    dtype: the solve's float dtype, which fixes the word. block: the lanes of a block, woven together in shared memory:
    element e of lane i lies at `e * block + i`, so that neighbouring lanes fall into different banks.
    """

    def __init__(self, device: Device, layout: Layout, dtype: str, block: int):
        self._device, self._layout, self._dtype, self._block = device, layout, dtype, block
        self._word = 4 if dtype == "float32" else 8

    @property
    def window_bytes(self) -> int:
        """Shared memory of a block."""
        return self._layout.window_words * self._word * self._block

    def slice_of(self, slot: Slot) -> Slice:
        """The type of a slot's array."""
        name, scale = self._types(slot.dtype)
        if slot.region == "local":
            return Slice(name, slot.size)
        if slot.region == "persistent":
            return Slice(name, slot.size, scale)
        return Slice(name, slot.size, self._block * scale, self._device.backend.SHARED_SPACE)

    def _types(self, dtype: str) -> tuple[str, int]:
        """The dtype of a buffer's elements, and how many of them are a word: an int32 takes one, whatever that is."""
        return (self._dtype, 1) if dtype == "float" else (dtype, self._word // 4)

    def make_slice(self, region: int, offset: int, size: int, dtype: str) -> Callable[..., Any]:
        """A device function that gives `size` words from `offset` on of its parameter number `region`."""
        name, scale = self._types(dtype)

        def slice_type(*regions: Slice) -> Slice:
            return Slice(name, size, regions[region].stride * scale, regions[region].space)

        @self._device.emitted(slice_type)
        def take(emitter, *regions):
            parent = regions[region]
            pointer = parent.part(offset, size).pointer
            return emitter.builder.bitcast(pointer, ir.PointerType(LLVM_TYPES[name], parent.type.space))

        return take

    def make_local(self, size: int, dtype: str) -> Callable[..., Any]:
        """A device function, of whatever arguments, that gives the lane's own array of `size` words.

        The array belongs to the function that this one is called in, and ends with it.
        """
        name, _ = self._types(dtype)

        @self._device.emitted(Slice(name, size))
        def make(emitter, *regions):
            # One array, not `size` values: compilers keep the parts of an array with constant indices in registers.
            with emitter.builder.goto_entry_block():
                array = emitter.builder.alloca(ir.ArrayType(LLVM_TYPES[name], max(size, 1)))
            zero = ir.Constant(LLVM_TYPES["int32"], 0)
            return emitter.builder.gep(array, [zero, zero])

        return make

    def make_window(self, *, fallback: bool) -> Callable[..., Any]:
        """A device function `(base, thread)` that gives the lane's primary or fallback window of shared memory.

        `base` is the address of the block's memory where the target has no shared memory of its own.
        """
        words = self._layout.fallback_words if fallback else self._layout.shared_words
        start = self._layout.fallback_offset if fallback else 0
        space = self._device.backend.SHARED_SPACE

        @self._device.emitted(Slice(self._dtype, words, self._block, space))
        def window(emitter, base, thread):
            kind = ir.PointerType(LLVM_TYPES[self._dtype], space)
            if words == 0:
                return ir.Constant(kind, None)
            if space:
                pointer = emitter.builder.bitcast(shared_array(emitter.builder.module, space), kind)
            else:
                pointer = emitter.builder.inttoptr(base, kind)
            offset = emitter.builder.add(thread, emitter.constant("int64", start * self._block))
            return emitter.builder.gep(pointer, [offset])

        return window


def shared_array(module: ir.Module, space: int) -> ir.GlobalVariable:
    """The block's dynamic shared memory, whose size the launch gives."""
    found = module.globals.get(_SHARED_SYMBOL)
    if found is None:
        found = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), 0), _SHARED_SYMBOL, space)
        found.linkage = "external"
        found.align = 16  # pyright: ignore[reportAttributeAccessIssue] - llvmlite's class says None
    return found
