"""Tableaus of Rosenbrock methods, checked where they are written down."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from .order_conditions import ElementaryWeights, Tree, density, trees
from .rows import (
    INNER_POINTS,
    Number,
    Row,
    assign,
    check_conditions,
    check_orders,
    check_sums,
    difference,
    exact,
    exact_row,
    exact_rows,
    near,
)
from .stability import Polynomial, at_infinity, stability_function
from .tableau import ContinuousExtension, Tableau, check_claims

_CHECKED_W_ORDER = 4


@dataclasses.dataclass(frozen=True, repr=False)
class RosenbrockTableau(Tableau):
    """A Rosenbrock method in the form without products by the Jacobian, in exact numbers: text is taken exactly, a float as
    what it is (Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.7, on implementation).

    With J = df/dy and f_t = df/dt at the start of a step of M y' = f(t, y), it solves for each stage

        (M / (h gamma) - J) u_i = f(t + alpha_i h, y + sum a_ij u_j) + M sum (c_ij / h) u_j + h d_i f_t,    j < i,

    and the solution is y + sum m_i u_i, the error estimate sum e_i u_i.

    gamma: the diagonal of Gamma, the same in all stages.
    a, c: the rows below the diagonal, one for each stage after the first.
    m: the weights of the solution. e: those of the error estimate, None where there is none; m - e is the embedded method.
    alpha, d: the stages' times as fractions of the step, and the weights of the time derivative; the sums of the rows of
    `alpha_rows` and `gamma_rows` where they are not given.
    order, embedded_order: of the two methods. w_order: the order with any matrix in the place of J, if only f_t is exact; None
    where nothing is claimed.
    dense: the method's own values between steps as its authors give them, rows h_k with a weight for each stage (zeros at the
    end may be left out) and order `dense_order`:
    y(t + x h) = (1 - x) y + x (y1 + (1 - x) sum_i (h_1i + x h_2i + x^2 h_3i + ...) u_i). Or, as it is in the field, a
    ContinuousExtension, whose weights are those of u_i instead of h k_i, without dense_order. None: cubic Hermite
    interpolation.
    aliases: other names of it. source: where the numbers come from.

    Raises ValueError where lengths disagree, `alpha` or `d` are not the sums that they have to be, or an order condition does
    not hold. Those are checked up to order 5, for every order that is claimed (of w_order, to 4).
    """

    name: str = dataclasses.field(metadata={"content": None})
    order: int
    gamma: Fraction
    a: tuple[Row, ...]
    c: tuple[Row, ...]
    m: Row
    alpha: Row
    d: Row
    e: Row | None
    embedded_order: int | None = dataclasses.field(metadata={"content": None})
    w_order: int | None = dataclasses.field(metadata={"content": None})
    dense: ContinuousExtension | None
    aliases: tuple[str, ...] = dataclasses.field(compare=False, metadata={"content": None})
    source: str = dataclasses.field(compare=False, metadata={"content": None})

    def __init__(
        self,
        name: str,
        *,
        order: int,
        gamma: Number,
        a: Sequence[Sequence[Number]],
        c: Sequence[Sequence[Number]],
        m: Sequence[Number],
        alpha: Sequence[Number] | None = None,
        d: Sequence[Number] | None = None,
        e: Sequence[Number] | None = None,
        embedded_order: int | None = None,
        w_order: int | None = None,
        dense: Sequence[Sequence[Number]] | ContinuousExtension | None = None,
        dense_order: int | None = None,
        aliases: Sequence[str] = (),
        source: str = "",
    ):
        named = f"tableau {name!r}: "
        weights = exact_row(named + "m", m)
        rows, extension = (None, dense) if dense is None or isinstance(dense, ContinuousExtension) else (dense, None)
        if (rows is None) != (dense_order is None):
            raise ValueError(f"{named}dense and dense_order belong together")
        if rows is not None and dense_order is not None:
            extension = _extension(named, weights, exact_rows(named + "dense", rows), dense_order)
        assign(
            self,
            name=name,
            order=order,
            gamma=exact(named + "gamma", gamma),
            a=exact_rows(named + "a", a),
            c=exact_rows(named + "c", c),
            m=weights,
            e=None if e is None else exact_row(named + "e", e),
            embedded_order=embedded_order,
            w_order=w_order,
            dense=extension,
            aliases=tuple(aliases),
            source=source,
        )
        self._check_shape()
        assign(
            self,
            alpha=tuple(map(_sum, self.alpha_rows)) if alpha is None else exact_row(named + "alpha", alpha),
            d=tuple(map(_sum, self.gamma_rows)) if d is None else exact_row(named + "d", d),
        )
        self._check_times()
        self._check_order()

    def _check_shape(self) -> None:
        stages = self.stages
        check_claims(self.name, self.order, self.embedded_order, self.dense)
        if self.w_order is not None:
            check_orders(self.name, {"w_order": self.w_order})
        if self.gamma <= 0:
            raise self._error(f"gamma is {float(self.gamma)}: expected a positive number")
        for label, rows in (("a", self.a), ("c", self.c)):
            if [len(row) for row in rows] != list(range(1, stages)):
                raise self._error(
                    f"{stages} weights call for rows of 1 to {stages - 1} coefficients in {label}, got rows of "
                    f"{[len(row) for row in rows]}"
                )
        if (self.e is None) != (self.embedded_order is None):
            raise self._error("e and embedded_order belong together")
        if self.e is not None and len(self.e) != stages:
            raise self._error(f"{len(self.e)} weights of the error for {stages} stages")
        if self.e is not None and not any(self.e):
            raise self._error("e is 0 in all stages, and so the error estimate: give other weights, or leave it out")

    def _check_times(self) -> None:
        for label, numbers in (("alpha", self.alpha), ("d", self.d)):
            if len(numbers) != self.stages:
                raise self._error(f"{label} needs {self.stages} numbers, got {len(numbers)}")
        check_sums(self.name, self.alpha_rows, self.alpha, "row of alpha_rows", first=1, each="alpha")
        check_sums(self.name, self.gamma_rows, self.d, "row of gamma_rows", first=1, each="d")

    def _check_order(self) -> None:
        stages = ElementaryWeights(self.alpha_rows, self.beta_rows)
        check_conditions(self.name, "m", stages, self.b, self.order)
        if self.b_embedded is not None:
            check_conditions(self.name, "m - e", stages, self.b_embedded, self.embedded_order or 1)
        for reached in range(1, min(self.w_order or 0, _CHECKED_W_ORDER) + 1):
            for tree in trees(reached):
                for text, total, magnitude, expected in w_conditions(self.alpha_rows, self.gamma_rows, self.b, tree):
                    if not near(total, expected, magnitude):
                        raise self._error(
                            f"with any matrix in the place of J it is of order {reached - 1}, not {self.w_order}: the sum "
                            f"of {text} is {float(total):.12g}, not {expected}. Mend the numbers, or claim the order that "
                            "they have"
                        )
        if self.dense is None:
            return
        for x in INNER_POINTS:
            weights = _times(self.dense.at(x), self.gamma_rows)
            check_conditions(self.name, f"dense at x = {x}", stages, weights, self.dense.order, x)

    def __hash__(self) -> int:
        return hash((self.name, self.m))

    @property
    def stages(self) -> int:
        return len(self.m)

    @functools.cached_property
    def gamma_rows(self) -> tuple[Row, ...]:
        """Gamma = (I / gamma - c)^-1: rows up to the diagonal, which is gamma."""
        rows: list[Row] = []
        for number, row in enumerate(((), *self.c)):
            inner = [_sum(c * rows[k][j] for k, c in enumerate(row) if k >= j) for j in range(number)]
            rows.append((*(self.gamma * value for value in inner), self.gamma))
        return tuple(rows)

    @functools.cached_property
    def alpha_rows(self) -> tuple[Row, ...]:
        """a Gamma: the coefficients of stages before they were transformed, rows below the diagonal, the first one empty."""
        return tuple(_times(row, self.gamma_rows) for row in ((), *self.a))

    @functools.cached_property
    def beta_rows(self) -> tuple[Row, ...]:
        """The sum of the two, rows up to the diagonal."""
        pairs = zip(self.alpha_rows, self.gamma_rows, strict=True)
        return tuple(tuple(a + g for a, g in zip((*alpha, Fraction(0)), row, strict=True)) for alpha, row in pairs)

    @functools.cached_property
    def b(self) -> Row:
        """m Gamma: the weights of stages before they were transformed."""
        return _times(self.m, self.gamma_rows)

    @functools.cached_property
    def b_embedded(self) -> Row | None:
        """Those of the embedded method."""
        return None if self.m_embedded is None else _times(self.m_embedded, self.gamma_rows)

    @property
    def m_embedded(self) -> Row | None:
        """The weights of the embedded method; None without one."""
        return difference(self.m, self.e)

    @property
    def error_weights(self) -> Row | None:
        return self.e

    @property
    def end_stage(self) -> int | None:
        """The stage whose f is that at the end of the step, counted from 0; None where none is."""
        ends = (number for number, state in enumerate(self._states) if state == self.m and self.alpha[number] == 1)
        return next(ends, None)

    @property
    def evaluations(self) -> tuple[int, ...]:
        """For each stage the first one with the same state and time, whose f it shares; its own number where it needs one."""
        arguments = list(zip(self._states, self.alpha, strict=True))
        return tuple(map(arguments.index, arguments))

    @property
    def _states(self) -> tuple[Row, ...]:
        """The rows of a with all their zeros."""
        return _square(((), *self.a))

    @functools.cached_property
    def stability_function(self) -> tuple[Polynomial, Polynomial]:
        """Numerator and denominator of R(z), coefficients in ascending powers."""
        return stability_function(_square(self.beta_rows), self.b)

    @property
    def stability_at_infinity(self) -> Fraction | None:
        """R at infinity, as exact as the numbers are; None where it grows without bound."""
        return at_infinity(*self.stability_function)

    @property
    def stiffly_accurate(self) -> bool:
        """Whether the solution is the last stage's state and that stage's u, and the last stage is at the end of the step."""
        state = (*self._states[-1][:-1], Fraction(1))
        return near(self.alpha[-1], 1, 0) and all(near(m, a, 0) for m, a in zip(self.m, state, strict=True))


def transformed(
    *,
    alpha: Sequence[Sequence[Number]],
    gamma: Sequence[Sequence[Number]],
    b: Sequence[Number],
    b_embedded: Sequence[Number] | None = None,
    dense: Sequence[Sequence[Number]] | None = None,
) -> dict[str, Any]:
    """What RosenbrockTableau takes, for a method that is published in the form with products by the Jacobian.

    alpha: the rows below the diagonal, one for each stage after the first. gamma: the rows up to the diagonal, one for each
    stage. b, b_embedded: the weights. dense: the weights between steps, for each stage the coefficients of a polynomial in
    x, in ascending powers from x on, that ends at b. (Hairer, Wanner, section IV.7, on implementation.)
    """
    rows = exact_rows("gamma", gamma)
    diagonal, stages = rows[0][0], len(rows)
    inverse: list[Row] = []
    for number, row in enumerate(rows):
        inner = [_sum(row[k] * inverse[k][j] for k in range(j, number)) for j in range(number)]
        inverse.append((*(-value / diagonal for value in inner), 1 / diagonal))
    weights = _times(exact_row("b", b), inverse)
    result: dict[str, Any] = {
        "gamma": diagonal,
        "a": [_times(row, inverse) for row in exact_rows("alpha", alpha)],
        "c": [[-value for value in inverse[number][:number]] for number in range(1, stages)],
        "m": weights,
    }
    if b_embedded is not None:
        result["e"] = difference(weights, _times(exact_row("b_embedded", b_embedded), inverse))
    if dense is not None:
        # h_1 = p_1 - m, h_k = h_(k-1) + p_k, where p_k are the weights of x^k.
        h, result["dense"] = [-weight for weight in weights], []
        for column in list(zip(*exact_rows("dense", dense), strict=True))[:-1]:
            h = [a + b for a, b in zip(h, _times(column, inverse), strict=True)]
            result["dense"].append(h)
    return result


def w_conditions(
    alpha: Sequence[Row], gamma: Sequence[Row], b: Row, tree: Tree
) -> Iterator[tuple[str, Fraction, Fraction, Fraction]]:
    """The conditions of a tree for order with any matrix in the place of the Jacobian (Hairer, Wanner, section IV.7, on
    inexact Jacobians): at each vertex of one branch stand the rows of alpha or those of Gamma.

    Each as text, the sum over the stages, the sum of absolute values, and what it has to be: 1 / density where Gamma is
    nowhere, else 0.
    """
    for text, values, has_gamma in _labelled(alpha, gamma, tree):
        terms = [weight * value for weight, value in zip(b, values, strict=True)]
        expected = Fraction(0) if has_gamma else Fraction(1, density(tree))
        yield f"b*{text}" if text else "b", _sum(terms), _sum(map(abs, terms)), expected


def _labelled(alpha: Sequence[Row], gamma: Sequence[Row], tree: Tree) -> Iterator[tuple[str, list[Fraction], bool]]:
    """The tree's elementary weights at the stages for every choice of matrices, each with its text and whether Gamma is in."""
    found: list[tuple[str, list[Fraction], bool]] = [("", [Fraction(1)] * len(alpha), False)]
    for branch in tree:
        matrices = [("A", alpha), ("G", gamma)] if len(tree) == 1 else [("A", alpha)]
        grown = [
            (f"{letter}({text or '1'})", [_sum(a * w for a, w in zip(row, inner, strict=False)) for row in rows],
             has_gamma or letter == "G")
            for text, inner, has_gamma in _labelled(alpha, gamma, branch)
            for letter, rows in matrices
        ]  # fmt: skip
        found = [
            (f"{text}*{more}" if text else more, [v * w for v, w in zip(values, others, strict=True)], before or after)
            for text, values, before in found
            for more, others, after in grown
        ]
    yield from found


def _extension(named: str, m: Row, rows: tuple[Row, ...], order: int) -> ContinuousExtension:
    """The published form (1 - x) y + x (y1 + (1 - x) sum_k x^(k - 1) h_k u) as polynomials, weights of u_i."""
    stages = len(m)
    if not rows or any(len(row) > stages for row in rows):
        raise ValueError(f"{named}dense needs rows of at most {stages} coefficients, got rows of {[len(row) for row in rows]}")
    weights = []
    for stage in range(stages):
        h = [row[stage] if stage < len(row) else Fraction(0) for row in rows]
        # x m + (1 - x) (x h_1 + x^2 h_2 + ...)
        rising, falling = [m[stage] + h[0], *h[1:], Fraction(0)], [Fraction(0), *h]
        weights.append([up - down for up, down in zip(rising, falling, strict=True)])
    return ContinuousExtension(order=order, weights=weights)


def _times(row: Sequence[Fraction], rows: Sequence[Row]) -> Row:
    """A row times a lower triangular matrix of rows up to the diagonal."""
    return tuple(_sum(row[k] * rows[k][j] for k in range(j, len(row))) for j in range(len(row)))


def _square(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(row + (Fraction(0),) * (len(rows) - len(row)) for row in rows)


def _sum(values: Any) -> Fraction:
    return sum(values, Fraction(0))
