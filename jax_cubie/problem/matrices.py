"""Mass matrices and what the user knows of Jacobians, checked as far as they are known."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..linear import Mass, Pattern
from ..settings import concrete, is_real, refuse_tracer, told
from .state import State

# Of a Jacobian in units of the largest entry in its row: what rounding, in float32 and of differences, may leave.
_RTOL = 1e-3


@dataclasses.dataclass(frozen=True)
class Matrices:
    """What a solve was given of them. mass: [n], [n, n], a pytree like y0 for a diagonal, or an operator with `as_matrix()`.
    mass_pattern: where it may have entries, booleans of its shape. jac: jac(t, y, args) -> [n, n]. jac_sparsity: where that may
    have entries, booleans [n, n]. All None where they were not given.
    """

    mass: Any = None
    mass_pattern: Any = None
    jac: Callable | None = None
    jac_sparsity: Any = None

    @property
    def given(self) -> list[str]:
        """The names of those that were."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]


def refuse_matrices(given: list[str], method: str) -> None:
    """Raises ValueError where a method can't use what it is given."""
    name = given[0]
    if name in ("jac", "jac_sparsity"):
        raise ValueError(f"{name} is given, but method {method!r} is explicit, and needs no Jacobian: leave it out")
    raise ValueError(
        f"{name} is given, but method {method!r} is explicit, and solves dy/dt = f alone: write method='rodas5p' or another "
        "implicit one; or, for a mass matrix M that has an inverse, let f return M^-1 f"
    )


def read_mass(matrices: Matrices, state: State) -> tuple[Mass, Any] | None:
    """What is known of the mass matrix, and its values as an array [n] or [n, n], NumPy's where they are known; None without
    one."""
    if matrices.mass is None:
        if matrices.mass_pattern is not None:
            raise ValueError("mass_pattern is given without a mass: it says where the matrix mass= may have entries")
        return None
    array = _mass_array(matrices.mass, state)
    known = concrete(array)
    if known is not None and not np.isfinite(known).all():
        raise ValueError("mass has values that are not finite")
    given = _mask("mass_pattern", matrices.mass_pattern, array.shape)
    if given is not None and known is not None and np.any((known != 0) & ~given):
        place = tuple(int(index) for index in np.argwhere((known != 0) & ~given)[0])
        raise ValueError(f"mass has an entry at {place} where mass_pattern has none: mass is {known[place]:g} there")
    if given is not None and known is None and not isinstance(array, jax.ShapeDtypeStruct):
        array = jnp.where(given, array, 0)
    mask = known != 0 if given is None and known is not None else given
    mask = np.ones(array.shape, bool) if mask is None else mask
    return Mass(array.ndim == 1, Pattern.of(np.diag(mask) if array.ndim == 1 else mask)), array


def _mass_array(mass: Any, state: State) -> Any:
    """Of NumPy where it is known, also where jit traces what stands around it."""
    n, dtype = state.size, jnp.dtype(state.dtype)
    if hasattr(mass, "as_matrix"):  # an operator of lineax
        with jax.ensure_compile_time_eval():
            mass = mass.as_matrix()
    leaves, structure = jax.tree.flatten(mass)
    if structure == state.structure and [np.shape(leaf) for leaf in leaves] == list(state.shapes):
        mass = _end_to_end(leaves)
    expected = f"expected an array [{n}] for a diagonal, [{n}, {n}], a pytree like y0, or an operator with as_matrix()"
    array = mass if isinstance(mass, (jax.core.Tracer, jax.ShapeDtypeStruct)) else _numbers(mass, expected)
    if array.shape not in ((n,), (n, n)):
        raise ValueError(f"mass has shape {array.shape}, where y0 has {n} components: {expected}")
    if not is_real(array.dtype):
        raise ValueError(f"mass has dtype {array.dtype}: expected real numbers ({state.dtype})")
    return jax.ShapeDtypeStruct(array.shape, dtype) if isinstance(array, jax.ShapeDtypeStruct) else array.astype(dtype)


def _end_to_end(leaves: list[Any]) -> Any:
    """Leaves like those of y0 as one vector, of shapes as a shape."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return jax.ShapeDtypeStruct((sum(np.size(leaf) for leaf in leaves),), jnp.result_type(*leaves))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def _numbers(mass: Any, expected: str) -> Any:
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(mass))
    try:
        array = jnp.asarray(mass) if traced else np.asarray(mass)
        if array.dtype.kind not in "OSUmM":
            return array
    except (TypeError, ValueError):
        pass
    raise TypeError(f"mass is {told(mass)}: {expected}")


def read_sparsity(matrices: Matrices, state: State) -> Pattern | None:
    """The pattern of a Jacobian that the user gives."""
    mask = _mask("jac_sparsity", matrices.jac_sparsity, (state.size, state.size))
    return None if mask is None else Pattern.of(mask)


def _mask(name: str, given: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if given is None:
        return None
    refuse_tracer(name, given)
    if hasattr(given, "toarray"):  # a sparse matrix of SciPy's
        given = given.toarray()
    mask = np.asarray(given)
    if mask.dtype.kind not in "biuf":
        raise TypeError(f"{name} is {given!r:.80}: expected an array of booleans {list(shape)}")
    if mask.shape != shape:
        raise ValueError(f"{name} has shape {mask.shape}: expected {shape}")
    return mask != 0


# --- Jacobians

# For each f what was found to belong to it: references to jac, and patterns.
_checked: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()


def check_jacobian(
    f: Callable, field: Callable, jac: Callable | None, flat_jac: Callable | None, sparsity: Pattern | None, t0: Any, y0: Any,
    values: list[Any],
) -> None:
    """Raises ValueError where the user's Jacobian, or its sparsity, is not that of f; looked at once, where numbers are known.

    field, flat_jac: f and jac of the time, the flat state and the leaves of args, `values`.
    """
    if _is_checked(f, jac, sparsity):
        return
    if any(concrete(one) is None for one in (t0, y0, *values)):
        return
    with jax.ensure_compile_time_eval():
        # At y0, entries may be 0 that are not.
        start = jnp.asarray(y0)
        near = start + 0.01 * jnp.maximum(jnp.max(jnp.abs(start)), 1e-3) * jnp.linspace(0.5, 1, start.size, dtype=start.dtype)
        for y in (start, near):
            own = jax.jacfwd(field, argnums=1)(jnp.asarray(t0, start.dtype), y, *values)
            given = own if flat_jac is None else flat_jac(jnp.asarray(t0, start.dtype), y, *values)
            if isinstance(own, jax.core.Tracer) or isinstance(given, jax.core.Tracer):
                return
            if flat_jac is not None:
                _compare(np.asarray(own), np.asarray(given))
            if sparsity is not None:
                _compare_sparsity(np.asarray(own), sparsity)
    _remember(f, jac, sparsity)


def _key(jac: Any, sparsity: Pattern | None) -> Any:
    return None if jac is None else weakref.ref(_original(jac)), sparsity


def _original(function: Any) -> Any:
    """The user's, of one that a front door made of it."""
    return getattr(function, "original", function)


def _is_checked(f: Any, jac: Any, sparsity: Pattern | None) -> bool:
    try:
        return _key(jac, sparsity) in _checked.get(_original(f), ())
    except TypeError:  # an object that can't be remembered
        return False


def _remember(f: Any, jac: Any, sparsity: Pattern | None) -> None:
    try:
        _checked.setdefault(_original(f), set()).add(_key(jac, sparsity))
    except TypeError:
        return


def _compare(own: np.ndarray, given: np.ndarray) -> None:
    size = np.max(np.abs(own), axis=1, keepdims=True, initial=0)
    wrong = ~(np.abs(given - own) <= _RTOL * size + 1e-30) & np.isfinite(own)
    if not wrong.any():
        return
    off = np.where(wrong, np.nan_to_num(np.abs(given - own), nan=np.inf), -1)
    i, j = (int(index) for index in np.unravel_index(np.argmax(off), off.shape))
    hint = ""
    if np.all(np.abs(given.T - own) <= _RTOL * np.max(np.abs(own)) + 1e-30):
        hint = ". It is that of f transposed: jac(...)[i, j] is the derivative of f's component i by y's component j"
    raise ValueError(
        f"jac differs from the Jacobian of f in {int(wrong.sum())} of {wrong.size} entries, most at [{i}, {j}]: jac has "
        f"{given[i, j]:.6g}, f's derivative is {own[i, j]:.6g} (at t0, near y0){hint}"
    )


def _compare_sparsity(own: np.ndarray, sparsity: Pattern) -> None:
    missing = (own != 0) & ~sparsity.mask()
    if missing.any():
        i, j = (int(index) for index in np.argwhere(missing)[0])
        raise ValueError(
            f"jac_sparsity lacks {int(missing.sum())} entries that f's Jacobian has, as [{i}, {j}], which is {own[i, j]:.6g} "
            "(at t0, near y0): component j of y has an effect on component i of f where jac_sparsity[i, j] is True"
        )


def flat_jacobian(jac: Callable, state: State, at: Callable[[Any, Any], tuple[Any, ...]]) -> Callable[..., Array]:
    """jac as a function of the time, the flat state and the operands: [n, n]. at: as `Arguments.at`."""
    n, dtype = state.size, jnp.dtype(state.dtype)

    def matrix(t: Array, y: Array, *values: Array) -> Array:
        time, *others = at(t, values)
        found = jnp.asarray(jac(time, state.unflatten(y), *others))
        if found.shape != (n, n):
            raise ValueError(f"jac returns an array of shape {found.shape}: expected ({n}, {n}), in the order of y0's leaves")
        return found.astype(dtype)

    return matrix
