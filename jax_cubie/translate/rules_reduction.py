"""Reductions, cumulative reductions, products of matrices, sorting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import Array, Index, Memory, Pieces, Registers, Store, allocate, cheap, indexable, readable
from .builder import Builder, Scalar
from .errors import Refusal
from .program import FLOATS, dtype_name

if TYPE_CHECKING:
    from .context import Context

Combine = Callable[[Scalar, Scalar], Scalar]


def fold(b: Builder, extents: Sequence[int], unroll: int, dtypes: Sequence[str], initial: Sequence[Scalar],
         turn: Callable[[Index, Sequence[Scalar]], Sequence[Scalar]]) -> list[Scalar]:
    """Carry scalars through a nest of loops; unrolled where it has few turns."""
    if math.prod(extents) <= unroll:
        state = list(initial)
        for position in np.ndindex(*extents):
            state = list(turn(tuple(b.index(p) for p in position), state))
        return state
    zero = b.index(0)
    places = [b.alloc(dtype, 1) for dtype in dtypes]
    for place, value in zip(places, initial, strict=True):
        b.store(place, zero, value)

    def go(index: Index) -> None:
        if len(index) < len(extents):
            with b.loop(extents[len(index)]) as i:
                go((*index, i))
            return
        old = [b.load(p, d, zero, fresh=True) for p, d in zip(places, dtypes, strict=True)]
        for place, value in zip(places, turn(index, old), strict=True):
            b.store(place, zero, value)

    go(())
    return [b.load(p, d, zero, fresh=True) for p, d in zip(places, dtypes, strict=True)]


def _split_index(rank: int, axes: Sequence[int], kept: Index, reduced: Index) -> Index:
    free, bound = iter(kept), iter(reduced)
    return tuple(next(bound) if d in axes else next(free) for d in range(rank))


def _combiners(b: Builder) -> dict[str, Combine]:
    return {"sum": b.add, "prod": b.mul, "max": b.max, "min": b.min, "and": b.logical_and, "or": b.logical_or,
            "xor": b.logical_xor}


def neutral(kind: str, dtype: str) -> Any:
    """What leaves every value as it is."""
    if kind == "prod":
        return 1
    if kind == "and":
        return True if dtype == "bool" else -1
    if kind in ("max", "min"):
        if dtype in FLOATS:
            return -math.inf if kind == "max" else math.inf
        if dtype == "bool":
            return kind == "min"
        info = np.iinfo(dtype)
        return info.min if kind == "max" else info.max
    # The sum's is -0, so that a sum of -0 alone stays -0 and adding it folds.
    return 0


def _reduce(kind: str) -> Callable[..., Array]:
    def rule(context: Context, eqn: Any, x: Array) -> Array:
        b, axes = context.b, eqn.params["axes"]
        combine = _combiners(b)[kind]
        x = readable(b, x)
        extents = [x.shape[a] for a in axes]
        shape = eqn.outvars[0].aval.shape
        start = b.const(x.dtype, neutral(kind, x.dtype))
        short = math.prod(extents) <= context.unroll

        def element(index: Index) -> Scalar:
            if short and math.prod(extents):
                # Unrolled, the first element starts, so that no neutral element has to be added.
                values = [x.at(b, _split_index(len(x.shape), axes, index, tuple(b.index(p) for p in position)))
                          for position in np.ndindex(*extents)]
                total = values[0]
                for value in values[1:]:
                    total = combine(total, value)
                return total
            return fold(b, extents, context.unroll, [x.dtype], [start], lambda r, state: [
                combine(state[0], x.at(b, _split_index(len(x.shape), axes, index, r)))])[0]

        return context.make(tuple(shape), x.dtype, element, math.prod(extents) if short else 1 << 30)

    return rule


def _arg(op: str) -> Callable[..., Array]:
    def rule(context: Context, eqn: Any, x: Array) -> Array:
        b, (axis,) = context.b, eqn.params["axes"]
        dtype = dtype_name(eqn.outvars[0].aval.dtype)
        x = readable(b, x)
        n = x.shape[axis]

        def element(index: Index) -> Scalar:
            def turn(r: Index, state: Sequence[Scalar]) -> Sequence[Scalar]:
                best, where = state
                value = x.at(b, _split_index(len(x.shape), (axis,), index, r))
                better = b.compare(op, value, best)
                if x.dtype in FLOATS:
                    # The first NaN wins.
                    better = b.logical_and(b.logical_or(better, b.compare("ne", value, value)),
                                           b.compare("eq", best, best))
                return b.select(better, value, best), b.select(better, r[0], where)

            zero = b.index(0)
            first = x.at(b, _split_index(len(x.shape), (axis,), index, (zero,)))
            return b.cast(fold(b, [n], context.unroll, [x.dtype, "int64"], [first, zero], turn)[1], dtype)

        return context.make(tuple(eqn.outvars[0].aval.shape), dtype, element, 4 * n if n <= context.unroll else 1 << 30)

    return rule


def _cumulative(kind: str) -> Callable[..., Array]:
    def rule(context: Context, eqn: Any, x: Array) -> Array:
        b, axis, reverse = context.b, eqn.params["axis"], eqn.params["reverse"]
        n = x.shape[axis]
        combine: Combine = _log_add_exp(context, x.dtype) if kind == "logsumexp" else _combiners(b)[kind]
        if isinstance(x, Registers):
            ids = x.ids.copy()
            lines = np.moveaxis(np.flip(ids, axis) if reverse else ids, axis, 0)
            for k in range(1, n):
                for where in np.ndindex(*lines.shape[1:]):
                    lines[(k, *where)] = combine(int(lines[(k - 1, *where)]), int(lines[(k, *where)]))
            return Registers(x.shape, x.dtype, ids)
        x = readable(b, x)
        others = [m for d, m in enumerate(x.shape) if d != axis]

        def write(store: Store) -> None:
            def go(outer: Index) -> None:
                if len(outer) < len(others):
                    with b.loop(others[len(outer)]) as i:
                        go((*outer, i))
                    return
                def place_of(k: Scalar) -> Index:
                    return _split_index(len(x.shape), (axis,), outer,
                                        (b.sub(b.index(n - 1), k) if reverse else k,))

                zero = b.index(0)
                total = b.alloc(x.dtype, 1)
                first = x.at(b, place_of(zero))
                b.store(total, zero, first)
                store(place_of(zero), first)
                if n == 1:
                    return
                with b.loop(n - 1) as i:
                    where = place_of(b.add(i, b.index(1)))
                    value = combine(b.load(total, x.dtype, zero, fresh=True), x.at(b, where))
                    b.store(total, zero, value)
                    store(where, value)

            go(())

        return context.finish_pieces(Pieces(x.shape, x.dtype, write))

    return rule


def _log_add_exp(context: Context, dtype: str) -> Combine:
    b = context.b

    def combine(x: Scalar, y: Scalar) -> Scalar:
        high = b.max(x, y)
        difference = b.sub(x, y)
        smooth = b.add(high, b.unary("log1p", b.unary("exp", b.neg(b.abs(difference)))))
        # Equal infinities have no difference.
        return b.select(b.compare("ne", difference, difference), b.add(x, y), smooth)

    return combine


def _dot_general(context: Context, eqn: Any, x: Array, y: Array) -> Array:
    b = context.b
    (contract_x, contract_y), (batch_x, batch_y) = eqn.params["dimension_numbers"]
    aval = eqn.outvars[0].aval
    dtype = dtype_name(aval.dtype)
    extents = [x.shape[d] for d in contract_x]
    work = math.prod(extents)
    free_x = [d for d in range(len(x.shape)) if d not in contract_x and d not in batch_x]
    free_y = [d for d in range(len(y.shape)) if d not in contract_y and d not in batch_y]
    unrolled = aval.size <= context.unroll and aval.size * work <= 16 * context.unroll and work <= context.unroll
    if unrolled:
        x, y = cheap(b, x), cheap(b, y)
    else:
        # An array in registers may stay there where only unrolled contractions index it.
        x = x if isinstance(x, Registers) and len(contract_x) == len(x.shape) and work <= context.unroll else (
            indexable(b, x))
        y = y if isinstance(y, Registers) and len(contract_y) == len(y.shape) and work <= context.unroll else (
            indexable(b, y))

    def place_of(rank: int, batch: Sequence[int], contract: Sequence[int], free: Sequence[int], batch_index: Index,
                 free_index: Index, reduced: Index) -> Index:
        position: list[Scalar] = [0] * rank
        for axes, values in ((batch, batch_index), (contract, reduced), (free, free_index)):
            for d, i in zip(axes, values, strict=True):
                position[d] = i
        return tuple(position)

    def element(index: Index) -> Scalar:
        n = len(batch_x)
        at_batch, at_x, at_y = index[:n], index[n:n + len(free_x)], index[n + len(free_x):]

        def product(reduced: Index) -> Scalar:
            left = x.at(b, place_of(len(x.shape), batch_x, contract_x, free_x, at_batch, at_x, reduced))
            right = y.at(b, place_of(len(y.shape), batch_y, contract_y, free_y, at_batch, at_y, reduced))
            return b.mul(b.cast(left, dtype), b.cast(right, dtype))

        if work and work <= context.unroll:
            terms = [product(tuple(b.index(p) for p in position)) for position in np.ndindex(*extents)]
            total = terms[0]
            for term in terms[1:]:
                total = b.add(total, term)
            return total
        return fold(b, extents, context.unroll, [dtype], [b.const(dtype, 0)],
                    lambda reduced, state: [b.add(state[0], product(reduced))])[0]

    return context.make(tuple(aval.shape), dtype, element, work if unrolled else 1 << 30)


# -- sorting --------------------------------------------------------------------------------------------------

def _before(b: Builder, x: Scalar, y: Scalar) -> Scalar:
    """Whether x sorts strictly before y: NaN last, and the zeros are equal."""
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
    b, axis, keys = context.b, eqn.params["dimension"], eqn.params["num_keys"]
    n = operands[0].shape[axis]
    if all(isinstance(x, Registers) for x in operands):
        ids = [x.ids.copy() for x in operands if isinstance(x, Registers)]
        lines = [np.moveaxis(x, axis, 0) for x in ids]
        for where in np.ndindex(*lines[0].shape[1:]):
            # Neighbours only are exchanged, and only if strictly out of order: stable.
            for turn in range(n):
                for k in range(turn % 2, n - 1, 2):
                    low = [int(line[(k, *where)]) for line in lines]
                    high = [int(line[(k + 1, *where)]) for line in lines]
                    swap = _lexicographic(b, high[:keys], low[:keys])
                    for line, x, y in zip(lines, low, high, strict=True):
                        line[(k, *where)] = b.select(swap, y, x)
                        line[(k + 1, *where)] = b.select(swap, x, y)
        return [Registers(x.shape, x.dtype, i) for x, i in zip(operands, ids, strict=True)]
    return _sort_in_memory(context, operands, axis, keys, n)


def _sort_in_memory(context: Context, operands: Sequence[Array], axis: int, keys: int, n: int) -> list[Array]:
    """Neighbours exchanged in n turns: simple, stable, and quadratic."""
    b = context.b
    if n > 1024:
        raise Refusal(f"of {n} elements", "sort at most 1024 elements")
    copies: list[Memory] = []
    for x in operands:
        copy = allocate(b, x.shape, x.dtype)
        source = x

        def put(index: Index, value: Scalar, copy: Memory = copy) -> None:
            b.store(copy.place, _flat(b, copy, index), value)

        source.write(b, put)
        copies.append(copy)
    others = [m for d, m in enumerate(copies[0].shape) if d != axis]

    def go(outer: Index) -> None:
        if len(outer) < len(others):
            with b.loop(others[len(outer)]) as i:
                go((*outer, i))
            return
        with b.loop(n), b.loop(n - 1) as k:
            at = [_flat(b, c, _split_index(len(c.shape), (axis,), outer, (k,))) for c in copies]
            after = [_flat(b, c, _split_index(len(c.shape), (axis,), outer, (b.add(k, b.index(1)),))) for c in copies]
            low = [b.load(c.place, c.dtype, i, fresh=True) for c, i in zip(copies, at, strict=True)]
            high = [b.load(c.place, c.dtype, i, fresh=True) for c, i in zip(copies, after, strict=True)]
            swap = _lexicographic(b, high[:keys], low[:keys])
            for c, i, j, x, y in zip(copies, at, after, low, high, strict=True):
                b.store(c.place, i, b.select(swap, y, x))
                b.store(c.place, j, b.select(swap, x, y))

    if n > 1:
        go(())
    return [context.settle(c) for c in copies]


def _flat(b: Builder, memory: Memory, index: Index) -> Scalar:
    flat = memory.offset
    for i, stride in zip(index, memory.strides, strict=True):
        flat = b.add(flat, b.mul(i, b.index(stride)))
    return flat


REDUCTION: dict[str, Callable[..., Any]] = {
    **{f"reduce_{kind}": _reduce(kind) for kind in ("sum", "prod", "max", "min", "and", "or", "xor")},
    "argmax": _arg("gt"),
    "argmin": _arg("lt"),
    "cumsum": _cumulative("sum"),
    "cumprod": _cumulative("prod"),
    "cummax": _cumulative("max"),
    "cummin": _cumulative("min"),
    "cumlogsumexp": _cumulative("logsumexp"),
    "dot_general": _dot_general,
    "sort": _sort,
}
"""Primitive name -> rule."""
