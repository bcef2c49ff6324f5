"""Drivers as operands of the user's functions, and their values at a time, made of rows of these."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..loop.cursors import Cursor
from ..operands import Window
from ..times import as_array, difference
from .drivers import Driver
from .slopes import cubic_slopes, pchip_slopes

# What a driver's values may lie outside of an even table by, in units of rounding of its length.
_ROUNDINGS = 8


@dataclasses.dataclass(frozen=True)
class Tables:
    """The drivers of a solve.

    arrays: operands by their names. of_t0: the names of those that t0 has an effect on. windows, cursors: of which tables
    functions are handed rows, and which. at(t, values) -> u: for the time since t0, and the values of operands and cursors by
    their names.
    """

    arrays: Mapping[str, Any]
    of_t0: tuple[str, ...]
    windows: tuple[Window, ...]
    cursors: tuple[Cursor, ...]
    at: Callable[[Any, Mapping[str, Any]], PyTree]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The integers that functions are handed, int32 each."""
        return tuple(name for cursor in self.cursors for name in cursor.inputs)


def read_drivers(drivers: PyTree, t0: Any, dtype: str, name: Callable[[int], str]) -> Tables:
    """The drivers of a solve from t0 on. name: what the operands are called, by their number.

    Raises TypeError for what is no driver.
    """
    found, structure = jax.tree.flatten(drivers, is_leaf=lambda one: isinstance(one, Driver))
    for driver in found:
        if not isinstance(driver, Driver):
            raise TypeError(
                f"drivers has {driver!r:.80} of type {type(driver).__name__}: expected a pytree of jax_cubie.Driver(ts, values)"
            )
        driver.check()
    arrays: dict[str, Any] = {}

    def add(array: Any) -> str:
        arrays[name(len(arrays))] = array
        return next(reversed(arrays))

    tables = [_Table.of(driver, t0, dtype, f"cursor{number}", add) for number, driver in enumerate(found)]

    def at(t: Any, values: Mapping[str, Any]) -> PyTree:
        return jax.tree.unflatten(structure, [table.at(t, values) for table in tables])

    return Tables(
        arrays,
        tuple(table.cursor.origin for table in tables),
        tuple(window for table in tables for window in table.windows),
        tuple(table.cursor for table in tables),
        at,
    )


@dataclasses.dataclass(frozen=True)
class _Table:
    """A driver. values, slopes: the names of its leaves, and of their derivatives at the points, by the time, or where the
    points are even by their number; slopes is empty where there are none."""

    driver: Driver
    cursor: Cursor
    values: tuple[str, ...]
    slopes: tuple[str, ...]

    @staticmethod
    def of(driver: Driver, t0: Any, dtype: str, cursor: str, add: Callable[[Any], str]) -> _Table:
        """`add`: makes an array an operand, and answers with its name."""
        made = _arrays(driver, t0, dtype)
        scalars = {key: add(made[key]) for key in ("origin", "times", "rate", "period") if key in made}
        values, slopes = (tuple(map(add, made[key])) for key in ("values", "slopes"))
        return _Table(driver, Cursor(cursor, driver.points, **scalars), values, slopes)

    @property
    def windows(self) -> tuple[Window, ...]:
        times = () if self.cursor.times is None else (self.cursor.times,)
        return tuple(Window(name, self.cursor.name, 2) for name in (*times, *self.values, *self.slopes))

    def at(self, t: Any, values: Mapping[str, Any]) -> PyTree:
        """Its values at a time since t0."""
        cursor, driver = self.cursor, self.driver
        passed = t - values[cursor.origin]
        if cursor.period is not None:
            passed = passed - values[cursor.turns].astype(t.dtype) * values[cursor.period]
        if cursor.times is None:
            width, slack = 1, _ROUNDINGS * driver.points * np.finfo(t.dtype).eps
            part = passed * values[cursor.rate] - values[cursor.name].astype(t.dtype)
        else:
            before, after = values[cursor.times]
            width, slack = after - before, 0
            part = (passed - before) / width
        outside = (part < -slack) | (part > 1 + slack)
        # Beyond the ends; where an interval ends, it may be so by what is rounded.
        within = part if cursor.period is not None else jnp.where(part < 0, 0, jnp.where(part > 1, 1, part))
        leaves = []
        for number, name in enumerate(self.values):
            start, end = values[name]
            rise = end - start
            if self.slopes:
                first, last = (width * slope for slope in values[self.slopes[number]])
                rise = first + within * (3 * rise - 2 * first - last + within * (first + last - 2 * rise))
            value = start + within * rise
            leaves.append(jnp.where(outside, jnp.nan, value) if driver.outside == "nan" else value)
        return jax.tree.unflatten(jax.tree.structure(driver.values), leaves)


def _arrays(driver: Driver, t0: Any, dtype: str) -> dict[str, Any]:
    """What a kernel is handed of a driver, in the solve's dtype; times are counted from the first point, and that from t0, as
    differences that are rounded last. Shapes give shapes."""
    given = (driver, t0)
    shapes = [one for one in jax.tree.leaves(given) if isinstance(one, jax.ShapeDtypeStruct)]
    if not shapes:
        return _computed(driver, t0, dtype)
    leaves, structure = jax.tree.flatten(given)
    places = [number for number, one in enumerate(leaves) if isinstance(one, jax.ShapeDtypeStruct)]

    def computed(*traced: Any) -> dict[str, Any]:
        filled = dict(enumerate(leaves)) | dict(zip(places, traced, strict=True))
        return _computed(*jax.tree.unflatten(structure, list(filled.values())), dtype)

    return jax.eval_shape(computed, *shapes)


def _computed(driver: Driver, t0: Any, dtype: str) -> dict[str, Any]:
    periodic, leaves = driver.outside == "periodic", jax.tree.leaves(driver.values)
    values = [as_array(leaf, dtype) for leaf in leaves]
    if driver.ts is None:
        intervals = driver.points - 1
        found = {"origin": difference(driver.t0, t0, dtype), "rate": 1 / as_array(driver.dt, dtype)}
        widths = jnp.ones(intervals, dtype)
        period = as_array(driver.dt, dtype) * intervals
    else:
        times = difference(driver.ts, driver.ts[0], dtype)
        found = {"origin": difference(driver.ts[0], t0, dtype), "times": times}
        widths, period = jnp.diff(times), times[-1]
    if periodic:
        found["period"] = period
    slopes_of = {"cubic": cubic_slopes, "pchip": pchip_slopes}.get(driver.kind)
    slopes: Sequence[Any] = () if slopes_of is None else [slopes_of(widths, one, periodic=periodic) for one in values]
    return {**{key: as_array(one, dtype) for key, one in found.items()}, "values": tuple(values), "slopes": tuple(slopes)}
