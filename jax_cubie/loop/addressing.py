"""Where the elements of a lane's operands and results lie in memory, as LLVM IR.

`words` is the launch's tuple; `bases`, a tuple of addresses, is computed once a lane.
"""

from __future__ import annotations

from typing import Any

from ..kernel.emitter import Emitter
from ..kernel.memory import add_global, global_pointer, load_global, load_several_global, store_global, undefined_words
from ..operands import CHUNK, Operand, Result, Words


class Addressing:
    """Reads operands and writes results of one plan."""

    def __init__(self, words: Words):
        self.words = words

    def bases(self, emitter: Emitter, words: Any, lane: Any) -> Any:
        """The address of the first element of each operand and result for one lane."""
        builder, operands = emitter.builder, self.words.operands
        indices, rest = [], lane
        for level in range(self.words.levels):
            # The outermost level needs no remainder; with one level there is no division at all.
            last = level == self.words.levels - 1
            indices.append(rest if last else builder.urem(rest, self._size(emitter, words, level)))
            rest = rest if last else builder.udiv(rest, self._size(emitter, words, level))
        bases = undefined_words(self.words.lanes)
        for number, operand in enumerate(operands):
            offset, stride = None, None
            for level, axis in enumerate(operand.axes):
                if axis is not None:
                    term = indices[level] if stride is None else builder.mul(indices[level], stride)
                    offset = term if offset is None else builder.add(offset, term)
                    stride = self._times_size(emitter, words, stride, level)
            address = self._offset(emitter, builder.extract_value(words, number), offset, operand.dtype)
            bases = builder.insert_value(bases, address, number)
        for number, result in enumerate(self.words.results, start=len(operands)):
            first = lane
            if result.added:
                first = builder.udiv(lane, emitter.constant("int64", CHUNK))
            if not self._interleaved(result):
                first = builder.mul(first, emitter.constant("int64", result.size))
            address = self._offset(emitter, builder.extract_value(words, number), first, result.dtype)
            bases = builder.insert_value(bases, address, number)
        return bases

    def load(self, emitter: Emitter, words: Any, bases: Any, number: int, index: Any) -> Any:
        """Element `index` (flat; a Python int or an int64 value) of operand `number`."""
        operand = self.words.operands[number]
        address = emitter.builder.extract_value(bases, number)
        stride = self._lane_stride(emitter, words, operand)
        if not isinstance(index, int):
            offset = index if stride is None else emitter.builder.mul(index, stride)
            return load_global(emitter, address, operand.dtype, offset)
        return load_global(emitter, self._element(emitter, address, index, stride, operand.dtype), operand.dtype)

    def load_several(
        self, emitter: Emitter, words: Any, bases: Any, number: int, index: Any, count: int, aligned: bool
    ) -> Any:
        """`count` elements of an operand from `index` on, as a vector; None where a lane's elements do not follow one another.

        aligned: the index is a multiple of the count.
        """
        operand = self.words.operands[number]
        if operand.batched:
            return None
        address = emitter.builder.extract_value(bases, number)
        return load_several_global(emitter, address, index, count, operand.dtype, aligned)

    def store(self, emitter: Emitter, words: Any, bases: Any, number: int, index: Any, value: Any) -> None:
        """Writes element `index` (flat; a Python int or an int64 value) of result `number`."""
        result = self.words.results[number]
        store_global(emitter, self._place(emitter, words, bases, number, index), result.dtype, value)

    def add(self, emitter: Emitter, words: Any, bases: Any, number: int, index: Any, value: Any) -> None:
        """Adds to element `index` of result `number`, to which nobody else adds meanwhile."""
        result = self.words.results[number]
        place = self._place(emitter, words, bases, number, index)
        if emitter.platform == "cuda":
            add_global(emitter, place, result.dtype, value)
            return
        before = emitter.read(global_pointer(emitter, place, result.dtype))
        store_global(emitter, place, result.dtype, emitter.add(result.dtype, before, value))

    def _place(self, emitter: Emitter, words: Any, bases: Any, number: int, index: Any) -> Any:
        """The address of an element of a result."""
        result = self.words.results[number]
        address = emitter.builder.extract_value(bases, len(self.words.operands) + number)
        stride = emitter.builder.extract_value(words, self.words.lanes) if self._interleaved(result) else None
        return self._element(emitter, address, index, stride, result.dtype)

    @staticmethod
    def _interleaved(result: Result) -> bool:
        """Whether the lanes run fastest."""
        return result.unwritten is None and not result.added

    def _size(self, emitter: Emitter, words: Any, level: int) -> Any:
        return emitter.builder.extract_value(words, self.words.lanes + 1 + level)

    def _times_size(self, emitter: Emitter, words: Any, stride: Any, level: int) -> Any:
        size = self._size(emitter, words, level)
        return size if stride is None else emitter.builder.mul(stride, size)

    def _lane_stride(self, emitter: Emitter, words: Any, operand: Operand) -> Any:
        """How far apart a lane's elements lie: the lanes run fastest. None: they are contiguous."""
        stride = None
        for level, axis in enumerate(operand.axes):
            if axis is not None:
                stride = self._times_size(emitter, words, stride, level)
        return stride

    def _element(self, emitter: Emitter, address: Any, index: Any, stride: Any, dtype: str) -> Any:
        if isinstance(index, int):
            if index == 0:
                return address
            index = emitter.constant("int64", index)
        offset = index if stride is None else emitter.builder.mul(index, stride)
        return self._offset(emitter, address, offset, dtype)

    @staticmethod
    def _offset(emitter: Emitter, address: Any, elements: Any, dtype: str) -> Any:
        """64-bit throughout: lanes x points x size may pass 2**31."""
        if elements is None:
            return address
        size = 1 if dtype == "bool" else int(dtype.lstrip("uintfloa")) // 8
        return emitter.builder.add(address, emitter.builder.mul(elements, emitter.constant("int64", size)))
