"""The order conditions of Runge-Kutta methods: one for each rooted tree.

Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.2. A tree is the sorted tuple of its
branches, each a tree; its vertices are its order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement
from math import lcm, prod

Tree = tuple["Tree", ...]


@functools.cache
def trees(order: int) -> tuple[Tree, ...]:
    """Every rooted tree of so many vertices."""
    return tuple(sorted(tuple(sorted(branches)) for branches in _forests(order - 1, order - 1)))


def _forests(vertices: int, largest: int) -> Iterator[tuple[Tree, ...]]:
    """Every collection of trees with so many vertices in all, none larger than `largest`."""
    if vertices == 0:
        yield ()
    for size in range(min(vertices, largest), 0, -1):
        for count in range(1, vertices // size + 1):
            for chosen in combinations_with_replacement(trees(size), count):
                for rest in _forests(vertices - size * count, size - 1):
                    yield (*chosen, *rest)


@functools.cache
def vertices(tree: Tree) -> int:
    return 1 + sum(map(vertices, tree))


@functools.cache
def density(tree: Tree) -> int:
    """What the exact solution divides a tree by: its condition is sum(b_i w_i) = 1 / density."""
    return vertices(tree) * prod(map(density, tree))


def expression(tree: Tree, single: str = "A") -> str:
    """What a tree's condition sums over the stages, as text: "b*c*A(c)"; products are taken stage by stage.

    single: the letter of the matrix at vertices of one branch, "B" for Rosenbrock methods.
    """
    return "*".join(["b", *_factors(tree, single)])


def _factors(tree: Tree, single: str) -> list[str]:
    if len(tree) == 1 and single != "A":
        return [f"{single}({'*'.join(_factors(tree[0], single)) or '1'})"]
    leaves = sum(branch == () for branch in tree)
    powers = {0: [], 1: ["c"]}.get(leaves, [f"c^{leaves}"])
    return powers + [f"A({'*'.join(_factors(branch, single))})" for branch in tree if branch != ()]


class ElementaryWeights:
    """The elementary weights of trees at every stage of a tableau whose rows are `a`, one for each stage; zeros at a row's end
    may be left out.

    single: the rows that a vertex of one branch takes in the place of `a`; those of alpha + Gamma for Rosenbrock methods
    (Hairer, Wanner, Solving Ordinary Differential Equations II, theorem IV.7.3).

    They are kept as whole numbers over a power of the common denominator: exact, and no fraction is reduced on the way,
    which takes most of the time of such sums.
    """

    def __init__(self, a: Sequence[Sequence[Fraction]], single: Sequence[Sequence[Fraction]] | None = None):
        matrices = [a] if single is None else [a, single]
        self._denominator = lcm(*(value.denominator for rows in matrices for row in rows for value in row))
        scaled = [[[int(value * self._denominator) for value in row] for row in rows] for rows in matrices]
        self._rows, self._single = scaled[0], scaled[-1]
        self._letter = "A" if single is None else "B"
        self._known: dict[Tree, list[int]] = {}

    def expression(self, tree: Tree) -> str:
        """What `weigh` sums, as text."""
        return expression(tree, self._letter)

    def _at_stages(self, tree: Tree) -> list[int]:
        """Times the denominator to the power of the tree's vertices less one."""
        if tree not in self._known:
            rows = self._single if len(tree) == 1 else self._rows
            factors = [
                [sum(a * w for a, w in zip(row, inner, strict=False) if a) for row in rows]
                for inner in map(self._at_stages, tree)
            ]
            self._known[tree] = [prod(column) for column in zip(*factors, strict=True)] or [1] * len(rows)
        return self._known[tree]

    def weigh(self, weights: Sequence[Fraction], tree: Tree) -> tuple[Fraction, Fraction]:
        """The sum over the stages of weight times elementary weight, and the sum of the absolute values."""
        common = lcm(*(weight.denominator for weight in weights))
        terms = [int(weight * common) * w for weight, w in zip(weights, self._at_stages(tree), strict=True) if weight]
        scale = common * self._denominator ** (vertices(tree) - 1)
        return Fraction(sum(terms), scale), Fraction(sum(map(abs, terms)), scale)
