"""Sorting, stable and with several keys, as XLA sorts: NaN come last, and the zeros are equal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .arrays import Array, Index, Memory, Registers, allocate, flat_index, for_each, storer
from .builder import Builder, Scalar
from .context import written_in_jax
from .program import FLOATS
from .rules_reduction import split_index

if TYPE_CHECKING:
    from .context import Context


def _before(b: Builder, x: Scalar, y: Scalar) -> Scalar:
    """Whether x sorts strictly before y."""
    less = b.compare("lt", x, y)
    if b.types[x] not in FLOATS:
        return less
    x_is_number, y_is_nan = b.compare("eq", x, x), b.compare("ne", y, y)
    return b.logical_or(less, b.logical_and(x_is_number, y_is_nan))


def _lexicographic(b: Builder, xs: Sequence[Scalar], ys: Sequence[Scalar]) -> Scalar:
    result = _before(b, xs[-1], ys[-1])
    for x, y in zip(xs[-2::-1], ys[-2::-1], strict=True):
        not_after = b.logical_not(_before(b, y, x))
        result = b.logical_or(_before(b, x, y), b.logical_and(not_after, result))
    return result


def _sort(context: Context, eqn: Any, *operands: Array) -> list[Array]:
    axis, keys = eqn.params["dimension"], eqn.params["num_keys"]
    n = operands[0].shape[axis]
    # A larger network takes long to compile: 4 s for 31 elements, 16 s with two keys and an index.
    exchanges = math.prod(operands[0].shape) * (n - 1) // 2 * len(operands)
    if all(isinstance(x, Registers) for x in operands) and context.unrolls(exchanges, 4):
        return _exchange([x for x in operands if isinstance(x, Registers)], context.b, axis, keys)
    return _merge(context, operands, axis, keys)


def _exchange(operands: Sequence[Registers], b: Builder, axis: int, keys: int) -> list[Array]:
    """In registers: neighbours only are exchanged, and only if strictly out of order, which is stable."""
    ids = [x.ids.copy() for x in operands]
    lines = [np.moveaxis(x, axis, 0) for x in ids]
    n = operands[0].shape[axis]
    for where in np.ndindex(*lines[0].shape[1:]):
        for turn in range(n):
            for k in range(turn % 2, n - 1, 2):
                low = [int(line[(k, *where)]) for line in lines]
                high = [int(line[(k + 1, *where)]) for line in lines]
                swap = _lexicographic(b, high[:keys], low[:keys])
                for line, x, y in zip(lines, low, high, strict=True):
                    line[(k, *where)] = b.select(swap, y, x)
                    line[(k + 1, *where)] = b.select(swap, x, y)
    return [Registers(x.shape, x.dtype, i) for x, i in zip(operands, ids, strict=True)]


def _merge(context: Context, operands: Sequence[Array], axis: int, keys: int) -> list[Array]:
    """In memory: sorted runs are merged in pairs until there is one.

    An element's place in the merged run is its place in its own run plus the number of elements of the other run that
    come before it, which a binary search finds. All loops have static lengths.
    """
    b = context.b
    n = operands[0].shape[axis]
    shape = operands[0].shape
    now = [allocate(b, x.shape, x.dtype) for x in operands]
    merged = [allocate(b, x.shape, x.dtype) for x in operands]
    for x, memory in zip(operands, now, strict=True):
        x.write(b, storer(b, memory))
    passes = max(n - 1, 0).bit_length()
    zero, one, length = b.index(0), b.index(1), b.index(n)
    outer_shape = tuple(m for d, m in enumerate(shape) if d != axis)

    def load(memories: Sequence[Memory], outer: Index, k: Scalar) -> list[Scalar]:
        place = split_index(len(shape), (axis,), outer, (k,))
        return [b.load(m.place, m.dtype, b.add(m.offset, flat_index(b, place, m.strides)), fresh=True) for m in memories]

    def store(memories: Sequence[Memory], outer: Index, k: Scalar, values: Sequence[Scalar]) -> None:
        place = split_index(len(shape), (axis,), outer, (k,))
        for memory, value in zip(memories, values, strict=True):
            storer(b, memory)(place, value)

    def move(outer: Index, width: Scalar, k: Scalar) -> None:
        """Element ``k`` from its run of ``width`` to its place in the merged run."""
        values = load(now, outer, k)
        run = b.logical_and(k, b.logical_not(b.sub(width, one)))
        is_left = b.compare("eq", b.logical_and(run, width), zero)
        other = b.min(b.select(is_left, b.add(run, width), b.sub(run, width)), length)
        count = b.min(b.sub(length, other), width)
        low, high = b.alloc("int64", 1), b.alloc("int64", 1)
        b.store(low, zero, zero)
        b.store(high, zero, count)
        with b.loop(passes):
            first, last = b.load(low, "int64", zero, fresh=True), b.load(high, "int64", zero, fresh=True)
            middle = b.binary("shift_right_logical", b.add(first, last), one)
            their = load(now[:keys], outer, b.min(b.add(other, middle), b.index(n - 1)))
            own = values[:keys]
            theirs_first = b.select(is_left, _lexicographic(b, their, own), b.logical_not(_lexicographic(b, own, their)))
            go_on = b.compare("lt", first, last)
            b.store(low, zero, b.select(b.logical_and(go_on, theirs_first), b.add(middle, one), first))
            b.store(high, zero, b.select(b.logical_or(theirs_first, b.logical_not(go_on)), last, middle))
        begin = b.select(is_left, run, other)
        before = b.add(b.sub(k, run), b.load(low, "int64", zero, fresh=True))
        store(merged, outer, b.add(begin, before), values)

    def sort_line(outer: Index) -> None:
        with b.loop(passes) as turn:
            width = b.binary("shift_left", one, turn)
            with b.loop(n) as k:
                move(outer, width, k)
            with b.loop(n) as k:
                store(now, outer, k, load(merged, outer, k))

    if n > 1:
        for_each(b, outer_shape, sort_line)
    return [context.settle(c) for c in now]


def _top_k(x: Any, *, k: int, axis: int) -> tuple[Any, Any]:
    """The k largest in IEEE's total order, as XLA has it; of equals, the first."""
    key = x
    if jnp.issubdtype(x.dtype, jnp.floating):
        bits = lax.bitcast_convert_type(x, "int32" if x.dtype == jnp.float32 else "int64")
        key = jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)
    where = lax.broadcasted_iota("int32", x.shape, axis)
    _, values, indices = lax.sort((~key, x, where), dimension=axis, num_keys=1)
    return lax.slice_in_dim(values, 0, k, axis=axis), lax.slice_in_dim(indices, 0, k, axis=axis)


SORT: dict[str, Callable[..., list[Array]]] = {
    "sort": _sort,
    "top_k": written_in_jax(_top_k, "k", "axis"),
}
"""Primitive name -> rule."""
