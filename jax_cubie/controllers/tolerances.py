"""The tolerances of a solve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Real

from ..settings import Component, Range, concrete
from ..times import as_array, rounded

Tolerance = PyTree[Real[Array, "..."] | float | int]


class Tolerances(Component):
    """rtol, atol: the relative and the absolute tolerance of each component, a scalar each or a pytree like y0."""

    rtol: Tolerance = 1e-6
    atol: Tolerance = 1e-6

    RANGE: ClassVar[Range] = Range(0, low_allowed=True, high_allowed=True)

    def __check_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises ValueError or TypeError for numbers that are known and wrong."""
        self.check_all(self.settings())

    @classmethod
    def check_all(cls, named: Mapping[str, Tolerance]) -> None:
        """The same, of any tolerances by their names."""
        for name, tree in named.items():
            for leaf in jax.tree.leaves(tree) or [tree]:
                cls.RANGE.check(name, leaf)

    def operands(self, state: Any) -> dict[str, Any]:
        self.check()
        arrays = {name: tolerance_array(name, tree, state) for name, tree in self.settings().items()}
        known = [known_tolerances(tree, state) for tree in self.settings().values()]
        for one, other in zip(*known, strict=True):
            if one is not None and other is not None and not np.all(one + other > 0):
                raise ValueError(
                    f"rtol and atol are both 0 (in {state.dtype}, y0's dtype), which no step can meet: give at least one of "
                    "them"
                )
        return arrays


def own_tolerances(
    said: str, where: str, prefix: str, given: Mapping[str, Tolerance], state: Any, others: Mapping[str, Any]
) -> dict[str, Any]:
    """The operands of what judges by tolerances of its own, `given`, and by the solve's where there are none: by their names
    behind the prefix. said: what the user calls it; where: what he can write. others: the other operands of the solve.

    Raises TypeError or ValueError for numbers that are known and wrong, or not there at all.
    """
    Tolerances.check_all(given)
    for name in ("rtol", "atol"):
        if name not in given and name not in others:
            raise ValueError(
                f"{said} goes by the {name} of the solve, which has none, since nobody judges its steps: write {where}"
            )
    known = [known_tolerances(tree, state) for tree in given.values()]
    if len(known) == 2 and any(
        one is not None and other is not None and not (one + other > 0).all() for one, other in zip(*known, strict=True)
    ):
        raise ValueError(f"{said}: rtol and atol are both 0 in {state.dtype}, y0's dtype: give one of them at least")
    return {f"{prefix}_{name}": tolerance_array(name, tree, state) for name, tree in given.items()}


def _is_scalar(tree: Tolerance) -> bool:
    return jax.tree.structure(tree) == jax.tree.structure(0)


def tolerance_array(name: str, tree: Tolerance, state: Any) -> Any:
    """The tolerance of that name as the kernel reads it: a scalar, or one for each component of the state."""
    if isinstance(tree, jax.ShapeDtypeStruct) or (_is_scalar(tree) and jnp.shape(tree) == ()):
        return as_array(tree, state.dtype)
    return state.flatten(tree, name, broadcast=True)


def known_tolerances(tree: Tolerance, state: Any) -> list[Any]:
    """For each leaf of the state its tolerance as the kernel sees it, None where it is traced."""
    leaves = [concrete(leaf) for leaf in jax.tree.leaves(tree)]
    leaves = [None if leaf is None else rounded(leaf, state.dtype) for leaf in leaves]
    return leaves * len(state.shapes) if _is_scalar(tree) else leaves
