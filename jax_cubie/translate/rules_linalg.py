"""Factorisations of small matrices, written in JAX and walked in turn.

Their loops have static lengths: for a small matrix they are unrolled and every mask folds away, for a large one
they stay loops over local memory. LU takes the first largest pivot, as LAPACK does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import lax

from .arrays import Array, cheap
from .context import written_in_jax
from .errors import Refusal

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

    lower = lax.fori_loop(0, n, column, jnp.zeros_like(a))
    # Not positive definite: nothing of it holds.
    return jnp.where(jnp.all(jnp.diagonal(lower) > 0), lower, jnp.nan)


def _householder(a: Any) -> tuple[Any, Any]:
    """Reflections as LAPACK keeps them: R on and above the diagonal, the vectors below it, and their factors."""
    m, n = a.shape
    rows, columns = lax.iota("int32", m), lax.iota("int32", n)

    def reflect(k: Any, state: Any) -> Any:
        a, taus = state
        below = jnp.where(rows > k, a[:, k], 0)
        rest = jnp.sqrt(below @ below)
        alpha = a[k, k]
        beta = -jnp.copysign(jnp.hypot(alpha, rest), alpha)
        nothing = rest == 0
        tau = jnp.where(nothing, 0, (beta - alpha) / jnp.where(nothing, 1, beta))
        vector = jnp.where(rows == k, 1, below / jnp.where(nothing, 1, alpha - beta))
        changed = a - tau * vector[:, None] * (vector @ a)[None, :]
        column = jnp.where(rows == k, jnp.where(nothing, alpha, beta), jnp.where(rows > k, vector, a[:, k]))
        a = jnp.where((columns == k)[None, :], column[:, None], jnp.where((columns > k)[None, :], changed, a))
        return a, taus.at[k].set(tau)

    return lax.fori_loop(0, min(m, n), reflect, (a, jnp.zeros(min(m, n), a.dtype)))


def _householder_product(a: Any, taus: Any) -> Any:
    """The first columns of the product of the reflections."""
    m, n = a.shape
    rows = lax.iota("int32", m)
    count = taus.shape[0]

    def reflect(turn: Any, q: Any) -> Any:
        k = count - 1 - turn
        vector = jnp.where(rows == k, 1, jnp.where(rows > k, a[:, k], 0))
        return q - taus[k] * vector[:, None] * (vector @ q)[None, :]

    return lax.fori_loop(0, count, reflect, jnp.eye(m, n, dtype=a.dtype))


def _qr(a: Any, *, full_matrices: bool) -> tuple[Any, Any]:
    m, n = a.shape
    size = m if full_matrices else min(m, n)
    packed, taus = _householder(a)
    vectors = packed[:, :size] if size <= n else jnp.pad(packed, ((0, 0), (0, size - n)))
    return _householder_product(vectors, taus), jnp.triu(packed[:size])


def _tridiagonal_solve(lower: Any, diagonal: Any, upper: Any, b: Any) -> Any:
    """Elimination row by row with a choice between two pivots, then substitution backwards."""
    def eliminate(row: Any, following: Any) -> Any:
        # The row at hand has two elements and its right side, the one that follows three.
        d, u, right = row
        low, mid, up, next_right = following
        swap = abs(low) > abs(d)
        pivot = (jnp.where(swap, low, d), jnp.where(swap, mid, u), jnp.where(swap, up, 0),
                 jnp.where(swap, next_right, right))
        factor = jnp.where(swap, d, low) / pivot[0]
        left = (jnp.where(swap, u, mid) - factor * pivot[1], jnp.where(swap, 0, up) - factor * pivot[2],
                jnp.where(swap, right, next_right) - factor * pivot[3])
        return left, pivot

    upper = upper.at[-1].set(0)
    first = (diagonal[0], upper[0], b[0])
    last, rows = lax.scan(eliminate, first, (lower[1:], diagonal[1:], upper[1:], b[1:]))

    def substitute(after: Any, row: Any) -> Any:
        one, two = after
        d, u, v, right = row
        x = (right - u * one - v * two) / d
        return (x, one), x

    end = last[2] / last[0]
    _, x = lax.scan(substitute, (end, jnp.zeros_like(end)), rows, reverse=True)
    return jnp.concatenate([x, end[None]])


def _cholesky_update(r: Any, w: Any) -> Any:
    """The upper factor of R' R + w w', by rotations."""
    def rotate(k: Any, state: Any) -> Any:
        r, w = state
        row, length = r[k], jnp.hypot(r[k, k], w[k])
        c, s = row[k] / length, w[k] / length
        return r.at[k].set(c * row + s * w), c * w - s * row

    return lax.fori_loop(0, r.shape[0], rotate, (r, w))[0]


def _symmetric_product(a: Any, c: Any, *, alpha: Any, beta: Any) -> Any:
    return alpha * (a @ a.T) + beta * c


def _refusing(rule: Callable[..., Any], parameter: str, hint: str) -> Callable[..., Any]:
    """``rule``, which cannot do what ``parameter`` asks for where it is true."""
    def checked(context: Context, eqn: Any, *args: Array) -> Any:
        if eqn.params.get(parameter):
            raise Refusal(f"with {parameter}", hint)
        return rule(context, eqn, *args)

    return checked


def _linear_solve(context: Context, eqn: Any, *args: Array) -> list[Array]:
    """Walks what JAX itself would run to solve."""
    lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    begin = lengths.matvec + lengths.vecmat
    operands = [cheap(context.b, x) for x in args]
    right = operands[sum(lengths):]
    return context.call(jaxprs.solve, *operands[begin:begin + lengths.solve], *right)


LINALG: dict[str, Callable[..., Any]] = {
    "lu": written_in_jax(_lu, core_rank=2),
    "lu_pivots_to_permutation": written_in_jax(_permutation, "permutation_size", core_rank=1),
    "triangular_solve": written_in_jax(_triangular_solve, "left_side", "lower", "transpose_a", "unit_diagonal",
                                       core_rank=2),
    "cholesky": written_in_jax(_cholesky, core_rank=2),
    "cholesky_update": written_in_jax(_cholesky_update, core_rank=2),
    "symmetric_product": written_in_jax(_symmetric_product, "alpha", "beta", core_rank=2),
    "householder_product": written_in_jax(_householder_product, core_rank=2),
    "qr": _refusing(written_in_jax(_qr, "full_matrices", core_rank=2), "pivoting", "leave pivoting out"),
    "tridiagonal_solve": _refusing(written_in_jax(_tridiagonal_solve, core_rank=1), "perturb_singular",
                                   "leave perturb_singular out"),
    "custom_linear_solve": _linear_solve,
}
"""Primitive name -> rule."""
