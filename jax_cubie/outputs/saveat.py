"""What a solve saves."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

from ..settings import check_choice


class SaveAt(eqx.Module):
    """Which points of the solution are kept, in this order: t0, the times `ts`, t1.

    ts: shape [points], non-decreasing from t0 to t1 (non-increasing where t1 < t0); equal times are allowed, so that ragged
    lanes may repeat t1. Points inside a step are interpolated (cubic Hermite); `ts` never changes the steps.

    Raises ValueError where nothing would be saved, or where concrete `ts` are not one-dimensional, finite and in order.
    """

    t0: bool = eqx.field(static=True, default=False)
    t1: bool = eqx.field(static=True, default=False)
    ts: Real[Array, " points"] | None = None

    def __init__(self, *, t0: bool = False, t1: bool = False, ts: Any = None):
        self.t0 = check_choice("SaveAt(t0=...)", t0, (True, False))
        self.t1 = check_choice("SaveAt(t1=...)", t1, (True, False))
        self.ts = None if ts is None else _check_times(ts)
        if self.points == 0:
            what = "SaveAt()" if ts is None else "SaveAt(ts=[])"
            raise ValueError(f"{what} saves nothing: give t0=True, t1=True or ts=[...] with one time at least")

    @property
    def points(self) -> int:
        """Rows of the solution."""
        return int(self.t0) + int(self.t1) + (0 if self.ts is None else self.ts.shape[-1])


def _check_times(ts: Any) -> Any:
    if not isinstance(ts, jax.core.Tracer):
        if not isinstance(ts, jax.Array):
            try:
                ts = np.asarray(ts)
            except ValueError as error:
                raise ValueError(f"SaveAt(ts=...) takes an array of times: {error}") from None
        if not (jnp.issubdtype(ts.dtype, jnp.floating) or jnp.issubdtype(ts.dtype, jnp.integer)):
            raise ValueError(f"SaveAt(ts=...) takes real times, got dtype {ts.dtype}")
    if jnp.ndim(ts) != 1:
        raise ValueError(
            f"SaveAt(ts=...) takes a one-dimensional array of times, got shape {jnp.shape(ts)}; for times per lane, vmap a "
            "function that makes the SaveAt"
        )
    return ts
