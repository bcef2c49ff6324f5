"""What is done to arrays as long as the state, component by component."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..kernel.scalar import Scalar
from ..loop.jets import Jet

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body


def directions(b: Body, view: View) -> list[View]:
    """The parts of a piece, each as long as the primal state."""
    return [view.part(begin, b.primal) for begin in range(0, view.size, b.primal)]


def copy(b: Body, target: View, source: View) -> None:
    """target = source."""
    b.each(lambda index: target.store(index, source.load(index)), target.size)


def fill(b: Body, target: View, value: float) -> None:
    """All of its elements."""
    b.each(lambda index: target.store(index, b.real(value)), target.size)


def add_up(
    b: Body, target: View, base: View | None, weights: Sequence[Fraction], rows: Sequence[View], scale: Scalar | None = None
) -> None:
    """target = base + scale * sum(weight * row), of as many components as the target has."""
    used = [(b.scalar(float(weight)), row) for weight, row in zip(weights, rows, strict=False) if weight != 0]
    if scale is not None:
        used = [(weight * scale, row) for weight, row in used]

    def body(index: Any) -> None:
        total = None if base is None else b.scalar(base.load(index))
        for weight, row in used:
            value = b.scalar(row.load(index))
            total = weight * value if total is None else weight.fused(value, total)
        target.store(index, (b.scalar(0.0) if total is None else total).value)

    b.each(body, target.size)


def multiply(b: Body, view: View, factor: Jet, *, transposed: bool = False) -> None:
    """view = factor * view, where both have tangents; transposed: of cotangents."""
    pieces = [piece.order for _, piece in b.pieces]
    for order in sorted(pieces, reverse=not transposed):
        target, terms = b.piece(view, order), []
        for moved, value in factor.terms.items():
            source = order | moved if transposed else order & ~moved
            if (order & moved == 0 if transposed else order & moved == moved) and source in pieces:
                terms.append((b.piece(view, source), value))

        def body(index: Any, target: View = target, terms: list = terms) -> None:
            total = None
            for source, value in terms:
                element = b.scalar(source.load(index))
                total = value * element if total is None else value.fused(element, total)
            target.store(index, total.value)  # pyright: ignore[reportOptionalMemberAccess]

        b.each(body, target.size)
