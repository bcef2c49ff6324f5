"""Butcher tableaus: a method as numbers, checked where they are written down."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from math import comb

from .order_conditions import ElementaryWeights
from .rows import (
    INNER_POINTS,
    Number,
    Row,
    assign,
    check_conditions,
    check_orders,
    check_sums,
    difference,
    exact_row,
    exact_rows,
    near,
)


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
        rows = exact_rows("a of the continuous extension", a)
        polynomials = exact_rows("weights of the continuous extension", weights)
        degree = max(map(len, polynomials), default=0)
        assign(
            self,
            order=order,
            weights=tuple(row + (Fraction(0),) * (degree - len(row)) for row in polynomials),
            a=rows,
            c=tuple(map(sum, rows)) if c is None else exact_row("c of the continuous extension", c),
        )

    @property
    def degree(self) -> int:
        """Of the polynomial."""
        return len(self.weights[0])

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


def check_claims(name: str, order: int, embedded_order: int | None, dense: ContinuousExtension | None) -> None:
    """Raises ValueError where the tableau's name, one of its orders or its extension is none."""
    if dense is not None and not isinstance(dense, ContinuousExtension):
        raise ValueError(f"tableau {name!r}: dense={dense!r}, expected a ContinuousExtension or None")
    claims = {"order": order, "embedded_order": embedded_order, "the continuous extension's order": dense and dense.order}
    check_orders(name, {label: order for label, order in claims.items() if label == "order" or order is not None})


def check_embedded(name: str, b: Row, b_embedded: Row | None, embedded_order: int | None) -> None:
    """Raises ValueError where the embedded method's weights do not fit those of the solution, or its claim."""
    if (b_embedded is None) != (embedded_order is None):
        raise ValueError(f"tableau {name!r}: b_embedded and embedded_order belong together")
    if b_embedded == b:
        raise ValueError(
            f"tableau {name!r}: b_embedded is b, so that the error estimate is always 0: give other weights, or leave it out"
        )
    if b_embedded is not None and len(b_embedded) != len(b):
        raise ValueError(f"tableau {name!r}: {len(b_embedded)} embedded weights for {len(b)} stages")


def check_extension(name: str, dense: ContinuousExtension, rows: Sequence[Row], b: Row) -> None:
    """Raises ValueError where an extension does not fit the stages with these rows, ends elsewhere than the step with the
    weights `b`, or misses an order condition."""
    stages = len(b)
    expected = [stages + number for number in range(len(dense.a))]
    if [len(row) for row in dense.a] != expected or len(dense.c) != len(dense.a):
        raise ValueError(
            f"tableau {name!r}: extra stages of the continuous extension call for rows of {expected} coefficients and as many "
            f"times, got rows of {[len(row) for row in dense.a]} and {len(dense.c)} times"
        )
    if len(dense.weights) != stages + len(dense.a):
        raise ValueError(
            f"tableau {name!r}: the continuous extension has weights for {len(dense.weights)} stages; there are "
            f"{stages + len(dense.a)}"
        )
    check_sums(name, dense.a, dense.c, "the continuous extension's row", first=stages + 1)
    for number, (at_end, row) in enumerate(zip(dense.at(Fraction(1)), dense.weights, strict=True)):
        weight = b[number] if number < stages else Fraction(0)
        if not near(at_end, weight, sum(map(abs, row))):
            raise ValueError(
                f"tableau {name!r}: the continuous extension's weight of stage {number + 1} ends at {float(at_end)}, not at "
                f"{float(weight)}, its weight in the step"
            )
    elementary = ElementaryWeights((*rows, *dense.a))
    for x in INNER_POINTS:
        check_conditions(name, f"the continuous extension at x = {x}", elementary, dense.at(x), dense.order, x)


class Tableau(abc.ABC):
    """The numbers of a method, as a frozen dataclass.

    name, order: of the method. embedded_order: of that which its error is estimated by, None where there is none. dense: its
    own values between steps, None where they are Hermite's cubic. aliases: other names. source: where the numbers come from.
    """

    name: str
    order: int
    embedded_order: int | None
    dense: ContinuousExtension | None
    aliases: tuple[str, ...]
    source: str

    @property
    @abc.abstractmethod
    def stages(self) -> int:
        """How many it has."""

    @property
    @abc.abstractmethod
    def error_weights(self) -> Row | None:
        """Weights of the error estimate; None without an embedded method."""

    @property
    def dense_order(self) -> int:
        """The order of the values between steps: its own, or that of cubic Hermite interpolation."""
        return 3 if self.dense is None else self.dense.order

    @property
    def fsal(self) -> bool:
        """First same as last: the next step's first stage is this one's last."""
        return False

    def _error(self, what: str) -> ValueError:
        return ValueError(f"tableau {self.name!r}: {what}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.stages} stages, order {self.order}>"


class RungeKuttaTableau(Tableau):
    """Those of a Runge-Kutta method. b, b_embedded: the weights of the solution and of the embedded one. c: the stages'
    times."""

    b: Row
    c: Row
    b_embedded: Row | None

    def __hash__(self) -> int:
        return hash((self.name, self.b))  # few of the numbers are enough to tell methods apart

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def error_weights(self) -> Row | None:
        return difference(self.b, self.b_embedded)

    def _check_order(self, rows: Sequence[Row]) -> None:
        """rows: the coefficients of each stage. Raises ValueError where an order condition does not hold, or `dense` does not
        fit."""
        stages = ElementaryWeights(rows)
        check_conditions(self.name, "b", stages, self.b, self.order)
        if self.b_embedded is not None:
            check_conditions(self.name, "b_embedded", stages, self.b_embedded, self.embedded_order or 1)
        if self.dense is not None:
            check_extension(self.name, self.dense, rows, self.b)


@dataclasses.dataclass(frozen=True, repr=False)
class ButcherTableau(RungeKuttaTableau):
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
        rows = exact_rows(self_named + "a", a)
        assign(
            self,
            name=name,
            order=order,
            a=rows,
            b=exact_row(self_named + "b", b),
            c=(Fraction(0), *map(sum, rows)) if c is None else exact_row(self_named + "c", c),
            b_embedded=None if b_embedded is None else exact_row(self_named + "b_embedded", b_embedded),
            embedded_order=embedded_order,
            b_embedded_low=None if b_embedded_low is None else exact_row(self_named + "b_embedded_low", b_embedded_low),
            dense=dense,
            aliases=tuple(aliases),
            source=source,
        )
        self._check_shape()
        self._check_order(((), *rows))
        if self.b_embedded_low is not None:
            check_conditions(name, "b_embedded_low", ElementaryWeights(((), *rows)), self.b_embedded_low, 1)

    def _check_shape(self) -> None:
        stages = self.stages
        check_claims(self.name, self.order, self.embedded_order, self.dense)
        if len(self.a) != stages - 1 or any(len(row) != number + 1 for number, row in enumerate(self.a)):
            raise self._error(
                f"{stages} weights call for rows of 1 to {stages - 1} coefficients, got rows of {[len(r) for r in self.a]}"
            )
        if len(self.c) != stages or self.c[0] != 0:
            raise self._error(f"c needs {stages} numbers, the first of them 0")
        check_embedded(self.name, self.b, self.b_embedded, self.embedded_order)
        if self.b_embedded_low is not None:
            if self.b_embedded is None:
                raise self._error("b_embedded_low tempers the error of b_embedded, which is missing")
            if len(self.b_embedded_low) != stages:
                raise self._error(f"{len(self.b_embedded_low)} second embedded weights for {stages} stages")
        check_sums(self.name, self.a, self.c[1:], "row", first=2)

    __hash__ = RungeKuttaTableau.__hash__  # a dataclass makes one of all fields else

    @property
    def fsal(self) -> bool:
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
    def error_weights_low(self) -> Row | None:
        """Weights of the second error estimate, `b - b_embedded_low`; None without one."""
        return difference(self.b, self.b_embedded_low)
