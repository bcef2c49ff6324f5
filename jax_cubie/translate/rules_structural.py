"""Rules that move elements about.

Each is a map from an index of the result to an index of the operand. Small arrays are moved by NumPy on their
scalars' numbers; large ones become views, or maps that are evaluated where they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import (
    Array,
    Index,
    Memory,
    Pieces,
    Registers,
    Store,
    cheap,
    flat_index,
    for_each,
    in_memory,
    indexable,
    readable,
    strides_of,
    unflatten,
)
from .builder import Scalar
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
    if isinstance(x, Registers) and context.unrolls(math.prod(shape)):
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
    """From `start` to `limit` along each axis; JAX may have these, and what else is a number of an equation, as NumPy's."""
    b = context.b
    step = tuple(map(int, strides)) if strides is not None else (1,) * len(x.shape)
    start, limit = tuple(map(int, start)), tuple(map(int, limit))
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
    if context.unrolls(math.prod(shape)):
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
    if not context.unrolls(math.prod(shape)):
        x = indexable(b, x)
    lead = len(shape) - len(source)
    return mapped(context, x, shape,
                  lambda i: tuple(b.rem(k, b.index(n)) for k, n in zip(i[lead:], source, strict=True)))


def pad(context: Context, x: Array, fill: Scalar, config: Sequence[tuple[int, int, int]]) -> Array:
    """``x`` with (low, high, interior) elements of ``fill`` for each axis; negative ones cut off."""
    b = context.b
    config = [(int(low), int(high), int(inner)) for low, high, inner in config]
    shape = tuple(low + n + max(n - 1, 0) * inner + high for n, (low, high, inner) in zip(x.shape, config, strict=True))
    if not any(any(c) for c in config):
        return x
    if context.unrolls(math.prod(shape)) and isinstance(x, Registers):
        ids = np.full(shape, fill, dtype=np.int64)
        for position, number in np.ndenumerate(x.ids):
            to = tuple(low + k * (inner + 1) for k, (low, _, inner) in zip(position, config, strict=True))
            if all(0 <= k < n for k, n in zip(to, shape, strict=True)):
                ids[to] = number
        return Registers(shape, x.dtype, ids)
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

    return context.finish_pieces(Pieces(shape, x.dtype, write))


def _pad(context: Context, eqn: Any, x: Array, value: Array) -> Array:
    return pad(context, x, value.at(context.b, ()), eqn.params["padding_config"])


def _identity(context: Context, eqn: Any, *arrays: Array) -> list[Array]:
    return list(arrays)


def _empty(context: Context, eqn: Any) -> Array:
    aval = eqn.outvars[0].aval
    zero = context.b.const(dtype_name(aval.dtype), 0)
    return context.make(tuple(aval.shape), dtype_name(aval.dtype), lambda index: zero)


STRUCTURAL: dict[str, Callable[..., Any]] = {
    "reshape": _reshape,
    "squeeze": _same_order,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast_in_dim,
    "iota": _iota,
    **dict.fromkeys(("empty", "empty2"), _empty),
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
    "rev": _rev,
    "concatenate": _concatenate,
    "stack": _stack,
    "tile": _tile,
    "pad": _pad,
    **dict.fromkeys(("copy", "optimization_barrier", "pvary", "pbroadcast", "device_put", "sharding_constraint",
                     "layout_constraint", "reshard", "name", "stop_gradient"), _identity),
}
"""Primitive name -> rule."""
