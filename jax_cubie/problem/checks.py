"""Numbers that the user gives, checked as far as they are known, as the arrays that a kernel is handed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..settings import concrete
from ..times import as_array, rounded
from .state import State


def step_size(dt0: Any, t0: Any, t1: Any, dtype: str) -> Any:
    """dt0 as an array. Raises ValueError where it is known and leads nowhere."""
    known, start, end = concrete(dt0), concrete(t0), concrete(t1)
    if known is not None:
        step = rounded(known, dtype)
        if not np.isfinite(step):
            raise ValueError(f"dt0={dt0}: expected a finite number" + f" of {dtype}" * bool(np.isfinite(known)))
        if np.any((step == 0) & (known != 0)):
            raise ValueError(f"dt0={dt0} is 0 in {dtype}, y0's dtype: take a larger step, or solve in float64")
        if start is not None and end is not None and start != end and not step * (1 if start < end else -1) > 0:
            raise ValueError(f"dt0={dt0}: expected a step from t0={t0} towards t1={t1}, so of the sign of t1 - t0")
    return as_array(dt0, dtype)


def flat_state(y0: PyTree, state: State) -> Any:
    """y0 as a vector; its shape where y0 is shapes."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(y0)):
        return jax.ShapeDtypeStruct((state.size,), jnp.dtype(state.dtype))
    return state.flatten(y0, "y0")
