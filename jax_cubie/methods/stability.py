"""Stability functions of one-step methods as exact rational functions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

Polynomial = tuple[Fraction, ...]  # coefficients in ascending powers


def stability_function(rows: Sequence[Sequence[Fraction]], b: Sequence[Fraction]) -> tuple[Polynomial, Polynomial]:
    """Numerator and denominator of R(z) = 1 + z b (I - z A)^-1 1 with the square matrix of `rows`, in ascending powers of z.

    y1 = R(h lambda) y0 where y' = lambda y (Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.3; for
    Rosenbrock methods, A is alpha + Gamma, section IV.7).
    """
    stages = len(b)
    denominator = _determinant(rows)
    # R's Taylor coefficients 1, b 1, b A 1, ...; the numerator is of no higher degree than there are stages.
    taylor, powers = [Fraction(1)], [Fraction(1)] * stages
    for _ in range(stages):
        taylor.append(_dot(b, powers))
        powers = [_dot(row, powers) for row in rows]
    numerator = [_dot(denominator[: degree + 1], taylor[degree::-1]) for degree in range(stages + 1)]
    return _trimmed(numerator), _trimmed(denominator)


def at_infinity(numerator: Polynomial, denominator: Polynomial) -> Fraction | None:
    """The limit of the quotient; None where it has none."""
    if len(numerator) > len(denominator):
        return None
    return numerator[-1] / denominator[-1] if len(numerator) == len(denominator) else Fraction(0)


def _determinant(rows: Sequence[Sequence[Fraction]]) -> list[Fraction]:
    """Of I - z A, in ascending powers of z."""
    size = len(rows)
    result = [Fraction(1)]
    if not any(value for number, row in enumerate(rows) for value in row[number + 1 :]):
        for number, row in enumerate(rows):
            result = [a - row[number] * b for a, b in zip([*result, Fraction(0)], [Fraction(0), *result], strict=True)]
        return result
    # Faddeev and LeVerrier: M_1 = A, M_k+1 = A (M_k + c_k I), c_k = -trace(M_k) / k.
    matrix = [list(row) for row in rows]
    for k in range(1, size + 1):
        result.append(-sum((matrix[i][i] for i in range(size)), Fraction(0)) / k)
        shifted = [[value + (result[k] if i == j else 0) for j, value in enumerate(row)] for i, row in enumerate(matrix)]
        columns = list(zip(*shifted, strict=True))
        matrix = [[_dot(row, column) for column in columns] for row in rows]
    return result


def _dot(one: Sequence[Fraction], other: Sequence[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(one, other, strict=False) if a and b), Fraction(0))


def _trimmed(coefficients: list[Fraction]) -> Polynomial:
    while len(coefficients) > 1 and not coefficients[-1]:
        coefficients.pop()
    return tuple(coefficients)
