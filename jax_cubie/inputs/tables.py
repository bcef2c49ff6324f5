"""Drivers as operands of the user's functions, and their values at a time, made of rows of these."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..loop.cursors import Cursor
from ..operands import Window
from ..times import as_array, difference
from .drivers import Driver
from .reading import Drivers
from .slopes import cubic_slopes, pchip_slopes

# What a time may lie outside of a table by, in units of rounding: its end may be t1, and both are sums.
_ROUNDINGS = 8


@dataclasses.dataclass(frozen=True)
class Tables:
    """The drivers of a solve.

    arrays: operands by their names. of_t0: the names of those that t0 has an effect on. windows, cursors: of which tables
    functions are handed rows, and which. at(t, values) -> u: for the time since t0, and the values of operands and cursors by
    their names. inputs: the numbers that functions are handed of cursors, with their dtypes.
    """

    arrays: Mapping[str, Any]
    of_t0: tuple[str, ...]
    windows: tuple[Window, ...]
    cursors: tuple[Cursor, ...]
    at: Callable[[Any, Mapping[str, Any]], PyTree]
    inputs: dict[str, str]

    def at_t0(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """What functions are handed at t0 of these operands, as `loop.cursors.find` has it; and of cursors."""
        found: dict[str, Any] = {}
        for cursor in self.cursors:
            origin, last = arrays[cursor.origin], cursor.points - 1
            passed = origin if cursor.length is None else -origin
            length = jnp.asarray(last, passed.dtype) if cursor.length is None else arrays[cursor.length]
            if cursor.periodic:
                found[cursor.turns] = jnp.floor(passed / length)
                passed = passed - found[cursor.turns] * length
            if cursor.times is None:
                place = passed.astype(jnp.int32)
            else:
                place = jnp.searchsorted(arrays[cursor.times], 0.0 if cursor.from_t0 else passed, side="right") - 1
            found[cursor.name] = jnp.clip(place, 0, last if cursor.from_t0 else last - 1).astype(jnp.int32)
        for window in self.windows:
            begin = found[window.cursor]
            found[window.operand] = jax.lax.dynamic_slice_in_dim(arrays[window.operand], begin, window.rows)
        return found


def make_tables(drivers: Drivers, t0: Any, dtype: str, name: Callable[[int], str]) -> Tables:
    """The drivers of a solve from t0 on. name: what the operands are called, by their number."""
    arrays: dict[str, Any] = {}

    def add(array: Any) -> str:
        arrays[name(len(arrays))] = array
        return next(reversed(arrays))

    tables = [
        _Table.of(driver, since, t0, dtype, f"cursor{number}", add)
        for number, (driver, since) in enumerate(zip(drivers.leaves, drivers.since, strict=True))
    ]

    def at(t: Any, values: Mapping[str, Any]) -> PyTree:
        return jax.tree.unflatten(drivers.structure, [table.at(t, values) for table in tables])

    return Tables(
        arrays,
        tuple(table.cursor.origin for table in tables),
        tuple(window for table in tables for window in table.windows),
        tuple(table.cursor for table in tables),
        at,
        {name: kind for table in tables for name, kind in table.cursor.inputs(dtype).items()},
    )


@dataclasses.dataclass(frozen=True)
class _Table:
    """A driver. values, slopes: the names of its leaves, and of their derivatives at the points, by the time or, where points
    are even, by their number; no slopes where none are needed. rates: the name of one over the lengths of intervals that are
    not even, [points - 1].
    """

    driver: Driver
    cursor: Cursor
    values: tuple[str, ...]
    slopes: tuple[str, ...]
    rates: str | None

    @staticmethod
    def of(driver: Driver, since: Any, t0: Any, dtype: str, cursor: str, add: Callable[[Any], str]) -> _Table:
        """since: as `Drivers` has it. `add`: makes an array an operand, and answers with its name."""
        made = _arrays(driver, since, t0, dtype)
        values, slopes = (tuple(map(add, made.pop(key))) for key in ("values", "slopes"))
        named = {key: add(array) for key, array in made.items()}
        rates = named.pop("rates", None)
        found = Cursor(cursor, driver.points, driver.outside == "periodic", **named, from_t0=driver.jumps)
        return _Table(driver, found, values, slopes, rates)

    @property
    def windows(self) -> tuple[Window, ...]:
        """What functions are handed of it."""
        rows = dict.fromkeys((*self.values, *self.slopes), 1 if self.driver.jumps else 2)
        if self.cursor.times is not None and self.rates is not None:
            rows |= {self.cursor.times: 2 if self.slopes else 1, self.rates: 1}
        return tuple(Window(name, self.cursor.name, count) for name, count in rows.items())

    def at(self, t: Any, values: Mapping[str, Any]) -> PyTree:
        """Its values at a time since t0."""
        passed, outside = self._passed(t, values)
        if self.driver.jumps:
            leaves = [values[name][0] for name in self.values]
        else:
            leaves = self._between(*self._part(passed, values), values)
        if self.driver.outside == "nan":
            leaves = [jnp.where(outside, jnp.nan, leaf) for leaf in leaves]
        return jax.tree.unflatten(jax.tree.structure(self.driver.values), leaves)

    def _passed(self, t: Any, values: Mapping[str, Any]) -> tuple[Any, Any]:
        """Where in the table a time since t0 stands, and whether that is outside. In the very words of `loop.cursors.find`, so
        that a compiler finds what both compute."""
        cursor, origin = self.cursor, values[self.cursor.origin]
        if cursor.length is None:
            passed, length = t * values[cursor.rate] + origin, cursor.points - 1.0
        else:
            passed, length = t - origin, values[cursor.length]
        # Where a table jumps, no time that it is asked for is one of its ends.
        slack = 0.0 if cursor.from_t0 else _ROUNDINGS * float(np.finfo(t.dtype).eps) * (length + jnp.abs(origin))
        outside = (passed < -slack) | (passed > length + slack)
        if cursor.periodic:
            passed = passed - values[cursor.turns] * length
        elif self.driver.outside == "hold":
            passed = jnp.where(passed >= 0, jnp.where(passed <= length, passed, length), 0)
        return passed, outside

    def _part(self, passed: Any, values: Mapping[str, Any]) -> tuple[Any, Any]:
        """Which part of the interval lies behind, and how long the interval is, in units of what slopes are by."""
        if self.cursor.times is None or self.rates is None:
            return passed - values[self.cursor.name].astype(passed.dtype), 1
        times = values[self.cursor.times]
        return (passed - times[0]) * values[self.rates][0], times[-1] - times[0]

    def _between(self, part: Any, width: Any, values: Mapping[str, Any]) -> list[Any]:
        """The polynomial through the values at both ends, and with the slopes there."""
        leaves = []
        for number, name in enumerate(self.values):
            start, end = values[name]
            rise = end - start
            if self.slopes:
                first, last = (width * slope for slope in values[self.slopes[number]])
                rise = first + part * (3 * rise - 2 * first - last + part * (first + last - 2 * rise))
            leaves.append(start + part * rise)
        return leaves


def _arrays(driver: Driver, since: Any, t0: Any, dtype: str) -> dict[str, Any]:
    """What a kernel is handed of a driver, in the solve's dtype, by what a `Cursor` calls it. Shapes give shapes."""
    leaves, structure = jax.tree.flatten((driver, since, t0))
    places = [number for number, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]

    def computed(*traced: Any) -> dict[str, Any]:
        filled = dict(enumerate(leaves)) | dict(zip(places, traced, strict=True))
        given, times, start = jax.tree.unflatten(structure, list(filled.values()))
        known = not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))
        if given.jumps:
            return _jumping(given, times, dtype)
        # What is known is not computed again each time.
        with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
            found = _even(given, dtype) if given.ts is None else _uneven(given, dtype)
        return {"origin": _origin(given, start, dtype), **found}

    return jax.eval_shape(computed, *(leaves[place] for place in places)) if places else computed()


def _origin(driver: Driver, t0: Any, dtype: str) -> Any:
    if driver.ts is None:
        return as_array(difference(t0, driver.t0, dtype), dtype) / as_array(driver.dt, dtype)
    return as_array(difference(driver.ts[0], t0, dtype), dtype)


def _even(driver: Driver, dtype: str) -> dict[str, Any]:
    widths = jnp.ones(driver.points - 1, dtype)
    return {"rate": 1 / as_array(driver.dt, dtype), **_values(driver, widths, dtype)}


def _uneven(driver: Driver, dtype: str) -> dict[str, Any]:
    assert driver.ts is not None
    times = as_array(difference(driver.ts, driver.ts[0], dtype), dtype)
    widths, length = jnp.diff(times), times[-1]
    rate = jax.lax.stop_gradient(driver.points / length)
    buckets, rates = _buckets(jax.lax.stop_gradient(times), rate), 1 / widths
    tables = {"rate": rate, "times": times, "length": length, "buckets": buckets, "rates": rates}
    return tables | _values(driver, widths, dtype)


def _jumping(driver: Driver, since: Any, dtype: str) -> dict[str, Any]:
    # Where it jumps is known by the steps that end there; so by its times this has no derivative.
    times = jax.lax.stop_gradient(since)
    origin, length = times[0], times[-1] - times[0]
    rate = driver.points / jnp.where(length > 0, length, jnp.inf)
    tables = {"origin": origin, "rate": rate, "times": times, "length": length, "buckets": _buckets(times - origin, rate, 1)}
    return tables | _values(driver, times, dtype)


def _buckets(times: Any, rate: Any, behind_last: int = 0) -> Any:
    """The first interval that each bucket has to do with, and behind them the last one of all: int32 [points + 1]. A time's
    bucket is the product with `rate`, rounded down: of later times no earlier bucket, also as products are rounded.
    behind_last: 1 where there is an interval behind the last point, or 0."""
    points = len(times)
    own = jnp.clip(jnp.floor(times * rate), 0, points - 1).astype(jnp.int32)
    behind = jnp.searchsorted(own, jnp.arange(points + 1, dtype=jnp.int32), side="left")
    return jnp.clip(behind - 1, 0, points - 2 + behind_last).astype(jnp.int32)


def _values(driver: Driver, widths: Any, dtype: str) -> dict[str, Any]:
    """Those at the points, and their derivatives there."""
    values = tuple(as_array(leaf, dtype) for leaf in jax.tree.leaves(driver.values))
    slopes_of = {"cubic": cubic_slopes, "pchip": pchip_slopes}.get(driver.kind)
    periodic = driver.outside == "periodic"
    slopes = () if slopes_of is None else tuple(slopes_of(widths, one, periodic=periodic) for one in values)
    return {"values": values, "slopes": slopes}
