"""The values of the walk: arrays in registers, in memory, or not yet computed.

``Registers``: a small array, one scalar an element; moving elements about costs nothing.
``Memory``: a strided view of flat memory.
``Lazy``: a large array that is computed element by element where it is read.
``Pieces``: a large array that is written part by part (a concatenation, an update).

An element is asked for by a tuple of int64 scalars; where they are constants everything folds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .builder import Builder, Scalar
from .builder import Memory as Place

Index = tuple[Scalar, ...]
Shape = tuple[int, ...]
Store = Callable[[Index, Scalar], None]


@dataclass(frozen=True)
class Array:
    shape: Shape
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def cheap(self) -> bool:
        """Whether reading an element twice costs no computation twice."""
        return True

    @property
    def at_once(self) -> bool:
        """Whether elements are computed together, and so better written than read one by one."""
        return False

    def at(self, b: Builder, index: Index) -> Scalar:
        raise NotImplementedError

    def write(self, b: Builder, store: Store) -> None:
        """Put every element somewhere."""
        for_each(b, self.shape, lambda index: store(index, self.at(b, index)))


@dataclass(frozen=True)
class Registers(Array):
    ids: np.ndarray = field(compare=False)

    def at(self, b: Builder, index: Index) -> Scalar:
        if b.known(*index):
            return int(self.ids[tuple(b.constants[i] for i in index)])
        # An index of run time among registers: one select an element.
        flat = flat_index(b, index, strides_of(self.shape))
        elements = self.ids.ravel().tolist()
        value = elements[-1]
        for k in range(len(elements) - 2, -1, -1):
            value = b.select(b.compare("eq", flat, b.index(k)), elements[k], value)
        return value

    def write(self, b: Builder, store: Store) -> None:
        for position, number in np.ndenumerate(self.ids):
            store(tuple(b.index(p) for p in position), int(number))


@dataclass(frozen=True)
class Memory(Array):
    place: Place
    offset: Scalar
    strides: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        return self.strides == strides_of(self.shape)

    def at(self, b: Builder, index: Index) -> Scalar:
        return b.load(self.place, self.dtype, b.add(self.offset, flat_index(b, index, self.strides)))


@dataclass(frozen=True)
class Lazy(Array):
    element: Callable[[Index], Scalar] = field(compare=False)

    @property
    def cheap(self) -> bool:
        return False

    def at(self, b: Builder, index: Index) -> Scalar:
        return self.element(index)


@dataclass(frozen=True)
class Pieces(Array):
    writer: Callable[[Store], None] = field(compare=False)

    @property
    def cheap(self) -> bool:
        return False

    @property
    def at_once(self) -> bool:
        return True

    def write(self, b: Builder, store: Store) -> None:
        self.writer(store)


def strides_of(shape: Shape) -> tuple[int, ...]:
    """Strides of C order, in elements."""
    strides = [1] * len(shape)
    for k in range(len(shape) - 2, -1, -1):
        strides[k] = strides[k + 1] * shape[k + 1]
    return tuple(strides)


def flat_index(b: Builder, index: Index, strides: tuple[int, ...]) -> Scalar:
    flat = b.index(0)
    for i, stride in zip(index, strides, strict=True):
        flat = b.add(flat, b.mul(i, b.index(stride)))
    return flat


def unflatten(b: Builder, flat: Scalar, shape: Shape) -> Index:
    index = []
    for k, stride in enumerate(strides_of(shape)):
        if shape[k] == 1:
            index.append(b.index(0))
            continue
        i = b.div(flat, b.index(stride))
        index.append(i if k == 0 else b.rem(i, b.index(shape[k])))
    return tuple(index)


def for_each(b: Builder, shape: Shape, body: Callable[[Index], None]) -> None:
    """A nest of loops over ``shape``."""
    if 0 in shape:
        return

    def go(index: Index) -> None:
        if len(index) == len(shape):
            body(index)
            return
        with b.loop(shape[len(index)]) as i:
            go((*index, i))

    go(())


def allocate(b: Builder, shape: Shape, dtype: str) -> Memory:
    place = b.alloc(dtype, max(1, math.prod(shape)))
    return Memory(shape, dtype, place, b.index(0), strides_of(shape))


def storer(b: Builder, memory: Memory, start: Index | None = None) -> Store:
    """Store into a memory view, shifted by ``start``."""

    def store(index: Index, value: Scalar) -> None:
        if start is not None:
            index = tuple(b.add(i, s) for i, s in zip(index, start, strict=True))
        b.store(memory.place, b.add(memory.offset, flat_index(b, index, memory.strides)), value)

    return store


def in_memory(b: Builder, x: Array) -> Memory:
    """``x`` in memory, copied where it is not there yet."""
    if isinstance(x, Memory):
        return x
    memory = allocate(b, x.shape, x.dtype)
    x.write(b, storer(b, memory))
    return memory


def readable(b: Builder, x: Array) -> Array:
    """``x`` so that one element can be read at a time."""
    return in_memory(b, x) if isinstance(x, Pieces) else x


def cheap(b: Builder, x: Array) -> Array:
    """``x`` so that its elements can be read often."""
    return x if x.cheap else in_memory(b, x)


def indexable(b: Builder, x: Array) -> Array:
    """``x`` so that its elements can be read often and by an index of run time."""
    if isinstance(x, Registers) and x.size == 1:
        return x
    return in_memory(b, x)


def registers(b: Builder, x: Array) -> Registers:
    """``x`` in registers, each element computed in line."""
    if isinstance(x, Registers):
        return x
    x = in_memory(b, x) if x.at_once else x
    ids = np.empty(x.shape, dtype=np.int64)
    for position in np.ndindex(*x.shape):
        ids[position] = x.at(b, tuple(b.index(p) for p in position))
    return Registers(x.shape, x.dtype, ids)
