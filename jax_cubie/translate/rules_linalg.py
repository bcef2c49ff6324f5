"""Factorisations of small matrices, written in JAX and walked in turn.

Their loops have static lengths: for a small matrix they are unrolled and every mask folds away, for a large one
they stay loops over local memory. LU takes the first largest pivot, as LAPACK does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from .arrays import Array, cheap

if TYPE_CHECKING:
    from .context import Context


def _lu(a: Any) -> tuple[Any, Any, Any]:
    m, n = a.shape
    rows, columns = lax.iota("int32", m), lax.iota("int32", n)

    def eliminate(k: Any, state: Any) -> Any:
        pivots, permutation, a = state
        candidates = jnp.where(rows >= k, abs(a[:, k]), -jnp.inf)
        p = lax.argmax(candidates, 0, "int32")
        a = a.at[k].set(a[p]).at[p].set(a[k])
        permutation = permutation.at[k].set(permutation[p]).at[p].set(permutation[k])
        pivot, below = a[k, k], rows > k
        factors = jnp.where(below & (pivot != 0), a[:, k] / pivot, a[:, k])
        a = a.at[:, k].set(factors)
        inside = below[:, None] & (columns > k)[None, :]
        return pivots.at[k].set(p), permutation, jnp.where(inside, a - factors[:, None] * a[k][None, :], a)

    pivots, permutation, a = lax.fori_loop(0, min(m, n), eliminate, (lax.iota("int32", min(m, n)), rows, a))
    return a, pivots, permutation


def _permutation(pivots: Any, *, permutation_size: int) -> Any:
    def swap(k: Any, permutation: Any) -> Any:
        p = pivots[k]
        return permutation.at[k].set(permutation[p]).at[p].set(permutation[k])

    return lax.fori_loop(0, pivots.shape[0], swap, lax.iota("int32", permutation_size))


def _triangular_solve(a: Any, b: Any, *, left_side: bool, lower: bool, transpose_a: bool, unit_diagonal: bool) -> Any:
    if not left_side:
        transposed = _triangular_solve(a, b.T, left_side=True, lower=lower, transpose_a=not transpose_a,
                                       unit_diagonal=unit_diagonal)
        return transposed.T
    if transpose_a:
        a, lower = a.T, not lower
    if not lower:
        flipped = _triangular_solve(a[::-1, ::-1], b[::-1], left_side=True, lower=True, transpose_a=False,
                                    unit_diagonal=unit_diagonal)
        return flipped[::-1]
    n = a.shape[0]
    columns = lax.iota("int32", n)

    def substitute(k: Any, x: Any) -> Any:
        value = b[k] - jnp.where(columns < k, a[k], 0) @ x
        return x.at[k].set(value if unit_diagonal else value / a[k, k])

    return lax.fori_loop(0, n, substitute, jnp.zeros_like(b))


def _cholesky(a: Any) -> Any:
    n = a.shape[0]
    rows = lax.iota("int32", n)

    def column(k: Any, lower: Any) -> Any:
        rest = a[:, k] - lower @ lower[k]
        diagonal = jnp.sqrt(rest[k])
        values = jnp.where(rows == k, diagonal, jnp.where(rows > k, rest / diagonal, 0))
        return lower.at[:, k].set(values)

    return lax.fori_loop(0, n, column, jnp.zeros_like(a))


def _written_in_jax(fn: Callable[..., Any], core_rank: int, *names: str) -> Callable[..., list[Array]]:
    """A rule from a JAX function of matrices (or vectors); ``names`` are the parameters that it takes."""

    def rule(context: Context, eqn: Any, *args: Array) -> list[Array]:
        params = {name: eqn.params[name] for name in names}

        def whole(*arrays: Any) -> list[Any]:
            one = lambda *a: fn(*a, **params)  # noqa: E731
            for _ in range(arrays[0].ndim - core_rank):
                one = jax.vmap(one)
            return jax.tree.leaves(one(*arrays))

        closed = jax.make_jaxpr(whole)(*[jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in eqn.invars])
        return context.call(closed, *[cheap(context.b, x) for x in args])

    return rule


def _linear_solve(context: Context, eqn: Any, *args: Array) -> list[Array]:
    """Walks what JAX itself would run to solve."""
    lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    begin = lengths.matvec + lengths.vecmat
    operands = [cheap(context.b, x) for x in args]
    right = operands[sum(lengths):]
    return context.call(jaxprs.solve, *operands[begin:begin + lengths.solve], *right)


LINALG: dict[str, Callable[..., Any]] = {
    "lu": _written_in_jax(_lu, 2),
    "lu_pivots_to_permutation": _written_in_jax(_permutation, 1, "permutation_size"),
    "triangular_solve": _written_in_jax(_triangular_solve, 2, "left_side", "lower", "transpose_a", "unit_diagonal"),
    "cholesky": _written_in_jax(_cholesky, 2),
    "custom_linear_solve": _linear_solve,
}
"""Primitive name -> rule."""
