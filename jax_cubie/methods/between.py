"""Values between steps as sums of arrays, and their transpose: what all families have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..kernel.scalar import Scalar
from ..loop.jets import Jet, unions

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body

# Of Hermite's polynomial through the ends of a step and their slopes.
HERMITE_DEGREE = 3

Weights = Callable[["Body", Jet, Jet], list[tuple["View", Jet]]]


def hermite_weights(b: Body, theta: Jet, size: Jet, first: View, last: View) -> list[tuple[View, Jet]]:
    """Hermite's cubic through the ends of the step, f at which is `first` and `last`; see `emit_hermite`."""
    before, product = theta - 1.0, theta * (theta - 1.0)
    end = theta + product * (1.0 - 2.0 * theta)
    slopes = [(first, product * before * size), (last, product * theta * size)]
    return [(b.buf.state, 1.0 - end), (b.buf.proposed_state, end), *slopes]


def add_between_moved(b: Body, weights: Sequence[tuple[View, Jet]], values: View) -> None:
    """Adds to values between what the tangents of their weights have in them."""
    for piece in b.lane.problem.pieces:
        target = b.piece(values, piece.order)
        shares = [
            (value, b.piece(row, piece.order & ~order))
            for row, weight in weights
            for order, value in weight.terms.items()
            if order and piece.order & order == order
        ]

        def add(index: Any, target: View = target, shares: Sequence[tuple[Scalar, View]] = shares) -> None:
            total = target.load(index)
            for value, row in shares:
                total = b.emitter.fma(b.dtype, value.value, row.load(index), total)
            target.store(index, total)

        if shares:
            b.each(add, piece.size)


def between_adjoint(
    b: Body, between_weights: Weights, adjoints: Sequence[View], theta: Jet, size: Jet, cotangent: View
) -> tuple[dict[int, Scalar], dict[int, Scalar]]:
    """Adds the cotangent of values between to `adjoints`, those of the arrays of `between_weights`; gives those of the terms
    of theta and of the size."""
    for (_, weight), adjoint in zip(between_weights(b, theta, size), adjoints, strict=True):
        for order, value in weight.terms.items():
            for piece in b.lane.problem.pieces:
                if piece.order & order != order:
                    continue
                source, target = b.piece(cotangent, piece.order), b.piece(adjoint, piece.order & ~order)

                def add(index: Any, value: Scalar = value, source: View = source, target: View = target) -> None:
                    target.store(index, b.emitter.fma(b.dtype, value.value, source.load(index), target.load(index)))

                b.each(add, b.primal)
    if not b.lane.adjoint.orders:
        return {}, {}
    return tuple(_moved(b, between_weights, cotangent, number, theta, size) for number in (0, 1))  # pyright: ignore


def _moved(b: Body, between_weights: Weights, cotangent: View, number: int, theta: Jet, size: Jet) -> dict[int, Scalar]:
    """The cotangents of the terms of `theta` (number 0) or `size` (1)."""
    orders, beside = [piece.order for piece in b.lane.problem.pieces], 1 << b.lane.problem.depth
    changed = [theta, size]
    one = theta.terms[0].like(1.0)
    changed[number] = Jet({**changed[number].terms, beside: one})
    found: dict[int, Scalar] = {}
    allowed = (0, *unions(b.moving))
    for row, weight in between_weights(b, *changed):
        for order, value in weight.terms.items():
            if not order & beside:
                continue
            for whole in orders:  # of the values
                for rest in orders:  # of the row
                    moved = whole & ~rest & ~(order & ~beside)
                    if whole & rest != rest or (order & ~beside) & ~(whole & ~rest) or moved not in allowed:
                        continue
                    total = value * dot(b, b.piece(cotangent, whole), b.piece(row, rest))
                    found[moved] = found[moved] + total if moved in found else total
    return found


def dot(b: Body, one: View, other: View) -> Scalar:
    """The sum of the products of their elements."""
    total = b.variable(b.real(0))
    b.each(lambda index: total.set(b.emitter.fma(b.dtype, one.load(index), other.load(index), total.get())), one.size)
    return b.scalar(total.get())
