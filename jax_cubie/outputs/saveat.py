"""What a solve saves."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree, Real

from ..foreign_names import front_door
from ..printing import describe_call
from ..settings import check_choice, concrete, refuse_tracer


class SaveAt(eqx.Module):
    """Which points of the solution are kept, and what of them.

    - t0, t1: the ends.
    - ts: shape [points], non-decreasing from t0 to t1 (non-increasing where t1 < t0); equal times are allowed, so that ragged
      lanes may repeat t1. Points inside a step are interpolated by the method's own dense output, or by a cubic Hermite
      polynomial where it has none; `ts` never changes the steps.
    - side: of times in `ts` at which the state jumps, whether it is saved before, "left", or behind the jump, "right"; or
      booleans [points], True for the latter. At t1 no jump is taken.
    - steps: True or n > 0: the end of every accepted step, or of every n-th. There is room for `max_steps // n` rows, so that
      the solve wants to be told max_steps.
    - fn: `fn(t, y, args)`, any pytree of arrays that is kept in place of y; with drivers `fn(t, y, args, u)`.

    The rows stand in the order of time. With `steps` the times are `Solution.ts`, and rows that were not needed stand at the
    end with infinite times and values, as in diffrax; t1 is not saved again where a saved step ends there, and has no row in
    a lane that did not reach it.

    Raises ValueError where nothing would be saved, or where concrete `ts` are not one-dimensional and real; TypeError where
    fn can't be called or steps is traced.
    """

    t0: bool = eqx.field(static=True, default=False)
    t1: bool = eqx.field(static=True, default=False)
    ts: Real[Array, " points"] | None = None
    side: Bool[Array, " points"] | None = None  # None: left of all
    steps: int = eqx.field(static=True, default=0)
    fn: Callable[..., PyTree] | None = None

    @front_door
    def __init__(
        self,
        *,
        t0: bool = False,
        t1: bool = False,
        ts: Any = None,
        side: Any = "left",
        steps: bool | int = False,
        fn: Any = None,
    ):
        self.t0 = check_choice("SaveAt(t0=...)", t0, (True, False))
        self.t1 = check_choice("SaveAt(t1=...)", t1, (True, False))
        self.ts = None if ts is None else _check_times(ts)
        self.side = _check_side(side, self.points)
        self.steps = _check_steps(steps)
        if fn is not None and not callable(fn):
            raise TypeError(f"SaveAt(fn=...) is {fn!r} of type {type(fn).__name__}: expected a function fn(t, y, args)")
        self.fn = fn
        if not (self.t0 or self.t1 or self.points or self.steps):
            what = "SaveAt()" if ts is None else "SaveAt(ts=[])"
            raise ValueError(
                f"{what} saves nothing: give t0=True, t1=True, steps=True or ts=[...] with one time at least"
            )

    def __repr__(self) -> str:
        known = None if self.side is None else concrete(self.side)
        side = "right" if known is not None and known.all() else self.side
        given = {"t0": self.t0, "t1": self.t1, "ts": self.ts, "side": side, "steps": self.steps, "fn": self.fn}
        return describe_call("SaveAt", (), given, {**dict.fromkeys(given), "t0": False, "t1": False, "steps": 0})

    @property
    def points(self) -> int:
        """How many times `ts` has."""
        return 0 if self.ts is None else self.ts.shape[-1]


def _check_side(side: Any, points: int) -> Any:
    """Booleans, whether a point is on the right; None where all are on the left."""
    if isinstance(side, str):
        check_choice("SaveAt(side=...)", side, ("left", "right"))
        if side == "left":
            return None
    if not points:
        raise ValueError(f"SaveAt(side={side!r}) says on which side of a jump times of ts= are, of which there are none")
    if isinstance(side, str):
        return np.ones(points, bool)
    side = np.asarray(side) if isinstance(side, (list, tuple)) else side
    if getattr(side, "dtype", None) != np.bool_ or side.shape != (points,):
        raise ValueError(
            f"SaveAt(side={side!r:.60}): expected 'left', 'right', or booleans of the shape of ts, ({points},), True for "
            "'right'"
        )
    return side


def _check_steps(steps: Any) -> int:
    refuse_tracer("SaveAt(steps=...)", steps)
    if isinstance(steps, (bool, np.bool_)):
        return int(steps)
    try:
        every = operator.index(steps)
    except TypeError:
        every = -1
    if every < 0:
        raise ValueError(f"SaveAt(steps={steps!r}): expected True, False, or n > 0 for every n-th step")
    return every


def _check_times(ts: Any) -> Any:
    if not isinstance(ts, (jax.core.Tracer, jax.Array, jax.ShapeDtypeStruct)):
        traced = any(isinstance(time, jax.core.Tracer) for time in jax.tree.leaves(ts))
        try:
            ts = jnp.asarray(ts) if traced else np.asarray(ts)
        except ValueError as error:
            raise ValueError(f"SaveAt(ts=...) takes an array of times: {error}") from None
    if not (jnp.issubdtype(ts.dtype, jnp.floating) or jnp.issubdtype(ts.dtype, jnp.integer)):
        raise ValueError(f"SaveAt(ts=...) takes real times, got dtype {ts.dtype}")
    if len(ts.shape) != 1:
        raise ValueError(
            f"SaveAt(ts=...) takes a one-dimensional array of times, got shape {ts.shape}; for times per lane, vmap a "
            "function that makes the SaveAt"
        )
    return ts
