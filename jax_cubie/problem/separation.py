"""Singular mass matrices: their algebraic equations, which may be hidden in sums of others, on rows of their own.

Where a row of M is a sum of others, these equations, so summed, have no derivative. In shift M - J, the matrix of implicit
steps, they are lost to rounding where steps are small, since J is small beside shift M then; and slopes M^-1 f at t0, of
methods that begin with one, can't be had. Once the sum stands in the place of that row, M has zeros there, as elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..linear import Mass, Pattern


@dataclasses.dataclass(frozen=True)
class Separation:
    """From M dy/dt = f to (S M) dy/dt = S f, S regular, where S M has a row of zeros for each row of M that depends on others.

    sums: these rows, each with the others that are added to it, and their factors.
    """

    sums: tuple[tuple[int, tuple[tuple[int, float], ...]], ...]

    @property
    def _rows(self) -> np.ndarray:
        return np.array([row for row, _ in self.sums])

    def of_mass(self, values: np.ndarray) -> tuple[Mass, np.ndarray]:
        """S M, where M has these values, [n, n]."""
        values = values.copy()
        values[self._rows] = 0
        return Mass(False, Pattern.of(values != 0)), values

    def of_function(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """S times what a function returns: f, [n], or its Jacobian, [n, n]."""

        def summed(*arguments: Any) -> Array:
            values = function(*arguments)
            added = [sum(factor * values[other] for other, factor in others) for _, others in self.sums]
            return values.at[self._rows].add(jnp.stack(added))

        return summed

    def of_pattern(self, pattern: Pattern) -> Pattern:
        """That of S J, where J has this one."""
        before, mask = pattern.mask(), pattern.mask()
        for row, others in self.sums:
            mask[row] |= before[[other for other, _ in others]].any(axis=0)
        return Pattern.of(mask)


def separation_of(values: Any) -> Separation | None:
    """For the matrix M, [n, n]; None where it is not known, is a diagonal [n], or no row of it is a sum of others, to rounding
    in its dtype."""
    if not isinstance(values, np.ndarray) or values.ndim == 1:
        return None
    # Columns of one size, and below rows, so that units of components and of equations do not matter.
    columns = np.max(np.abs(values), axis=0)
    values = values / np.where(columns > 0, columns, 1)
    sizes = np.max(np.abs(values), axis=1)
    given = np.flatnonzero(sizes)
    sizes, rounding = sizes[given].astype(float), len(values) * np.finfo(values.dtype).eps
    # `left` is `sums` times these rows.
    left, sums = values[given] / sizes[:, None], np.eye(len(given))
    if np.all(np.abs(np.diag(np.linalg.qr(left.T, mode="r"))) > rounding):
        return None  # the usual case, at once
    waiting = np.ones(len(given), bool)
    while np.any(np.abs(left[waiting]) > rounding):  # Gaussian elimination with complete pivoting
        row, column = np.unravel_index(np.argmax(np.abs(left) * waiting[:, None]), left.shape)
        waiting[row] = False
        factors = waiting * left[:, column] / left[row, column]
        left, sums = (array - np.outer(factors, array[row]) for array in (left, sums))
    sums = np.where(np.abs(sums) > rounding, sums, 0) * np.divide.outer(sizes, sizes)
    np.fill_diagonal(sums, 0)
    found = [
        (int(given[row]), tuple((int(given[other]), float(sums[row, other])) for other in np.flatnonzero(sums[row])))
        for row in np.flatnonzero(waiting)
    ]
    return Separation(tuple(found)) if found else None
