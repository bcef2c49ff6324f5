"""The numbers of every method, against the theory of order: rooted trees, generated, not listed."""

from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement
from math import prod

import pytest

from jax_cubie import methods
from jax_cubie.methods import EXPLICIT
from jax_cubie.methods.tableau import ButcherTableau

# Published decimals of tsit5 have 40 digits; the others are exact fractions.
TOLERANCE = {"tsit5": Fraction(1, 10**30)}


@cache
def trees(size):
    """Rooted trees of `size` vertices, each as the sorted tuple of its branches."""
    if size == 1:
        return ((),)
    found = set()
    for sizes in partitions(size - 1):
        for branches in forests(sizes):
            found.add(tuple(sorted(branches)))
    return tuple(sorted(found))


def partitions(total, least=1):
    if total == 0:
        yield ()
    for part in range(least, total + 1):
        for rest in partitions(total - part, part):
            yield (part, *rest)


def forests(sizes):
    if not sizes:
        yield ()
        return
    count = sizes.count(sizes[0])
    for chosen in combinations_with_replacement(trees(sizes[0]), count):
        for rest in forests(sizes[count:]):
            yield (*chosen, *rest)


def vertices(tree):
    return 1 + sum(map(vertices, tree))


def density(tree):
    return vertices(tree) * prod(map(density, tree))


def stage_weights(tree, tableau):
    """The elementary weight of a tree at each stage."""
    rows = [(), *tableau.a]
    inner = [stage_weights(branch, tableau) for branch in tree]
    return [
        prod((sum((a * w[j] for j, a in enumerate(row)), Fraction(0)) for w in inner), start=Fraction(1)) for row in rows
    ]


def defects(tableau, weights, order):
    """By how much each condition of exactly this order is missed."""
    return [
        sum(b * w for b, w in zip(weights, stage_weights(tree, tableau), strict=True)) - Fraction(1, density(tree))
        for tree in trees(order)
    ]


def test_trees_are_all_there():
    assert [len(trees(size)) for size in range(1, 8)] == [1, 1, 2, 4, 9, 20, 48]


@pytest.mark.parametrize("name", EXPLICIT)
def test_order_is_what_the_tableau_says(name):
    tableau = EXPLICIT[name]
    tolerance = TOLERANCE.get(name, 0)
    both = [(tableau.b, tableau.order)]
    if tableau.b_embedded is not None:
        both.append((tableau.b_embedded, tableau.embedded_order))
    for weights, order in both:
        for reached in range(1, order + 1):
            assert all(abs(defect) <= tolerance for defect in defects(tableau, weights, reached)), reached
        assert any(abs(defect) > Fraction(1, 10**6) for defect in defects(tableau, weights, order + 1)), "order is higher"


@pytest.mark.parametrize("name", EXPLICIT)
def test_rows_sum_to_their_times(name):
    tableau = EXPLICIT[name]
    sums = [sum(row, Fraction(0)) for row in ((), *tableau.a)]
    assert all(abs(total - time) <= TOLERANCE.get(name, 0) for total, time in zip(sums, tableau.c, strict=True))


def test_first_same_as_last():
    assert {name for name, tableau in EXPLICIT.items() if tableau.fsal} == {"bosh3", "dopri5", "tsit5"}
    for tableau in EXPLICIT.values():
        if tableau.fsal:
            assert tableau.c[-1] == 1 and tableau.b[-1] == 0


def test_error_weights():
    for tableau in EXPLICIT.values():
        if tableau.b_embedded is None:
            assert tableau.error_weights is None
        else:
            assert abs(sum(tableau.error_weights)) <= TOLERANCE.get(tableau.name, 0)
            assert any(tableau.error_weights)


def test_catalogue_lists_every_tableau():
    listed = methods()
    assert [row["name"] for row in listed] == list(EXPLICIT) == ["euler", "heun", "bosh3", "rk4", "dopri5", "tsit5"]
    for row in listed:
        tableau = EXPLICIT[row["name"]]
        assert row == {
            "name": tableau.name,
            "family": "explicit Runge-Kutta",
            "order": tableau.order,
            "embedded_order": tableau.embedded_order,
            "stages": len(tableau.b),
        }
        assert tableau.source


GOOD = dict(name="mine", order=2, a=[[1]], b=["1/2", "1/2"], b_embedded=[1, 0], embedded_order=1)


def test_own_tableau_is_accepted():
    tableau = ButcherTableau(**GOOD)
    assert tableau.c == (0, 1) and tableau.stages == 2 and not tableau.fsal


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"b": ["1/2", "1/4"]}, r"'mine': b sums to 0.75, not to 1"),
        ({"b_embedded": [1, 1]}, r"'mine': b_embedded sums to 2.0, not to 1"),
        ({"b_embedded": [1]}, r"'mine': 1 embedded weights for 2 stages"),
        ({"b_embedded": None}, r"b_embedded and embedded_order belong together"),
        ({"embedded_order": None}, r"b_embedded and embedded_order belong together"),
        ({"a": [[1], [0, 1]]}, r"2 weights call for rows of 1 to 1 coefficients, got rows of \[1, 2\]"),
        ({"a": [[0, 1]]}, r"2 weights call for rows"),
        ({"c": [0, "1/2"]}, r"row 2 sums to 1.0, but its c is 0.5"),
        ({"c": [0]}, r"c needs 2 numbers, the first of them 0"),
        ({"c": [1, 1]}, r"c needs 2 numbers, the first of them 0"),
    ],
)
def test_bad_tableau_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        ButcherTableau(**{**GOOD, **change})
