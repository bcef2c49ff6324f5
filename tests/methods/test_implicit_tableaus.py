"""The numbers of implicit Runge-Kutta methods, against the theory of order and by steps in NumPy."""

import pickle
from fractions import Fraction

import numpy as np
import pytest
from reference_steps import BETWEEN, Implicit, error_at_end, exact, field, slope, slope_of_steps

from jax_cubie import Solver
from jax_cubie.content import content
from jax_cubie.methods import DIRK, FIRK, TRANSFORMATIONS, ContinuousExtension, ImplicitTableau, StageTransformation
from jax_cubie.methods.implicit_tableau import interpolant
from jax_cubie.methods.order_conditions import ElementaryWeights, density, trees

IMPLICIT = {**DIRK, **FIRK}
# Square roots have 50 digits, the times of radau_iia_9 have 40; those of kvaerno5 and esdirk54 are published rounded.
DIGITS = {"kvaerno5": 16, "esdirk54": 24, "radau_iia_9": 38}
ADAPTIVE = [name for name, tableau in IMPLICIT.items() if tableau.b_embedded is not None]
DENSE = [name for name, tableau in IMPLICIT.items() if tableau.dense is not None]
# R at infinity where the method is not L-stable.
NOT_L_STABLE = {
    "implicit_midpoint": -1, "trapezoid": -1, "gauss_legendre_2": -1, "gauss_legendre_4": 1, "gauss_legendre_6": -1,
}  # fmt: skip
# Largest q and r of C(q) and D(r), with B(order) (Hairer, Wanner, Solving ODE II, section IV.5, table 5.13).
SIMPLIFYING = {
    "gauss_legendre_2": (1, 1), "gauss_legendre_4": (2, 2), "gauss_legendre_6": (3, 3), "radau_iia_3": (2, 1),
    "radau_iia_5": (3, 2), "radau_iia_9": (5, 4), "lobatto_iiic_4": (2, 2),
}  # fmt: skip


def allowed(name):
    return Fraction(1, 10 ** DIGITS.get(name, 48))


# --- Conditions


@pytest.mark.parametrize("name", IMPLICIT)
def test_order_is_what_the_tableau_says(name):
    tableau = IMPLICIT[name]
    stages = ElementaryWeights(tableau.a)

    def missed(weights, order):
        return max(abs(stages.weigh(weights, tree)[0] - Fraction(1, density(tree))) for tree in trees(order))

    for reached in range(1, min(tableau.order, 7) + 1):
        assert missed(tableau.b, reached) <= allowed(name), reached
    if tableau.order < 7:
        assert missed(tableau.b, tableau.order + 1) > Fraction(1, 10_000), "the order is higher"
    if tableau.b_embedded is not None:
        for reached in range(1, tableau.embedded_order + 1):
            assert missed(tableau.b_embedded, reached) <= allowed(name), reached
        assert missed(tableau.b_embedded, tableau.embedded_order + 1) > Fraction(1, 10_000), "the order is higher"


@pytest.mark.parametrize("name", FIRK)
def test_simplifying_assumptions(name):
    """B(p), C(q) and D(r) with p <= q + r + 1 and p <= 2 q + 2: the order is p (Butcher 1964)."""
    tableau, (q, r) = FIRK[name], SIMPLIFYING[name]
    a, b, c, p = tableau.a, tableau.b, tableau.c, tableau.order
    stages = range(tableau.stages)

    def quadrature(k):
        return abs(sum(b[i] * c[i] ** (k - 1) for i in stages) - Fraction(1, k))

    def collocation(k):
        return max(abs(sum(a[i][j] * c[j] ** (k - 1) for j in stages) - c[i] ** k / k) for i in stages)

    def dual(k):
        return max(abs(sum(b[i] * c[i] ** (k - 1) * a[i][j] for i in stages) - b[j] * (1 - c[j] ** k) / k) for j in stages)

    assert p <= q + r + 1 and p <= 2 * q + 2
    for condition, largest in ((quadrature, p), (collocation, q), (dual, r)):
        assert max(condition(k) for k in range(1, largest + 1)) <= allowed(name), condition
        assert condition(largest + 1) > Fraction(1, 10**6), condition


@pytest.mark.parametrize("name", DENSE)
def test_order_between_steps(name):
    tableau = IMPLICIT[name]
    stages, columns = ElementaryWeights(tableau.a), list(zip(*tableau.dense.weights, strict=True))

    def missed(order):
        return max(
            abs(stages.weigh(column, tree)[0] - (Fraction(1, density(tree)) if power == order else 0))
            for tree in trees(order)
            for power, column in enumerate(columns, start=1)
        )

    assert max(missed(order) for order in range(1, tableau.dense_order + 1)) <= allowed(name)
    assert missed(tableau.dense_order + 1) > Fraction(1, 1000), "the order is higher"
    ends = zip(tableau.dense.at(Fraction(1)), tableau.b, strict=True)
    assert max(abs(end - weight) for end, weight in ends) <= allowed(name)


@pytest.mark.parametrize("name", FIRK)
def test_slopes_between_steps_are_those_of_the_stages(name):
    """The collocation polynomial's are; so are those of the parabola through Lobatto's stages."""
    tableau = FIRK[name]
    assert tableau.dense.weights == interpolant(tableau.c)
    for stage, row in enumerate(tableau.dense.weights):
        for other, time in enumerate(tableau.c):
            found = sum(power * weight * time ** (power - 1) for power, weight in enumerate(row, start=1))
            assert abs(found - (stage == other)) <= allowed(name)
    if name != "lobatto_iiic_4":
        assert all(tableau.dense.at(time) == row for time, row in zip(tableau.c, tableau.a, strict=True))


@pytest.mark.parametrize("name", IMPLICIT)
def test_rows_sum_to_their_times(name):
    tableau = IMPLICIT[name]
    assert all(len(row) == tableau.stages for row in tableau.a)
    assert all(abs(sum(row) - time) <= allowed(name) for row, time in zip(tableau.a, tableau.c, strict=True))
    if tableau.predictor is not None:
        assert all(abs(sum(row) - 1) <= Fraction(1, 10**14) for row in tableau.predictor)


def test_catalogues_list_every_tableau():
    found = {
        name: (t.family, t.stages, t.order, t.embedded_order, t.dense_order, t.fsal, t.stiffly_accurate)
        for name, t in IMPLICIT.items()
    }
    assert found == {
        "implicit_euler": ("DIRK", 2, 1, 2, 3, True, True),
        "implicit_midpoint": ("DIRK", 1, 2, None, 3, False, False),
        "trapezoid": ("DIRK", 2, 2, 1, 3, True, True),
        "sdirk2": ("DIRK", 2, 2, 1, 3, False, True),
        "trbdf2": ("DIRK", 3, 2, 3, 3, True, True),
        "l_stable_sdirk4": ("DIRK", 5, 4, 3, 3, False, True),
        "kvaerno3": ("DIRK", 4, 3, 2, 3, True, True),
        "kvaerno4": ("DIRK", 5, 4, 3, 3, True, True),
        "kvaerno5": ("DIRK", 7, 5, 4, 3, True, True),
        "esdirk54": ("DIRK", 7, 5, 4, 3, True, True),
        "gauss_legendre_2": ("DIRK", 1, 2, None, 1, False, False),
        "gauss_legendre_4": ("FIRK", 2, 4, None, 2, False, False),
        "gauss_legendre_6": ("FIRK", 3, 6, None, 3, False, False),
        "radau_iia_3": ("FIRK", 2, 3, None, 2, False, True),
        "radau_iia_5": ("FIRK", 3, 5, None, 3, False, True),
        "radau_iia_9": ("FIRK", 5, 9, None, 5, False, True),
        "lobatto_iiic_4": ("FIRK", 3, 4, None, 3, False, True),
    }
    names = [*DIRK.names, *FIRK.names]
    assert len(set(names)) == len(names) and {"backward_euler", "crank_nicolson", "radau5"} <= set(names)
    singly = {name: None if t.singly is None else round(float(t.singly), 6) for name, t in DIRK.items()}
    assert singly == {
        "implicit_euler": 1, "implicit_midpoint": 0.5, "trapezoid": 0.5, "sdirk2": 0.292893, "trbdf2": 0.292893,
        "l_stable_sdirk4": 0.25, "kvaerno3": 0.435867, "kvaerno4": 0.572816, "kvaerno5": 0.26, "esdirk54": 0.184,
    }  # fmt: skip
    for name, tableau in IMPLICIT.items():
        assert tableau.source and tableau.end_stage == (tableau.stages - 1 if tableau.stiffly_accurate else None)
        assert tableau.explicit_first_stage == (tableau.c[0] == 0 and name != "lobatto_iiic_4")
    contents = {name: content(tableau) for name, tableau in IMPLICIT.items()}
    assert len(set(contents.values())) == len(contents)


@pytest.mark.parametrize("name", ["kvaerno3", "kvaerno4", "kvaerno5"])
def test_numbers_are_diffrax_ones(name):
    diffrax = pytest.importorskip("diffrax")
    theirs, ours = getattr(diffrax, name.capitalize())().tableau, DIRK[name]
    for number in range(1, ours.stages):
        row = np.array(ours.a[number], float)
        np.testing.assert_allclose(row[:number], theirs.a_lower[number - 1], rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(row[number], theirs.a_diagonal[number])
        predictor = np.zeros(number)
        predictor[: len(ours.predictor[number - 1])] = ours.predictor[number - 1]
        np.testing.assert_allclose(predictor, theirs.a_predictor[number - 1], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(np.array(ours.b, float), theirs.b_sol, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(np.array(ours.c[1:], float), theirs.c, rtol=1e-14)
    np.testing.assert_allclose(np.array(ours.error_weights, float), theirs.b_error, rtol=1e-12, atol=1e-14)


# --- Stability


@pytest.mark.parametrize("name", IMPLICIT)
def test_stability_function(name):
    """It is exp to the order, and 1 + z b (I - z A)^-1 1."""
    tableau = IMPLICIT[name]
    numerator, denominator = tableau.stability_function
    taylor, factorial = [], 1
    for power in range(tableau.order + 1):
        factorial *= max(power, 1)
        known = sum(d * t for d, t in zip(denominator[1:], reversed(taylor), strict=False))
        taylor.append((numerator[power] if power < len(numerator) else 0) - known)
        assert abs(taylor[-1] - Fraction(1, factorial)) <= 100 * allowed(name)
    a, b = np.array(tableau.a, float), np.array(tableau.b, float)
    for z in (0.3, -2.0 + 1.0j):
        expected = 1 + z * b @ np.linalg.solve(np.eye(tableau.stages) - z * a, np.ones(tableau.stages))
        found = np.polyval(np.array(numerator[::-1], float), z) / np.polyval(np.array(denominator[::-1], float), z)
        assert abs(found - expected) < 1e-12


@pytest.mark.parametrize("name", IMPLICIT)
def test_stability_at_infinity(name):
    """Kvaerno's gammas have 10 digits, as hers do."""
    error = abs(IMPLICIT[name].stability_at_infinity - NOT_L_STABLE.get(name, 0))
    assert error <= (Fraction(1, 10**10) if name in ("kvaerno3", "kvaerno4") else 10 * allowed(name))


@pytest.mark.parametrize("name", IMPLICIT)
def test_is_a_stable(name):
    """|R| is at most 1 on the imaginary axis, and all poles are to its right."""
    numerator, denominator = ([float(value) for value in values][::-1] for values in IMPLICIT[name].stability_function)
    z = 1j * np.logspace(-2, 5, 4001)
    assert np.abs(np.polyval(numerator, z) / np.polyval(denominator, z)).max() <= 1 + 1e-12
    assert np.roots(denominator).real.min() > 0


# --- Steps


@pytest.mark.parametrize("name", IMPLICIT)
def test_error_falls_with_the_order(name):
    tableau = IMPLICIT[name]
    counts = np.array([10, 11, 12, 13, 14]) if tableau.order == 9 else np.array([20, 28, 40, 56, 80])
    counts = counts * {1: 10, 2: 4}.get(tableau.order, 1)
    errors = [error_at_end(Implicit(tableau), -2.0, 1.0, count) for count in counts]
    found = slope(3 / counts, errors)
    assert tableau.order - 0.35 < found < tableau.order + 1, (found, errors)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_embedded_error_falls_with_its_order(name):
    tableau = IMPLICIT[name]
    found, errors = slope_of_steps(Implicit(tableau), embedded=True)
    assert tableau.embedded_order + 0.6 < found < tableau.embedded_order + 2, (found, errors)


@pytest.mark.parametrize("name", DENSE)
def test_error_between_steps_falls_with_its_order(name):
    tableau = IMPLICIT[name]
    found, errors = slope_of_steps(Implicit(tableau, between=BETWEEN))
    assert tableau.dense_order + 0.6 < found < tableau.dense_order + 2, (found, errors)


# --- What decouples the stages


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformation_decouples_the_stages(name):
    """T^-1 A^-1 T = B, which has the eigenvalues; as A T B = T, so that A is not inverted."""
    ours, a = TRANSFORMATIONS[name], FIRK[name].a
    stages = range(ours.stages)
    blocks = [[Fraction(0)] * ours.stages for _ in stages]
    first = ours.gamma is not None
    if first:
        blocks[0][0] = ours.gamma
    for number, (alpha, beta) in enumerate(ours.pairs):
        at = first + 2 * number
        blocks[at][at], blocks[at][at + 1], blocks[at + 1][at], blocks[at + 1][at + 1] = alpha, -beta, beta, alpha

    def product(one, other):
        return [[sum(one[i][k] * other[k][j] for k in stages) for j in stages] for i in stages]

    def largest(one, other):
        return max(abs(one[i][j] - other[i][j]) for i in stages for j in stages)

    assert largest(product(a, product(ours.t, blocks)), ours.t) < Fraction(1, 10**37)
    assert largest(product(ours.inverse, ours.t), [[int(i == j) for j in stages] for i in stages]) < Fraction(1, 10**36)
    lasts = [1] * first + [1, 0] * len(ours.pairs)
    assert list(ours.t[-1][1:]) == lasts[1:] and (name == "radau_iia_5" or ours.t[-1][0] == 1)
    assert list(TRANSFORMATIONS) == list(FIRK) and all(beta > 0 for _, beta in ours.pairs)


def test_transformation_of_radau_iia_5_is_hairers():
    """As printed in his radau5.f, where 1 / gamma is U1 and 1 / (alpha + i beta) are the other eigenvalues of A."""
    ours = TRANSFORMATIONS["radau_iia_5"]
    t = [
        ["9.1232394870892942792e-2", "-0.14125529502095420843", "-3.0029194105147424492e-2"],
        ["0.24171793270710701896", "0.20412935229379993199", "0.38294211275726193779"],
        ["0.96604818261509293619", 1, 0],
    ]
    inverse = [
        ["4.3255798900631553510", "0.33919925181580986954", "0.54177053993587487119"],
        ["-4.1787185915519047273", "-0.32768282076106238708", "0.47662355450055045196"],
        ["-0.50287263494578687595", "2.5719269498556054292", "-0.59603920482822492497"],
    ]
    for rows, theirs in ((ours.t, t), (ours.inverse, inverse)):
        for row, other in zip(rows, theirs, strict=True):
            assert all(abs(value - Fraction(text)) < Fraction(1, 10**19) for value, text in zip(row, other, strict=True))
    cube = 9 ** (1 / 3)
    assert abs(float(ours.gamma) - 30 / (6 + 81 ** (1 / 3) - cube)) < 1e-14
    alpha, beta = (12 - 81 ** (1 / 3) + cube) / 60, (81 ** (1 / 3) + cube) * 3**0.5 / 60
    found = [float(value) for value in ours.pairs[0]]
    np.testing.assert_allclose(found, np.array([alpha, beta]) / (alpha**2 + beta**2), rtol=1e-14)
    weights = np.array([-13 - 7 * 6**0.5, -13 + 7 * 6**0.5, -1]) / 3
    np.testing.assert_allclose([float(value) for value in ours.error], weights, rtol=1e-14)


@pytest.mark.parametrize("name", ["radau_iia_5", "radau_iia_9"])
def test_error_weights_of_radau(name):
    """h / gamma (f(t, y) + sum(e_i z_i) / h) turns the solution into that of another formula, of the order of the stages."""
    tableau, ours = FIRK[name], TRANSFORMATIONS[name]
    stages = range(tableau.stages)
    slopes = [sum(ours.error[i] * tableau.a[i][j] for i in stages) / ours.gamma for j in stages]  # weights of h k_j
    nodes, weights = (0, *tableau.c), (1 / ours.gamma, *(b + e for b, e in zip(tableau.b, slopes, strict=True)))
    for power in range(1, tableau.stages + 1):
        found = sum(weight * node ** (power - 1) for weight, node in zip(weights, nodes, strict=True))
        assert abs(found - Fraction(1, power)) < Fraction(1, 10**37)
    step, errors = Implicit(tableau), []
    sizes = (0.08 if name == "radau_iia_5" else 0.2) * 0.8 ** np.arange(5)
    step.e = np.array(slopes, float)
    for h in sizes:
        _, error, _ = step(0.3, exact(0.3), h)
        errors.append(np.linalg.norm(error + h / float(ours.gamma) * field(0.3, exact(0.3))))
    assert tableau.stages + 0.6 < slope(sizes, errors) < tableau.stages + 2


@pytest.mark.parametrize(
    "change, said",
    [
        ({"gamma": None}, r"'mine': 0 eigenvalues call for 0 rows of 0 coefficients"),
        ({"t": [[1, 0]]}, r"'mine': 1 eigenvalues call for 1 rows of 1 coefficients in t and inverse"),
        ({"inverse": [["1/3"]]}, r"'mine': inverse times t is 0.66\d* at row 1, column 1"),
        ({"error": [1, 2]}, r"'mine': 2 weights of the error for 1 stages"),
        ({"pairs": [[1]]}, r"'mine': 3 eigenvalues call for"),
    ],
)
def test_bad_transformation_is_refused(change, said):
    good = dict(gamma=2, t=[[2]], inverse=[["1/2"]])
    assert StageTransformation("mine", **good).stages == 1
    with pytest.raises(ValueError, match=said):
        StageTransformation("mine", **{**good, **change})


# --- A tableau of one's own

GOOD = dict(
    name="mine", order=2, a=[[], ["1/2", "1/2"]], b=["1/2", "1/2"], b_embedded=[0, 1], embedded_order=1, predictor=[[1]]
)


def test_own_tableau_is_accepted():
    tableau = ImplicitTableau(**GOOD, aliases=["ours"])
    assert tableau.a == ((0, 0), (Fraction(1, 2), Fraction(1, 2))) and tableau.c == (0, 1) and tableau.family == "DIRK"
    assert tableau.error_weights == (Fraction(1, 2), Fraction(-1, 2)) and tableau.singly == Fraction(1, 2)
    assert repr(tableau) == "<ImplicitTableau 'mine': 2 stages, order 2>"
    assert pickle.loads(pickle.dumps(tableau)) == tableau and hash(tableau) == hash(ImplicitTableau(**GOOD))
    explicit = ImplicitTableau("mine", order=1, a=[[]], b=[1])
    assert explicit.stability_at_infinity is None and explicit.singly is None
    with pytest.raises(ValueError, match="'mine': none of its stages is implicit: make it a jax_cubie.ButcherTableau"):
        Solver(explicit)


@pytest.mark.parametrize("name", IMPLICIT)
def test_own_tableau_of_floats(name):
    """The numbers of known methods as floats, NumPy's too: rounding is no error."""
    known = IMPLICIT[name]
    numbers = dict(a=np.array(known.a, float), b=np.array(known.b, float), c=np.array(known.c, float))
    if known.b_embedded is not None:
        numbers |= dict(b_embedded=np.array(known.b_embedded, float), embedded_order=known.embedded_order)
    if known.dense is not None:
        weights = np.array(known.dense.weights, float)
        numbers["dense"] = ContinuousExtension(order=known.dense.order, weights=weights)
    tableau = ImplicitTableau("mine", order=known.order, **numbers)
    assert (tableau.family, tableau.fsal, tableau.stiffly_accurate) == (known.family, known.fsal, known.stiffly_accurate)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"order": 3}, r"'mine': b is of order 2, not 3: the sum of b\*\S+ is \S+, not 1/[36]. Mend the numbers, or claim"),
        ({"b": ["1/2", "1/3"]}, r"'mine': b is of order 0, not 2: the sum of b is 0.83\d*, not 1"),
        ({"embedded_order": 2}, r"'mine': b_embedded is of order 1, not 2: the sum of b\*c is 1, not 1/2"),
        ({"embedded_order": None}, r"b_embedded and embedded_order belong together"),
        ({"b_embedded": ["1/2", "1/2"]}, r"b_embedded is b, so that the error estimate is always 0"),
        ({"b_embedded": [1]}, r"1 embedded weights for 2 stages"),
        ({"a": [["1/2", "1/2"]]}, r"2 weights call for 2 rows of at most 2 coefficients, got rows of \[2\]"),
        ({"a": [[], [0, 0, 1]]}, r"2 weights call for 2 rows of at most 2 coefficients, got rows of \[0, 3\]"),
        ({"c": [0]}, r"c needs 2 numbers, got 1"),
        ({"c": [0, "1/2"]}, r"'mine': row 2 sums to 1.0, but its c is 0.5"),
        ({"predictor": []}, r"the predictor needs rows of at most 1 to 1 coefficients, got rows of \[\]"),
        ({"predictor": [[1, 0]]}, r"the predictor needs rows of at most 1 to 1 coefficients, got rows of \[2\]"),
        ({"predictor": [[2]]}, r"the predictor's row 2 sums to 2.0, but its sum is 1.0"),
        ({"order": 0}, r"'mine': order=0, expected an integer of at least 1"),
        ({"name": None}, r"a tableau's name is None: expected text"),
        ({"a": 1}, r"a is 1: expected a sequence of rows"),
        ({"b": "1"}, r"b is '1': expected a sequence of numbers"),
        ({"dense": "hermite"}, r"dense='hermite', expected a ContinuousExtension or None"),
        ({"dense": ContinuousExtension(order=1, weights=[[1]])}, r"has weights for 1 stages; there are 2"),
        ({"dense": ContinuousExtension(order=1, weights=[[1], [0]])}, r"weight of stage 1 ends at 1.0, not at 0.5"),
        (
            {"dense": ContinuousExtension(order=2, weights=[["1/2"], ["1/2"]])},
            r"extension at x = 1/3 is of order 1, not 2: the sum of b\*c is",
        ),
    ],
)
def test_bad_tableau_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        ImplicitTableau(**{**GOOD, **change})


@pytest.mark.parametrize("name", ["l_stable_sdirk4", "kvaerno5", "radau_iia_5"])
def test_a_wrong_digit_is_found(name):
    """In each number of a method, the ninth digit; the sum of its row stays what it was."""
    known = IMPLICIT[name]
    claims = dict(order=known.order, b_embedded=known.b_embedded, embedded_order=known.embedded_order)
    for number, row in enumerate(known.a):
        for place in range(1, len(row)):
            rows = [list(r) for r in known.a]
            rows[number][place] += Fraction(1, 10**8)
            rows[number][0] -= Fraction(1, 10**8)
            with pytest.raises(ValueError, match=r"'mine': b(_embedded)? is of order \d, not [345]"):
                ImplicitTableau("mine", a=rows, b=known.b, **claims)
