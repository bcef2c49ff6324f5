"""Rows of exact numbers, and what all tableaus check of them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import isqrt

from ..settings import as_python
from .order_conditions import ElementaryWeights, density, trees

Number = Fraction | float | int | str
Row = tuple[Fraction, ...]

# Published decimals and a user's floats are rounded, so sums may be off by their last digits.
TOLERANCE = Fraction(1, 10**12)
# Conditions beyond this order are as many again as all before, and a wrong digit does not wait for them.
CHECKED_ORDER = 5
# Where values between steps are checked: a polynomial that misses its condition misses it nearly everywhere.
INNER_POINTS = (Fraction(1, 3), Fraction(3, 4))


def exact(where: str, value: Number) -> Fraction:
    """The number that `value` is; `where` names it in the error."""
    try:
        return Fraction(value if isinstance(value, (str, int, float, Fraction)) else float(value))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        raise ValueError(f"{where} has {value!r}: expected a finite number, or text like '1/3' and '0.25'") from None


def exact_row(where: str, values: Sequence[Number]) -> Row:
    if isinstance(values, str) or not hasattr(type(values), "__iter__"):
        raise ValueError(f"{where} is {values!r}: expected a sequence of numbers")
    return tuple(exact(where, value) for value in values)


def exact_rows(where: str, rows: Sequence[Sequence[Number]]) -> tuple[Row, ...]:
    if isinstance(rows, str) or not hasattr(type(rows), "__iter__"):
        raise ValueError(f"{where} is {rows!r}: expected a sequence of rows")
    return tuple(exact_row(where, row) for row in rows)


def square_root(value: int) -> Fraction:
    """To 50 digits behind the point."""
    return Fraction(isqrt(value * 10**100), 10**50)


def assign(instance: object, **fields: object) -> None:
    """Sets the fields of a frozen instance, a NumPy integer as Python's."""
    for name, value in fields.items():
        object.__setattr__(instance, name, as_python(value))


def near(total: Fraction | int, expected: Fraction | int, magnitude: Fraction | int) -> bool:
    """Equal but for rounding of terms whose absolute values sum to `magnitude`."""
    return abs(total - expected) <= TOLERANCE * max(Fraction(1), Fraction(magnitude))


def difference(one: Row, other: Row | None) -> Row | None:
    return None if other is None else tuple(a - b for a, b in zip(one, other, strict=True))


def check_orders(name: str, claims: dict[str, object]) -> None:
    """Raises ValueError where an order is none; `claims` has the orders, `name` the tableau's."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"a tableau's name is {name!r}: expected text")
    for label, order in claims.items():
        if not isinstance(order, int) or order < 1:
            raise ValueError(f"tableau {name!r}: {label}={order!r}, expected an integer of at least 1")


def check_sums(name: str, rows: Sequence[Row], sums: Row, label: str, first: int, each: str = "c") -> None:
    """Raises ValueError where a row does not sum to its number in `sums`; `first` counts the first row."""
    for number, (row, expected) in enumerate(zip(rows, sums, strict=True), start=first):
        if not near(sum(row), expected, sum(map(abs, row))):
            raise ValueError(
                f"tableau {name!r}: {label} {number} sums to {float(sum(row))}, but its {each} is {float(expected)}"
            )


def check_conditions(
    name: str, label: str, stages: ElementaryWeights, weights: Row, order: int, x: Fraction = Fraction(1)
) -> None:
    """Raises ValueError for the first order condition up to `order` (and to 5) that the weights miss at the time x."""
    for reached in range(1, min(order, CHECKED_ORDER) + 1):
        for tree in trees(reached):
            expected = x**reached / density(tree)
            total, magnitude = stages.weigh(weights, tree)
            if not near(total, expected, magnitude):
                raise ValueError(
                    f"tableau {name!r}: {label} is of order {reached - 1}, not {order}: the sum of "
                    f"{stages.expression(tree)} is {float(total):.12g}, not {expected}. Mend the numbers, or "
                    "claim the order that they have"
                )
