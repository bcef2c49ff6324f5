"""Measured or designed inputs: values at given times, and what they are in between."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree, Real

from ..foreign_names import front_door
from ..printing import describe_call
from ..settings import check_choice, concrete, is_number, refuse_symbolic
from ..times import check_scalar
from .given import real

# How many points each kind needs.
KINDS = {"linear": 2, "cubic": 4, "pchip": 2, "previous": 1}
OUTSIDE = ("hold", "periodic", "nan")
# How far the ends of a period may be apart, in units of rounding of the largest value.
_ROUNDINGS = 16


class Driver(eqx.Module):
    """A function of time, given by its values at some times: `Driver(ts, values)`, or `Driver(t0=, dt=, values=)` where these
    are `t0 + dt * i`. A solve hands its values at t to f, as what `drivers=` is a pytree of: `f(t, y, args, u)`. Where points
    are even, the interval is computed rather than looked for.

    - ts: shape [points], increasing; if they are known (not traced) and as even as they are rounded, the same as t0 and dt.
      t0, dt: numbers, dt above 0.
    - values: a pytree of real arrays [points, ...], which become of the solve's dtype; a list of numbers is an array. u has the
      same structure, with arrays [...].
    - kind: what lies in between. "linear": straight lines. "cubic": the spline of four points or more, whose second derivative
      is continuous, and whose third one, too, at the second and the last but one ("not-a-knot", as SciPy's `CubicSpline`; where
      it is periodic, so are these derivatives). "pchip": cubic polynomials that are monotone wherever the values are, with a
      continuous derivative (SciPy's `PchipInterpolator`). "previous": the value of the last point, up to
      the next one; steps end on the points, and the method starts again behind them.
    - outside: before the first and behind the last point. "hold": the values there; "nan": NaN, which ends a lane; "periodic":
      the same again and again, where the last point stands for the first, and has to have its values. An end that is t0 or t1
      is inside, however both are rounded.

    Arrays may be traced, batched lane by lane by `jax.vmap`, or shared by all lanes, which then read the same memory. By them
    all, ts, t0 and dt included, a solve can be differentiated; in reverse, a lane keeps a number for each value meanwhile. But
    for "previous", steps don't end on points; where a driver changes faster than the state, the error estimate has to find that
    out.

    Raises ValueError or TypeError for times and values that are known and wrong; traced times that are wrong end the lane with
    `invalid_input`.
    """

    ts: Real[Array, " points"] | None
    values: PyTree[Real[Array, "points ..."]]
    kind: str = eqx.field(static=True)
    outside: str = eqx.field(static=True)
    t0: Any
    dt: Any

    @front_door
    def __init__(
        self, ts: Any = None, values: Any = None, kind: str = "linear", outside: str = "hold", *, t0: Any = None, dt: Any = None
    ):
        self.kind = check_choice("Driver(kind=...)", kind, KINDS)
        self.outside = check_choice("Driver(outside=...)", outside, OUTSIDE)
        if (ts is None) == (t0 is None and dt is None) or (t0 is None) != (dt is None):
            given = ", ".join(f"{name}=" for name, one in (("ts", ts), ("t0", t0), ("dt", dt)) if one is not None)
            raise ValueError(f"Driver has {given or 'no times'}: expected ts, the times of its points, or t0= and dt=")
        if values is None:
            raise ValueError("Driver has no values: give values=, a pytree of arrays [points, ...]")
        self.ts, self.t0, self.dt = None if ts is None else real("Driver's ts", ts), t0, dt
        self.values = _read_values(values)
        self.check()

    def __repr__(self) -> str:
        given = {"values": self.values, "kind": self.kind, "outside": self.outside, "t0": self.t0, "dt": self.dt}
        positional = () if self.ts is None else (self.ts, given.pop("values"))
        return describe_call("Driver", positional, given, {"kind": "linear", "outside": "hold", "t0": None, "dt": None})

    @property
    def points(self) -> int:
        """How many there are."""
        return jax.tree.leaves(self.values)[0].shape[0]

    @property
    def jumps(self) -> bool:
        """Whether its values jump from one point to the next."""
        return self.kind == "previous"

    def check(self) -> None:
        """Raises ValueError or TypeError for what is known and wrong."""
        self._check_values()
        if self.ts is None:
            self._check_even()
            return
        if self.ts.shape != (self.points,):
            raise ValueError(
                f"Driver's ts has shape {self.ts.shape}, and its values {self.points} points: expected ({self.points},)"
                + ("; for times per lane, vmap a function that makes the Driver" if len(self.ts.shape) > 1 else "")
            )
        known = concrete(self.ts)
        if known is None:
            return
        if not np.isfinite(known).all():
            place = int(np.argmin(np.isfinite(known)))
            raise ValueError(f"Driver's ts has {known[place]} at [{place}]: expected finite times")
        if (wrong := np.flatnonzero(np.diff(known) <= 0)).size:
            place = int(wrong[0])
            raise ValueError(
                f"Driver's ts is not increasing: {known[place]} at [{place}] is followed by {known[place + 1]}; sort the "
                "points by their times, and leave one of each"
            )

    def _check_values(self) -> None:
        leaves = jax.tree_util.tree_leaves_with_path(self.values)
        if not leaves:
            raise ValueError(f"Driver's values have no arrays (structure {jax.tree.structure(self.values)})")
        named = [(f"Driver's values{jax.tree_util.keystr(path)}", leaf) for path, leaf in leaves]
        first, least = named[0], KINDS[self.kind]
        for name, leaf in named:
            refuse_symbolic(name, leaf)
            if len(leaf.shape) == 0:
                raise ValueError(f"{name} is a number: expected an array [points, ...]; what is constant belongs into args")
            if leaf.shape[0] != first[1].shape[0]:
                raise ValueError(
                    f"{name} has shape {leaf.shape} and {first[0]} {first[1].shape}: expected as many points in all of them, "
                    "along the first axis"
                )
        least = max(least, 2 if self.outside == "periodic" else 1)
        if self.points < least:
            kind = f"kind={self.kind!r}" + ", outside='periodic'" * (self.outside == "periodic")
            raise ValueError(f"Driver has {self.points} points: {kind} needs {least} at least")
        if self.outside == "periodic" and not self.jumps:
            for name, leaf in named:
                self._check_period(name, concrete(leaf))

    @staticmethod
    def _check_period(name: str, known: np.ndarray | None) -> None:
        if known is None or not np.isfinite(known).all():
            return
        kind = known.dtype if known.dtype.kind == "f" else np.dtype("float64")
        allowed = _ROUNDINGS * np.finfo(kind).eps * np.max(np.abs(known), initial=0)
        if not np.all(np.abs(known[-1].astype(kind) - known[0]) <= allowed):
            raise ValueError(
                f"{name} begins with {known[0]} and ends with {known[-1]}, and outside='periodic' goes from its last point to "
                "the first at once: add a last point that is like the first, a period later"
            )

    def _check_even(self) -> None:
        for name in ("t0", "dt"):
            value = getattr(self, name)
            check_scalar(f"Driver({name}=...)", value)
            known = concrete(value)
            if known is not None and not np.isfinite(known):
                raise ValueError(f"Driver({name}={value}): expected a finite number")
        known = concrete(self.dt)
        if known is not None and not known > 0:
            raise ValueError(f"Driver(dt={self.dt}): expected a number above 0, the time from one point to the next")


def _read_values(values: Any) -> PyTree:
    return jax.tree.map(lambda leaf: real("Driver's values", leaf), values, is_leaf=_is_list)


def _is_list(values: Any) -> bool:
    """Whether it is a list of numbers, or of such lists."""
    inner = values if isinstance(values, (list, tuple)) else ()
    return bool(inner) and all(_is_list(one) or (is_number(one) and np.shape(one) == ()) for one in inner)
