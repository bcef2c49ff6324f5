"""Sparse LU, as far as it depends on the pattern alone: the order of elimination, the fill, and a list of all operations."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .pattern import Pattern


class Sum(NamedTuple):
    """`x[target] -= sum(factors[left] * z[right])` over the terms; then, unless pivot is -1, `x[target] *= factors[pivot]`.

    While a matrix is factored, x and z are the factors, too, and where the pivot is the target itself, it becomes its
    reciprocal. While a system is solved, x and z are the right-hand side, which becomes the solution.
    """

    target: int
    terms: tuple[tuple[int, int], ...]
    pivot: int


class Tables(NamedTuple):
    """Sums as arrays of int32: of each its target, its pivot, and its terms, from begin[k] to begin[k + 1]."""

    target: np.ndarray
    pivot: np.ndarray
    begin: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, sums: Sequence[Sum]) -> Tables:
        terms = np.array([term for one in sums for term in one.terms], np.int32).reshape(-1, 2)
        begin = np.cumsum([0, *(len(one.terms) for one in sums)])
        columns = [one.target for one in sums], [one.pivot for one in sums], begin, terms[:, 0], terms[:, 1]
        return cls(*(np.array(column, np.int32) for column in columns))


@dataclass(frozen=True)
class SparseLU:
    """How a matrix of that pattern, A, is factored, and how systems with it and its transpose are solved, without pivoting.

    order: of elimination; row and column order[k] of A are number k of the factors. Factors lie in one array, row by row of L
    and U together, with the reciprocals of U's diagonal on the diagonal; L's is 1. All sums are in an order that can be
    computed in place.
    """

    pattern: Pattern
    order: tuple[int, ...]

    @classmethod
    def of(cls, pattern: Pattern) -> SparseLU:
        """With an order that keeps the fill low. Raises ValueError where an elimination without pivoting meets a zero that
        nothing fills."""
        return cls(pattern, elimination_order(pattern))

    @cached_property
    def entries(self) -> tuple[tuple[int, int], ...]:
        """(row, column) of A for each of the factors."""
        return tuple((self.order[i], self.order[j]) for i, row in enumerate(self._rows) for j in sorted(row))

    @cached_property
    def fill(self) -> tuple[int, ...]:
        """Which of the factors are no entries of A, and so begin as zeros."""
        return tuple(sorted(set(range(len(self.entries))) - set(self.places(self.pattern))))

    def eliminates(self, part: Pattern) -> bool:
        """Whether a part of A can be eliminated in this order, too: no pivot of it is 0 by its structure."""
        rows = SparseLU(part, self.order)._rows
        return all(k in row for k, row in enumerate(rows))

    def places(self, pattern: Pattern) -> tuple[int, ...]:
        """Where in the factors' array the entries of a part of A begin, such as a Jacobian's or the diagonal's."""
        return tuple(self._place[entry] for entry in pattern.entries)

    @cached_property
    def factor(self) -> tuple[Sum, ...]:
        """From A's entries, and zeros where the fill is, to the factors: one sum for each, in their order."""
        rows, place = self._rows, self._numbers
        columns = self._columns
        sums = []
        for (i, j), number in place.items():
            inner = sorted(k for k in rows[i] & columns[j] if k < min(i, j))
            pivot = place[j, j] if j <= i else -1
            sums.append(Sum(number, tuple((place[i, k], place[k, j]) for k in inner), pivot))
        return tuple(sums)

    @cached_property
    def solve(self) -> tuple[Sum, ...]:
        """From b to the solution of A x = b."""
        return self._substitutions(self._rows, transposed=False)

    @cached_property
    def solve_transposed(self) -> tuple[Sum, ...]:
        """From b to the solution of A^T x = b."""
        return self._substitutions(self._columns, transposed=True)

    def _substitutions(self, rows: Sequence[set[int]], *, transposed: bool) -> tuple[Sum, ...]:
        """rows: the columns of each row of the factors, or the rows of each column. U is divided by its diagonal, which is that
        of the second half, or transposed of the first."""
        n, place, sums = len(self.order), self._numbers, []
        for upwards in (False, True):
            for i in range(n)[:: -1 if upwards else 1]:
                others = sorted(j for j in rows[i] if (j > i if upwards else j < i))
                terms = tuple((place[(j, i) if transposed else (i, j)], self.order[j]) for j in others)
                pivot = place[i, i] if upwards != transposed else -1
                if terms or pivot >= 0:
                    sums.append(Sum(self.order[i], terms, pivot))
        return tuple(sums)

    @cached_property
    def _rows(self) -> list[set[int]]:
        """The columns of each row of the factors, both numbered in the order of elimination."""
        number = {index: k for k, index in enumerate(self.order)}
        rows: list[set[int]] = [set() for _ in self.order]
        for i, j in self.pattern.entries:
            rows[number[i]].add(number[j])
        for i, row in enumerate(rows):  # those above have all of their fill
            waiting = [k for k in row if k < i]
            heapq.heapify(waiting)
            while waiting:
                k = heapq.heappop(waiting)
                for j in rows[k] - row:
                    if j > k:
                        row.add(j)
                        if j < i:
                            heapq.heappush(waiting, j)
        return rows

    @cached_property
    def _columns(self) -> list[set[int]]:
        columns: list[set[int]] = [set() for _ in self.order]
        for i, row in enumerate(self._rows):
            for j in row:
                columns[j].add(i)
        return columns

    @cached_property
    def _numbers(self) -> dict[tuple[int, int], int]:
        """The place in the factors' array of each, by its row and column in the order of elimination."""
        return {place: k for k, place in enumerate((i, j) for i, row in enumerate(self._rows) for j in sorted(row))}

    @cached_property
    def _place(self) -> dict[tuple[int, int], int]:
        return {entry: k for k, entry in enumerate(self.entries)}


def elimination_order(pattern: Pattern) -> tuple[int, ...]:
    """An order of elimination along the diagonal: next is what changes the fewest entries, and of these the first.

    That is minimum degree for symmetric patterns: Markowitz, The elimination form of the inverse and its application to linear
    programming, Management Sci. 3 (1957). What is not on the diagonal waits until it is filled.
    """
    n = pattern.columns
    rows: list[set[int]] = [set() for _ in range(n)]
    columns: list[set[int]] = [set() for _ in range(n)]
    for i, j in pattern.entries:
        rows[i].add(j)
        columns[j].add(i)

    def cost(k: int) -> int:
        return (len(rows[k]) - 1) * (len(columns[k]) - 1)

    order: list[int] = []
    left = set(range(n))
    waiting = [(cost(k), k) for k in range(n) if k in rows[k]]
    heapq.heapify(waiting)
    while left:
        if not waiting:
            raise ValueError(f"rows {sorted(left)} of the matrix have no pivot on its diagonal")
        expected, k = heapq.heappop(waiting)
        if k not in left or expected != cost(k):
            continue  # it was put in again since
        order.append(k)
        left.remove(k)
        below, right = columns[k] - {k}, rows[k] - {k}
        for i in below:
            rows[i] |= right
            rows[i].remove(k)
        for j in right:
            columns[j] |= below
            columns[j].remove(k)
        for index in below | right:
            if index in rows[index]:
                heapq.heappush(waiting, (cost(index), index))
    return tuple(order)


class Cost(NamedTuple):
    """Products of a factorisation and of a solve."""

    factor: int
    solve: int


def sparse_cost(plan: SparseLU) -> Cost:
    across = [len(row) for row in plan._rows]
    below = [sum(i > k for i in column) for k, column in enumerate(plan._columns)]
    right = [sum(j > k for j in row) for k, row in enumerate(plan._rows)]
    eliminations = sum(one * (other + 1) + 1 for one, other in zip(below, right, strict=True))
    return Cost(eliminations, sum(across))


def dense_cost(n: int) -> Cost:
    """The same of a full matrix."""
    return Cost(n * (n * n + 2) // 3, n * n)


_SOLVES = 4
"""Solves to a factorisation, as a method of a few stages has them."""


def sparse_if_better(pattern: Pattern) -> SparseLU | None:
    """The plan of a sparse factorisation where it is to be preferred to a dense one, which pivots: where it halves the work."""
    n = pattern.columns
    if 2 * len(pattern.entries) > n * n:
        return None
    try:
        plan = SparseLU.of(pattern)
    except ValueError:
        return None
    sparse, dense = sparse_cost(plan), dense_cost(n)
    better = 2 * (sparse.factor + _SOLVES * sparse.solve) <= dense.factor + _SOLVES * dense.solve
    return plan if better else None
