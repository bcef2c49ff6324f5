"""Reductions over windows that move along an array, and what the derivatives of pooling are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import lax

from .arrays import Array, Index, cheap
from .builder import Scalar
from .context import written_in_jax
from .rules_reduction import combine_by, combiners, fold, neutral
from .rules_structural import pad

if TYPE_CHECKING:
    from .context import Context


def _over_windows(context: Context, eqn: Any, arrays: Sequence[Array], initial: Sequence[Scalar],
                  combine: Callable[..., Sequence[Scalar]], work: int) -> list[Array]:
    """Folds every window; ``combine(*state, *elements)`` costs ``work`` statements."""
    b, p = context.b, eqn.params
    config = [(low, high, step - 1) for (low, high), step in zip(p["padding"], p["base_dilation"], strict=True)]
    padded = [cheap(b, pad(context, x, fill, config)) for x, fill in zip(arrays, initial, strict=True)]
    dtypes = [x.dtype for x in arrays]
    window, strides, dilation = p["window_dimensions"], p["window_strides"], p["window_dilation"]

    def element(index: Index) -> Sequence[Scalar]:
        def turn(offset: Index, state: Sequence[Scalar]) -> Sequence[Scalar]:
            place = tuple(b.add(b.mul(i, b.index(s)), b.mul(w, b.index(d)))
                          for i, s, w, d in zip(index, strides, offset, dilation, strict=True))
            return combine(*state, *[x.at(b, place) for x in padded])

        return fold(context, window, dtypes, initial, turn)

    return context.make_several(tuple(eqn.outvars[0].aval.shape), dtypes, element, work * math.prod(window))


def _reduce_window(kind: str) -> Callable[..., list[Array]]:
    def rule(context: Context, eqn: Any, x: Array) -> list[Array]:
        combine = combiners(context.b)[kind]
        start = context.b.const(x.dtype, neutral(kind, x.dtype))
        return _over_windows(context, eqn, [x], [start], lambda total, value: [combine(total, value)], 1)

    return rule


def _any_reduce_window(context: Context, eqn: Any, *args: Array) -> list[Array]:
    """By a function of the user's, of one array or several."""
    half, jaxpr = len(args) // 2, eqn.params["jaxpr"]
    initial = [x.at(context.b, ()) for x in args[half:]]
    combine = combine_by(context, jaxpr, eqn.params["consts"])
    return _over_windows(context, eqn, args[:half], initial, combine, len(jaxpr.eqns))


def _selected(operand: Any, passenger: Any, missing: Any, select: Any, **window: Any) -> Any:
    """In each window what stands in ``passenger`` where ``operand`` has the value that ``select`` keeps, the first of
    equals."""
    present = jnp.ones(operand.shape, bool)

    def choose(x: Any, y: Any) -> Any:
        keep = x[2] & (~y[2] | select.bind(x[0], y[0]))
        return tuple(jnp.where(keep, a, c) for a, c in zip(x, y, strict=True))

    initial = (jnp.zeros((), operand.dtype), jnp.asarray(missing, passenger.dtype), jnp.asarray(False))
    return lax.reduce_window((operand, passenger, present), initial, choose, **window)[1]


def _select_and_gather_add(tangents: Any, operand: Any, *, select_prim: Any, **window: Any) -> Any:
    return _selected(operand, tangents, 0, select_prim, **window)


def _select_and_scatter_add(source: Any, operand: Any, *, select_prim: Any, **window: Any) -> Any:
    places = lax.iota("int32", operand.size).reshape(operand.shape)
    chosen = _selected(operand, places, operand.size, select_prim, **window)
    total = jnp.zeros(operand.size, source.dtype).at[chosen.reshape(-1)].add(source.reshape(-1), mode="drop")
    return total.reshape(operand.shape)


_WINDOW = ("window_dimensions", "window_strides", "padding")
WINDOW: dict[str, Callable[..., list[Array]]] = {
    **{f"reduce_window_{kind}": _reduce_window(kind) for kind in ("sum", "max", "min")},
    "reduce_window": _any_reduce_window,
    "select_and_gather_add": written_in_jax(_select_and_gather_add, "select_prim", *_WINDOW, "base_dilation",
                                            "window_dilation"),
    "select_and_scatter_add": written_in_jax(_select_and_scatter_add, "select_prim", *_WINDOW),
}
"""Primitive name -> rule."""
