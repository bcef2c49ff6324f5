"""The state of a solve: a pytree outside, a vector inside."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0
from jaxtyping import Array, PyTree

from ..kernel.partition import join
from ..settings import concrete, refuse_symbolic
from ..times import rounded

DTYPES = ("float32", "float64")


@dataclasses.dataclass(frozen=True)
class State:
    """How a state's pytree becomes the vector that a kernel integrates, and back."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtype: str

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, tree: PyTree, what: str, *, broadcast: bool = False) -> Array:
        """`tree`, of this structure, as one vector [size]. Raises ValueError that speaks of `what` where it is not."""
        leaves, structure = jax.tree.flatten(tree)
        if structure != self.structure:
            raise ValueError(self._unlike(tree, structure, what))
        parts = []
        for leaf, shape in zip(leaves, self.shapes, strict=True):
            leaf = _readable(leaf, what, self.dtype)
            if leaf.shape != shape and not (broadcast and leaf.shape == ()):
                raise ValueError(f"{what} has a leaf of shape {leaf.shape} where y0 has {shape}; they have to be equal")
            if not jnp.issubdtype(leaf.dtype, jnp.floating) and not jnp.issubdtype(leaf.dtype, jnp.integer):
                raise ValueError(f"{what} has a leaf of dtype {name_of(leaf.dtype)}; expected real numbers ({self.dtype})")
            parts.append(jnp.broadcast_to(leaf.astype(self.dtype), shape).reshape(-1))
        return join(parts)

    def _unlike(self, tree: PyTree, structure: Any, what: str) -> str:
        """Says how `tree` of another structure differs from y0, and what to write."""
        one = jax.tree.structure(0)
        if self.structure == one and isinstance(tree, (list, tuple)):
            scalars = all(np.shape(leaf) == () for leaf in jax.tree.leaves(tree))
            instead = "make one array of it, jnp.stack([...])" if scalars and self.shapes != ((),) else "give what is in it"
            return f"{what} is a {type(tree).__name__} of {len(tree)}, but y0 is one array: {instead}"
        if structure == one and self.structure == jax.tree.structure([0] * self.structure.num_leaves):
            return (
                f"{what} is one array, but y0 is a list of {self.structure.num_leaves}, each an array of its own: give y0 as "
                "one array, jnp.array([...])"
            )
        hint = ": is a return missing?" if tree is None else ""
        theirs, ours = _written(structure), _written(self.structure)
        return f"{what} has the structure {theirs}, but y0 has {ours}, where * is an array; they have to be equal{hint}"

    def unflatten(self, vector: Array) -> PyTree:
        """[..., size] back as a pytree of [..., *shape]."""
        leaves, start = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            part = vector if len(self.shapes) == 1 else vector[..., start : start + size]
            leaves.append(part.reshape(*vector.shape[:-1], *shape))
            start += size
        return jax.tree.unflatten(self.structure, leaves)


def _readable(leaf: Any, what: str, dtype: str) -> Array:
    """A leaf as JAX's array. Raises ValueError for what is none."""
    if isinstance(leaf, int) and not isinstance(leaf, bool):
        return jnp.asarray(rounded(np.asarray(concrete(leaf)), dtype))  # JAX's default integer may be too small for it
    try:
        return jnp.asarray(leaf)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what} has a leaf {leaf!r:.60}; expected numbers or an array of them ({dtype})") from error


def _written(structure: Any) -> str:
    """The structure of a pytree as the user would write it, with * in place of arrays."""
    text = str(structure).removeprefix("PyTreeDef(").removesuffix(")")
    return re.sub(r"CustomNode\(namedtuple\[(\w+)\], \[(.*?)\]\)", r"\1(\2)", text)


def name_of(dtype: Any) -> str:
    return "float0 (the derivative by an integer, which has no values)" if dtype == float0 else str(dtype)


def read_state(y0: PyTree) -> State:
    """Shapes and dtype of a state. Raises ValueError or TypeError for what can't be integrated."""
    leaves, structure = jax.tree.flatten(y0)
    shapes, dtypes = [], []
    for leaf in leaves:
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int, jax.ShapeDtypeStruct)) or isinstance(
            leaf, bool
        ):
            raise TypeError(f"y0 has a leaf of type {type(leaf).__name__}: expected arrays and numbers")
        known = getattr(leaf, "dtype", None)
        if isinstance(known, np.dtype) and (known.kind in "OSUmM" or known.names) or known in (np.longdouble, float0):
            name = name_of(known)
            raise ValueError(f"y0 has a leaf of dtype {name}: expected real numbers that JAX knows, float32 or float64")
        if isinstance(known, np.dtype) and not known.isnative:
            raise ValueError(f"y0 has a leaf of dtype {known}, its bytes in the other order: give y0.astype({known.name!r})")
        refuse_symbolic("y0", leaf)
        shapes.append(tuple(np.shape(leaf)) if not isinstance(leaf, jax.ShapeDtypeStruct) else leaf.shape)
        dtypes.append(leaf)
    if sum(math.prod(shape) for shape in shapes) == 0:
        raise ValueError(f"y0 has no components (structure {structure}): there is nothing to integrate")
    given: Any = jax.dtypes.canonicalize_dtype(jnp.result_type(*dtypes), allow_extended_dtype=True)
    if jnp.issubdtype(given, jnp.integer):
        given = jnp.result_type(float)
    if str(given) not in DTYPES:
        raise ValueError(
            f"y0 has dtype {given}: expected float32 or float64"
            + (" (write a complex state as its real and imaginary parts)" if "complex" in str(given) else "")
        )
    return State(structure, tuple(shapes), str(given))
