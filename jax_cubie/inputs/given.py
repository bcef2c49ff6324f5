"""Times and numbers of doses and drivers as the user gives them, checked, as arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from ..settings import concrete, is_real, refuse_symbolic


def real(what: str, value: Any) -> Any:
    """Real numbers as an array: NumPy's where they are known. Raises TypeError or ValueError for what is none."""
    if not isinstance(value, (jax.core.Tracer, jax.Array, jax.ShapeDtypeStruct)):
        traced = any(isinstance(one, jax.core.Tracer) for one in jax.tree.leaves(value))
        try:
            value = jnp.asarray(value) if traced else np.asarray(value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{what} takes a number or an array of them: {error}") from None
    if not is_real(value.dtype):
        raise TypeError(f"{what} takes real numbers, got dtype {value.dtype}")
    refuse_symbolic(what, value)
    return value


def read_times(whose: str, ts: Any, name: str = "ts") -> Any:
    """Times [m], or with an axis of lanes in front, from such or from a scalar."""
    what = f"{whose}({name}=...)"
    ts = real(what, ts)
    ts = spread(ts, (1,)) if ts.shape == () else ts
    if 0 in ts.shape:
        raise ValueError(f"{what} is empty, of shape {ts.shape}: expected one time at least, or leave it out")
    known = concrete(ts)
    if known is not None and np.any(np.isnan(known) | (known == -np.inf)):
        raise ValueError(f"{what} has a time that is NaN or -inf: expected finite ones, and inf where there is none")
    return ts


def read_numbers(name: str, given: Any, ts: Any, least: float | None = None, nothing: float | None = None) -> Any:
    """A number for each dose; None where there is none, or it is plainly what changes nothing."""
    if given is None or (isinstance(given, (int, float)) and given == nothing):
        return None
    what = f"Doses({name}=...)"
    values = real(what, given)
    if values.shape not in ((), ts.shape):
        raise ValueError(
            f"{what} has shape {values.shape}, but ts has {ts.shape}: expected a number for each dose, of the same shape, "
            "or one for all"
        )
    known, times = concrete(values), concrete(ts)
    if known is not None:
        doses = known[...] if times is None or known.shape == () else known[times < np.inf]
        if not np.all(np.isfinite(doses)):
            raise ValueError(f"{what} has {doses[~np.isfinite(doses)][0]}: expected finite numbers")
        if least is not None and np.any(doses < least):
            raise ValueError(f"{what} has {np.min(doses)}: expected numbers of at least {least}")
    return values if values.shape == ts.shape else spread(values, ts.shape)


def read_order(whose: str, order: Any, ts: Any) -> Any:
    """The order of such times, int32; None where there is none."""
    if order is None:
        return None
    values = real(f"{whose}(order=...)", order)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise TypeError(f"{whose}(order=...) has dtype {values.dtype}: expected integers")
    if values.shape != ts.shape:
        raise ValueError(f"{whose}(order=...) has shape {values.shape}, but ts has {ts.shape}: they have to be equal")
    return values if isinstance(values, jax.ShapeDtypeStruct) else values.astype(np.int32)


def spread(value: Any, shape: tuple[int, ...]) -> Any:
    """The same value in an array of that shape."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, value.dtype)
    return module(value).broadcast_to(value, shape)


def module(value: Any) -> Any:
    """NumPy for what is known outside of JAX, so that it keeps its precision and is known inside of jit, too."""
    return np if isinstance(value, (np.ndarray, np.generic)) else jnp
