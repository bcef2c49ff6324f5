"""The values of a Jacobian, as a function to be translated: as many tangents as its columns have colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..operands import FieldFunction
from .pattern import Pattern

# Up to these sizes the code takes each entry from its tangent: where arrays are unrolled, what is left then is the derivative
# written out. Beyond, the tangents are an array, and a table says where in it an entry is.
_COLUMNS = 128
_ENTRIES = 1024


def along_state(field: Callable) -> FieldFunction:
    """The derivative of f by the state along "v": J v."""

    def derivative(t: Any, y: Any, v: Any, *values: Any) -> Any:
        return jax.jvp(lambda y: field(t, y, *values), (y,), (v,))[1]

    return FieldFunction(derivative, ("t", "y", "v"))


def transposed_along_state(field: Callable) -> FieldFunction:
    """Its transpose: v J."""

    def derivative(t: Any, y: Any, v: Any, *values: Any) -> Any:
        _, pull = jax.vjp(lambda y: field(t, y, *values), y)
        return pull(v)[0]

    return FieldFunction(derivative, ("t", "y", "v"))


def jacobian_function(field: Callable[..., Any], pattern: Pattern, chosen: Sequence[int]) -> Callable[..., jax.Array]:
    """The Jacobian of `field(t, y, *values)` by y, at the entries of its pattern: [entries], row by row.

    field: what `without_custom_vjp` makes of f's jaxpr, called. chosen: the columns' `colours`. It is for
    `translate_for_all(..., structural_zeros=True)`, which leaves out what the zeros of the directions are multiplied by.
    """
    count = max(chosen, default=-1) + 1
    table = np.array(chosen, np.int32)

    def written_out(t: Any, y: Any, *values: Any) -> jax.Array:
        colour = jnp.asarray(table)
        _, tangent = jax.linearize(lambda z: field(t, z, *values), y)
        moved = [tangent((colour == c).astype(y.dtype)) for c in range(count)]
        return lax.concatenate([lax.slice(moved[chosen[j]], (i,), (i + 1,)) for i, j in pattern.entries], 0)

    def looked_up(t: Any, y: Any, *values: Any) -> jax.Array:
        directions = (jnp.asarray(table)[None, :] == lax.broadcasted_iota(np.int32, (count, 1), 0)).astype(y.dtype)
        moved = jax.vmap(lambda dy: jax.jvp(lambda z: field(t, z, *values), (y,), (dy,))[1])(directions)
        if len(pattern.entries) == pattern.rows * pattern.columns and tuple(chosen) == tuple(range(count)):
            return moved.T.reshape(-1)
        # Unsigned, so that no index is counted from the end.
        places = np.array([chosen[j] * pattern.rows + i for i, j in pattern.entries], np.uint32)
        return moved.reshape(-1).at[jnp.asarray(places)].get(mode="promise_in_bounds")

    if not pattern.entries:
        return lambda t, y, *values: jnp.zeros(0, y.dtype)
    few = pattern.columns <= _COLUMNS and len(pattern.entries) <= _ENTRIES
    return written_out if few else looked_up
