"""Sparse LU: an interpreter of the list of operations solves systems, and common patterns have the fill that they should."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_cubie.content import content
from jax_cubie.linear import Pattern, SparseLU, dense_cost, sparse_cost, sparse_if_better
from jax_cubie.linear.symbolic import Sum, Tables


def perform(sums: Sequence[Sum], factors: np.ndarray, x: np.ndarray) -> None:
    """What a kernel does with sums, in place."""
    tables = Tables.of(sums)
    for k, (target, pivot) in enumerate(zip(tables.target, tables.pivot, strict=True)):
        terms = slice(tables.begin[k], tables.begin[k + 1])
        for left, right in zip(tables.left[terms], tables.right[terms], strict=True):
            x[target] -= factors[left] * x[right]
        if x is factors and pivot == target:
            x[target] = 1 / x[target]
        elif pivot >= 0:
            x[target] *= factors[pivot]


def factored(plan: SparseLU, matrix: np.ndarray) -> np.ndarray:
    factors = np.full(len(plan.entries), np.nan)
    factors[list(plan.fill)] = 0
    factors[list(plan.places(plan.pattern))] = [matrix[entry] for entry in plan.pattern.entries]
    perform(plan.factor, factors, factors)
    return factors


def check(plan: SparseLU, random: np.random.Generator) -> None:
    mask = plan.pattern.mask()
    n = len(mask)
    matrix = np.where(mask, random.normal(size=(n, n)), 0)
    matrix += np.diag(np.abs(matrix).sum(axis=0) + np.abs(matrix).sum(axis=1) + 1)
    factors = factored(plan, matrix)
    for sums, its in ((plan.solve, matrix), (plan.solve_transposed, matrix.T)):
        b = random.normal(size=n)
        x = b.copy()
        perform(sums, factors, x)
        np.testing.assert_allclose(its @ x, b, atol=1e-10)
        np.testing.assert_allclose(x, np.linalg.solve(its, b), atol=1e-10)


def tridiagonal(n: int) -> np.ndarray:
    return np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 1


def arrow(n: int, hub: int) -> np.ndarray:
    found = np.eye(n, dtype=bool)
    found[hub] = found[:, hub] = True
    return found


def grid(width: int) -> np.ndarray:
    """The five-point stencil on a square."""
    line, one = tridiagonal(width), np.eye(width, dtype=bool)
    return np.kron(line, one) | np.kron(one, line)


@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(st.integers(1, 14), st.floats(0, 0.6), st.integers(0, 1000))
def test_random_matrices(n: int, density: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    plan = SparseLU.of(Pattern.of((random.random((n, n)) < density) | np.eye(n, dtype=bool)))
    assert sorted(plan.order) == list(range(n))
    check(plan, random)
    check(SparseLU(plan.pattern, tuple(int(k) for k in random.permutation(n))), random)


@pytest.mark.parametrize(
    ("mask", "fill"),
    [(tridiagonal(30), 0), (arrow(12, 0), 0), (arrow(12, 11), 0), (arrow(12, 5), 0), (np.ones((5, 5), bool), 0),
     (np.tri(8, dtype=bool), 0), (np.eye(4, dtype=bool), 0), (np.kron(tridiagonal(9), np.ones((2, 2), bool)), 0),
     (tridiagonal(10) | np.eye(10, k=9, dtype=bool) | np.eye(10, k=-9, dtype=bool), 14)],
)  # fmt: skip
def test_fill(mask: np.ndarray, fill: int) -> None:
    plan = SparseLU.of(Pattern.of(mask))
    assert len(plan.fill) == fill
    check(plan, np.random.default_rng(0))


def test_order_keeps_the_fill_of_a_grid_low() -> None:
    pattern = Pattern.of(grid(12))
    plan, as_they_are = SparseLU.of(pattern), SparseLU(pattern, tuple(range(144)))
    assert len(plan.fill) < 0.6 * len(as_they_are.fill)
    check(plan, np.random.default_rng(0))


def test_places_of_a_part() -> None:
    """A Jacobian without a full diagonal, and the diagonal that a step adds."""
    jacobian = Pattern.of(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 1]], bool))
    diagonal = Pattern.of(np.eye(3, dtype=bool))
    plan = SparseLU.of(jacobian | diagonal)
    for part in (jacobian, diagonal):
        assert [plan.entries[place] for place in plan.places(part)] == list(part.entries)


def test_a_pivot_that_is_filled_later() -> None:
    """A constraint on the others, whose own variable is not in it."""
    mask = np.array([[0, 1, 1], [1, 1, 0], [1, 0, 1]], bool)
    plan = SparseLU.of(Pattern.of(mask))
    assert plan.order[0] != 0
    matrix = np.array([[0, 1, 2.0], [3, 4, 0], [5, 0, 6]])
    factors = factored(plan, matrix)
    x = np.array([1.0, 2, 3])
    perform(plan.solve, factors, x)
    np.testing.assert_allclose(matrix @ x, [1, 2, 3], atol=1e-12)
    with pytest.raises(ValueError, match=r"rows \[0, 1\] of the matrix have no pivot"):
        SparseLU.of(Pattern.of(np.array([[0, 1], [1, 0]], bool)))


def test_plans_are_plain() -> None:
    plan = SparseLU.of(Pattern.of(tridiagonal(5)))
    assert plan == SparseLU.of(Pattern.of(tridiagonal(5))) and hash(plan) == hash(SparseLU.of(Pattern.of(tridiagonal(5))))
    before = content(plan)
    assert plan.factor and plan.solve and content(plan) == before
    assert content(SparseLU(plan.pattern, plan.order[::-1])) != before


def products(sums: Sequence[Sum]) -> int:
    return sum(len(one.terms) + (one.pivot >= 0) for one in sums)


@pytest.mark.parametrize("mask", [tridiagonal(6), arrow(9, 0), grid(5), np.ones((6, 6), bool)])
def test_costs(mask: np.ndarray) -> None:
    plan = SparseLU.of(Pattern.of(mask))
    cost = sparse_cost(plan)
    assert cost == (products(plan.factor), products(plan.solve)) == (cost.factor, products(plan.solve_transposed))
    if mask.all():
        assert cost == dense_cost(len(mask))


def test_sparse_or_dense() -> None:
    assert sparse_if_better(Pattern.dense(6, 6)) is None
    assert sparse_if_better(Pattern.of(tridiagonal(3))) is None
    assert sparse_if_better(Pattern.of(np.eye(8, k=1, dtype=bool) | np.eye(8, k=-7, dtype=bool))) is None  # no pivot
    plan = sparse_if_better(Pattern.of(tridiagonal(20)))
    assert plan is not None and not plan.fill
