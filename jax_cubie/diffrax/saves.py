"""diffrax's SaveAt as ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..outputs import SaveAt, SubSaveAt
from ..settings import told

_SAVE_Y = diffrax.SubSaveAt(t1=True).fn


def is_sub(value: Any) -> bool:
    """Whether it is a SubSaveAt."""
    return isinstance(value, diffrax.SubSaveAt)


def check_saveat(saveat: Any, max_steps: int | None) -> None:
    """Raises TypeError or ValueError for what can't be saved here."""
    if not isinstance(saveat, diffrax.SaveAt):
        raise TypeError(f"saveat is {told(saveat)}: expected diffrax's SaveAt")
    if saveat.dense and max_steps is None:
        raise ValueError(
            "SaveAt(dense=True) keeps each step there may be, and max_steps is None: give max_steps=, somewhat more steps than "
            "you expect"
        )
    for name in ("solver_state", "controller_state", "made_jump"):
        if getattr(saveat, name):
            raise ValueError(
                f"SaveAt({name}=True): a solve can't be resumed here; another one begins with y0=ys[-1], and dt0 if its first "
                "step is known"
            )
    for sub in jax.tree.leaves(saveat.subs, is_leaf=is_sub):
        if not is_sub(sub):
            raise TypeError(f"SaveAt(subs=...) has {told(sub)}: expected SubSaveAts")
        if sub.steps and max_steps is None:
            raise ValueError(
                f"SaveAt(steps={sub.steps}) keeps a row for every step there may be, and max_steps is None: give max_steps=, "
                "somewhat more steps than you expect"
            )


def is_state(sub: Any) -> bool:
    """Whether a SubSaveAt keeps the state itself."""
    return sub.fn is _SAVE_Y


def saveat_of(saveat: Any, time_dtype: Any, whole: Callable[[Any], Any]) -> SaveAt:
    """The same, with times of that dtype, and functions as `whole` makes them of its own; t1 where nothing is saved."""

    def points(sub: Any) -> dict[str, Any]:
        ts = None if sub.ts is None else sub.ts.astype(time_dtype)
        fn = None if sub.fn is _SAVE_Y else whole(sub.fn)
        return {"t0": sub.t0, "t1": sub.t1, "ts": ts, "steps": sub.steps, "fn": fn}

    if is_sub(saveat.subs):
        return SaveAt(**points(saveat.subs), dense=saveat.dense)
    if not jax.tree.leaves(saveat.subs, is_leaf=is_sub):
        return SaveAt(t1=not saveat.dense, dense=saveat.dense)
    return SaveAt(subs=jax.tree.map(lambda sub: SubSaveAt(**points(sub)), saveat.subs, is_leaf=is_sub), dense=saveat.dense)


def packed(ts: Any, ys: PyTree, reached: Any) -> tuple[Any, PyTree]:
    """The rows that an event left over, one behind the other as diffrax has them, and infinite ones behind. reached: [rows]."""
    order = jnp.argsort(~reached, stable=True)
    rest = jnp.arange(reached.shape[0]) >= reached.sum()

    def pack(leaf: Any) -> Any:
        rows = rest.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(rows, jnp.asarray(_largest(leaf.dtype, 1), leaf.dtype), jnp.take(leaf, order, axis=0))

    return pack(ts), jax.tree.map(pack, ys)


def without_unreached(ts: Any, ys: PyTree, failed: Any) -> tuple[Any, PyTree]:
    """Rows that a lane that failed did not reach, as diffrax has them: infinite, times and values. Here they are NaN."""
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(ys)]
    missing = failed
    for leaf in leaves:
        missing = missing & jnp.all(leaf == _largest(leaf.dtype, -1) if leaf.dtype.kind != "f" else jnp.isnan(leaf), axis=1)

    def fill(leaf: Any) -> Any:
        rows = missing.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(rows, jnp.asarray(_largest(leaf.dtype, 1), leaf.dtype), leaf)

    return fill(ts), jax.tree.map(fill, ys)


def _largest(dtype: Any, sign: int) -> Any:
    """The end of a dtype's range, infinite in a float."""
    if dtype.kind == "f":
        return sign * np.inf
    if dtype.kind == "b":
        return sign > 0
    return np.iinfo(dtype).max if sign > 0 else np.iinfo(dtype).min
