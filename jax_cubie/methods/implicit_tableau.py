"""Tableaus of implicit Runge-Kutta methods, checked where they are written down."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from .rows import Number, Row, assign, check_sums, exact_row, exact_rows, near
from .stability import Polynomial, at_infinity, stability_function
from .tableau import ContinuousExtension, RungeKuttaTableau, check_claims, check_embedded


@dataclasses.dataclass(frozen=True, repr=False)
class ImplicitTableau(RungeKuttaTableau):
    """An implicit Runge-Kutta method in exact numbers: text ("1/3", "0.1") is taken exactly, a float as what it is.

    a: one row for each stage; zeros at a row's end may be left out, and the field has them.
    b: the weights of the solution. b_embedded: those of the embedded method, None where there is none; the error estimate
    is the difference of the two solutions.
    c: the stages' times as fractions of the step; the sums of the rows where it is not given.
    order, embedded_order: of the two methods.
    dense: the method's own values between steps; None: cubic Hermite interpolation.
    predictor: for each stage after the first a combination of the slopes before it, which is where Newton's method may begin
    with its own; weights sum to 1, and zeros at a row's end may be left out. None where the authors give none.
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
    dense: ContinuousExtension | None
    predictor: tuple[Row, ...] | None
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
        dense: ContinuousExtension | None = None,
        predictor: Sequence[Sequence[Number]] | None = None,
        aliases: Sequence[str] = (),
        source: str = "",
    ):
        named = f"tableau {name!r}: "
        rows, weights = exact_rows(named + "a", a), exact_row(named + "b", b)
        stages = len(weights)
        if len(rows) != stages or any(len(row) > stages for row in rows):
            raise ValueError(
                f"{named}{stages} weights call for {stages} rows of at most {stages} coefficients, got rows of "
                f"{[len(row) for row in rows]}"
            )
        assign(
            self,
            name=name,
            order=order,
            a=tuple(row + (Fraction(0),) * (stages - len(row)) for row in rows),
            b=weights,
            c=tuple(sum(row, Fraction(0)) for row in rows) if c is None else exact_row(named + "c", c),
            b_embedded=None if b_embedded is None else exact_row(named + "b_embedded", b_embedded),
            embedded_order=embedded_order,
            dense=dense,
            predictor=None if predictor is None else exact_rows(named + "predictor", predictor),
            aliases=tuple(aliases),
            source=source,
        )
        self._check_shape()
        self._check_order(self.a)

    def _check_shape(self) -> None:
        check_claims(self.name, self.order, self.embedded_order, self.dense)
        check_embedded(self.name, self.b, self.b_embedded, self.embedded_order)
        if len(self.c) != self.stages:
            raise self._error(f"c needs {self.stages} numbers, got {len(self.c)}")
        check_sums(self.name, self.a, self.c, "row", first=1)
        if self.predictor is None:
            return
        lengths = [len(row) for row in self.predictor]
        if len(lengths) != self.stages - 1 or any(length > number for number, length in enumerate(lengths, start=1)):
            raise self._error(f"the predictor needs rows of at most 1 to {self.stages - 1} coefficients, got rows of {lengths}")
        ones = (Fraction(1),) * (self.stages - 1)
        check_sums(self.name, self.predictor, ones, "the predictor's row", first=2, each="sum")

    __hash__ = RungeKuttaTableau.__hash__  # a dataclass makes one of all fields else

    @property
    def family(self) -> str:
        """ "DIRK" where no stage needs a later one, which are solved one after the other; else "FIRK"."""
        coupled = any(value for number, row in enumerate(self.a) for value in row[number + 1 :])
        return "FIRK" if coupled else "DIRK"

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the solution is the last stage's state."""
        return near(self.c[-1], 1, 0) and all(near(a, b, 0) for a, b in zip(self.a[-1], self.b, strict=True))

    @property
    def explicit_first_stage(self) -> bool:
        """Whether the first stage is f at the start of the step."""
        return not any(self.a[0])

    @property
    def singly(self) -> Fraction | None:
        """The diagonal of all implicit stages of a DIRK method where it is the same, so that they share a matrix; else None."""
        diagonal = {row[number] for number, row in enumerate(self.a) if any(row)}
        return diagonal.pop() if self.family == "DIRK" and len(diagonal) == 1 else None

    @property
    def fsal(self) -> bool:
        return self.stages > 1 and self.explicit_first_stage and self.stiffly_accurate

    @property
    def end_stage(self) -> int | None:
        """The stage that is f at the end of the step, counted from 0; None where none is."""
        return self.stages - 1 if self.stiffly_accurate else None

    @functools.cached_property
    def stability_function(self) -> tuple[Polynomial, Polynomial]:
        """Numerator and denominator of R(z), coefficients in ascending powers."""
        return stability_function(self.a, self.b)

    @property
    def stability_at_infinity(self) -> Fraction | None:
        """R at infinity, as exact as the numbers are; None where it grows without bound."""
        return at_infinity(*self.stability_function)


def interpolant(nodes: Sequence[Fraction]) -> tuple[Row, ...]:
    """Integrals from 0 of the Lagrange polynomials of the nodes: for each the coefficients in ascending powers, from x on.

    They are the weights of values between steps whose slope is the polynomial through the stages' slopes.
    """
    rows = []
    for number, node in enumerate(nodes):
        polynomial = [Fraction(1)]
        for other in (*nodes[:number], *nodes[number + 1 :]):
            shifted = zip([*polynomial, Fraction(0)], [Fraction(0), *polynomial], strict=True)
            polynomial = [(b - other * a) / (node - other) for a, b in shifted]
        rows.append(tuple(value / power for power, value in enumerate(polynomial, start=1)))
    return tuple(rows)


def collocation(nodes: Sequence[Fraction]) -> dict[str, Any]:
    """What ImplicitTableau takes, for the collocation method with these times of its stages; its values between steps are the
    collocation polynomial (Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, theorem II.7.7)."""
    dense = ContinuousExtension(order=len(nodes), weights=interpolant(nodes))
    columns = [dense.at(node) for node in nodes]
    return {"a": columns, "b": dense.at(Fraction(1)), "c": nodes, "dense": dense}
