"""Fully implicit methods as compiled: real problems, the error estimate, Newton's iterations, results, own tableaus."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_steps import Implicit, exact
from reference_steps import field as numpy_field
from reference_steps import jacobian as numpy_jacobian
from solve_helpers import all_are, decay

from jax_cubie import SaveAt, Solver, solve
from jax_cubie.methods import FIRK, TRANSFORMATIONS, ImplicitTableau

pytestmark = pytest.mark.usefixtures("x64")

# Bari Test Set for IVP Solvers (Mazzia, Magherini): Robertson's reaction at t = 1e11.
T1, RATES, EXPECTED = 1e11, (0.04, 3e7, 1e4), np.array([2.083340149701255e-08, 8.333360770334713e-14, 0.999999979166505])
SETTLED = {"newton_rtol": 1e-14, "newton_atol": 1e-14, "newton_max_steps": 50}


def robertson(t, y, k):
    a, b, c = k
    slow, fast = -a * y[0] + c * y[1] * y[2], b * y[1] ** 2
    return jnp.stack([slow, -slow - fast, fast])


def field(t, y, args):
    """`reference_steps.field`."""
    pace = 1 + 0.9 * jnp.cos(3 * t)
    return jnp.stack([pace * y[0] * y[1], -pace * y[0] * y[0]])


def stiff(t, y, rate):
    """Prothero and Robinson's: the solution is cos(t), from which other solutions are repelled."""
    return -rate * (y - jnp.cos(t)) - jnp.sin(t)


def brusselator(t, y, diffusion):
    """On a line between walls; u and v of each point beside one another."""
    u, v = y[::2], y[1::2]

    def laplacian(w, wall):
        ends = jnp.full(1, wall)
        return jnp.concatenate([ends, w[:-1]]) - 2 * w + jnp.concatenate([w[1:], ends])

    scale = diffusion * (u.shape[0] + 1) ** 2
    du = 1 + u * u * v - 4 * u + scale * laplacian(u, 1.0)
    dv = 3 * u - u * u * v + scale * laplacian(v, 3.0)
    return jnp.stack([du, dv], 1).reshape(-1)


@pytest.mark.parametrize("method", ["radau_iia_5", "radau_iia_9"])
def test_robertson(method, platform):
    """Over eleven decades of time; within ten times the tolerance."""
    for rtol in (1e-4, 1e-6, 1e-8):
        atol = 1e-6 * rtol
        solution = solve(robertson, 0.0, T1, np.array([1.0, 0, 0]), RATES, method=method, rtol=rtol, atol=atol)
        assert all_are(solution, "successful")
        scaled = np.abs(solution.ys[0] - EXPECTED) / (atol + rtol * EXPECTED)
        assert scaled.max() < 10, (rtol, scaled)
        stats = {name: int(value) for name, value in solution.stats.items()}
        steps, matrices = stats["num_steps"], 2 if method == "radau_iia_5" else 3
        assert stats["num_accepted_steps"] >= 0.9 * steps
        assert stats["num_jacobians"] == steps and stats["num_factorisations"] == matrices * steps
        assert stats["num_newton_iterations"] <= 3.2 * steps
        second = stats["num_linear_solves"] - matrices * stats["num_newton_iterations"] - steps
        assert 0 <= second <= 1 + stats["num_rejected_steps"]
        stages = FIRK[method].stages
        assert stats["nfev"] == 2 + stages * stats["num_newton_iterations"] + stats["num_accepted_steps"] + second


@pytest.mark.parametrize("method", FIRK)
def test_steps_and_points_inside(method, platform):
    """To rounding as in NumPy, forwards and backwards in time, of the second step, too."""
    inside, start = [Fraction(1, 7), Fraction(1, 2), Fraction(6, 7)], 0.3
    step = Implicit(FIRK[method], between=inside)
    for h in (0.11, -0.11):
        middle, _, first = step(start, exact(start), h)
        end, _, second = step(start + h, middle, h)
        points = h * np.array(inside, float)
        saveat = SaveAt(ts=start + np.concatenate([points, h + points]), t1=True)
        settings = {"method": method, "controller": "fixed", "dt0": h, **SETTLED}
        found = solve(field, start, start + 2 * h, exact(start), saveat=saveat, **settings)
        np.testing.assert_allclose(found.ys, [*first, *second, end], rtol=1e-13, atol=1e-13)


def estimates(method, f, jacobian, t, y, h, step):
    """Hairer's two error estimates of a step (Solving Ordinary Differential Equations II, (8.19) and (8.20)), in NumPy."""
    transformation, tableau = TRANSFORMATIONS[method], FIRK[method]
    matrix = float(transformation.gamma) / h * np.eye(len(y)) - jacobian
    part = np.array(transformation.error, float) @ step(tableau) / h
    first = np.linalg.solve(matrix, f(t, y) + part)
    return first, np.linalg.solve(matrix, f(t, y + first) + part)


def increments(tableau, t, y, h, f, jacobian):
    """The stages of a linear system, less the step's beginning, with f(t, 0) as its inhomogeneity."""
    a, stages = np.array(tableau.a, float), tableau.stages
    right = h * (a @ np.array([f(t + float(c) * h, y) for c in tableau.c])).reshape(-1)
    return np.linalg.solve(np.eye(stages * len(y)) - h * np.kron(a, jacobian), right).reshape(stages, -1)


@pytest.mark.parametrize("method", ["radau_iia_5", "radau_iia_9"])
def test_error_estimate(method, platform):
    """The largest tolerance at which a first step is rejected is the smaller of Hairer's two estimates, to four digits."""
    start, y = 0.3, np.array([1.3])
    sizes = np.array([0.05, 0.1, 0.2, 0.4])
    for rate in (0.5, 1e4):

        def f(t, y, rate=rate):
            return -rate * (y - np.cos(t)) - np.sin(t)

        norms = []
        for h in sizes:
            jacobian = np.array([[-rate]])
            step = lambda tableau, h=h: increments(tableau, start, y, h, f, jacobian)  # noqa: E731, B023
            norms.append(min(np.abs(one[0]) for one in estimates(method, f, jacobian, start, y, h, step)))

        @jax.vmap
        @jax.vmap
        def one_step(h, atol, rate=rate):
            solver = Solver(method, atol=atol, rtol=0.0, max_steps=1, **SETTLED)
            return solver.solve(stiff, start, start + h, y, rate, dt0=h)

        atol = np.stack([np.array(norms) * (1 - 1e-4), np.array(norms) * (1 + 1e-4)], 1)
        solution = one_step(np.stack([sizes, sizes], 1), atol)
        assert np.array_equal(solution.stats["num_accepted_steps"], np.tile([0, 1], (4, 1))), (rate, norms)


@pytest.mark.parametrize("method", ["radau_iia_5", "radau_iia_9"])
def test_order_of_the_error_estimate(method):
    """That of a solution whose order is the number of stages."""
    tableau, start = FIRK[method], 0.3
    sizes, norms = 0.2 * 0.8 ** np.arange(5), []
    for h in sizes:
        a = np.array(tableau.a, float)
        y = exact(start)
        k = np.tile(numpy_field(start, y), (tableau.stages, 1))
        for _ in range(60):  # it contracts
            k = np.array([numpy_field(start + float(c) * h, state) for c, state in zip(tableau.c, y + h * a @ k, strict=True)])
        found = estimates(method, numpy_field, numpy_jacobian(start, y), start, y, h, lambda _, k=k, h=h, a=a: h * a @ k)
        norms.append(np.linalg.norm(found[0]))
    slope = np.polyfit(np.log(sizes), np.log(norms), 1)[0]
    assert tableau.stages + 0.5 < slope < tableau.stages + 1.6, (slope, norms)


@pytest.mark.parametrize(("points", "linear_solver"), [(2, "dense"), (6, "dense"), (6, "sparse"), (20, "auto")])
def test_linear_solvers(points, linear_solver, platform):
    """Real and complex systems, unrolled and in loops, with pivots and without: Newton's iterations tell if they are wrong."""
    x = np.arange(1, points + 1) / (points + 1)
    y0 = np.stack([1 + np.sin(2 * np.pi * x), np.full(points, 3.0)], 1).reshape(-1)
    settings = {"rtol": 1e-6, "atol": 1e-6, "linear_solver": linear_solver}
    solution = solve(brusselator, 0.0, 2.0, y0, 0.02, method="radau_iia_5", **settings)
    expected = solve(brusselator, 0.0, 2.0, y0, 0.02, method="dopri8", rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(solution.ys, expected.ys, rtol=1e-5, atol=1e-5)
    assert solution.stats["num_newton_iterations"] < 2.6 * solution.stats["num_steps"]


def test_float32(platform):
    """Fixed steps of a stiff equation, which explicit methods could not take."""
    y0 = np.ones(1, np.float32)
    for method in ("radau_iia_3", "lobatto_iiic_4", "radau_iia_5"):
        solution = solve(stiff, 0.0, 2.0, y0, np.float32(1e6), method=method, controller="fixed", dt0=0.1)
        assert solution.ys.dtype == np.float32 and all_are(solution, "successful")
        np.testing.assert_allclose(solution.ys[0], np.cos(2.0), atol=2e-6)
    solution = solve(decay, 0.0, 1.0, y0, np.float32(3.0), method="radau", rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(solution.ys[0], np.exp(-3.0), rtol=1e-4)


def test_counts_of_fixed_steps():
    """Without an error estimate nothing is evaluated but stages; and nothing at all where there is no step."""
    counts = {}
    for method in ("gauss_legendre_4", "radau_iia_5"):
        for t1 in (1.0, 0.0):
            stats = solve(field, 0.0, t1, exact(0.0), method=method, controller="fixed", dt0=0.1).stats
            counts[method, t1] = {name: int(stats[name]) for name in ("nfev", "num_newton_iterations", "num_linear_solves")}
    found = counts["gauss_legendre_4", 1.0]
    assert found["nfev"] == 2 * found["num_newton_iterations"] == 2 * found["num_linear_solves"]
    found = counts["radau_iia_5", 1.0]
    assert found["nfev"] == 3 * found["num_newton_iterations"] + 11
    assert found["num_linear_solves"] == 2 * found["num_newton_iterations"]
    assert all(not any(counts[method, 0.0].values()) for method, _ in counts)


def test_starting_values():
    """The polynomial of the step before: linear equations with a smooth solution take fewer iterations than from nowhere."""
    counts = {}
    for method in ("radau_iia_5", "gauss_legendre_4"):
        one, many = (
            solve(field, 0.0, 0.02 * steps, exact(0.0), method=method, controller="fixed", dt0=0.02).stats for steps in (1, 50)
        )
        counts[method] = int(one["num_newton_iterations"]), int(many["num_newton_iterations"])
        assert counts[method][1] < 50 * counts[method][0] - 25, counts


def test_results(platform):
    """A stage that Newton does not find; a matrix with an infinite element; and what a smaller step mends."""

    def folded(t, y, args):
        return 1 + y * y  # from 1 it is infinite at pi / 4

    settings = {"method": "radau_iia_5", "controller": "fixed"}
    assert all_are(solve(folded, 0.0, 4.0, np.ones(1), dt0=4.0, **settings), "nonlinear_divergence")
    assert all_are(solve(lambda t, y, a: jnp.sqrt(y), 0.0, 1.0, np.zeros(1), dt0=0.5, **settings), "singular_matrix")
    solution = solve(folded, 0.0, 0.7, np.ones(1), method="radau_iia_5", dt0=0.7, rtol=1e-6, atol=1e-6)
    assert all_are(solution, "successful") and solution.stats["num_rejected_steps"] > 0
    np.testing.assert_allclose(solution.ys[0], np.tan(0.7 + np.pi / 4), rtol=1e-4)
    few = solve(robertson, 0.0, 1.0, np.array([1.0, 0, 0]), RATES, method="radau_iia_5", max_steps=3)
    assert all_are(few, "max_steps_reached")


OWN = {"a": [["5/12", "-1/12"], ["3/4", "1/4"]], "b": ["3/4", "1/4"]}


def test_own_tableau():
    """Radau IIA of two stages without values between steps of its own, and with an embedded method."""
    hermite = ImplicitTableau("mine", order=3, **OWN)
    settings = {"controller": "fixed", "dt0": 0.05, **SETTLED}
    saveat = SaveAt(ts=np.linspace(0.1, 0.9, 7), t1=True)
    one, other = (solve(field, 0.0, 1.0, exact(0.0), method=m, saveat=saveat, **settings) for m in (hermite, "radau_iia_3"))
    np.testing.assert_allclose(one.ys[-1], other.ys[-1], rtol=1e-13)
    np.testing.assert_allclose(one.ys, exact(np.asarray(one.ts)).T, atol=1e-4)
    adaptive = ImplicitTableau("radau_iia_3", order=3, **OWN, b_embedded=[1, 0], embedded_order=1)
    solution = solve(field, 0.0, 1.0, exact(0.0), method=adaptive, rtol=1e-5, atol=1e-5)
    assert solution.stats["num_factorisations"] == solution.stats["num_steps"]
    np.testing.assert_allclose(solution.ys[0], exact(1.0), rtol=1e-4)


@pytest.mark.parametrize(
    ("a", "message"),
    [
        ([[0, 0, 0], ["5/24", "1/3", "-1/24"], ["1/6", "2/3", "1/6"]], "'mine': its stages are coupled, and a is singular"),
        ([["1/2", "1/10"], ["1/10", "1/2"]], r"the eigenvalues of a are \[.*\]; expected different ones"),
    ],
)
def test_tableaus_that_can_not_be_solved(a, message):
    b = ["1/6", "2/3", "1/6"] if len(a) == 3 else ["1/2", "1/2"]
    with pytest.raises(ValueError, match=message):
        Solver(ImplicitTableau("mine", order=1, a=a, b=b))


def test_jacobians_that_serve_again(platform):
    """Fewer Jacobians, and the same solution; with derivatives each step has its own."""
    y0, settings = np.array([1.0, 0, 0]), {"method": "radau_iia_5", "rtol": 1e-7, "atol": 1e-12}
    solution = solve(robertson, 0.0, 1e4, y0, RATES, jacobian_reuse=True, **settings)
    always = solve(robertson, 0.0, 1e4, y0, RATES, **settings)
    np.testing.assert_allclose(solution.ys, always.ys, rtol=1e-5)
    assert solution.stats["num_jacobians"] < 0.8 * solution.stats["num_steps"]
    assert solution.stats["num_steps"] < 1.1 * always.stats["num_steps"]
    kept, pull = jax.vjp(lambda y: solve(robertson, 0.0, 1e4, y, RATES, jacobian_reuse=True, **settings).ys[0], y0)
    np.testing.assert_array_equal(kept, always.ys[0])
    np.testing.assert_allclose(pull(np.ones(3))[0], np.ones(3), rtol=1e-5)  # the sum is kept
