"""A solution as a function of time: for each step a polynomial, by its values at nodes."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Real

from ..settings import check_choice, is_number, told
from ..times import since


class DenseInterpolation(eqx.Module):
    """The solution of one lane between t0 and t1, or up to where the lane ended; `Solution.interpolation` of a solve with
    `SaveAt(dense=True)`. Under vmap every array has the batch axes in front, and `evaluate` and `derivative` go through `vmap`.

    t0, t1: the ends. t0_rest: what t0 has lost to rounding. span: t1 - t0. reached: how far from t0 the lane came. taken: the
    steps that it took. steps: shape [max_steps, 3], where each begins, what that has lost to rounding, and its size, counted
    from t0 and running forwards. values: a pytree like y0, with leaves of shape [max_steps, nodes, ...]: at the nodes of each
    step. nodes: fractions of a step, from 0 to 1. Rows of steps that were not taken are infinite.
    """

    t0: Float[Array, ""]
    t1: Float[Array, ""]
    t0_rest: Float[Array, ""]
    span: Float[Array, ""]
    reached: Float[Array, ""]
    taken: Int[Array, ""]
    steps: Float[Array, "steps 3"]
    values: PyTree[Float[Array, "steps nodes ..."]]
    nodes: tuple[float, ...] = eqx.field(static=True)

    def evaluate(self, t0: Real[Array, "*times"] | float, t1: Any = None, left: bool = True) -> PyTree[Array]:
        """y at the time t0, a pytree like y0; with t1, how much it changes from t0 to t1.

        t0: a scalar, or an array of times, whose axes then stand in front. left: at a time at which one step ends and the next
        one begins, which of them is asked: they differ where the trajectory jumps. NaN outside of what was integrated, but for
        times that rounding has put there.

        Raises TypeError for what is no real number, and ValueError where this holds several lanes.
        """
        if t1 is not None:
            return jax.tree.map(operator.sub, self.evaluate(t1, left=left), self.evaluate(t0, left=left))
        return self._at(self._since_t0("t0", t0), check_choice("left", left, (True, False)), slope=False)

    def derivative(self, t: Real[Array, "*times"] | float, left: bool = True) -> PyTree[Array]:
        """dy/dt, the derivative of what `evaluate` gives, as precise as differences of the state over the step's size are.

        t, left, and what is raised: as of `evaluate`.
        """
        return self._at(self._since_t0("t", t), check_choice("left", left, (True, False)), slope=True)

    def _since_t0(self, name: str, t: Any) -> Any:
        """How far a time is from t0, forwards."""
        if self.taken.ndim:
            shape = self.taken.shape
            raise ValueError(
                f"this solution holds {math.prod(shape)} lanes, shape {shape}, each a function of its own: write "
                "jax.vmap(lambda solution, t: solution.evaluate(t), in_axes=(0, None))(solution, t), with in_axes=(0, 0) where "
                "each has a time of its own"
            )
        given = np.asarray(t) if isinstance(t, (list, tuple)) else t
        if not is_number(given):
            raise TypeError(f"{name} is {told(t)}: expected a time, or an array of times")
        dtype = self.span.dtype
        time = self._direction * jnp.asarray(since(given, self.t0, self.t0_rest, str(dtype)))
        # The ends themselves, as far as the time's own dtype holds them.
        unit, end = float(jnp.finfo(dtype).eps), jnp.abs(self.span)
        kind = given.dtype if hasattr(given, "dtype") else np.dtype(type(given))
        coarse = float(jnp.finfo(kind).eps) if jnp.issubdtype(kind, jnp.floating) else 0.0
        near = unit * end + coarse * jnp.abs(self.t0)
        inside = jnp.clip(time, 0, self.reached)
        moved = jax.lax.stop_gradient(inside - time)
        return time + jnp.where(jnp.abs(moved) <= near, moved, 0)

    @property
    def _direction(self) -> Any:
        return jnp.where(self.span >= 0, 1, -1).astype(self.span.dtype)

    @eqx.filter_jit
    def _at(self, times: Any, left: bool, slope: bool) -> PyTree[Array]:
        """Values or slopes at times that run forwards from t0."""

        def at(time: Any) -> PyTree[Array]:
            return self._slope(time, left) if slope else self._value(time, left)

        for _ in range(times.ndim):
            at = jax.vmap(at)
        return at(times)

    def _step_at(self, time: Any, left: bool) -> tuple[Any, Any, Any, Any]:
        """The number of the step that a time lies in, the fraction of it, its size, and whether there is one: if not, the step
        has the size 0."""
        begins = jax.lax.stop_gradient(self.steps[:, 0] + self.steps[:, 1])
        now, reached = (jax.lax.stop_gradient(one) for one in (time, self.reached))
        number = jnp.searchsorted(begins, now, side="left" if left else "right") - 1
        number = jnp.clip(number, 0, jnp.maximum(self.taken - 1, 0))
        known = (now >= 0) & (now <= reached) & (self.taken > 0)
        start, residue, size = jnp.where(known, self.steps[number], 0)
        moves = size > 0  # but for where t1 is t0
        theta = jnp.where(moves, (time - start - residue) / jnp.where(moves, size, 1), 0)
        return number, theta, size, known

    def _value(self, time: Any, left: bool) -> PyTree[Array]:
        number, theta, _, known = self._step_at(time, left)
        return self._of_step(number, known, lagrange(self.nodes, theta))

    def _slope(self, time: Any, left: bool) -> PyTree[Array]:
        number, theta, size, known = self._step_at(time, left)
        _, shares = jax.jvp(lambda x: lagrange(self.nodes, x), (theta,), (jnp.ones_like(theta),))
        return self._of_step(number, known, self._direction / jnp.where(known, size, 1) * shares)

    def _of_step(self, number: Any, known: Any, shares: Any) -> PyTree[Array]:
        """The sum of that step's values, each times its share: [nodes]. Where there is no step it is NaN, and so are its
        tangents; its cotangent goes to a row of a step that was not taken, which makes NaN of it in a lane that failed, and 0
        in others."""
        never = jnp.zeros_like(known)

        def total(leaf: Any) -> Any:
            found = jnp.tensordot(shares, jnp.where(known, leaf[number], 0), 1)
            lost = leaf[jnp.minimum(self.taken, leaf.shape[0] - 1), 0]
            # No cotangent passes the NaN: 0 times it is none.
            return jnp.where(known, found, lost + jnp.nan * jnp.where(never, lost + jnp.sum(shares), 1))

        return jax.tree.map(total, self.values)


@functools.lru_cache(maxsize=64)
def nodes_of(degree: int) -> tuple[float, ...]:
    """The degree + 1 points from 0 to 1 by whose values a polynomial of that degree is known well: the extrema of Chebyshev's,
    with both ends."""
    return (*(0.5 - 0.5 * math.cos(math.pi * number / degree) for number in range(degree)), 1.0)


def lagrange(nodes: Sequence[float], x: Any) -> Any:
    """For each of those nodes the polynomial that is 1 there and 0 at all others, at x: [nodes]. At both ends it is so exactly.

    The inner ones as products, which have no quotient that is 0 / 0 at a node; the outer ones by that straight lines are what
    they are: the sums over all nodes of 1 - node and of node, each times its polynomial, are 1 - x and x.
    """
    at = np.asarray(nodes, x.dtype)
    inner = at[1:-1]
    shares = jnp.ones(inner.shape, x.dtype)
    for number, node in enumerate(at):
        own = np.arange(1, len(at) - 1) == number
        shares = shares * jnp.where(own, 1, (x - node) / np.where(own, 1, inner - node))
    first, last = 1 - x - jnp.sum(shares * (1 - inner)), x - jnp.sum(shares * inner)
    return jnp.concatenate([first[None], shares, last[None]])
