"""Rules that move elements about.

Each is a map from an index of the result to an index of the operand. Small arrays are moved by NumPy on their
scalars' numbers; large ones become views, or maps that are evaluated where they are read.
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
    in_memory,
    indexable,
    readable,
    storer,
    strides_of,
    unflatten,
)
from .builder import Builder, Scalar
from .errors import Refusal
from .program import dtype_name

if TYPE_CHECKING:
    from .context import Context


def mapped(context: Context, x: Array, shape: Sequence[int], index_map: Callable[[Index], Index]) -> Array:
    """An array whose element at ``index`` is that of ``x`` at ``index_map(index)``."""
    x = readable(context.b, x)
    return context.make(tuple(shape), x.dtype, lambda index: x.at(context.b, index_map(index)))


# -- shape ----------------------------------------------------------------------------------------------------

def reshape(context: Context, x: Array, shape: Sequence[int]) -> Array:
    shape = tuple(shape)
    b = context.b
    if shape == x.shape:
        return x
    if isinstance(x, Registers):
        return Registers(shape, x.dtype, x.ids.reshape(shape))
    if isinstance(x, Pieces):
        x = in_memory(b, x)
    if isinstance(x, Memory) and x.contiguous:
        return Memory(shape, x.dtype, x.place, x.offset, strides_of(shape))
    long_in = [k for k, n in enumerate(x.shape) if n != 1]
    long_out = [k for k, n in enumerate(shape) if n != 1]
    if [x.shape[k] for k in long_in] == [shape[k] for k in long_out]:
        # Only axes of length 1 come and go.
        where = dict(zip(long_in, long_out, strict=True))
        if isinstance(x, Memory):
            back = dict(zip(long_out, long_in, strict=True))
            strides = tuple(x.strides[back[k]] if k in back else 0 for k in range(len(shape)))
            return Memory(shape, x.dtype, x.place, x.offset, strides)
        rank = len(x.shape)
        return mapped(context, x, shape,
                      lambda i: tuple(i[where[k]] if k in where else b.index(0) for k in range(rank)))
    source = x.shape
    return mapped(context, x, shape, lambda i: unflatten(b, flat_index(b, i, strides_of(shape)), source))


def _reshape(context: Context, eqn: Any, x: Array, *dynamic: Array) -> Array:
    if dynamic:
        raise Refusal("a shape that is a traced value", "use static shapes")
    if eqn.params.get("dimensions") is not None:
        x = _permute(context, x, eqn.params["dimensions"])
    return reshape(context, x, eqn.params["new_sizes"])


def _same_order(context: Context, eqn: Any, x: Array) -> Array:
    return reshape(context, x, eqn.outvars[0].aval.shape)


def _permute(context: Context, x: Array, permutation: Sequence[int]) -> Array:
    shape = tuple(x.shape[p] for p in permutation)
    if isinstance(x, Registers):
        return Registers(shape, x.dtype, x.ids.transpose(permutation))
    if isinstance(x, Memory):
        return Memory(shape, x.dtype, x.place, x.offset, tuple(x.strides[p] for p in permutation))
    back = np.argsort(np.asarray(permutation, dtype=int)).tolist()
    return mapped(context, x, shape, lambda i: tuple(i[p] for p in back))


def _transpose(context: Context, eqn: Any, x: Array) -> Array:
    return _permute(context, x, eqn.params["permutation"])


def broadcast_in_dim(context: Context, x: Array, shape: Sequence[int], dimensions: Sequence[int]) -> Array:
    shape, b = tuple(shape), context.b
    stretched = [n == 1 and shape[d] != 1 for n, d in zip(x.shape, dimensions, strict=True)]
    if isinstance(x, Registers) and math.prod(shape) <= context.unroll:
        inner = [1] * len(shape)
        for n, d in zip(x.shape, dimensions, strict=True):
            inner[d] = n
        return Registers(shape, x.dtype, np.broadcast_to(x.ids.reshape(inner), shape))
    if math.prod(shape) > x.size:
        x = indexable(b, x)
    if isinstance(x, Memory):
        strides = [0] * len(shape)
        for s, d, wide in zip(x.strides, dimensions, stretched, strict=True):
            strides[d] = 0 if wide else s
        return context.settle(Memory(shape, x.dtype, x.place, x.offset, tuple(strides)))
    zero = b.index(0)
    return mapped(context, x, shape,
                  lambda i: tuple(zero if wide else i[d] for d, wide in zip(dimensions, stretched, strict=True)))


def _broadcast_in_dim(context: Context, eqn: Any, x: Array, *dynamic: Array) -> Array:
    if dynamic:
        raise Refusal("a shape that is a traced value", "use static shapes")
    return broadcast_in_dim(context, x, eqn.params["shape"], eqn.params["broadcast_dimensions"])


def _iota(context: Context, eqn: Any, *dynamic: Array) -> Array:
    if dynamic:
        raise Refusal("a shape that is a traced value", "use static shapes")
    aval, b, dimension = eqn.outvars[0].aval, context.b, eqn.params["dimension"]
    return context.make(aval.shape, dtype_name(aval.dtype), lambda i: b.cast(i[dimension], dtype_name(aval.dtype)))


# -- parts ----------------------------------------------------------------------------------------------------

def take_slice(context: Context, x: Array, start: Sequence[int], limit: Sequence[int],
               strides: Sequence[int] | None = None) -> Array:
    b = context.b
    step = tuple(strides) if strides is not None else (1,) * len(x.shape)
    if isinstance(x, Registers):
        ids = x.ids[tuple(slice(a, z, s) for a, z, s in zip(start, limit, step, strict=True))]
        return Registers(ids.shape, x.dtype, ids)
    shape = tuple(max(0, -(-(z - a) // s)) for a, z, s in zip(start, limit, step, strict=True))
    if isinstance(x, Pieces):
        x = in_memory(b, x)
    if isinstance(x, Memory):
        offset = b.add(x.offset, b.index(sum(a * s for a, s in zip(start, x.strides, strict=True))))
        strided = tuple(s * t for s, t in zip(x.strides, step, strict=True))
        return context.settle(Memory(shape, x.dtype, x.place, offset, strided))
    return mapped(context, x, shape, lambda i: tuple(
        b.add(b.mul(k, b.index(s)), b.index(a)) for k, a, s in zip(i, start, step, strict=True)))


def _slice(context: Context, eqn: Any, x: Array) -> Array:
    p = eqn.params
    return take_slice(context, x, p["start_indices"], p["limit_indices"], p["strides"])


def _split(context: Context, eqn: Any, x: Array) -> list[Array]:
    axis, out, at = eqn.params["axis"], [], 0
    x = cheap(context.b, x)
    for size in eqn.params["sizes"]:
        start = [0] * len(x.shape)
        limit = list(x.shape)
        start[axis], limit[axis] = at, at + size
        out.append(take_slice(context, x, start, limit))
        at += size
    return out


def _unstack(context: Context, eqn: Any, x: Array) -> list[Array]:
    axis = eqn.params["axis"]
    x = cheap(context.b, x)
    out = []
    for k, var in enumerate(eqn.outvars):
        start = [0] * len(x.shape)
        limit = list(x.shape)
        start[axis], limit[axis] = k, k + 1
        out.append(reshape(context, take_slice(context, x, start, limit), var.aval.shape))
    return out


def _rev(context: Context, eqn: Any, x: Array) -> Array:
    b, dimensions = context.b, eqn.params["dimensions"]
    if isinstance(x, Registers):
        return Registers(x.shape, x.dtype, np.flip(x.ids, dimensions))
    if isinstance(x, Pieces):
        x = in_memory(b, x)
    if isinstance(x, Memory):
        offset = b.add(x.offset, b.index(sum(x.strides[d] * (x.shape[d] - 1) for d in dimensions)))
        strides = tuple(-s if d in dimensions else s for d, s in enumerate(x.strides))
        return Memory(x.shape, x.dtype, x.place, offset, strides)
    return mapped(context, x, x.shape, lambda i: tuple(
        b.sub(b.index(x.shape[d] - 1), k) if d in dimensions else k for d, k in enumerate(i)))


# -- several together -----------------------------------------------------------------------------------------

def concatenate(context: Context, parts: Sequence[Array], axis: int) -> Array:
    b = context.b
    shape = list(parts[0].shape)
    shape[axis] = sum(x.shape[axis] for x in parts)
    if math.prod(shape) <= context.unroll:
        ids = np.concatenate([context.in_registers(x).ids for x in parts], axis=axis)
        return Registers(tuple(shape), parts[0].dtype, ids)

    def write(store: Store) -> None:
        at = 0
        for x in parts:
            begin = b.index(at)
            x.write(b, lambda i, value, begin=begin: store(
                tuple(b.add(k, begin) if d == axis else k for d, k in enumerate(i)), value))
            at += x.shape[axis]

    return Pieces(tuple(shape), parts[0].dtype, write)


def _concatenate(context: Context, eqn: Any, *parts: Array) -> Array:
    return concatenate(context, parts, eqn.params["dimension"])


def _stack(context: Context, eqn: Any, *parts: Array) -> Array:
    axis = eqn.params["axis"]
    shape = list(parts[0].shape)
    shape.insert(axis, 1)
    return concatenate(context, [reshape(context, x, shape) for x in parts], axis)


def _tile(context: Context, eqn: Any, x: Array) -> Array:
    b, shape, source = context.b, eqn.outvars[0].aval.shape, x.shape
    if math.prod(shape) > context.unroll:
        x = indexable(b, x)
    lead = len(shape) - len(source)
    return mapped(context, x, shape,
                  lambda i: tuple(b.rem(k, b.index(n)) for k, n in zip(i[lead:], source, strict=True)))


def _pad(context: Context, eqn: Any, x: Array, value: Array) -> Array:
    b, config, shape = context.b, eqn.params["padding_config"], eqn.outvars[0].aval.shape
    fill = value.at(b, ())
    if math.prod(shape) <= context.unroll and isinstance(x, Registers):
        ids = np.full(shape, fill, dtype=np.int64)
        for position, number in np.ndenumerate(x.ids):
            to = tuple(low + k * (inner + 1) for k, (low, _, inner) in zip(position, config, strict=True))
            if all(0 <= k < n for k, n in zip(to, shape, strict=True)):
                ids[to] = number
        return Registers(tuple(shape), x.dtype, ids)
    # Negative padding cuts off; first that, so that every store falls inside.
    start, limit = [], []
    for n, (low, high, inner) in zip(x.shape, config, strict=True):
        step = inner + 1
        first = -(low // step) if low < 0 else 0
        padded = n + max(n - 1, 0) * inner + high
        last = (padded - 1) // step + 1 if high < 0 else n
        start.append(min(first, n))
        limit.append(max(min(last, n), min(first, n)))
    part = take_slice(context, x, start, limit)

    def write(store: Store) -> None:
        for_each(b, shape, lambda i: store(i, fill))
        part.write(b, lambda i, v: store(tuple(
            b.add(b.mul(k, b.index(inner + 1)), b.index(low + begin * (inner + 1)))
            for k, begin, (low, _, inner) in zip(i, start, config, strict=True)), v))

    return context.finish_pieces(Pieces(tuple(shape), x.dtype, write))


# -- by an index of run time ----------------------------------------------------------------------------------

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
    if math.prod(shape) > context.unroll:
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
    return {"": lambda old, new: new, "add": b.add, "sub": b.sub, "mul": b.mul, "min": b.min, "max": b.max}[kind]


def _identity(context: Context, eqn: Any, *arrays: Array) -> list[Array]:
    return list(arrays)


def _empty(context: Context, eqn: Any) -> Array:
    aval = eqn.outvars[0].aval
    zero = context.b.const(dtype_name(aval.dtype), 0)
    return context.make(tuple(aval.shape), dtype_name(aval.dtype), lambda index: zero)


STRUCTURAL: dict[str, Callable[..., Any]] = {
    "reshape": _reshape,
    "squeeze": _same_order,
    "expand_dims": _same_order,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast_in_dim,
    "iota": _iota,
    "empty": _empty,
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
    "rev": _rev,
    "concatenate": _concatenate,
    "stack": _stack,
    "tile": _tile,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    **dict.fromkeys(("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter_mul", "scatter-min",
                     "scatter-max"), _scatter),
    **dict.fromkeys(("copy", "copy_p", "optimization_barrier", "pvary", "pcast", "pbroadcast", "device_put",
                     "sharding_constraint", "reshard", "stop_gradient"), _identity),
}
"""Primitive name -> rule."""
