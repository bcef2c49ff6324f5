"""The numbers of Rosenbrock methods, against the theory of order and by steps in NumPy."""

import pickle
from fractions import Fraction

import numpy as np
import pytest
from reference_steps import BETWEEN, Rosenbrock, error_at_end, field, jacobian, slope, slope_of_steps, time_derivative

from jax_cubie.content import content
from jax_cubie.methods import ROSENBROCK, RosenbrockTableau
from jax_cubie.methods.order_conditions import ElementaryWeights, density, trees
from jax_cubie.methods.rosenbrock_tableau import transformed, w_conditions

# Numbers are published with 16 digits, and stand before each other's products; the others are exact, or square roots.
EXACT = {"rosenbrock23": 45, "ros3p": 45, "rodas3": 45, "rodas3p": 45}
DENSE_DIGITS = {"rosenbrock23": 45, "rodas3p": 45, "rodas5": 13, "rodas5p": 12, "rodas5pe": 12}
DENSE = [name for name, tableau in ROSENBROCK.items() if tableau.dense is not None]
# R at infinity where the method is not L-stable.
NOT_L_STABLE = {"ros3p": 1 - 3**0.5}


def allowed(name, digits=EXACT, otherwise=14):
    return Fraction(1, 10 ** digits.get(name, otherwise))


def elementary(tableau):
    return ElementaryWeights(tableau.alpha_rows, tableau.beta_rows)


def slopes_of(tableau, weights):
    """Weights of u_i as weights of h k_i."""
    rows = tableau.gamma_rows
    return [sum(weights[k] * rows[k][j] for k in range(j, len(rows))) for j in range(len(rows))]


# --- Conditions


@pytest.mark.parametrize("name", ROSENBROCK)
def test_order_is_what_the_tableau_says(name):
    tableau = ROSENBROCK[name]
    stages = elementary(tableau)
    for weights, order in ((tableau.b, tableau.order), (tableau.b_embedded, tableau.embedded_order)):

        def missed(order, weights=weights):
            return max(abs(stages.weigh(weights, tree)[0] - Fraction(1, density(tree))) for tree in trees(order))

        for reached in range(1, order + 1):
            assert missed(reached) <= allowed(name), reached
        assert missed(order + 1) > Fraction(1, 1000), "the order is higher"


@pytest.mark.parametrize("name", DENSE)
def test_order_between_steps(name):
    """Every condition at every power of x; and the values end where the step does."""
    tableau = ROSENBROCK[name]
    stages, columns = elementary(tableau), zip(*tableau.dense.weights, strict=True)
    powers = [slopes_of(tableau, column) for column in columns]

    def missed(order):
        return max(
            abs(stages.weigh(weights, tree)[0] - (Fraction(1, density(tree)) if power == order else 0))
            for tree in trees(order)
            for power, weights in enumerate(powers, start=1)
        )

    for reached in range(1, tableau.dense_order + 1):
        assert missed(reached) <= allowed(name, DENSE_DIGITS), reached
    assert missed(tableau.dense_order + 1) > Fraction(1, 100), "the order is higher"
    ends = zip(tableau.dense.at(Fraction(1)), tableau.m, strict=True)
    assert max(abs(end - weight) for end, weight in ends) <= allowed(name, DENSE_DIGITS)


@pytest.mark.parametrize("name", ROSENBROCK)
def test_order_with_another_jacobian(name):
    tableau = ROSENBROCK[name]

    def missed(order):
        sums = (sums for tree in trees(order) for sums in w_conditions(tableau.alpha_rows, tableau.gamma_rows, tableau.b, tree))
        return max(abs(total - expected) for _, total, _, expected in sums)

    claimed = tableau.w_order or 1
    assert all(missed(order) <= allowed(name) for order in range(1, claimed + 1))
    assert missed(claimed + 1) > Fraction(1, 100), "the order is higher"
    assert {name: t.w_order for name, t in ROSENBROCK.items() if t.w_order} == {
        "rosenbrock23": 2, "rodas5p": 2, "rodas5pe": 2, "ros34pw2": 3,
    }  # fmt: skip


def test_w_conditions():
    """By hand, for two stages: alpha_21 = 1, gamma = g, gamma_21 = -2 g, b = 1/2, 1/2 is of order 2 for any matrix."""
    g, half = Fraction(1, 3), Fraction(1, 2)
    rows = (), (Fraction(1),)
    chain = (((),),)
    found = list(w_conditions(rows, ((g,), (-2 * g, g)), (half, half), ((),)))
    assert found == [("b*A(1)", half, half, half), ("b*G(1)", 0, g, 0)]
    texts = [text for text, *_ in w_conditions(rows, ((g,), (-2 * g, g)), (half, half), chain)]
    assert texts == ["b*A(A(1))", "b*G(A(1))", "b*A(G(1))", "b*G(G(1))"]
    assert [text for text, *_ in w_conditions(rows, rows, (half, half), ((), ()))] == ["b*A(1)*A(1)"]


@pytest.mark.parametrize("name", ROSENBROCK)
def test_rows_are_those_of_the_method_before_it_was_transformed(name):
    """Gamma (I / gamma - c) = I, the sums are alpha and d, and transformed back it is the same."""
    tableau = ROSENBROCK[name]
    stages, gamma = tableau.stages, tableau.gamma_rows
    inverse = [[*(-c for c in row), 1 / tableau.gamma, *[Fraction(0)] * stages][:stages] for row in ((), *tableau.c)]
    for i in range(stages):
        for j in range(stages):
            assert sum(gamma[i][k] * inverse[k][j] for k in range(i + 1)) == (i == j)
    tolerance = allowed(name)
    assert all(abs(sum(row) - d) <= tolerance for row, d in zip(gamma, tableau.d, strict=True))
    assert all(abs(sum(row) - time) <= tolerance for row, time in zip(tableau.alpha_rows, tableau.alpha, strict=True))
    again = transformed(alpha=tableau.alpha_rows[1:], gamma=gamma, b=tableau.b, b_embedded=tableau.b_embedded)
    assert (again["gamma"], tuple(again["a"]), again["m"]) == (tableau.gamma, tableau.a, tableau.m)
    assert tuple(map(tuple, again["c"])) == tableau.c and again["e"] == tableau.e


def test_numbers_of_ros3p_are_those_of_its_authors():
    """As its form without products is printed, in the paper and in codes."""
    ours = ROSENBROCK["ros3p"]
    np.testing.assert_allclose([float(x) for row in ours.a for x in row], [1.267949192431123, 1.267949192431123, 0], rtol=1e-15)
    theirs = [-1.607695154586736, -3.464101615137755, -1.732050807568877]
    np.testing.assert_allclose([float(x) for row in ours.c for x in row], theirs, rtol=1e-15)
    np.testing.assert_allclose([float(x) for x in ours.m], [2.0, 0.5773502691896258, 0.4226497308103742], rtol=1e-15)
    embedded = [2.113248654051871, 1.0, 0.4226497308103742]
    np.testing.assert_allclose([float(x) for x in ours.m_embedded], embedded, rtol=1e-15)
    np.testing.assert_allclose([float(x) for x in ours.d], [0.7886751345948129, -0.2113248654051871, -1.077350269189626])


@pytest.mark.parametrize("h", [0.1, 0.7])
def test_rosenbrock23_is_ode23s(h):
    """A step of MATLAB's code as the paper writes it."""
    t, y = 0.3, np.array([0.7, -0.4])
    d, e32 = 1 / (2 + 2**0.5), 6 + 2**0.5
    w, slope_in_time = np.eye(2) - h * d * jacobian(t, y), time_derivative(t, y)
    f0 = field(t, y)
    k1 = np.linalg.solve(w, f0 + h * d * slope_in_time)
    f1 = field(t + h / 2, y + h / 2 * k1)
    k2 = np.linalg.solve(w, f1 - k1) + k1
    y1 = y + h * k2
    k3 = np.linalg.solve(w, field(t + h, y1) - e32 * (k2 - f1) - 2 * (k1 - f0) + h * d * slope_in_time)
    found, error, (between,) = Rosenbrock(ROSENBROCK["rosenbrock23"], between=["1/4"])(t, y, h)
    np.testing.assert_allclose(found, y1, rtol=1e-14)
    np.testing.assert_allclose(error, -h / 6 * (k1 - 2 * k2 + k3), rtol=1e-10)
    x = 0.25
    expected = y + h / (1 - 2 * d) * (x * (1 - x) * k1 + x * (x - 2 * d) * k2)
    np.testing.assert_allclose(between, expected, rtol=1e-14)


def test_catalogue_lists_every_tableau():
    assert list(ROSENBROCK) == [
        "rosenbrock23", "ros3p", "rodas3", "rodas3p", "rodas4", "rodas42", "rodas4p", "rodas5", "rodas5p", "rodas5pe",
        "ros34pw2",
    ]  # fmt: skip
    assert ROSENBROCK.names["ode23s"] == "rosenbrock23"
    found = {name: (t.stages, t.order, t.embedded_order, t.dense_order, t.stiffly_accurate) for name, t in ROSENBROCK.items()}
    assert found == {
        "rosenbrock23": (3, 2, 3, 2, False),
        "ros3p": (3, 3, 2, 3, False),
        "rodas3": (4, 3, 2, 3, True),
        "rodas3p": (5, 3, 2, 3, True),
        "rodas4": (6, 4, 3, 3, True),
        "rodas42": (6, 4, 3, 3, True),
        "rodas4p": (6, 4, 3, 3, True),
        "rodas5": (8, 5, 4, 4, True),
        "rodas5p": (8, 5, 4, 4, True),
        "rodas5pe": (8, 5, 4, 4, True),
        "ros34pw2": (4, 3, 2, 3, True),
    }
    assert {name: t.end_stage for name, t in ROSENBROCK.items() if t.end_stage is not None} == {"rosenbrock23": 2}
    shared = {name: t.evaluations for name, t in ROSENBROCK.items() if len(set(t.evaluations)) < t.stages}
    assert shared == {"ros3p": (0, 1, 1), "rodas3": (0, 0, 2, 3), "rodas3p": (0, 1, 0, 3, 3)}
    for tableau in ROSENBROCK.values():
        assert tableau.source and tableau.alpha[0] == 0 and tableau.d[0] == tableau.gamma
        assert tableau.error_weights == tableau.e
        assert tableau.m_embedded == tuple(m - e for m, e in zip(tableau.m, tableau.e, strict=True))


# --- Stability


@pytest.mark.parametrize("name", ROSENBROCK)
def test_stability_function_is_exp_to_its_order(name):
    """R(z) = numerator / (1 - gamma z)^stages, and exp(z) up to z^order."""
    tableau = ROSENBROCK[name]
    numerator, denominator = tableau.stability_function
    powers = [Fraction(1)]
    for _ in range(tableau.stages):
        powers = [a - tableau.gamma * b for a, b in zip([*powers, 0], [0, *powers], strict=True)]
    assert denominator == tuple(powers)
    factorial = 1
    for power in range(tableau.order + 1):
        factorial *= max(power, 1)
        taylor = numerator[power] - sum(
            denominator[power - k] * Fraction(1, int(np.prod(range(1, k + 1)))) for k in range(power)
        )
        assert abs(taylor - Fraction(1, factorial)) <= 10 * allowed(name)


@pytest.mark.parametrize("name", ROSENBROCK)
def test_stability_at_infinity(name):
    assert abs(float(ROSENBROCK[name].stability_at_infinity) - NOT_L_STABLE.get(name, 0)) < 1e-15


@pytest.mark.parametrize("name", ROSENBROCK)
def test_is_a_stable(name):
    """|R| is at most 1 on the imaginary axis; all poles are at 1 / gamma."""
    numerator, denominator = ([float(value) for value in values] for values in ROSENBROCK[name].stability_function)
    z = 1j * np.logspace(-2, 5, 4001)
    values = np.polyval(numerator[::-1], z) / np.polyval(denominator[::-1], z)
    assert np.abs(values).max() <= 1 + 1e-12


# --- Steps


@pytest.mark.parametrize("name", ROSENBROCK)
def test_error_falls_with_the_order(name):
    tableau = ROSENBROCK[name]
    counts = np.array([20, 28, 40, 56, 80]) if tableau.order > 3 else np.array([60, 80, 120, 160, 240])
    errors = [error_at_end(Rosenbrock(tableau), -2.0, 1.0, count) for count in counts]
    found = slope(3 / counts, errors)
    assert tableau.order - 0.35 < found < tableau.order + 1, (found, errors)


@pytest.mark.parametrize("name", [name for name, tableau in ROSENBROCK.items() if tableau.w_order])
def test_error_with_another_jacobian_falls_with_its_order(name):
    tableau, counts = ROSENBROCK[name], np.array([100, 140, 200, 280, 400])
    step = Rosenbrock(tableau, inexact=np.array([[0.3, -0.8], [0.5, -0.6]]))
    found = slope(3 / counts, [error_at_end(step, -2.0, 1.0, count) for count in counts])
    assert tableau.w_order - 0.35 < found < tableau.w_order + 1


@pytest.mark.parametrize("name", ROSENBROCK)
def test_embedded_error_falls_with_its_order(name):
    tableau = ROSENBROCK[name]
    found, errors = slope_of_steps(Rosenbrock(tableau), embedded=True)
    assert tableau.embedded_order + 0.6 < found < tableau.embedded_order + 2, (found, errors)


@pytest.mark.parametrize("name", DENSE)
def test_error_between_steps_falls_with_its_order(name):
    tableau = ROSENBROCK[name]
    found, errors = slope_of_steps(Rosenbrock(tableau, between=BETWEEN))
    assert tableau.dense_order + 0.6 < found < tableau.dense_order + 2, (found, errors)


# --- What is refused

GOOD = dict(
    name="mine",
    order=2,
    **transformed(alpha=[[1]], gamma=[["1/3"], ["-2/3", "1/3"]], b=["1/2", "1/2"], b_embedded=[1, 0]),
    embedded_order=1,
    w_order=2,
)


def test_own_tableau_is_accepted():
    tableau = RosenbrockTableau(**GOOD, aliases=["ours"])
    assert tableau.alpha == (0, 1) and tableau.d == (Fraction(1, 3), Fraction(-1, 3)) and tableau.dense_order == 3
    assert repr(tableau) == "<RosenbrockTableau 'mine': 2 stages, order 2>"
    assert pickle.loads(pickle.dumps(tableau)) == tableau and hash(tableau) == hash(RosenbrockTableau(**GOOD))
    assert content(tableau) == content(RosenbrockTableau(**GOOD, source="here"))
    contents = {name: content(tableau) for name, tableau in ROSENBROCK.items()}
    assert len(set(contents.values())) == len(contents)


@pytest.mark.parametrize("name", ROSENBROCK)
def test_own_tableau_of_floats(name):
    """The numbers of known methods as floats, NumPy's too: rounding is no error."""
    known = ROSENBROCK[name]
    numbers = {label: np.array(getattr(known, label), float) for label in ("m", "alpha", "d", "e")}
    rows = {label: [np.array(row, float) for row in getattr(known, label)] for label in ("a", "c")}
    claims = {label: getattr(known, label) for label in ("order", "embedded_order", "w_order")}
    tableau = RosenbrockTableau("mine", gamma=np.float64(known.gamma), **numbers, **rows, **claims)
    assert tableau.stiffly_accurate == known.stiffly_accurate


@pytest.mark.parametrize(
    "change, said",
    [
        ({"order": 3}, r"'mine': m is of order 2, not 3: the sum of b\*\S+ is \S+, not 1/[36]. Mend the numbers, or claim"),
        ({"m": [1, "3/2"]}, r"'mine': m is of order 0, not 2: the sum of b is"),
        ({"embedded_order": 2}, r"'mine': m - e is of order 1, not 2: the sum of b\*B\(1\) is"),
        ({"w_order": 3}, r"with any matrix in the place of J it is of order 2, not 3: the sum of b\*\S+ is"),
        ({"w_order": 0}, r"'mine': w_order=0, expected an integer of at least 1"),
        ({"order": "2"}, r"'mine': order='2', expected an integer of at least 1"),
        ({"embedded_order": None}, r"'mine': e and embedded_order belong together"),
        ({"e": None}, r"'mine': e and embedded_order belong together"),
        ({"e": [1]}, r"'mine': 1 weights of the error for 2 stages"),
        ({"e": [0, 0]}, r"'mine': e is 0 in all stages"),
        ({"alpha": [0]}, r"'mine': alpha needs 2 numbers, got 1"),
        ({"alpha": [0, "1/2"]}, r"'mine': row of alpha_rows 2 sums to 1.0, but its alpha is 0.5"),
        ({"d": ["1/3", "1/3"]}, r"'mine': row of gamma_rows 2 sums to -0.33\d*, but its d is 0.33"),
        ({"a": [[3], [1, 2]]}, r"2 weights call for rows of 1 to 1 coefficients in a, got rows of \[1, 2\]"),
        ({"c": []}, r"2 weights call for rows of 1 to 1 coefficients in c, got rows of \[\]"),
        ({"gamma": 0}, r"'mine': gamma is 0.0: expected a positive number"),
        ({"gamma": "x"}, r"'mine': gamma has 'x': expected a finite number"),
        ({"name": ""}, r"a tableau's name is '': expected text"),
        ({"dense": [[1]]}, r"'mine': dense and dense_order belong together"),
        ({"dense": [[0, 0, 0]], "dense_order": 1}, r"dense needs rows of at most 2 coefficients, got rows of \[3\]"),
        ({"dense": [], "dense_order": 1}, r"dense needs rows of at most 2 coefficients, got rows of \[\]"),
        ({"dense": [[0]], "dense_order": 2}, r"'mine': dense at x = 1/3 is of order 1, not 2: the sum of b\*B\(1\) is"),
    ],
)  # fmt: skip
def test_bad_tableau_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        RosenbrockTableau(**{**GOOD, **change})


@pytest.mark.parametrize("name", ["rodas4", "rodas5p"])
def test_a_wrong_digit_is_found(name):
    """In each number of a method, the eighth digit."""
    known = ROSENBROCK[name]
    rows = {"a": known.a, "c": known.c}
    claims = dict(gamma=known.gamma, m=known.m, order=known.order, e=known.e, embedded_order=known.embedded_order)
    for label, numbers in rows.items():
        for number, row in enumerate(numbers):
            for place in range(len(row)):
                changed = [list(r) for r in numbers]
                changed[number][place] += Fraction(1, 10**7)
                with pytest.raises(ValueError, match=r"'mine': m( - e)? is of order \d, not [345]"):
                    RosenbrockTableau("mine", **{**rows, label: changed}, **claims)
