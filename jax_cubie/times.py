"""The times of a solve, counted from t0: what lies between two times is formed in the widest type that they have outside.

A kernel integrates over t - t0 in the dtype of the state. A float32 solve that begins at 86,400 s or on a Julian day so
resolves what it resolves at 0, as long as t0 and t1 themselves do: as Python's numbers, NumPy's float64, or integers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from .settings import concrete, is_number, told


@dataclasses.dataclass(frozen=True)
class Times:
    """The ends of a solve and the times to save, in the dtype of the state.

    t0, t1, ts: rounded. span: t1 - t0. offsets: ts - t0. Without times to save ts and offsets are None.
    """

    t0: Any
    t1: Any
    span: Any
    ts: Any = None
    offsets: Any = None


def read_times(t0: Any, t1: Any, ts: Any, dtype: str, right: Any = None) -> Times:
    """right: booleans [points], which times to save are behind what happens at them, so that their offsets are a unit in the
    last place further on; None: none.

    Raises ValueError for ends and times that are known and can't be integrated between."""
    for name, time in (("t0", t0), ("t1", t1)):
        known = concrete(time)
        if known is not None and not np.isfinite(rounded(known, dtype)):
            raise ValueError(f"{name}={time}: expected a finite number" + f" of {dtype}" * bool(np.isfinite(known)))
    span = difference(t1, t0, dtype)
    _check_span(t0, t1, span, dtype)
    saved = (None, None) if ts is None else times_between(t0, t1, ts, dtype, span, right)
    return Times(as_array(t0, dtype), as_array(t1, dtype), as_array(span, dtype), *saved)


def times_between(
    t0: Any, t1: Any, ts: Any, dtype: str, span: Any = None, right: Any = None, said: str = "SaveAt(ts=...)"
) -> tuple[Any, Any]:
    """Times to save, and how far they are from t0, in `dtype`. span: the distance of t1, where it is known already. right: as
    `read_times` has it. Raises ValueError, which speaks of what the user `said`, for times that are known and not in order
    between the ends."""
    span = difference(t1, t0, dtype) if span is None else span
    offsets = _offsets(t0, t1, ts, span, dtype)
    _check_offsets(t0, t1, ts, span, offsets, said)
    found = as_array(offsets, dtype)
    return as_array(ts, dtype), found if right is None else _behind(found, right, as_array(span, dtype))


def padded_offsets(t0: Any, t1: Any, ts: Any, dtype: str) -> Any:
    """`ts` since t0, [m] of `dtype`; infinite times stay so: they stand for none in lanes that have fewer than others.

    A time that is an end in the narrower of their two types is that end, as with times to save.
    """
    if isinstance(ts, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(ts.shape, jnp.dtype(dtype))
    known = concrete(ts) is not None
    there = (np if known else jnp).isfinite(ts)
    offsets = _offsets(t0, t1, (np if known else jnp).where(there, ts, 0), difference(t1, t0, dtype), dtype)
    known = known and concrete(offsets) is not None
    return (np if known else jnp).where(there, offsets, rounded(ts, dtype))


def since(t: Any, t0: Any, rest: Any, dtype: str) -> Any:
    """t - t0, where `rest` is what t0 has lost to rounding: times of any shape, in `dtype`."""
    found = difference(t, t0, dtype)
    if concrete(found) is None:
        found = jax.lax.optimization_barrier(found)  # else XLA would sum t0 and its rest, where these are constants
    return difference(found, rest, dtype)


def rest_of(t0: Any, dtype: str) -> Any:
    """What t0 loses where it is rounded to `dtype`."""
    return as_array(difference(t0, rounded(t0, dtype), dtype), dtype)


def listed(times: Any) -> Any:
    """An array of numbers that stand in a list; anything else as it is."""
    if not isinstance(times, (list, tuple)) or not all(is_number(time) and np.shape(time) == () for time in times):
        return times
    return np.asarray(times, float) if all(concrete(time) is not None for time in times) else jnp.stack(times)


def as_array(value: Any, dtype: str) -> Any:
    """The value as JAX's array of `dtype`; of a shape, a shape."""
    value = rounded(value, dtype)
    return value if isinstance(value, jax.ShapeDtypeStruct) else jnp.asarray(value)


def owned(value: Any) -> Any:
    """The value, for a function with a derivative of its own: as JAX's array also where a vmap under jit goes over one of
    NumPy's, which JAX 0.10 refuses there."""
    return jax.lax.optimization_barrier(value) if isinstance(value, jax.core.Tracer) else value


def rounded(value: Any, dtype: Any) -> Any:
    """The value in `dtype`: NumPy's array where it is known."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(value.shape, jnp.dtype(dtype))
    known = concrete(value)
    if known is None:
        return value.astype(dtype)
    with np.errstate(over="ignore"):
        return known.astype(dtype)


def difference(later: Any, earlier: Any, dtype: str) -> Any:
    """later - earlier, rounded to `dtype` at the end; NumPy's where both are known."""
    values = (later, earlier)
    known = [concrete(value) for value in values]
    if known[0] is not None and known[1] is not None:
        wide = np.result_type(*known, np.float64)
        return rounded(known[0].astype(wide) - known[1].astype(wide), dtype)
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in values):
        return jax.ShapeDtypeStruct(np.broadcast_shapes(*map(np.shape, values)), jnp.dtype(dtype))
    floats = [value.dtype for value in values if concrete(value) is None and jnp.issubdtype(value.dtype, jnp.floating)]
    wide = jnp.result_type(dtype, *floats)
    plus, minus = (_terms(value, wide) for value in values)
    # The leading terms of times that are close have an exact difference, so it comes first, and is kept: XLA would sum the
    # constants before.
    total = _add(_add(None, plus[:1], 1), minus[:1], -1)
    if plus[1:] or minus[1:]:
        total = _add(_add(jax.lax.optimization_barrier(total), plus[1:], 1), minus[1:], -1)
    return rounded(np.zeros((), wide) if total is None else total, dtype)


def _terms(value: Any, wide: Any) -> list[Any]:
    """Numbers of the type `wide` whose sum is the value, the largest first; none for what is known to be 0."""
    known = concrete(value)
    if known is not None:
        exact = known.astype(np.result_type(known, np.float64))
        terms = [exact.astype(wide)]
        terms.append((exact - terms[0]).astype(wide))
        return [term for number, term in enumerate(terms) if np.any(term != 0) or (number == 0 and np.any(terms[1] != 0))]
    if not jnp.issubdtype(value.dtype, jnp.integer):
        return [value.astype(wide)]
    leading = value.astype(wide)
    if jnp.iinfo(value.dtype).bits <= jnp.finfo(wide).nmant:
        return [leading]
    return [leading, (value - leading.astype(value.dtype)).astype(wide)]


def _add(total: Any, terms: list[Any], sign: int) -> Any:
    for term in terms:
        term = sign * term
        total = term if total is None else total + term
    return total


def _offsets(t0: Any, t1: Any, ts: Any, span: Any, dtype: str) -> Any:
    """ts - t0. A time that equals an end in the narrower of their two types is that end: 0.3 in float32 and 0.3, say."""
    offsets = difference(ts, t0, dtype)
    if isinstance(offsets, jax.ShapeDtypeStruct):
        return offsets
    for end, offset in ((t0, 0), (t1, span)):
        types = {_precision(ts), _precision(end)} - {None}
        if len(types) == 2:
            narrow = min(types, key=lambda kind: jnp.finfo(kind).bits)
            same = rounded(ts, narrow) == rounded(end, narrow)
            known = all(concrete(value) is not None for value in (same, offset, offsets))
            offsets = rounded((np if known else jnp).where(same, offset, offsets), dtype)
    return offsets


def _precision(value: Any) -> Any:
    """The float type that the value was rounded to; None for an integer."""
    known = concrete(value)
    kind = value.dtype if known is None else known.dtype
    return np.dtype(kind) if jnp.issubdtype(kind, jnp.floating) else None


def _behind(offsets: Any, right: Any, span: Any) -> Any:
    """Those on the right a unit in the last place further on, but at the end."""
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in (offsets, right, span)):
        return offsets
    forwards = jnp.where(jnp.asarray(span) < 0, -1, 1).astype(offsets.dtype)
    known = jax.lax.stop_gradient(offsets)
    return jnp.where(right & (offsets != span), offsets + (next_time(known, forwards) - known), offsets)


def next_time(offset: Any, forwards: Any = 1) -> Any:
    """The next time since t0 that there is, in the direction 1 or -1."""
    return jnp.where(offset == 0, forwards * jnp.finfo(offset.dtype).tiny, jnp.nextafter(offset, forwards * jnp.inf))


def _check_span(t0: Any, t1: Any, span: Any, dtype: str) -> None:
    known0, known1, known = concrete(t0), concrete(t1), concrete(span)
    if known0 is None or known1 is None or known is None:
        return
    if not np.isfinite(known):
        raise ValueError(f"t0={t0} and t1={t1} are {known} apart in {dtype}, y0's dtype: expected a finite span")
    if known == 0 and known0 != known1:
        raise ValueError(f"t0={t0} and t1={t1} are 0 apart in {dtype}, y0's dtype: take a smaller unit of time, or float64")


def _check_offsets(t0: Any, t1: Any, ts: Any, span: Any, offsets: Any, said: str) -> None:
    known, end = concrete(offsets), concrete(span)
    times = concrete(ts)
    if known is None or end is None or times is None or not known.size:
        return
    direction = 1 if end >= 0 else -1
    forwards = direction * known
    if not np.all(np.isfinite(times)):
        raise ValueError(f"{said} has times that are not finite")
    if np.any(np.diff(forwards) < 0):
        word = "non-decreasing" if direction == 1 else "non-increasing, since t1 < t0"
        raise ValueError(f"{said} is not in order: expected it {word}")
    if forwards[0] < 0 or forwards[-1] > direction * end:
        raise ValueError(f"{said} runs from {times[0]} to {times[-1]}: expected times between t0={t0} and t1={t1}")


def check_scalar(name: str, value: Any) -> None:
    """Raises TypeError or ValueError for what is no scalar."""
    if not is_number(value):
        raise TypeError(f"{name} is {told(value)}: expected a number")
    if np.shape(value) != ():
        raise ValueError(
            f"{name} has shape {np.shape(value)}: expected a scalar. solve takes one trajectory; jax.vmap of it takes many"
        )


def scalar(name: str, value: Any, dtype: str) -> Any:
    """A number of the user's as an array of the solve's dtype."""
    check_scalar(name, value)
    return as_array(value, dtype)


def count(name: str, value: Any) -> Any:
    """An int32; a wider one that is traced is held to its range."""
    check_scalar(name, value)
    if not isinstance(value, int) and not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {value.dtype}: expected an integer")
    held = np.iinfo("int32")
    if isinstance(value, jax.core.Tracer) and (given := np.iinfo(value.dtype)).max > held.max:
        value = jnp.clip(value, max(given.min, held.min), held.max)
    return as_array(value, "int32")
