"""diffrax's SaveAt as launches of ours: each of its SubSaveAts has rows of its own, in as few launches as hold them well."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..outputs import SaveAt

# Several SubSaveAts share a launch, in which every function is evaluated in every row, as long as that takes so many times the
# memory at most of launches of their own. Those repeat the steps.
_MOST_MEMORY = 4
_SAVE_Y = diffrax.SubSaveAt(t1=True).fn


@dataclasses.dataclass(frozen=True)
class Saved:
    """Where a SubSaveAt finds what it saves: the number of the function whose values it takes, None where there is but one,
    and its rows, None where they are all."""

    function: int | None
    rows: Any


@dataclasses.dataclass(frozen=True)
class Launch:
    """One solve of ours, and what each SubSaveAt, by its number, takes of it."""

    saveat: SaveAt
    saved: dict[int, Saved]


def is_sub(value: Any) -> bool:
    """Whether it is a SubSaveAt."""
    return isinstance(value, diffrax.SubSaveAt)


def check_saveat(saveat: Any, max_steps: int | None) -> None:
    """Raises TypeError or ValueError for what can't be saved here."""
    if not isinstance(saveat, diffrax.SaveAt):
        raise TypeError(f"saveat is {saveat!r:.80} of type {type(saveat).__name__}: expected diffrax's SaveAt")
    if saveat.dense:
        raise ValueError("SaveAt(dense=True): there is no solution as a function here; save the times, SaveAt(ts=...)")
    for name in ("solver_state", "controller_state", "made_jump"):
        if getattr(saveat, name):
            raise ValueError(
                f"SaveAt({name}=True): a solve can't be resumed here; another one begins with y0=ys[-1], and dt0 if its first "
                "step is known"
            )
    for sub in jax.tree.leaves(saveat.subs, is_leaf=is_sub):
        if not is_sub(sub):
            raise TypeError(f"SaveAt(subs=...) has {sub!r:.80} of type {type(sub).__name__}: expected SubSaveAts")
        if sub.steps and max_steps is None:
            raise ValueError(
                f"SaveAt(steps={sub.steps}) keeps a row for every step there may be, and max_steps is None: give max_steps=, "
                "somewhat more steps than you expect"
            )


def alike(saveat: Any) -> tuple[int, ...]:
    """For each SubSaveAt the first that saves at the same times; before jit, behind which equal arrays are no longer known."""
    subs = jax.tree.leaves(saveat.subs, is_leaf=is_sub)

    def same(one: Any, other: Any) -> bool:
        flags = ("t0", "t1", "steps")
        return all(getattr(one, flag) == getattr(other, flag) for flag in flags) and _same_times(one.ts, other.ts)

    return tuple(next(number for number, other in enumerate(subs) if other is sub or same(sub, other)) for sub in subs)


def _same_times(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if one is None or other is None or one.shape != other.shape:
        return False
    if any(isinstance(ts, jax.core.Tracer) for ts in (one, other)):
        return False
    return bool(np.array_equal(one, other))


def launches_of(
    subs: Sequence[Any], first_alike: Sequence[int], direction: Any, time_dtype: Any, y0: PyTree, args: PyTree
) -> list[Launch]:
    """The launches, with one at least. direction: the sign of t1 - t0."""
    if not subs:
        return [Launch(SaveAt(t1=True), {})]
    rows = {number: [n for n, first in enumerate(first_alike) if first == number] for number in dict.fromkeys(first_alike)}
    plain = [number for number in rows if not subs[number].steps]
    if len(plain) > 1 and not _merge_well(subs, rows, plain, y0, args):
        plain = []
    together = [number for number in plain if len(plain) > 1]
    launches = [_merged(subs, {n: rows[n] for n in together}, direction, time_dtype)] if together else []
    for number, members in rows.items():
        if number not in together:
            fn, functions = _functions([subs[member].fn for member in members])
            sub = subs[number]
            ts = None if sub.ts is None else sub.ts.astype(time_dtype)
            saveat = SaveAt(t0=sub.t0, t1=sub.t1, ts=ts, steps=sub.steps, fn=fn)
            saved = {member: Saved(function, None) for member, function in zip(members, functions, strict=True)}
            launches.append(Launch(saveat, saved))
    return launches


def _functions(fns: Sequence[Any]) -> tuple[Any, list[int | None]]:
    """One function for all, None for the state itself, and for each the number of its values in what that returns."""
    distinct = list({id(fn): fn for fn in fns}.values())
    if len(distinct) == 1:
        return (None if distinct[0] is _SAVE_Y else distinct[0]), [None] * len(fns)

    def every(t: Any, y: PyTree, args: PyTree) -> tuple[PyTree, ...]:
        return tuple(fn(t, y, args) for fn in distinct)

    return every, [next(n for n, one in enumerate(distinct) if one is fn) for fn in fns]


def _count(sub: Any) -> int:
    """Its rows, without those of steps."""
    return bool(sub.t0) + (0 if sub.ts is None else sub.ts.shape[0]) + bool(sub.t1)


def _merge_well(subs: Sequence[Any], rows: dict[int, list[int]], chosen: Sequence[int], y0: PyTree, args: PyTree) -> bool:
    """Whether one launch for all of them takes little more memory than several."""
    time = jnp.zeros((), jnp.result_type(*jax.tree.leaves(y0)))

    def size(fn: Any) -> int:
        made = eqx.filter_eval_shape(fn, time, y0, args)
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(made) if hasattr(leaf, "shape"))

    sizes = {id(subs[member].fn): size(subs[member].fn) for number in chosen for member in rows[number]}
    apart = sum(_count(subs[n]) * sum({id(subs[m].fn): sizes[id(subs[m].fn)] for m in rows[n]}.values()) for n in chosen)
    return sum(_count(subs[number]) for number in chosen) * sum(sizes.values()) <= _MOST_MEMORY * apart


def _merged(subs: Sequence[Any], rows: dict[int, list[int]], direction: Any, time_dtype: Any) -> Launch:
    """One launch whose rows are those of all: t0, the times of all in order, t1."""
    t0, t1 = (any(getattr(subs[number], end) for number in rows) for end in ("t0", "t1"))
    timed = [number for number in rows if subs[number].ts is not None]
    ts, places = None, {}
    if timed:
        ts = jnp.concatenate([subs[number].ts.astype(time_dtype) for number in timed])
        order = jnp.argsort(ts * direction, stable=True)
        place = jnp.argsort(order) + int(t0)
        ts, begin = ts[order], 0
        for number in timed:
            places[number] = place[begin : begin + subs[number].ts.shape[0]]
            begin += subs[number].ts.shape[0]
    last = int(t0) + (0 if ts is None else ts.shape[0])
    members = [member for several in rows.values() for member in several]
    fn, functions = _functions([subs[member].fn for member in members])
    function_of = dict(zip(members, functions, strict=True))
    saved = {}
    for number, several in rows.items():
        sub = subs[number]
        pieces = [jnp.array([0])] if sub.t0 else []
        pieces += [places[number]] if number in places else []
        pieces += [jnp.array([last])] if sub.t1 else []
        taken = jnp.concatenate(pieces)
        saved |= {member: Saved(function_of[member], taken) for member in several}
    return Launch(SaveAt(t0=t0, t1=t1, ts=ts, fn=fn), saved)


def take(ts: Any, ys: PyTree, others: PyTree, saved: Saved) -> tuple[Any, PyTree, PyTree]:
    """Of the times, values and other rows of a launch those of a SubSaveAt."""
    if saved.function is not None:
        ys = ys[saved.function]
    if saved.rows is None:
        return ts, ys, others
    return jax.tree.map(lambda leaf: jnp.take(leaf, saved.rows, axis=0), (ts, ys, others))


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
