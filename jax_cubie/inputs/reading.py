"""The drivers of a solve, checked, and where they jump."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..settings import concrete, told
from ..times import as_array, difference
from .drivers import Driver


@dataclasses.dataclass(frozen=True)
class Drivers:
    """The leaves of what was given as `drivers=`, and its structure; None where nothing was. since: of those that jump the
    times of their points, counted from t0, in the solve's dtype; None of others."""

    leaves: tuple[Driver, ...]
    structure: Any
    since: tuple[Any, ...] = ()

    @property
    def given(self) -> bool:
        """Whether functions of the user's are given their values."""
        return self.structure is not None

    def checked(self, span: Any) -> Any:
        """`span`, the length of a solve, and NaN where times of points, or their distance, are found not to be increasing."""
        for driver in self.leaves:
            given = driver.dt if driver.ts is None else driver.ts
            if concrete(given) is None and not isinstance(given, jax.ShapeDtypeStruct):
                rising = jnp.isfinite(given).all() & ((given > 0) if driver.ts is None else (jnp.diff(given) > 0).all())
                span = jnp.where(rising, span, jnp.nan)
        return span

    @property
    def jumps(self) -> list[Any]:
        """The times of jumps, an array for each driver that has some, counted from t0."""
        found = []
        for number, first in self._jumping:
            times, shape = self.since[number], (self.leaves[number].points - first,)
            is_shape = isinstance(times, jax.ShapeDtypeStruct)
            found.append(jax.ShapeDtypeStruct(shape, times.dtype) if is_shape else times[first:])
        return found

    def moved(self, jumps: list[Any]) -> Drivers:
        """These drivers with other times of their jumps."""
        since = list(self.since)
        for (number, first), times in zip(self._jumping, jumps, strict=True):
            since[number] = jnp.concatenate([since[number][:first], times])
        return dataclasses.replace(self, since=tuple(since))

    @property
    def _jumping(self) -> list[tuple[int, int]]:
        """The numbers of those that jump, and of the first point at which they do: the value before "hold"'s is that at it."""
        firsts = ((number, int(driver.outside == "hold")) for number, driver in enumerate(self.leaves) if driver.jumps)
        return [(number, first) for number, first in firsts if self.leaves[number].points > first]


NO_DRIVERS = Drivers((), None)
# By how many units of rounding of the largest one times may differ from even ones, and are still taken as such.
_ROUNDINGS = 2


def read_drivers(drivers: PyTree, t0: Any, t1: Any, dtype: str) -> Drivers:
    """The drivers of a solve; those that jump with all points that they come to written out.

    Raises TypeError for what is no driver; ValueError for one that is wrong.
    """
    if drivers is None:
        return NO_DRIVERS
    found, structure = jax.tree.flatten(drivers, is_leaf=lambda one: isinstance(one, Driver))
    for driver in found:
        if not isinstance(driver, Driver):
            raise TypeError(
                f"drivers has {told(driver)}: expected a pytree of jax_cubie.Driver(ts, values)"
            )
        driver.check()
    leaves = tuple(_written_out(one, t0, t1) if one.jumps else _by_distance(one) for one in found)
    since = tuple(as_array(difference(one.ts, t0, dtype), dtype) if one.jumps else None for one in leaves)
    return Drivers(leaves, structure, since)


def _by_distance(driver: Driver) -> Driver:
    """A driver whose times are known, and even as far as they tell, by the first one and their distance."""
    ts = None if driver.ts is None else concrete(driver.ts)
    if ts is None or len(ts) < 3:
        return driver
    rounding = np.finfo(ts.dtype if ts.dtype.kind == "f" else np.float64).eps * np.abs(ts).max()
    times = ts.astype(np.float64)
    dt = (times[-1] - times[0]) / (len(times) - 1)
    apart = np.abs(times - (times[0] + dt * np.arange(len(times)))).max()
    if apart > _ROUNDINGS * rounding or _ROUNDINGS * rounding > 0.01 * dt:  # which is more than rounding explains, or of dt
        return driver
    return Driver(None, driver.values, driver.kind, driver.outside, t0=times[0], dt=dt)


def _written_out(driver: Driver, t0: Any, t1: Any) -> Driver:
    """A driver of the kind "previous" with a time for each point, over all periods that lie between t0 and t1."""
    ts, values = _times(driver), driver.values
    if driver.outside != "periodic":
        return Driver(ts, values, driver.kind, driver.outside)
    known = [one for one in map(concrete, (ts, t0, t1)) if one is not None]
    if len(known) < 3:
        raise ValueError(
            "Driver(kind='previous', outside='periodic') jumps at times that have to be known, and of its times, t0 and t1 one "
            "is traced: repeat its points as often as they are needed, with outside='hold'"
        )
    times, *ends = (one.astype(np.float64) for one in known)
    period = times[-1] - times[0]
    first, last = (int(np.floor((end - times[0]) / period)) for end in (min(ends), max(ends)))
    count = last - first + 1
    starts = times[:-1] + period * np.arange(first, last + 1)[:, None]
    ts = np.append(starts.reshape(-1), times[0] + period * (last + 1))

    def repeated(leaf: Any) -> Any:
        return jnp.concatenate([jnp.tile(jnp.asarray(leaf[:-1]), (count, *(1,) * (len(leaf.shape) - 1))), leaf[-1:]])

    return Driver(ts, jax.tree.map(repeated, values), driver.kind, "hold")


def _times(driver: Driver) -> Any:
    if driver.ts is not None:
        return driver.ts
    numbers = np.arange(driver.points)
    known = [one.astype(np.float64) for one in map(concrete, (driver.t0, driver.dt)) if one is not None]
    if len(known) == 2:
        return known[0] + known[1] * numbers
    if any(isinstance(one, jax.ShapeDtypeStruct) for one in (driver.t0, driver.dt)):
        return jax.ShapeDtypeStruct((driver.points,), jnp.result_type(float))
    return driver.t0 + driver.dt * numbers
