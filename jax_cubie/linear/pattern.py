"""The sparsity of a Jacobian: which components of a function's result may depend on which components of an argument."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np
from jax.extend.core.primitives import closed_call_p

from ..kernel.partition import as_of_one_device
from .dependence import Walk


@dataclass(frozen=True)
class Pattern:
    """Where a matrix may have entries.

    entries: (row, column) of each, row by row, and in a row from left to right: the order in which the values of a Jacobian
    lie everywhere.
    """

    rows: int
    columns: int
    entries: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, mask: np.ndarray) -> Pattern:
        """The pattern of a matrix, bool or by what of it is not zero. mask: [rows, columns]."""
        rows, columns = mask.shape
        return cls(rows, columns, tuple((int(i), int(j)) for i, j in np.argwhere(mask)))

    @classmethod
    def dense(cls, rows: int, columns: int) -> Pattern:
        return cls.of(np.ones((rows, columns), bool))

    @classmethod
    def diagonal(cls, size: int) -> Pattern:
        return cls(size, size, tuple((number, number) for number in range(size)))

    def mask(self) -> np.ndarray:
        """The matrix of bool, [rows, columns]."""
        found = np.zeros((self.rows, self.columns), bool)
        if self.entries:
            found[tuple(np.array(self.entries).T)] = True
        return found

    def __or__(self, other: Pattern) -> Pattern:
        """The pattern of a sum."""
        return Pattern.of(self.mask() | other.mask())


def jacobian_pattern(closed: jex.ClosedJaxpr, wrt: int = 1) -> Pattern:
    """The pattern of the Jacobian of a traced function's first result by its argument number `wrt`, both flattened.

    It is a property of the function's structure, whatever its arguments, and holds what may be there: an element of `y[i]`
    whose index is not known depends on all of y. It is read off the function's forward derivative, so that what has no
    derivative in JAX (a condition, a rounded number) is no dependence, and custom derivatives count as they are. Values that
    do not depend on the arguments are computed, so that known indices, masks and zeros of constant matrices count.
    """
    function = jex.jaxpr_as_fun(without_custom_vjp(closed))
    avals = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals]

    def tangent(moved: jax.Array, *values: jax.Array) -> jax.Array:
        def of_one(y: jax.Array) -> jax.Array:
            return function(*values[:wrt], y, *values[wrt + 1 :])[0]

        return jax.jvp(of_one, (values[wrt],), (moved,))[1]

    with as_of_one_device():
        derivative = jax.make_jaxpr(tangent)(avals[wrt], *avals)
    columns = int(np.prod(avals[wrt].shape, dtype=np.int64))
    found = Walk(columns).dependence(derivative)
    return Pattern.of(found.reshape(-1, columns))


def without_custom_vjp(closed: jex.ClosedJaxpr) -> jex.ClosedJaxpr:
    """A function without the reverse rules of its parts (`jax.custom_vjp`), beside which they have no forward derivative.

    A Jacobian for Newton's method is that of what the function computes; a rule of the user's for cotangents is another matter.
    """
    return _without(closed)


def _without(value: Any) -> Any:
    """A jaxpr, an equation, or what a parameter of one holds, without them; the same object where there are none."""
    if isinstance(value, jex.ClosedJaxpr) and value.jaxpr is not value:  # from JAX 0.11 on a jaxpr has its constants itself
        inner = _without(value.jaxpr)
        return value if inner is value.jaxpr else jex.ClosedJaxpr(inner, value.consts)
    if isinstance(value, jex.Jaxpr):
        eqns = _without(list(value.eqns))
        return value if all(map(operator.is_, eqns, value.eqns)) else value.replace(eqns=eqns)
    if isinstance(value, jex.JaxprEqn):
        if value.primitive.name == "custom_vjp_call":
            return value.replace(primitive=closed_call_p, params={"call_jaxpr": _without(value.params["call_jaxpr"])})
        params = {name: _without(param) for name, param in value.params.items()}
        return value if all(map(operator.is_, params.values(), value.params.values())) else value.replace(params=params)
    if type(value) is tuple or type(value) is list:
        items = type(value)(map(_without, value))
        return value if all(map(operator.is_, items, value)) else items
    return value
