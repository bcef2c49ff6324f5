"""Reductions and cumulative reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.extend.core as jex
import numpy as np

from .arrays import Array, Index, Lazy, Pieces, Registers, Store, allocate, cheap, flat_index, for_each, readable, storer
from .builder import Builder, Scalar
from .program import FLOATS, dtype_name

if TYPE_CHECKING:
    from .context import Context

Combine = Callable[[Scalar, Scalar], Scalar]


def fold(context: Context, extents: Sequence[int], dtypes: Sequence[str], initial: Sequence[Scalar],
         turn: Callable[[Index, Sequence[Scalar]], Sequence[Scalar]]) -> list[Scalar]:
    """Carry scalars through a nest of loops; unrolled where it has few turns."""
    b = context.b
    if context.unrolls(math.prod(extents)):
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


def split_index(rank: int, axes: Sequence[int], kept: Index, reduced: Index) -> Index:
    free, bound = iter(kept), iter(reduced)
    return tuple(next(bound) if d in axes else next(free) for d in range(rank))


def combiners(b: Builder) -> dict[str, Combine]:
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


def _side_by_side(shape: tuple[int, ...], extents: Sequence[int], x: Array, axes: Sequence[int], start: Scalar,
                 combine: Combine, b: Builder) -> Array:
    """A reduction whose innermost loop is that over the results: each has its own order, so a compiler may make vectors of
    many, but not of one."""
    total = allocate(b, shape, x.dtype)
    put = storer(b, total)
    for_each(b, shape, lambda index: put(index, start))

    def turn(reduced: Index) -> None:
        def one(index: Index) -> None:
            place = b.add(total.offset, flat_index(b, index, total.strides))
            before = b.load(total.place, x.dtype, place, fresh=True)
            put(index, combine(before, x.at(b, split_index(len(x.shape), axes, index, reduced))))

        for_each(b, shape, one)

    for_each(b, tuple(extents), turn)
    return total


def _reduce(kind: str) -> Callable[..., Array]:
    def rule(context: Context, eqn: Any, x: Array) -> Array:
        b, axes = context.b, eqn.params["axes"]
        combine = combiners(b)[kind]
        x = readable(b, x)
        extents = [x.shape[a] for a in axes]
        shape = eqn.outvars[0].aval.shape
        start = b.const(x.dtype, neutral(kind, x.dtype))
        short = context.unrolls(math.prod(extents))
        if isinstance(x, Lazy) and not context.unrolls(math.prod(shape)) and math.prod(extents) and context.platform == "cpu":
            return _side_by_side(tuple(shape), extents, x, axes, start, combine, b)

        def element(index: Index) -> Scalar:
            if short and math.prod(extents):
                # Unrolled, the first element starts, so that no neutral element has to be added.
                values = [x.at(b, split_index(len(x.shape), axes, index, tuple(b.index(p) for p in position)))
                          for position in np.ndindex(*extents)]
                total = values[0]
                for value in values[1:]:
                    total = combine(total, value)
                return total
            return fold(context, extents, [x.dtype], [start], lambda r, state: [
                combine(state[0], x.at(b, split_index(len(x.shape), axes, index, r)))])[0]

        return context.make(tuple(shape), x.dtype, element, math.prod(extents) if short else 1 << 30)

    return rule


def combine_by(context: Context, jaxpr: jex.Jaxpr, consts: Sequence[Any]) -> Callable[..., list[Scalar]]:
    """From a jaxpr of scalars, the values that it combines a state and an element into."""
    b = context.b

    def combine(*scalars: Scalar) -> list[Scalar]:
        arrays = [Registers((), b.types[s], np.array(s)) for s in scalars]
        results = context.walk(jaxpr, [context.outside(c) for c in consts], arrays)
        return [context.in_registers(x).at(b, ()) for x in results]

    return combine


def _any_reduce(context: Context, eqn: Any, *args: Array) -> list[Array]:
    """By a function of the user's, of one array or several."""
    b, axes, closed = context.b, eqn.params["dimensions"], eqn.params["jaxpr"]
    half = len(args) // 2
    arrays = [cheap(b, x) for x in args[:half]]
    initial = [x.at(b, ()) for x in args[half:]]
    combine = combine_by(context, closed.jaxpr, closed.consts)
    extents = [arrays[0].shape[a] for a in axes]
    dtypes = [x.dtype for x in arrays]

    def element(index: Index) -> Sequence[Scalar]:
        return fold(context, extents, dtypes, initial, lambda r, state: combine(*state, *[
            x.at(b, split_index(len(x.shape), axes, index, r)) for x in arrays]))

    work = math.prod(extents) * len(closed.jaxpr.eqns)
    return context.make_several(tuple(eqn.outvars[0].aval.shape), dtypes, element, work)


def _arg(op: str) -> Callable[..., Array]:
    def rule(context: Context, eqn: Any, x: Array) -> Array:
        b, (axis,) = context.b, eqn.params["axes"]
        dtype = dtype_name(eqn.outvars[0].aval.dtype)
        x = readable(b, x)
        n = x.shape[axis]

        def element(index: Index) -> Scalar:
            def turn(r: Index, state: Sequence[Scalar]) -> Sequence[Scalar]:
                best, where = state
                value = x.at(b, split_index(len(x.shape), (axis,), index, r))
                better = b.compare(op, value, best)
                if x.dtype in FLOATS:
                    # The first NaN wins.
                    better = b.logical_and(b.logical_or(better, b.compare("ne", value, value)),
                                           b.compare("eq", best, best))
                return b.select(better, value, best), b.select(better, r[0], where)

            zero = b.index(0)
            first = x.at(b, split_index(len(x.shape), (axis,), index, (zero,)))
            return b.cast(fold(context, [n], [x.dtype, "int64"], [first, zero], turn)[1], dtype)

        return context.make(tuple(eqn.outvars[0].aval.shape), dtype, element, 4 * n if context.unrolls(n) else 1 << 30)

    return rule


def _cumulative(kind: str) -> Callable[..., Array]:
    def rule(context: Context, eqn: Any, x: Array) -> Array:
        b, axis, reverse = context.b, eqn.params["axis"], eqn.params["reverse"]
        n = x.shape[axis]
        combine: Combine = _log_add_exp(context) if kind == "logsumexp" else combiners(b)[kind]
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
                    return split_index(len(x.shape), (axis,), outer,
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


def _log_add_exp(context: Context) -> Combine:
    b = context.b

    def combine(x: Scalar, y: Scalar) -> Scalar:
        high = b.max(x, y)
        difference = b.sub(x, y)
        smooth = b.add(high, b.unary("log1p", b.unary("exp", b.neg(b.abs(difference)))))
        # Equal infinities have no difference.
        return b.select(b.compare("ne", difference, difference), b.add(x, y), smooth)

    return combine


REDUCTION: dict[str, Callable[..., Any]] = {
    **{f"reduce_{kind}": _reduce(kind) for kind in ("sum", "prod", "max", "min", "and", "or", "xor")},
    "reduce": _any_reduce,
    "argmax": _arg("gt"),
    "argmin": _arg("lt"),
    "cumsum": _cumulative("sum"),
    "cumprod": _cumulative("prod"),
    "cummax": _cumulative("max"),
    "cummin": _cumulative("min"),
    "cumlogsumexp": _cumulative("logsumexp"),
}
"""Primitive name -> rule."""
