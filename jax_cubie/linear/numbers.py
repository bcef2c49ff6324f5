"""Real and complex numbers inside an emitter's body, alone and in memory."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..kernel.scalar import Scalar, most, where

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body

# A vector in a lane: an array, or of complex numbers those of their parts.
Vector: TypeAlias = "View | tuple[View, View]"


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


def times(number: Scalar | Complex, factor: Scalar) -> Any:
    """A number times a real one."""
    return of_parts([part * factor for part in parts_of(number)])


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


def is_pivot(inverse: Scalar | Complex) -> Scalar:
    """Whether that may be a pivot's reciprocal."""
    return size(inverse).is_finite & ~size(inverse).equals(0.0)


def to_matrix(value: Scalar, shift: Scalar | Complex) -> Any:
    """A real number as an element of the matrix with that shift."""
    return value if isinstance(shift, Scalar) else Complex(value, value.like(0.0))


class Numbers:
    """Numbers in memory, real ones or pairs."""

    def __init__(self, b: Body, vector: Vector):
        self._b, self._parts = b, vector if isinstance(vector, tuple) else (vector,)

    def get(self, index: Any) -> Any:
        return of_parts([self._b.scalar(part.load(index)) for part in self._parts])

    def set(self, index: Any, value: Scalar | Complex) -> None:
        for part, one in zip(self._parts, parts_of(value), strict=True):
            part.store(index, one.value)


class Total:
    """A number that a loop changes."""

    def __init__(self, b: Body, start: Scalar | Complex):
        self._b, self._parts = b, [b.variable(part.value) for part in parts_of(start)]

    def get(self) -> Any:
        return of_parts([self._b.scalar(part.get()) for part in self._parts])

    def set(self, value: Scalar | Complex) -> None:
        for part, one in zip(self._parts, parts_of(value), strict=True):
            part.set(one.value)

    def subtract(self, factor: Any, other: Any) -> None:
        """Less a product."""
        self.set((-factor).fused(other, self.get()))
