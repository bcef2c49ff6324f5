"""What methods evaluate: f, and functions that are derived of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..linear import along_state
from ..operands import FieldFunction

__all__ = ["FieldFunction", "along_state", "time_derivative"]


def time_derivative(field: Callable) -> FieldFunction:
    """The derivative of f by the time."""

    def derivative(t: Any, y: Any, *values: Any) -> Any:
        return jax.jvp(lambda t: field(t, y, *values), (t,), (jnp.ones_like(t),))[1]

    return FieldFunction(derivative)
