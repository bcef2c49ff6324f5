"""What a solve saves."""

from __future__ import annotations

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
from ..settings import as_python, check_choice, concrete, is_real, refuse_symbolic, refuse_tracer, told


class SubSaveAt(eqx.Module):
    """Some points of the solution, and what is kept of them: one of several in `SaveAt(subs=...)`.

    - t0, t1: the ends.
    - ts: shape [points], non-decreasing from t0 to t1 (non-increasing where t1 < t0); equal times are allowed, so that ragged
      lanes may repeat t1. Points inside a step are interpolated by the method's own dense output, or by a cubic Hermite
      polynomial where it has none; `ts` never changes the steps.
    - side: of times in `ts` at which the state jumps, whether it is saved before, "left" or None, or behind the jump, "right";
      or booleans [points], True for the latter. At t1 no jump is taken.
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
        self, *, t0: bool = False, t1: bool = False, ts: Any = None, side: Any = "left", steps: bool | int = False,
        fn: Any = None,
    ):
        self._keep("SubSaveAt", t0, t1, ts, side, steps, fn)
        if not self._saves:
            raise _nothing("SubSaveAt", ts)

    def _keep(self, door: str, t0: Any, t1: Any, ts: Any, side: Any, steps: Any, fn: Any) -> None:
        """Checks the fields, in words of who was given them, and sets them."""
        self.t0 = check_choice(f"{door}(t0=...)", t0, (True, False))
        self.t1 = check_choice(f"{door}(t1=...)", t1, (True, False))
        self.ts = None if ts is None else _check_times(f"{door}(ts=...)", ts)
        self.side = _check_side(door, side, self.points)
        self.steps = _check_steps(door, steps)
        if fn is not None and not callable(fn):
            raise TypeError(f"{door}(fn=...) is {told(fn)}: expected a function fn(t, y, args)")
        self.fn = fn

    def __repr__(self) -> str:
        return describe_call(type(self).__name__, (), self._given, _DEFAULTS)

    @property
    def _given(self) -> dict[str, Any]:
        known = None if self.side is None else concrete(self.side)
        side = "right" if known is not None and known.all() else self.side
        return {"t0": self.t0, "t1": self.t1, "ts": self.ts, "side": side, "steps": self.steps, "fn": self.fn}

    @property
    def _saves(self) -> bool:
        """Whether there is a point."""
        return bool(self.t0 or self.t1 or self.points or self.steps)

    @property
    def points(self) -> int:
        """How many times `ts` has."""
        return 0 if self.ts is None else self.ts.shape[-1]


class SaveAt(SubSaveAt):
    """Which points of the solution are kept, and what of them; see `SubSaveAt` for t0, t1, ts, side, steps and fn.

    - subs: in place of these, a pytree of `SubSaveAt`s, each with its own times and its own fn. `Solution.ts` and
      `Solution.ys` then are such pytrees, of the times and of what is kept.
    - dense: whether the solution is kept as a function, `Solution.evaluate(t)` and `Solution.derivative(t)`: for each step the
      polynomial that the method has for points between. There is room for `max_steps` steps, so that the solve wants to be
      told max_steps. Alone, or beside others.

    Raises what `SubSaveAt` raises; ValueError where subs stand beside other points, and TypeError where they are none.
    """

    dense: bool = eqx.field(static=True, default=False)
    subs: PyTree[SubSaveAt] = None

    @front_door
    def __init__(
        self, *, t0: bool = False, t1: bool = False, ts: Any = None, side: Any = "left", steps: bool | int = False,
        fn: Any = None, subs: PyTree[SubSaveAt] = None, dense: bool = False,
    ):
        self._keep("SaveAt", t0, t1, ts, side, steps, fn)
        self.dense = check_choice("SaveAt(dense=...)", dense, (True, False))
        self.subs = subs
        given = [name for name in ("t0", "t1", "steps") if getattr(self, name)]
        given += [name for name in ("ts", "fn") if getattr(self, name) is not None]
        for sub in jax.tree.leaves(subs, is_leaf=is_sub):
            if not is_sub(sub) or isinstance(sub, SaveAt):
                raise TypeError(f"SaveAt(subs=...) has {told(sub)}: expected SubSaveAts")
        if subs is not None and given:
            raise ValueError(f"SaveAt(subs=...) is given beside {given[0]}: make that a SubSaveAt of its own, among the subs")
        if not self._saves and (fn is not None or not (self.dense or self.several)):
            raise _nothing("SaveAt", ts)

    def __repr__(self) -> str:
        given = {**self._given, "subs": self.subs, "dense": self.dense}
        return describe_call("SaveAt", (), given, {**_DEFAULTS, "subs": None, "dense": False})

    @property
    def several(self) -> tuple[SubSaveAt, ...]:
        """The subs, in the order of their pytree."""
        return tuple(jax.tree.leaves(self.subs, is_leaf=is_sub))

    @property
    def numbered(self) -> dict[int | None, SubSaveAt]:
        """All that keep points, by their number; None: the only one, which is no sub."""
        return {None: self} if self._saves else dict(enumerate(self.several))


_DEFAULTS = {"t0": False, "t1": False, "ts": None, "side": None, "steps": 0, "fn": None}


def is_sub(value: Any) -> bool:
    """Whether it is one of several, in a pytree of them."""
    return isinstance(value, SubSaveAt)


def _nothing(door: str, ts: Any) -> ValueError:
    what = f"{door}()" if ts is None else f"{door}(ts=[])"
    also = "; or dense=True, for the solution as a function" if door == "SaveAt" else ""
    return ValueError(f"{what} saves nothing: give t0=True, t1=True, steps=True or ts=[...] with one time at least{also}")


def _check_side(door: str, side: Any, points: int) -> Any:
    """Booleans, whether a point is on the right; None, which is how it is kept, where all are on the left."""
    if side is None:
        return None
    if isinstance(side, str):
        check_choice(f"{door}(side=...)", side, ("left", "right"))
        if side == "left":
            return None
    if not points:
        raise ValueError(f"{door}(side={side!r}) says on which side of a jump times of ts= are, of which there are none")
    if isinstance(side, str):
        return np.ones(points, bool)
    side = np.asarray(side) if isinstance(side, (list, tuple)) else side
    if getattr(side, "dtype", None) != np.bool_ or side.shape != (points,):
        raise ValueError(
            f"{door}(side={side!r:.60}): expected 'left', 'right', or booleans of the shape of ts, ({points},), True for "
            "'right'"
        )
    return side


def _check_steps(door: str, steps: Any) -> int:
    refuse_tracer(f"{door}(steps=...)", steps)
    every = as_python(steps)
    if not isinstance(every, int) or every < 0:
        raise ValueError(f"{door}(steps={steps!r}): expected True, False, or n > 0 for every n-th step")
    return int(every)


def _check_times(said: str, ts: Any) -> Any:
    if not isinstance(ts, (jax.core.Tracer, jax.Array, jax.ShapeDtypeStruct)):
        traced = any(isinstance(time, jax.core.Tracer) for time in jax.tree.leaves(ts))
        try:
            ts = jnp.asarray(ts) if traced else np.asarray(ts)
        except ValueError as error:
            raise ValueError(f"{said} takes an array of times: {error}") from None
    if not is_real(ts.dtype):
        raise ValueError(f"{said} takes real times, got dtype {ts.dtype}")
    if len(ts.shape) != 1:
        raise ValueError(
            f"{said} takes a one-dimensional array of times, got shape {ts.shape}; for times per lane, vmap a "
            "function that makes the SaveAt"
        )
    refuse_symbolic(said, ts)
    return ts
