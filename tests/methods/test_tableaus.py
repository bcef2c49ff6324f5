"""The numbers of every method, against the theory of order: exact, for every rooted tree up to the order."""

import pickle
from fractions import Fraction
from math import factorial, prod

import jax
import numpy as np
import pytest

from jax_cubie import ButcherTableau, ContinuousExtension, methods
from jax_cubie.content import content
from jax_cubie.methods import EXPLICIT
from jax_cubie.methods.order_conditions import ElementaryWeights, density, expression, trees, vertices

# Where numbers are published as rounded decimals, or as fractions near them, conditions hold to their digits; else exactly.
# The 40 digits of vern7 to vern9 stand before up to 10^6 in the interpolants; those of tsit5's have 16 to 21.
DIGITS = {"tsit5": 30, "dopri8": 16, "dop853": 26, "vern7": 36, "vern8": 35, "vern9": 38}
DENSE_DIGITS = {"tsit5": 15, "dopri8": 11, "dop853": 25, "vern7": 34, "vern8": 31, "vern9": 34}
DENSE = [name for name, tableau in EXPLICIT.items() if tableau.dense is not None]


def allowed(name, digits=DIGITS):
    return Fraction(1, 10 ** digits[name]) if name in digits else 0


# --- The theory itself


def symmetries(tree):
    return prod(factorial(tree.count(branch)) * symmetries(branch) ** tree.count(branch) for branch in set(tree))


def numberings(tree):
    """In how many ways numbers can be given to the vertices that grow from the root."""
    return Fraction(factorial(vertices(tree)), density(tree) * symmetries(tree))


def test_trees_are_all_there():
    assert [len(trees(order)) for order in range(1, 10)] == [1, 1, 2, 4, 9, 20, 48, 115, 286]
    for order in range(1, 10):
        assert len(set(trees(order))) == len(trees(order)) and all(vertices(tree) == order for tree in trees(order))
        assert sum(map(numberings, trees(order))) == factorial(order - 1)  # so the densities are right, too


def test_elementary_weights():
    """By hand, for Kutta's method: c = 0, 1/2, 1/2, 1 and A c = 0, 0, 1/4, 1/2."""
    weights, b = ElementaryWeights(((), *EXPLICIT["rk4"].a)), EXPLICIT["rk4"].b
    chain, leaf = ((((),),),), ()
    assert weights.weigh(b, (leaf, leaf, leaf)) == (Fraction(1, 4), Fraction(1, 4)) and density((leaf, leaf, leaf)) == 4
    assert weights.weigh(b, (leaf, (leaf,))) == (Fraction(1, 8), Fraction(1, 8)) and density((leaf, (leaf,))) == 8
    assert weights.weigh(b, chain) == (Fraction(1, 24), Fraction(1, 24)) and density(chain) == 24
    assert weights.weigh((Fraction(1, 2), 0, Fraction(-1, 4), 0), (leaf,)) == (Fraction(-1, 8), Fraction(1, 8))
    assert [expression(tree) for tree in ((), (leaf, leaf), (leaf, (leaf,)), chain)] == ["b", "b*c^2", "b*c*A(c)", "b*A(A(c))"]


# --- The catalogue


@pytest.mark.parametrize("name", EXPLICIT)
def test_order_is_what_the_tableau_says(name):
    tableau = EXPLICIT[name]
    stages = ElementaryWeights(((), *tableau.a))
    claims = [(tableau.b, tableau.order)]
    if tableau.b_embedded is not None:
        claims.append((tableau.b_embedded, tableau.embedded_order))
    if tableau.b_embedded_low is not None:
        claims.append((tableau.b_embedded_low, 3))

    def missed(weights, order):
        return [abs(stages.weigh(weights, tree)[0] - Fraction(1, density(tree))) for tree in trees(order)]

    for weights, order in claims:
        for reached in range(1, order + 1):
            assert max(missed(weights, reached)) <= allowed(name), reached
        assert max(missed(weights, order + 1)) > Fraction(1, 10**7), "the order is higher"


@pytest.mark.parametrize("name", DENSE)
def test_order_between_steps(name):
    """Every condition at every power of x: b(x) weighs a tree as x^order / density."""
    tableau = EXPLICIT[name]
    stages = ElementaryWeights(((), *tableau.a, *tableau.dense.a))
    columns = list(zip(*tableau.dense.weights, strict=True))

    def missed(order):
        return [
            abs(stages.weigh(column, tree)[0] - (Fraction(1, density(tree)) if power == order else 0))
            for tree in trees(order)
            for power, column in enumerate(columns, start=1)
        ]

    for reached in range(1, tableau.dense_order + 1):
        assert max(missed(reached)) <= allowed(name, DENSE_DIGITS), reached
    assert max(missed(tableau.dense_order + 1)) > Fraction(1, 1000), "the order is higher"


@pytest.mark.parametrize("name", DENSE)
def test_values_between_steps_join(name):
    """At both ends the extension has the step's values and slopes."""
    tableau = EXPLICIT[name]
    weights, tolerance = tableau.dense.weights, allowed(name, DENSE_DIGITS) * 10
    assert all(abs(row[0] - (stage == 0)) <= tolerance for stage, row in enumerate(weights))
    assert tableau.end_stage is not None
    for stage, row in enumerate(weights):
        expected = tableau.b[stage] if stage < tableau.stages else 0
        assert abs(tableau.dense.at(Fraction(1))[stage] - expected) <= tolerance
        slope = sum(power * weight for power, weight in enumerate(row, start=1))
        assert abs(slope - (stage == tableau.end_stage)) <= tolerance


@pytest.mark.parametrize("name", DENSE)
def test_terms_are_the_same_polynomials(name):
    """Exactly; and in float32 they keep their value where sums of powers do not."""
    dense = EXPLICIT[name].dense
    degree = len(dense.weights[0])
    powers = np.arange(1, degree + 1)
    for x in (Fraction(0), Fraction(1, 3), Fraction(7, 8), Fraction(1)):
        basis = [x**k * (1 - x) ** (degree - k) for k in range(1, degree + 1)]
        sums = tuple(sum(c * b for c, b in zip(row, basis, strict=True)) for row in dense.terms)
        assert sums == dense.at(x)
    x = np.float32(0.7)
    exact = np.array(dense.at(Fraction(float(x))), float)
    basis = x**powers * (1 - x) ** (degree - powers)
    error = np.abs(np.array(dense.terms, np.float32) @ basis.astype(np.float32) - exact).max()
    assert error < 4e-7 * np.abs(exact).max()


@pytest.mark.parametrize("name", EXPLICIT)
def test_rows_sum_to_their_times(name):
    tableau = EXPLICIT[name]
    rows, times = tableau.a, tableau.c[1:]
    if tableau.dense is not None:
        rows, times = (*rows, *tableau.dense.a), (*times, *tableau.dense.c)
    assert all(abs(sum(row) - time) <= allowed(name) for row, time in zip(rows, times, strict=True))


def test_first_same_as_last():
    expected = {"bosh3", "dopri5", "tsit5", "dopri8", "vern6"}
    assert {name for name, tableau in EXPLICIT.items() if tableau.fsal} == expected
    for tableau in EXPLICIT.values():
        if tableau.fsal:
            assert tableau.c[-1] == 1 and tableau.b[-1] == 0 and tableau.end_stage == tableau.stages - 1
    # Those evaluate f at the end of a step for the sake of the values between.
    ends = {name: tableau.end_stage for name, tableau in EXPLICIT.items() if not tableau.fsal and tableau.end_stage}
    assert ends == {"dop853": 12, "vern7": 10, "vern8": 13, "vern9": 16}


def test_error_weights():
    for tableau in EXPLICIT.values():
        for weights, error in (
            (tableau.b_embedded, tableau.error_weights),
            (tableau.b_embedded_low, tableau.error_weights_low),
        ):
            if weights is None:
                assert error is None
            else:
                assert error == tuple(b - other for b, other in zip(tableau.b, weights, strict=True))
                assert abs(sum(error)) <= allowed(tableau.name) and any(error)
    assert [name for name, tableau in EXPLICIT.items() if tableau.error_weights_low] == ["dop853"]


def test_numbers_of_dop853_are_scipys():
    """Typed by others from the same code, in floats, and the polynomial as nested there."""
    theirs = pytest.importorskip("scipy.integrate._ivp.dop853_coefficients")
    ours = EXPLICIT["dop853"]
    rows = [list(row) + [0] * (16 - len(row)) for row in ((), *ours.a, *ours.dense.a)]
    np.testing.assert_array_equal(np.array(rows, float), theirs.A)
    np.testing.assert_array_equal(np.array([*ours.c, *ours.dense.c], float), theirs.C)
    np.testing.assert_array_equal(np.array(ours.b, float), theirs.B)
    np.testing.assert_allclose(np.array(ours.error_weights, float), theirs.E5[:12], rtol=1e-12)
    np.testing.assert_allclose(np.array(ours.error_weights_low, float), theirs.E3[:12], rtol=1e-12, atol=1e-16)
    stage = np.eye(16)
    step = np.append(theirs.B, np.zeros(4)) @ stage
    terms = [step, stage[0] - step, 2 * step - stage[12] - stage[0], *theirs.D]
    for x in (0.0, 0.2, 0.7, 1.0):
        nested = np.zeros(16)
        for number, term in reversed(list(enumerate(terms))):
            nested = (nested + term) * (x if number % 2 == 0 else 1 - x)
        values = [float(weight) for weight in ours.dense.at(Fraction(x))]
        np.testing.assert_allclose(values, nested, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["heun", "midpoint", "ralston2", "bosh3", "dopri5", "tsit5", "dopri8"])
def test_numbers_are_diffrax_ones(name):
    diffrax = pytest.importorskip("diffrax")
    solver, ours = getattr(diffrax, name.removesuffix("2").capitalize())(), EXPLICIT[name]
    theirs = solver.tableau
    assert theirs.fsal == ours.fsal
    for row, other in zip(ours.a, theirs.a_lower, strict=True):
        np.testing.assert_allclose(np.array(row, float), other, rtol=1e-15)
    np.testing.assert_allclose(np.array(ours.b, float), theirs.b_sol, rtol=1e-15)
    np.testing.assert_allclose(np.array(ours.c[1:], float), theirs.c, rtol=1e-15)
    sign = np.sign(float(ours.error_weights[0]) * theirs.b_error[0])  # only its size counts
    np.testing.assert_allclose(sign * np.array(ours.error_weights, float), theirs.b_error, rtol=1e-13)
    if ours.dense is None:
        return
    with jax.enable_x64(True):  # of unit vectors, the extension makes its weights
        nothing, ends, units = map(jax.numpy.array, (np.zeros(ours.stages), np.array(ours.b, float), np.eye(ours.stages)))
        extension = solver.interpolation_cls(t0=0.0, t1=1.0, y0=nothing, y1=ends, k=units)
        for x in (0.0, 0.3, 0.75, 1.0):
            values = np.array(ours.dense.at(Fraction(x)), float)
            np.testing.assert_allclose(values, extension.evaluate(x), rtol=1e-12, atol=3e-12)


def test_catalogue_lists_every_tableau():
    listed = [row for row in methods() if row["family"] == "explicit Runge-Kutta"]
    assert [row["name"] for row in listed] == list(EXPLICIT) == [
        "euler", "heun", "midpoint", "ralston2", "ralston3", "bosh3", "rk4", "rk38", "fehlberg45", "cashkarp45", "dopri5",
        "tsit5", "dopri8", "dop853", "vern6", "vern7", "vern8", "vern9",
    ]  # fmt: skip
    for row in listed:
        tableau = EXPLICIT[row["name"]]
        assert row == {
            "name": tableau.name,
            "aliases": tableau.aliases,
            "family": "explicit Runge-Kutta",
            "stiff": False,
            "order": tableau.order,
            "embedded_order": tableau.embedded_order,
            "dense_order": 3 if tableau.dense is None else tableau.dense.order,
            "stages": len(tableau.b),
            "fsal": tableau.fsal,
        }
        assert tableau.source
    names = [name for row in listed for name in (row["name"], *row["aliases"])]
    assert len(set(names)) == len(names) and all(name == name.lower() for name in names)
    assert {"ralston", "rk23", "ode23", "rk45", "ode45", "dp8"} <= set(names)
    dense = {row["name"]: row["dense_order"] for row in listed if row["dense_order"] != 3}
    assert dense == {
        "dopri5": 4, "tsit5": 4, "dopri8": 5, "dop853": 7, "vern6": 6, "vern7": 7, "vern8": 8, "vern9": 9,
    }  # fmt: skip


# --- Values between steps, as numbers: in x86's 80 bits, for errors of order 9 are soon below float64's rounding

real = np.longdouble


def rounded(values):
    """Fractions to all 64 bits of their significands."""
    return np.array([real(float(value)) + real(float(value - Fraction(float(value)))) for value in values], real)


def spiral(t, y):
    """Not autonomous, coupled, nonlinear: turns ever faster on the unit circle, to which it is drawn."""
    pull = 1 - y @ y
    return np.array([-(1 + t) * y[1] + pull * y[0], (1 + t) * y[0] + pull * y[1]])


def on_the_circle(t):
    return np.array([np.cos(t + t**2 / 2), np.sin(t + t**2 / 2)])


@pytest.mark.parametrize("name", DENSE)
def test_error_between_steps_falls_with_its_order(name):
    """One step from a point of the solution, of several sizes: the largest error inside falls as h^(order + 1)."""
    tableau, points = EXPLICIT[name], [Fraction(number, 11) for number in range(1, 11)]
    dense, order, start = tableau.dense, tableau.dense_order, real(1) / 4
    rows = [rounded(row) for row in ((), *tableau.a, *dense.a)]
    times, inner = rounded([*tableau.c, *dense.c]), rounded(points)
    weights = np.stack([rounded(dense.at(x)) for x in points])
    sizes, errors = {8: 0.1, 9: 0.2}.get(order, 0.05) * real(0.8) ** np.arange(5), []
    for h in sizes:
        stages = np.zeros((len(rows), 2), real)
        for number, (row, time) in enumerate(zip(rows, times, strict=True)):
            stages[number] = spiral(start + time * h, on_the_circle(start) + h * (row @ stages[:number]))
        values = on_the_circle(start) + h * (weights @ stages)
        errors.append(np.abs(values - on_the_circle(start + inner * h).T).max())
    slope = np.polyfit(np.log(sizes).astype(float), np.log(np.array(errors)).astype(float), 1)[0]
    assert order + 0.7 < slope < order + 1.9, (slope, errors)


# --- A tableau of the user's own

GOOD = dict(name="mine", order=2, a=[[1]], b=["1/2", "1/2"], b_embedded=[1, 0], embedded_order=1)
HERMITE = dict(order=2, weights=[[1, "-1/2"], [0, "1/2"]])


def test_own_tableau_is_accepted():
    tableau = ButcherTableau(**GOOD, dense=ContinuousExtension(**HERMITE), aliases=["ours"])
    assert tableau.c == (0, 1) and tableau.stages == 2 and not tableau.fsal and tableau.end_stage is None
    assert tableau.dense_order == 2 and tableau.dense.at(Fraction(1, 2)) == (Fraction(3, 8), Fraction(1, 8))
    assert repr(tableau) == "<ButcherTableau 'mine': 2 stages, order 2>"
    assert ButcherTableau("mine", order=1, a=[], b=[1]).stages == 1


@pytest.mark.parametrize("name", ["rk4", "dopri5", "tsit5", "vern9"])
def test_own_tableau_of_floats(name):
    """The numbers of known methods as floats, NumPy's too: rounding is no error."""
    known = EXPLICIT[name]
    numbers = dict(
        a=[np.array(row, float) for row in known.a], b=[np.float32(0) if b == 0 else float(b) for b in known.b]
    )
    if known.b_embedded is not None:
        numbers |= dict(b_embedded=np.array(known.b_embedded, float), embedded_order=known.embedded_order)
        rows = [np.array(row, float) for row in known.dense.a]
        numbers["dense"] = ContinuousExtension(order=known.dense.order, a=rows, weights=np.array(known.dense.weights, float))
    tableau = ButcherTableau("mine", order=known.order, **numbers)
    assert tableau.order == known.order and tableau.fsal == known.fsal
    assert tableau.dense_order == known.dense_order


def test_tableaus_compare_by_content():
    one, other = ButcherTableau(**GOOD, source="here"), ButcherTableau(**GOOD, source="there", aliases=("also",))
    assert one == other and hash(one) == hash(other) and content(one) == content(other)
    assert pickle.loads(pickle.dumps(one)) == one
    dense = ButcherTableau(**GOOD, dense=ContinuousExtension(**HERMITE))
    assert dense != one and content(dense) != content(one)  # the same step, and other values between
    assert content(dense.dense) == content(ContinuousExtension(**HERMITE))
    assert content(ButcherTableau(**{**GOOD, "b_embedded": [0, 1]})) != content(one)
    modest = ButcherTableau(**{**GOOD, "order": 1})
    assert modest != one and content(modest) != content(one)  # the controller's exponents follow from the order
    low = ButcherTableau(**GOOD, b_embedded_low=[0, 1])
    assert content(low) != content(one) and low.error_weights_low == (Fraction(1, 2), Fraction(-1, 2))
    contents = {name: content(tableau) for name, tableau in EXPLICIT.items()}
    assert len(set(contents.values())) == len(contents)


def bad_dense(**change):
    return {"dense": ContinuousExtension(**{**HERMITE, **change})}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"b": ["1/2", "1/4"]}, r"'mine': b is of order 0, not 2: the sum of b is 0.75, not 1. Mend the numbers, or claim"),
        ({"b": ["1/4", "3/4"]}, r"'mine': b is of order 1, not 2: the sum of b\*c is 0.75, not 1/2. Mend .* claim the order"),
        ({"order": 3}, r"'mine': b is of order 2, not 3: the sum of b\*(A\(c\) is 0, not 1/6|c\^2 is 0.5, not 1/3)"),
        ({"order": 1}, None),
        ({"b_embedded": [1, 1]}, r"'mine': b_embedded is of order 0, not 1: the sum of b is 2, not 1"),
        ({"embedded_order": 2}, r"'mine': b_embedded is of order 1, not 2: the sum of b\*c is 0, not 1/2"),
        ({"b_embedded": GOOD["b"]}, r"'mine': b_embedded is b"),
        ({"b_embedded": [1]}, r"'mine': 1 embedded weights for 2 stages"),
        ({"b_embedded": None}, r"b_embedded and embedded_order belong together"),
        ({"embedded_order": None}, r"b_embedded and embedded_order belong together"),
        ({"b_embedded_low": [1]}, r"'mine': 1 second embedded weights for 2 stages"),
        ({"b_embedded_low": [1, 1]}, r"'mine': b_embedded_low is of order 0, not 1: the sum of b is 2, not 1"),
        ({"b_embedded": None, "embedded_order": None, "b_embedded_low": [1, 0]}, r"tempers the error of b_embedded, which is"),
        ({"a": [[1], [0, 1]]}, r"2 weights call for rows of 1 to 1 coefficients, got rows of \[1, 2\]"),
        ({"a": [[0, 1]]}, r"2 weights call for rows"),
        ({"a": [["one"]]}, r"'mine': a has 'one': expected a finite number, or text like '1/3'"),
        ({"a": [[float("nan")]]}, r"'mine': a has nan: expected a finite number"),
        ({"b": ["1/0", 1]}, r"'mine': b has '1/0': expected a finite number"),
        ({"b": [None, 1]}, r"'mine': b has None: expected a finite number"),
        ({"b": "11"}, r"'mine': b is '11': expected a sequence of numbers"),
        ({"c": [0, "1/2"]}, r"row 2 sums to 1.0, but its c is 0.5"),
        ({"c": [0]}, r"c needs 2 numbers, the first of them 0"),
        ({"c": [1, 1]}, r"c needs 2 numbers, the first of them 0"),
        ({"order": 0}, r"'mine': order=0, expected an integer of at least 1"),
        ({"order": None}, r"'mine': order=None, expected an integer of at least 1"),
        ({"order": "2"}, r"'mine': order='2', expected an integer of at least 1"),
        ({"embedded_order": 1.0}, r"'mine': embedded_order=1.0, expected an integer"),
        ({"name": ""}, r"a tableau's name is '': expected text"),
        ({"name": None}, r"a tableau's name is None: expected text"),
        (bad_dense(order="2"), r"'mine': the continuous extension's order='2', expected an integer"),
        (bad_dense(weights=[]), r"has weights for 0 stages; there are 2"),
        (bad_dense(weights=[[1, "-1/2"]]), r"has weights for 1 stages; there are 2"),
        (bad_dense(weights=[[1, "-1/2"], [0, "1/3"]]), r"weight of stage 2 ends at 0.33\d*, not at 0.5, its weight in"),
        (bad_dense(weights=[["1/2"], ["1/2"]]), r"extension at x = 1/3 is of order 1, not 2: .* b\*c is 0.16.* not 1/18"),
        (bad_dense(order=3), r"'mine': the continuous extension at x = 1/3 is of order 2, not 3: the sum of .*, not 1/"),
        (bad_dense(a=[[1]], c=[1]), r"extra stages of .* call for rows of \[2\] coefficients .*, got rows of \[1\] and 1"),
        (bad_dense(a=[[1, 0]], c=["1/3"], weights=[[1, "-1/2"], [0, "1/2"], []]), r"extension's row 3 sums to 1.0, but its c"),
    ],
)  # fmt: skip
def test_bad_tableau_is_refused(change, said):
    if said is None:
        ButcherTableau(**{**GOOD, **change})  # an order is claimed, no more
        return
    with pytest.raises(ValueError, match=said):
        ButcherTableau(**{**GOOD, **change})


def test_a_wrong_digit_is_found():
    """In each number of a method of order 5, the sixth digit."""
    known = EXPLICIT["dopri5"]
    for number, row in enumerate(known.a):
        for place in range(1, len(row)):
            rows = [list(r) for r in known.a]
            rows[number][place] += Fraction(1, 10**6)
            rows[number][0] -= Fraction(1, 10**6)  # so that its sum is what it was
            with pytest.raises(ValueError, match=r"'mine': b(_embedded)? is of order \d, not [45]"):
                ButcherTableau("mine", order=5, a=rows, b=known.b, b_embedded=known.b_embedded, embedded_order=4)
