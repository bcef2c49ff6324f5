"""Convergence of every method as compiled: the error falls with its order, the embedded error with the embedded one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import ADAPTIVE, METHODS, all_are, code

from jax_cubie import SaveAt, Solver, methods
from jax_cubie.methods import EXPLICIT

pytestmark = pytest.mark.usefixtures("x64")

ORDER = {row["name"]: row["order"] for row in methods()}
EMBEDDED = {row["name"]: row["embedded_order"] for row in methods()}
T0, T1 = 0.25, 2.25


def field(t, y, args):
    """Turns ever faster and is drawn to the unit circle: not autonomous, coupled, nonlinear."""
    pull = 1 - y[0] * y[0] - y[1] * y[1]
    return jnp.stack([-(1 + t) * y[1] + pull * y[0], (1 + t) * y[0] + pull * y[1]])


def exact(t):
    return np.array([np.cos(t + t**2 / 2), np.sin(t + t**2 / 2)])


@pytest.mark.parametrize("method", METHODS)
def test_global_error(platform, method):
    """At the end, and between steps, where the interpolation is of third order."""
    # Whole steps that rounding does not reach: more of them for lower orders.
    counts = np.array([20, 28, 40, 56, 80]) * {1: 20, 2: 4, 3: 2}.get(ORDER[method], 1)
    solver, saveat = Solver(method, controller="fixed"), SaveAt(ts=np.linspace(T0, T1, 34)[1:-1], t1=True)
    solution = jax.vmap(lambda dt0: solver.solve(field, T0, T1, exact(T0), dt0=dt0, saveat=saveat))((T1 - T0) / counts)
    assert all_are(solution, "successful")
    assert np.array_equal(solution.stats["num_steps"], counts)
    tableau = EXPLICIT[method]
    assert np.array_equal(solution.stats["nfev"], 1 + (tableau.stages - 1 + (not tableau.fsal)) * counts)
    errors = np.linalg.norm(np.asarray(solution.ys) - exact(np.asarray(solution.ts)).transpose(1, 2, 0), axis=2)
    slope = -np.polyfit(np.log(counts), np.log(errors[:, -1]), 1)[0]
    assert ORDER[method] - 0.25 < slope < ORDER[method] + 0.5, (slope, errors)
    between = -np.polyfit(np.log(counts), np.log(errors.max(axis=1)), 1)[0]
    assert min(ORDER[method], 4) - 0.3 < between, (between, errors)


def error_of_a_step(tableau, y0, t0, h):
    """The embedded error estimate of one step, in NumPy."""
    stages = []
    for row, c in zip(((), *tableau.a), tableau.c, strict=True):
        y = y0 + h * sum((float(a) * k for a, k in zip(row, stages, strict=True)), np.zeros(2))
        stages.append(np.asarray(field(t0 + float(c) * h, y, None)))
    weights = tableau.error_weights
    return h * sum(float(w) * k for w, k in zip(weights, stages, strict=True))


@pytest.mark.parametrize("method", ADAPTIVE)
def test_embedded_error(platform, method):
    """The largest tolerance at which one step is rejected is the embedded error, to four digits."""
    sizes = np.array([0.05, 0.07, 0.1, 0.14, 0.2])
    norms = np.array([np.sqrt(np.mean(error_of_a_step(EXPLICIT[method], exact(T0), T0, h) ** 2)) for h in sizes])
    slope = np.polyfit(np.log(sizes), np.log(norms), 1)[0]
    assert EMBEDDED[method] + 0.75 < slope < EMBEDDED[method] + 1.5, (slope, norms)

    @jax.vmap
    @jax.vmap
    def one_step(h, atol):
        return Solver(method, atol=atol, rtol=0.0, max_steps=1).solve(field, T0, T0 + h, exact(T0), dt0=h)

    solution = one_step(np.stack([sizes, sizes], 1), np.stack([norms * (1 - 1e-4), norms * (1 + 1e-4)], 1))
    assert np.array_equal(solution.stats["num_accepted_steps"], np.tile([0, 1], (5, 1)))
    assert np.array_equal(code(solution), np.tile([1, 0], (5, 1)))
