"""Complex scalars inside an emitter's body, and what real and complex ones have in common."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

from ..kernel.scalar import Scalar, most, where


@dataclasses.dataclass(frozen=True)
class Complex:
    """re + i im, with the operations that an elimination takes."""

    re: Scalar
    im: Scalar

    def __add__(self, other: Complex) -> Complex:
        return Complex(self.re + other.re, self.im + other.im)

    def __neg__(self) -> Complex:
        return Complex(-self.re, -self.im)

    def __mul__(self, other: Complex) -> Complex:
        return Complex(
            self.re.fused(other.re, -(self.im * other.im)),
            self.re.fused(other.im, self.im * other.re),
        )

    def fused(self, factor: Complex, term: Complex) -> Complex:
        """self * factor + term."""
        return Complex(
            (-self.im).fused(factor.im, self.re.fused(factor.re, term.re)),
            self.im.fused(factor.re, self.re.fused(factor.im, term.im)),
        )


def parts_of(number: Scalar | Complex) -> tuple[Scalar, ...]:
    """A real number, or both parts of a complex one."""
    return (number,) if isinstance(number, Scalar) else (number.re, number.im)


def of_parts(parts: Sequence[Scalar]) -> Any:
    """The number with these parts."""
    return parts[0] if len(parts) == 1 else Complex(*parts)


def reciprocal(number: Any) -> Any:
    """1 / number; of a complex one by its parts over the larger of them, whose squares are in range."""
    if isinstance(number, Scalar):
        return 1.0 / number
    scale = 1.0 / most(abs(number.re), abs(number.im))
    re, im = number.re * scale, number.im * scale
    share = scale / re.fused(re, im * im)
    return Complex(re * share, -(im * share))


def size(number: Scalar | Complex) -> Scalar:
    """What pivots are compared by; of a complex one the sum of its parts' magnitudes."""
    return functools.reduce(operator.add, map(abs, parts_of(number)))


def either(condition: Scalar, one: Scalar | Complex, other: Scalar | Complex) -> Any:
    """One of two."""
    return of_parts([where(condition, x, y) for x, y in zip(parts_of(one), parts_of(other), strict=True)])
