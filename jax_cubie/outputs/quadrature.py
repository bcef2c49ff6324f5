"""Sums over points inside of a step that stand for an integral over it, as fractions of the step and weights that sum to 1."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Quadrature:
    """Points and their weights; ends: the weight of each end of the step, slopes: that of h times the slope at each. Those of
    the ends are equal, and of the slopes opposite."""

    points: tuple[float, ...]
    weights: tuple[float, ...]
    ends: tuple[float, float] = (0.0, 0.0)
    slopes: tuple[float, float] = (0.0, 0.0)

    @property
    def unit(self) -> float:
        """The weight of an end, if it has one."""
        return self.ends[0] or 1.0


@functools.cache
def gauss(order: int) -> Quadrature:
    """Gauss and Legendre's, exact for polynomials of degree `order` - 1: what a method of that order is to be summed by."""
    points, weights = np.polynomial.legendre.leggauss(-(-order // 2))
    return Quadrature(tuple((points + 1) / 2), tuple(weights / 2))


@functools.cache
def with_slopes(order: int) -> Quadrature:
    """The same with both ends and their slopes, which a step has anyway, and so with fewer points inside: those of Gauss and
    Jacobi for the weight (x (1 - x))^2. Up to order 4 there is none."""
    count = max(0, -(-(order - 4) // 2))
    # Of the orthonormal polynomials' recurrence, whose matrix has the points as eigenvalues (Golub and Welsch, 1969).
    k = np.arange(1, count)
    beside = np.sqrt(4 * k * (k + 2) ** 2 * (k + 4) / ((2 * k + 4) ** 2 * (2 * k + 5) * (2 * k + 3)))
    points = (np.linalg.eigvalsh(np.diag(beside, 1) + np.diag(beside, -1)) + 1) / 2 if count else np.zeros(0)
    powers = np.arange(count + 4)
    values = points[:, None] ** powers
    at_start, at_end = (powers == 0).astype(float), np.ones(count + 4)
    rows = [*values, at_start, at_end, (powers == 1).astype(float), powers.astype(float)]
    *weights, start, end, first, last = np.linalg.solve(np.array(rows).T, 1 / (powers + 1))
    return Quadrature(tuple(points), tuple(weights), (start, end), (first, last))
