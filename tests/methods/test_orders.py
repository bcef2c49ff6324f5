"""Convergence of explicit and Rosenbrock methods as compiled: the error falls with its order, the embedded error with the
embedded one. Implicit methods are proven by steps in NumPy, test_implicit_tableaus.py, which theirs equal: test_dirk.py and
test_firk.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import ADAPTIVE, all_are, code

from jax_cubie import SaveAt, Solver, methods
from jax_cubie.methods import EXPLICIT

pytestmark = pytest.mark.usefixtures("x64")

ORDER = {row["name"]: row["order"] for row in methods()}
DENSE_ORDER = {row["name"]: row["dense_order"] for row in methods()}
EMBEDDED = {row["name"]: row["embedded_order"] for row in methods()}
T0, T1 = -2.0, 1.0
METHODS = [row["name"] for row in methods() if row["family"] in ("explicit Runge-Kutta", "Rosenbrock")]


def field(t, y, args):
    """Not autonomous, coupled, nonlinear: a hyperbola's sech and -tanh of a time that runs now faster, now slower."""
    pace = 1 + 0.9 * jnp.cos(3 * t)
    return jnp.stack([pace * y[0] * y[1], -pace * y[0] * y[0]])


def exact(t):
    time = t + 0.3 * np.sin(3 * t) - 0.7
    return np.array([1 / np.cosh(time), -np.tanh(time)])


@pytest.mark.parametrize("method", METHODS)
def test_global_error(platform, method):
    """At the end, and between steps; and each step whose dense output has stages of its own evaluates them once."""
    # Whole steps: of errors that are above rounding, and small enough to be those of the order.
    counts = np.array([12, 14, 16, 20, 24]) if ORDER[method] > 5 else np.array([20, 28, 40, 56, 80])
    counts = counts * {1: 20, 2: 4, 3: 2}.get(ORDER[method], 1)
    points = np.linspace(T0, T1, 34)[1:-1]
    solver, saveat = Solver(method, controller="fixed"), SaveAt(ts=points, t1=True)
    solution = jax.vmap(lambda dt0: solver.solve(field, T0, T1, exact(T0), dt0=dt0, saveat=saveat))((T1 - T0) / counts)
    assert all_are(solution, "successful")
    assert np.array_equal(solution.stats["num_steps"], counts)
    if method in EXPLICIT:
        check_evaluations(solver, solution.stats["nfev"], points, counts)
    errors = np.linalg.norm(np.asarray(solution.ys) - exact(np.asarray(solution.ts)).transpose(1, 2, 0), axis=2)
    slope = -np.polyfit(np.log(counts), np.log(errors[:, -1]), 1)[0]
    # From above: for the sharpest methods the term of the order itself is so small that the next ones show.
    assert ORDER[method] - 0.35 < slope < ORDER[method] + 1, (slope, errors)
    between = -np.polyfit(np.log(counts), np.log(errors.max(axis=1)), 1)[0]
    assert min(ORDER[method], DENSE_ORDER[method] + 1) - 0.35 < between, (between, errors)


def check_evaluations(solver, found, points, counts):
    tableau = EXPLICIT[solver.method]
    evaluations = 1 + (tableau.stages - 1 + (not tableau.fsal)) * counts
    # A point on the border of two steps belongs to the first; rounding puts it there or not.
    steps = [[len(set(np.ceil((points - T0) / (T1 - T0) * n + shift))) for n in counts] for shift in (-1e-9, 1e-9)]
    least, most = (evaluations + len(solver.stepper.dense_stages) * np.array(inside) for inside in steps)
    assert np.all((np.minimum(least, most) <= found) & (found <= np.maximum(least, most)))


def error_of_a_step(tableau, y0, t0, h):
    """The norm of the embedded error estimate of one step, in NumPy."""
    stages = np.zeros((tableau.stages, 2))
    for number, (row, c) in enumerate(zip(((), *tableau.a), tableau.c, strict=True)):
        y = y0 + h * np.array(row, float) @ stages[:number]
        stages[number] = field(t0 + float(c) * h, y, None)
    square, low = (
        None if weights is None else np.sum((h * np.array(weights, float) @ stages) ** 2)
        for weights in (tableau.error_weights, tableau.error_weights_low)
    )
    return np.sqrt(square / 2) if low is None else square / np.sqrt((square + 0.01 * low) * 2)


@pytest.mark.parametrize("method", [name for name in ADAPTIVE if name in EXPLICIT])
def test_embedded_error(platform, method):
    """The largest tolerance at which one step is rejected is the embedded error, to four digits."""
    tableau, start = EXPLICIT[method], 0.3
    # Two estimates of orders 5 and 3 together fall as one of order 5 + 5 - 3.
    order = EMBEDDED[method] if tableau.error_weights_low is None else 2 * EMBEDDED[method] - 3
    sizes = np.array([0.1, 0.12, 0.14, 0.17, 0.2]) if order > 6 else np.array([0.05, 0.07, 0.1, 0.14, 0.2])
    norms = np.array([error_of_a_step(tableau, exact(start), start, h) for h in sizes])
    slope = np.polyfit(np.log(sizes), np.log(norms), 1)[0]
    assert order + 0.35 < slope < order + 1.6, (slope, norms)

    @jax.vmap
    @jax.vmap
    def one_step(h, atol):
        return Solver(method, atol=atol, rtol=0.0, max_steps=1).solve(field, start, start + h, exact(start), dt0=h)

    solution = one_step(np.stack([sizes, sizes], 1), np.stack([norms * (1 - 1e-4), norms * (1 + 1e-4)], 1))
    assert np.array_equal(solution.stats["num_accepted_steps"], np.tile([0, 1], (5, 1)))
    assert np.array_equal(code(solution), np.tile([1, 0], (5, 1)))
