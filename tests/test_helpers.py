"""What other tests rely on: the cover of pairs."""

from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solve_helpers import pairwise


def check_cover(factors):
    rows = pairwise(factors)
    assert all(list(row) == list(factors) and all(row[name] in factors[name] for name in row) for row in rows)
    for one, other in combinations(factors, 2):
        assert {(row[one], row[other]) for row in rows} == set(product(factors[one], factors[other]))
    return rows


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 5), max_size=9))
def test_every_pair_of_values_is_covered(counts):
    factors = {f"f{number}": tuple(range(count)) for number, count in enumerate(counts)}
    rows = check_cover(factors)
    assert rows == pairwise(factors)
    largest = sorted(counts)[-2:]
    least = largest[0] * largest[-1] if len(counts) > 1 else sum(counts) or 1  # of no factor there is one row, an empty one
    assert least <= len(rows) <= least + 25


@pytest.mark.parametrize(
    ("factors", "values", "most"), [(3, 2, 4), (4, 2, 5), (10, 2, 6), (15, 2, 7), (35, 2, 8), (40, 2, 9), (10, 4, 33)]
)
def test_covers_are_small(factors, values, most):
    rows = check_cover({f"f{number}": tuple(range(values)) for number in range(factors)})
    assert len(rows) <= most
