"""Derivatives of interpolating cubic polynomials at the points that they go through.

widths: [points - 1], from one point to the next. values: [points, ...]; periodic: whether the last point stands for the first.
All answer with [points, ...].
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def _secants(widths: Array, values: Array) -> tuple[Array, Array]:
    """The widths as an array that goes with values, and the slopes of straight lines from one point to the next."""
    wide = widths.reshape(-1, *(1,) * (values.ndim - 1))
    return wide, jnp.diff(values, axis=0) / wide


def cubic_slopes(
    widths: Float[Array, " intervals"], values: Float[Array, "points ..."], *, periodic: bool
) -> Float[Array, "points ..."]:
    """Those of the spline whose second derivative is continuous: de Boor, A Practical Guide to Splines (1978), chapter IV, with
    its "not-a-knot" conditions at the ends, for four points or more."""
    h, secant = _secants(widths, values)
    if periodic:
        # Of each point but the last, with what lies before the first.
        before, behind = jnp.roll(widths, 1), widths
        right = 3 * (h * jnp.roll(secant, 1, axis=0) + jnp.roll(h, 1, axis=0) * secant)
        found = _solve_cyclic(behind, 2 * (before + behind), before, right)
        return jnp.concatenate([found, found[:1]])
    inner = 3 * (h[1:] * secant[:-1] + h[:-1] * secant[1:])
    left, right = widths[0] + widths[1], widths[-1] + widths[-2]
    first = ((h[0] + 2 * left) * h[1] * secant[0] + h[0] ** 2 * secant[1]) / left
    last = (h[-1] ** 2 * secant[-2] + (2 * right + h[-1]) * h[-2] * secant[-1]) / right
    zero = jnp.zeros(1, widths.dtype)
    lower = jnp.concatenate([zero, widths[1:], right[None]])
    diagonal = jnp.concatenate([widths[1:2], 2 * (widths[:-1] + widths[1:]), widths[-2:-1]])
    upper = jnp.concatenate([left[None], widths[:-1], zero])
    return _solve(lower, diagonal, upper, jnp.concatenate([first[None], inner, last[None]]))


def _solve(lower: Array, diagonal: Array, upper: Array, right: Array) -> Array:
    """Of a tridiagonal system; the first of `lower` and the last of `upper` are 0."""
    return lax.linalg.tridiagonal_solve(lower, diagonal, upper, right.reshape(len(right), -1)).reshape(right.shape)


def _solve_cyclic(lower: Array, diagonal: Array, upper: Array, right: Array) -> Array:
    """Of one where the first of `lower` stands in the upper right corner, and the last of `upper` in the lower left one: by the
    formula of Sherman and Morrison."""
    top, bottom, pivot = lower[0], upper[-1], -diagonal[0]
    plain = diagonal.at[0].add(-pivot).at[-1].add(-bottom * top / pivot)
    corner = jnp.zeros_like(diagonal).at[0].set(pivot).at[-1].set(bottom)
    columns = jnp.concatenate([right.reshape(len(right), -1), corner[:, None]], axis=1)
    solved = _solve(lower.at[0].set(0), plain, upper.at[-1].set(0), columns)
    found, change = solved[:, :-1], solved[:, -1:]
    share = (found[0] + top / pivot * found[-1]) / (1 + change[0] + top / pivot * change[-1])
    return (found - change * share).reshape(right.shape)


def pchip_slopes(
    widths: Float[Array, " intervals"], values: Float[Array, "points ..."], *, periodic: bool
) -> Float[Array, "points ..."]:
    """Those of a cubic that is monotone wherever the values are: weighted harmonic means by Fritsch and Butland, A method for
    constructing local monotone piecewise cubic interpolants, SIAM J. Sci. Stat. Comput. 5 (1984); at the ends three-point
    formulas that keep the shape, as in Moler, Numerical Computing with MATLAB (2004), section 3.4."""
    h, secant = _secants(widths, values)
    if periodic:
        before = _means(jnp.roll(h, 1, axis=0), h, jnp.roll(secant, 1, axis=0), secant)
        return jnp.concatenate([before, before[:1]])
    if len(values) == 2:
        return jnp.concatenate([secant, secant])
    inner = _means(h[:-1], h[1:], secant[:-1], secant[1:])
    first = _end(h[0], h[1], secant[0], secant[1])
    last = _end(h[-1], h[-2], secant[-1], secant[-2])
    return jnp.concatenate([first[None], inner, last[None]])


def _means(h_before: Array, h_behind: Array, before: Array, behind: Array) -> Array:
    """0 where the slopes on both sides have not the same sign."""
    same = (jnp.sign(before) == jnp.sign(behind)) & (before != 0)
    one, other = (jnp.where(same, slope, 1) for slope in (before, behind))
    first, second = 2 * h_behind + h_before, h_behind + 2 * h_before
    return jnp.where(same, (first + second) / (first / one + second / other), 0)


def _end(h: Any, next_h: Any, secant: Array, next_secant: Array) -> Array:
    slope = ((2 * h + next_h) * secant - h * next_secant) / (h + next_h)
    turns = (jnp.sign(secant) != jnp.sign(next_secant)) & (jnp.abs(slope) > 3 * jnp.abs(secant))
    return jnp.where(jnp.sign(slope) != jnp.sign(secant), 0, jnp.where(turns, 3 * secant, slope))
