"""Numbers with tangents inside of an emitter's body, for what depends on times that move."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ..kernel.scalar import Scalar

if TYPE_CHECKING:
    from .body import Body


@dataclasses.dataclass(frozen=True)
class Jet:
    """A number and its tangents, by their order, a bit mask of differentiations; 0 is the number. What is not there is 0."""

    terms: Mapping[int, Scalar]

    def __add__(self, other: Jet | float) -> Jet:
        terms = dict(self.terms)
        for order, value in _terms(self, other).items():
            terms[order] = terms[order] + value if order in terms else value
        return Jet(terms)

    def __mul__(self, other: Jet | float) -> Jet:
        terms: dict[int, Scalar] = {}
        for one, x in self.terms.items():
            for order, y in _terms(self, other).items():
                if not one & order:
                    total = x * y
                    terms[one | order] = terms[one | order] + total if one | order in terms else total
        return Jet(terms)

    def __neg__(self) -> Jet:
        return Jet({order: -value for order, value in self.terms.items()})

    def __sub__(self, other: Jet | float) -> Jet:
        return self + (-other)

    def __rsub__(self, other: float) -> Jet:
        return -self + other

    __radd__, __rmul__ = __add__, __mul__


def _terms(like: Jet, number: Jet | float) -> Mapping[int, Scalar]:
    if isinstance(number, Jet):
        return number.terms
    return {0: next(iter(like.terms.values())).like(number)}


def subsets(order: int) -> Iterator[int]:
    """The orders within an order, itself and 0 among them."""
    inner = order
    while True:
        yield inner
        if not inner:
            return
        inner = (inner - 1) & order


def unions(orders: Iterable[int]) -> list[int]:
    """The orders of products of what has those, in ascending order; where two tangents move a time, quotients of it have a
    mixed one, too."""
    found = {0}
    for order in orders:
        found |= {other | order for other in found}
    return sorted(found - {0})


def size_of(b: Body, step_size: Scalar) -> Jet:
    """The size of the step at hand, whose tangents are in cells."""
    return Jet({0: step_size, **{order: b.get(f"size_{order}") for order in b.moving}})


def fraction_of(b: Body, theta: Scalar, size: Jet, tangent: Callable[[int], Scalar]) -> Jet:
    """The fraction `theta` of the step at hand, where a time lies whose tangents, counted from t0, are those."""
    terms = {0: theta}
    for order in unions(b.moving):
        moved = tangent(order)
        if order in b.moving:
            moved = moved - b.get(f"start_{order}")
        for inner in subsets(order):
            if inner and inner in size.terms and order & ~inner in terms:
                moved = moved - size.terms[inner] * terms[order & ~inner]
        terms[order] = moved / size.terms[0]
    return Jet(terms)


def pull_fraction(cotangents: dict[int, Scalar], theta: Jet, size: Jet) -> tuple[dict[int, Scalar], dict[int, Scalar]]:
    """From the cotangents of a fraction's terms those of the save time's, and of the size's."""
    cotangents, times, sizes = dict(cotangents), {}, {}

    def add(found: dict[int, Scalar], order: int, value: Scalar) -> None:
        found[order] = found[order] + value if order in found else value

    for order in sorted(cotangents, key=lambda one: (-one.bit_count(), one)):
        scaled = cotangents[order] / size.terms[0]
        add(times, order, scaled)
        for inner in subsets(order):
            rest = order & ~inner
            if rest not in theta.terms or inner not in size.terms:
                continue
            add(sizes, inner, -(scaled * theta.terms[rest]))
            if inner:
                add(cotangents, rest, -(scaled * size.terms[inner]))
    return times, sizes
