"""Butcher tableaus: a method as numbers, checked where they are written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

Number = Fraction | float | int | str


def _exact(value: Number) -> Fraction:
    """The value as a fraction: "1/3" and decimal text exactly, a float as the number it is."""
    return Fraction(value)


@dataclasses.dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge-Kutta method, in exact numbers.

    a: the rows below the diagonal, one for each stage after the first.
    b: the weights of the solution. b_embedded: those of the embedded method, None where there is none.
    c: the stages' times as fractions of the step. order, embedded_order: of the two methods.
    source: where the numbers come from.

    The error estimate is the difference of the two solutions. Raises ValueError where lengths disagree, a row of `a`
    does not sum to its `c`, or weights do not sum to 1 (the conditions for consistency).
    """

    name: str
    order: int
    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]
    c: tuple[Fraction, ...]
    b_embedded: tuple[Fraction, ...] | None = None
    embedded_order: int | None = None
    source: str = ""

    def __init__(
        self,
        name: str,
        *,
        order: int,
        a: Sequence[Sequence[Number]],
        b: Sequence[Number],
        c: Sequence[Number] | None = None,
        b_embedded: Sequence[Number] | None = None,
        embedded_order: int | None = None,
        source: str = "",
    ):
        rows = tuple(tuple(_exact(value) for value in row) for row in a)
        fields = dict(
            name=name,
            order=order,
            a=rows,
            b=tuple(_exact(value) for value in b),
            c=(Fraction(0), *(sum(row, Fraction(0)) for row in rows)) if c is None else tuple(map(_exact, c)),
            b_embedded=None if b_embedded is None else tuple(_exact(value) for value in b_embedded),
            embedded_order=embedded_order,
            source=source,
        )
        for field, value in fields.items():
            object.__setattr__(self, field, value)
        self._check()

    def _check(self) -> None:
        stages = len(self.b)
        if len(self.a) != stages - 1 or any(len(row) != number + 1 for number, row in enumerate(self.a)):
            raise ValueError(
                f"tableau {self.name!r}: {stages} weights call for rows of 1 to {stages - 1} coefficients, "
                f"got rows of {[len(row) for row in self.a]}"
            )
        if len(self.c) != stages or self.c[0] != 0:
            raise ValueError(f"tableau {self.name!r}: c needs {stages} numbers, the first of them 0")
        if (self.b_embedded is None) != (self.embedded_order is None):
            raise ValueError(f"tableau {self.name!r}: b_embedded and embedded_order belong together")
        if self.b_embedded is not None and len(self.b_embedded) != stages:
            raise ValueError(f"tableau {self.name!r}: {len(self.b_embedded)} embedded weights for {stages} stages")
        # Published decimals are rounded, so sums may be off by their last digits.
        for number, (row, time) in enumerate(zip(self.a, self.c[1:], strict=True), start=2):
            if abs(sum(row) - time) > 1e-12:
                raise ValueError(
                    f"tableau {self.name!r}: row {number} sums to {float(sum(row))}, but its c is {float(time)}"
                )
        for label, weights in (("b", self.b), ("b_embedded", self.b_embedded)):
            if weights is not None and abs(sum(weights) - 1) > 1e-12:
                raise ValueError(f"tableau {self.name!r}: {label} sums to {float(sum(weights))}, not to 1")

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """First same as last: the last stage is evaluated at the end of the step, so the next step can begin with it."""
        return self.stages > 1 and (*self.a[-1], Fraction(0)) == self.b

    @property
    def error_weights(self) -> tuple[Fraction, ...] | None:
        """Weights of the error estimate, `b - b_embedded`; None without an embedded method."""
        if self.b_embedded is None:
            return None
        return tuple(weight - other for weight, other in zip(self.b, self.b_embedded, strict=True))

    def content(self) -> tuple:
        """The numbers that machine code depends on, as plain data."""
        weights = self.error_weights
        return (
            tuple(tuple(float(value).hex() for value in row) for row in self.a),
            tuple(float(value).hex() for value in self.b),
            tuple(float(value).hex() for value in self.c),
            None if weights is None else tuple(float(value).hex() for value in weights),
        )
