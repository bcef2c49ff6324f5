"""A solution as a function: what a kernel keeps of each step for it, and the function that is made of that outside.

Whatever a method's values between steps are made of, within a step they are a polynomial, of a degree that the method names. So
its values at as many nodes say all of it, and nothing outside of the kernel has to know a method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from ..loop import AdjointHooks, Dimensions, Hooks, Part
from ..operands import Result
from ..solution import CODES
from .dense_interpolation import DenseInterpolation, nodes_of

if TYPE_CHECKING:
    from ..loop.lane import Lane

# The results: the values at the nodes of each step, and for each step where it begins, what that has lost to rounding, and its
# size, counted from t0 and running forwards.
VALUES, STEPS = "dense_values", "dense_steps"
COLUMNS = 3


@dataclasses.dataclass(frozen=True)
class Dense(Part):
    """Keeps every accepted step as a polynomial.

    Both ends of a step are nodes: where a trajectory jumps, the step that ends there and the one that begins there differ.

    max_steps: for how many steps there is room. degree: of the polynomials.
    """

    max_steps: int
    degree: int

    @property
    def nodes(self) -> tuple[float, ...]:
        """Fractions of a step, from 0 to 1."""
        return nodes_of(self.degree)

    @property
    def inside(self) -> bool:
        return True

    @property
    def counters(self) -> tuple[str, ...]:
        """Steps that are kept."""
        return ("dense_kept",)

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        """Of the buffers that `Saving` has for values inside of steps."""
        return {
            "output_state": dimensions.states if dimensions.moving else 0,
            "output_adjoint": dimensions.states if dimensions.backward else 0,
        }

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        rows = self.max_steps * (self.degree + 1)
        return (
            Result(VALUES, (rows, states), dtype, unwritten=float("inf")),
            Result(STEPS, (self.max_steps, COLUMNS), dtype, unwritten=float("inf")),
        )

    def hooks(self, lane: Lane) -> Hooks:
        from .dense_rows import build_hooks

        return build_hooks(lane, self)

    def adjoint(self, lane: Lane) -> AdjointHooks:
        from .dense_rows import build_adjoint

        return build_adjoint(lane, self)

    def present(self, found: Mapping[str, Any], request: Any) -> dict[str, Any]:
        times, steps = request.times, found[STEPS]
        values = found[VALUES].reshape(self.max_steps, self.degree + 1, -1)
        ended = found["result"] == CODES["successful"]
        taken = jnp.isfinite(steps[:, 0]).sum(dtype="int32")
        start, _, size = steps[jnp.maximum(taken - 1, 0)]
        reached = jnp.where(ended, jnp.abs(times.span), jnp.where(taken > 0, start + size, jnp.nan))
        return {
            "interpolation": DenseInterpolation(
                t0=times.t0,
                t1=times.t1,
                t0_rest=request.t0_rest,
                span=times.span,
                reached=reached,
                steps=steps,
                taken=taken,
                values=request.state.unflatten(values),
                nodes=self.nodes,
            )
        }
