"""Butcher tableaus: a method as numbers, checked where they are written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from math import comb

from .order_conditions import ElementaryWeights, density, expression, trees

Number = Fraction | float | int | str
Row = tuple[Fraction, ...]

# Published decimals and a user's floats are rounded, so sums may be off by their last digits.
_TOLERANCE = Fraction(1, 10**12)
# Conditions beyond this order are as many again as all before, and a wrong digit does not wait for them.
_CHECKED_ORDER = 5


@dataclasses.dataclass(frozen=True)
class ContinuousExtension:
    """A polynomial through a step, y(t + x h) = y + h * sum(b_i(x) k_i) for x from 0 to 1, in exact numbers.

    order: of its values; the error of one step is of one order more.
    weights: for each stage, the extra ones last, the coefficients of b_i in ascending powers, from x on.
    a, c: rows and times of the stages that only the extension needs; a row goes over all stages before it.
    """

    order: int = dataclasses.field(metadata={"content": None})
    weights: tuple[Row, ...]
    a: tuple[Row, ...]
    c: Row

    def __init__(
        self,
        *,
        order: int,
        weights: Sequence[Sequence[Number]],
        a: Sequence[Sequence[Number]] = (),
        c: Sequence[Number] | None = None,
    ):
        rows = _rows("a of the continuous extension", a)
        polynomials = _rows("weights of the continuous extension", weights)
        degree = max(map(len, polynomials), default=0)
        _set(
            self,
            order=order,
            weights=tuple(row + (Fraction(0),) * (degree - len(row)) for row in polynomials),
            a=rows,
            c=tuple(map(sum, rows)) if c is None else _row("c of the continuous extension", c),
        )

    def at(self, x: Fraction) -> Row:
        """The weight of each stage at the fraction `x` of the step."""
        powers = [x**power for power in range(1, len(self.weights[0]) + 1)]
        return tuple(sum((w * p for w, p in zip(row, powers, strict=True)), Fraction(0)) for row in self.weights)

    @property
    def terms(self) -> tuple[Row, ...]:
        """The weights in another basis: b_i(x) = sum over k from 1 to n, their degree, of terms[i][k - 1] x^k (1 - x)^(n - k).

        For sums in floating point: coefficients of powers reach 10^6 and cancel, which leaves nothing of float32; Bernstein's
        polynomials are all positive, and at x = 1 only the last is left.
        """
        powers = range(1, len(self.weights[0]) + 1)
        shares = [[comb(powers[-1] - j, k - j) if j <= k else 0 for j in powers] for k in powers]
        return tuple(
            tuple(sum((w * share for w, share in zip(row, of_term, strict=True)), Fraction(0)) for of_term in shares)
            for row in self.weights
        )


@dataclasses.dataclass(frozen=True, repr=False)
class ButcherTableau:
    """An explicit Runge-Kutta method, in exact numbers: text ("1/3", "0.1") is taken exactly, a float as what it is.

    a: the rows below the diagonal, one for each stage after the first.
    b: the weights of the solution. b_embedded: those of the embedded method, None where there is none; the error estimate
    is the difference of the two solutions.
    b_embedded_low: the weights of a second embedded method, whose error e3 tempers that of the first, e5, to
    e5^2 / sqrt(e5^2 + 0.01 e3^2) (Hairer, Norsett, Wanner, Solving ODE I, section II.10); None for nearly all.
    c: the stages' times as fractions of the step; the sums of the rows where it is not given.
    order, embedded_order: of the two methods.
    dense: the method's own values between steps; None: cubic Hermite interpolation.
    aliases: other names of it. source: where the numbers come from.

    Raises ValueError where lengths disagree, a row of `a` does not sum to its `c`, or an order condition does not hold.
    Those are checked up to order 5, for every order that is claimed; beyond that the claim is believed.
    """

    name: str = dataclasses.field(metadata={"content": None})
    order: int
    a: tuple[Row, ...]
    b: Row
    c: Row
    b_embedded: Row | None
    embedded_order: int | None = dataclasses.field(metadata={"content": None})
    b_embedded_low: Row | None
    dense: ContinuousExtension | None
    aliases: tuple[str, ...] = dataclasses.field(compare=False, metadata={"content": None})
    source: str = dataclasses.field(compare=False, metadata={"content": None})

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
        b_embedded_low: Sequence[Number] | None = None,
        dense: ContinuousExtension | None = None,
        aliases: Sequence[str] = (),
        source: str = "",
    ):
        self_named = f"tableau {name!r}: "
        rows = _rows(self_named + "a", a)
        _set(
            self,
            name=name,
            order=order,
            a=rows,
            b=_row(self_named + "b", b),
            c=(Fraction(0), *map(sum, rows)) if c is None else _row(self_named + "c", c),
            b_embedded=None if b_embedded is None else _row(self_named + "b_embedded", b_embedded),
            embedded_order=embedded_order,
            b_embedded_low=None if b_embedded_low is None else _row(self_named + "b_embedded_low", b_embedded_low),
            dense=dense,
            aliases=tuple(aliases),
            source=source,
        )
        self._check_shape()
        self._check_order()

    def _check_shape(self) -> None:
        stages, dense = self.stages, self.dense
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a tableau's name is {self.name!r}: expected text")
        claims = {"order": self.order}
        if self.embedded_order is not None:
            claims["embedded_order"] = self.embedded_order
        if dense is not None and not isinstance(dense, ContinuousExtension):
            raise self._error(f"dense={dense!r}, expected a ContinuousExtension or None")
        if dense is not None:
            claims["the continuous extension's order"] = dense.order
        for label, order in claims.items():
            if not isinstance(order, int) or order < 1:
                raise self._error(f"{label}={order!r}, expected an integer of at least 1")
        if len(self.a) != stages - 1 or any(len(row) != number + 1 for number, row in enumerate(self.a)):
            raise self._error(
                f"{stages} weights call for rows of 1 to {stages - 1} coefficients, got rows of {[len(r) for r in self.a]}"
            )
        if len(self.c) != stages or self.c[0] != 0:
            raise self._error(f"c needs {stages} numbers, the first of them 0")
        if (self.b_embedded is None) != (self.embedded_order is None):
            raise self._error("b_embedded and embedded_order belong together")
        if self.b_embedded == self.b:
            raise self._error("b_embedded is b, so that the error estimate is always 0: give other weights, or leave it out")
        if dense is not None and not isinstance(dense, ContinuousExtension):
            raise self._error(f"dense is {dense!r}: expected a jax_cubie.ContinuousExtension")
        if self.b_embedded is None and self.b_embedded_low is not None:
            raise self._error("b_embedded_low tempers the error of b_embedded, which is missing")
        for label, weights in (("", self.b_embedded), ("second ", self.b_embedded_low)):
            if weights is not None and len(weights) != stages:
                raise self._error(f"{len(weights)} {label}embedded weights for {stages} stages")
        self._check_sums(self.a, self.c[1:], "row", first=2)
        if dense is None:
            return
        expected = [stages + number for number in range(len(dense.a))]
        if [len(row) for row in dense.a] != expected or len(dense.c) != len(dense.a):
            raise self._error(
                f"extra stages of the continuous extension call for rows of {expected} coefficients and as many times, "
                f"got rows of {[len(row) for row in dense.a]} and {len(dense.c)} times"
            )
        if len(dense.weights) != stages + len(dense.a):
            raise self._error(
                f"the continuous extension has weights for {len(dense.weights)} stages; there are {stages + len(dense.a)}"
            )
        self._check_sums(dense.a, dense.c, "the continuous extension's row", first=stages + 1)

    def _check_sums(self, rows: tuple[Row, ...], times: Row, label: str, first: int) -> None:
        for number, (row, time) in enumerate(zip(rows, times, strict=True), start=first):
            if not _near(sum(row), time, sum(map(abs, row))):
                raise self._error(f"{label} {number} sums to {float(sum(row))}, but its c is {float(time)}")

    def _check_order(self) -> None:
        stages = ElementaryWeights(self.a)
        self._check_conditions("b", stages, self.b, self.order)
        if self.b_embedded is not None:
            self._check_conditions("b_embedded", stages, self.b_embedded, self.embedded_order or 1)
        if self.b_embedded_low is not None:
            self._check_conditions("b_embedded_low", stages, self.b_embedded_low, 1)
        if self.dense is None:
            return
        for number, (at_end, row) in enumerate(zip(self.dense.at(Fraction(1)), self.dense.weights, strict=True)):
            expected = self.b[number] if number < self.stages else Fraction(0)
            if not _near(at_end, expected, sum(map(abs, row))):
                raise self._error(
                    f"the continuous extension's weight of stage {number + 1} ends at {float(at_end)}, not at "
                    f"{float(expected)}, its weight in the step"
                )
        stages = ElementaryWeights((*self.a, *self.dense.a))
        # A polynomial that misses its condition misses it nearly everywhere.
        for x in (Fraction(1, 3), Fraction(3, 4)):
            label = f"the continuous extension at x = {x}"
            self._check_conditions(label, stages, self.dense.at(x), self.dense.order, x)

    def _check_conditions(
        self, label: str, stages: ElementaryWeights, weights: Row, order: int, x: Fraction = Fraction(1)
    ) -> None:
        for reached in range(1, min(order, _CHECKED_ORDER) + 1):
            for tree in trees(reached):
                expected = x**reached / density(tree)
                total, magnitude = stages.weigh(weights, tree)
                if not _near(total, expected, magnitude):
                    raise self._error(
                        f"{label} is of order {reached - 1}, not {order}: the sum of {expression(tree)} is "
                        f"{float(total):.12g}, not {expected}. Mend the numbers, or claim the order that they have"
                    )

    def _error(self, what: str) -> ValueError:
        return ValueError(f"tableau {self.name!r}: {what}")

    def __repr__(self) -> str:
        return f"<ButcherTableau {self.name!r}: {self.stages} stages, order {self.order}>"

    def __hash__(self) -> int:
        return hash((self.name, self.b))  # few of the numbers are enough to tell methods apart

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """First same as last: the last stage is evaluated at the end of the step, so the next step can begin with it."""
        return self.stages > 1 and (*self.a[-1], Fraction(0)) == self.b

    @property
    def end_stage(self) -> int | None:
        """The stage, extra ones included, that is f at the end of the step, counted from 0; None where none is."""
        if self.fsal:
            return self.stages - 1
        rows = self.dense.a if self.dense is not None else ()
        ends = (number for number, row in enumerate(rows) if row[: self.stages] == self.b and not any(row[self.stages :]))
        return next((self.stages + number for number in ends), None)

    @property
    def dense_order(self) -> int:
        """The order of the values between steps: its own, or that of cubic Hermite interpolation."""
        return 3 if self.dense is None else self.dense.order

    @property
    def error_weights(self) -> Row | None:
        """Weights of the error estimate, `b - b_embedded`; None without an embedded method."""
        return self._difference(self.b_embedded)

    @property
    def error_weights_low(self) -> Row | None:
        """Weights of the second error estimate, `b - b_embedded_low`; None without one."""
        return self._difference(self.b_embedded_low)

    def _difference(self, other: Row | None) -> Row | None:
        return None if other is None else tuple(one - two for one, two in zip(self.b, other, strict=True))


def _exact(where: str, value: Number) -> Fraction:
    try:
        return Fraction(value if isinstance(value, (str, int, float, Fraction)) else float(value))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        raise ValueError(f"{where} has {value!r}: expected a finite number, or text like '1/3' and '0.25'") from None


def _row(where: str, values: Sequence[Number]) -> Row:
    if isinstance(values, str) or not hasattr(type(values), "__iter__"):
        raise ValueError(f"{where} is {values!r}: expected a sequence of numbers")
    return tuple(_exact(where, value) for value in values)


def _rows(where: str, rows: Sequence[Sequence[Number]]) -> tuple[Row, ...]:
    if isinstance(rows, str) or not hasattr(type(rows), "__iter__"):
        raise ValueError(f"{where} is {rows!r}: expected a sequence of rows")
    return tuple(_row(where, row) for row in rows)


def _set(instance: object, **fields: object) -> None:
    for name, value in fields.items():
        object.__setattr__(instance, name, value)


def _near(total: Fraction | int, expected: Fraction, magnitude: Fraction | int) -> bool:
    """Equal but for rounding of terms whose absolute values sum to `magnitude`."""
    return abs(total - expected) <= _TOLERANCE * max(Fraction(1), Fraction(magnitude))
