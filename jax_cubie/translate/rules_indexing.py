"""Rules that read or write at an index of run time: dynamic slices, gather, scatter.

Where the index is known at trace time everything folds; small arrays stay in registers, read and written by selects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import lax

from .arrays import (
    Array,
    Index,
    Memory,
    Pieces,
    Registers,
    Store,
    allocate,
    cheap,
    flat_index,
    for_each,
    indexable,
    readable,
    storer,
    strides_of,
)
from .builder import Builder, Scalar
from .rules_reduction import combine_by
from .rules_structural import mapped

if TYPE_CHECKING:
    from .context import Context


def _as_index(b: Builder, x: Scalar) -> Scalar:
    return b.cast(x, "int64")


def clamp_index(b: Builder, x: Scalar, highest: int) -> Scalar:
    if highest <= 0:
        return b.index(0)
    return b.max(b.index(0), b.min(_as_index(b, x), b.index(highest)))


def _dynamic_slice(context: Context, eqn: Any, x: Array, *starts: Array) -> Array:
    b, sizes = context.b, tuple(eqn.params["slice_sizes"])
    x = readable(b, x)
    start = tuple(clamp_index(b, s.at(b, ()), n - m) for s, n, m in zip(starts, x.shape, sizes, strict=False))
    if isinstance(x, Memory):
        offset = b.add(x.offset, flat_index(b, start, x.strides))
        return context.settle(Memory(sizes, x.dtype, x.place, offset, x.strides))
    return mapped(context, x, sizes, lambda i: tuple(b.add(k, s) for k, s in zip(i, start, strict=True)))


def _dynamic_update_slice(context: Context, eqn: Any, x: Array, update: Array, *starts: Array) -> Array:
    b = context.b
    start = tuple(clamp_index(b, s.at(b, ()), n - m)
                  for s, n, m in zip(starts, x.shape, update.shape, strict=True))
    if isinstance(x, Registers) and isinstance(update, Registers):
        if b.known(*start):
            ids = x.ids.copy()
            ids[tuple(slice(b.constants[s], b.constants[s] + m) for s, m in zip(start, update.shape, strict=True))] = (
                update.ids)
            return Registers(x.shape, x.dtype, ids)
        if update.size == 1:
            flat = flat_index(b, start, strides_of(x.shape))
            new = int(update.ids.ravel()[0])
            old = x.ids.ravel().tolist()
            ids = np.array([b.select(b.compare("eq", flat, b.index(k)), new, v) for k, v in enumerate(old)])
            return Registers(x.shape, x.dtype, ids.reshape(x.shape))

    # The update is read before anything is written, and so is what it is made of.
    update = cheap(b, update)

    def write(store: Store) -> None:
        x.write(b, store)
        update.write(b, lambda i, value: store(tuple(b.add(k, s) for k, s in zip(i, start, strict=True)), value))

    return context.finish_pieces(Pieces(x.shape, x.dtype, write))


def _fills(mode: Any) -> bool:
    return lax.GatherScatterMode.from_any(mode) == lax.GatherScatterMode.FILL_OR_DROP


def _fill_value(b: Builder, eqn: Any, dtype: str) -> Scalar:
    value = eqn.params.get("fill_value")
    if value is None:
        if dtype.startswith("float"):
            value = math.nan
        elif dtype == "bool":
            value = True
        else:
            info = np.iinfo(dtype)
            value = info.max if dtype.startswith("u") else info.min
    return b.const(dtype, value)


def _inside(b: Builder, starts: Sequence[Scalar], highest: Sequence[int]) -> Scalar:
    inside = b.const("bool", True)
    for s, n in zip(starts, highest, strict=True):
        inside = b.logical_and(inside, b.compare("ge", s, b.index(0)))
        inside = b.logical_and(inside, b.compare("le", s, b.index(n)))
    return inside


def _gather(context: Context, eqn: Any, x: Array, indices: Array) -> Array:
    b, p = context.b, eqn.params
    dims, sizes, shape = p["dimension_numbers"], p["slice_sizes"], eqn.outvars[0].aval.shape
    x, indices = readable(b, x), readable(b, indices)
    if not context.unrolls(math.prod(shape)):
        x, indices = indexable(b, x), cheap(b, indices)
    batch_axes = [k for k in range(len(shape)) if k not in dims.offset_dims]
    window_axes = [d for d in range(len(x.shape))
                   if d not in dims.collapsed_slice_dims and d not in dims.operand_batching_dims]
    fills = _fills(p["mode"])
    highest = [x.shape[d] - sizes[d] for d in dims.start_index_map]

    def element(index: Index) -> Scalar:
        batch = tuple(index[k] for k in batch_axes)
        starts = [_as_index(b, indices.at(b, (*batch, b.index(k)))) for k in range(len(dims.start_index_map))]
        position = [b.index(0)] * len(x.shape)
        for d, s, n in zip(dims.start_index_map, starts, highest, strict=True):
            position[d] = clamp_index(b, s, n)
        for d, k in zip(dims.operand_batching_dims, dims.start_indices_batching_dims, strict=True):
            position[d] = batch[k]
        for d, k in zip(window_axes, dims.offset_dims, strict=True):
            position[d] = b.add(position[d], index[k])
        value = x.at(b, tuple(position))
        if not fills:
            return value
        return b.select(_inside(b, starts, highest), value, _fill_value(b, eqn, x.dtype))

    return context.make(tuple(shape), x.dtype, element)


def _scatter(context: Context, eqn: Any, x: Array, indices: Array, updates: Array) -> Array:
    b, p = context.b, eqn.params
    dims = p["dimension_numbers"]
    combine = _combiner(context, eqn)
    window_axes = [d for d in range(len(x.shape))
                   if d not in dims.inserted_window_dims and d not in dims.operand_batching_dims]
    batch_axes = [k for k in range(len(updates.shape)) if k not in dims.update_window_dims]
    window = [1] * len(x.shape)
    for d, k in zip(window_axes, dims.update_window_dims, strict=True):
        window[d] = updates.shape[k]
    highest = [x.shape[d] - window[d] for d in dims.scatter_dims_to_operand_dims]
    clips = lax.GatherScatterMode.from_any(p["mode"]) == lax.GatherScatterMode.CLIP
    indices, updates = readable(b, indices), readable(b, updates)

    def target(index: Index) -> tuple[Index, Scalar]:
        """Where an update goes, and whether it goes at all."""
        batch = tuple(index[k] for k in batch_axes)
        starts = [_as_index(b, indices.at(b, (*batch, b.index(k))))
                  for k in range(len(dims.scatter_dims_to_operand_dims))]
        inside = b.const("bool", True) if clips else _inside(b, starts, highest)
        position = [b.index(0)] * len(x.shape)
        for d, s, n in zip(dims.scatter_dims_to_operand_dims, starts, highest, strict=True):
            position[d] = clamp_index(b, s, n)
        for d, k in zip(dims.operand_batching_dims, dims.scatter_indices_batching_dims, strict=True):
            position[d] = batch[k]
        for d, k in zip(window_axes, dims.update_window_dims, strict=True):
            position[d] = b.add(position[d], index[k])
        return tuple(position), inside

    if isinstance(x, Registers) and isinstance(updates, Registers) and isinstance(indices, Registers):
        flat = x.ids.ravel().tolist()
        strides = strides_of(x.shape)
        for where in np.ndindex(*updates.shape):
            position, inside = target(tuple(b.index(k) for k in where))
            update, to = int(updates.ids[where]), flat_index(b, position, strides)
            if b.known(to, inside):
                if b.constants[inside]:
                    flat[b.constants[to]] = combine(flat[b.constants[to]], update)
                continue
            for k, old in enumerate(flat):
                here = b.logical_and(inside, b.compare("eq", to, b.index(k)))
                flat[k] = b.select(here, combine(old, update), old)
        return Registers(x.shape, x.dtype, np.array(flat, dtype=np.int64).reshape(x.shape))

    # What the updates are computed from may be x itself: everything is read first.
    updates, indices = indexable(b, updates), indexable(b, indices)
    memory = allocate(b, x.shape, x.dtype)
    x.write(b, storer(b, memory))

    def update_one(index: Index) -> None:
        position, inside = target(index)
        flat = b.add(memory.offset, flat_index(b, position, memory.strides))
        old = b.load(memory.place, x.dtype, flat, fresh=True)
        b.store(memory.place, flat, b.select(inside, combine(old, updates.at(b, index)), old))

    for_each(b, updates.shape, update_one)
    return context.settle(memory)


def _combiner(context: Context, eqn: Any) -> Callable[[Scalar, Scalar], Scalar]:
    b = context.b
    kind = eqn.primitive.name.removeprefix("scatter").lstrip("-_")
    if not kind and eqn.params["update_jaxpr"] is not None:  # `x.at[i].apply(f)`
        apply = combine_by(context, eqn.params["update_jaxpr"], eqn.params["update_consts"])
        return lambda old, new: apply(old, new)[0]
    return {"": lambda old, new: new, "add": b.add, "sub": b.sub, "mul": b.mul, "min": b.min, "max": b.max}[kind]


INDEXING: dict[str, Callable[..., Array]] = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    **dict.fromkeys(("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"), _scatter),
}
"""Primitive name -> rule."""
