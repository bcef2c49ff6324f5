"""Published end values, and a solution in closed form."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are, lorenz

from jax_cubie import SaveAt, Solver, solve, solve_ivp

pytestmark = pytest.mark.usefixtures("x64")

IVP = json.loads((Path(__file__).parent / "tables" / "ivp.json").read_text())


def test_lorenz(platform):
    given = IVP["lorenz"]
    rho = np.array([float(text) for text in given["y_by_rho"]])
    solver = Solver("tsit5", rtol=1e-12, atol=1e-12, max_steps=1_000_000)
    y0 = jnp.array(given["y0"], float)
    solution = jax.vmap(lambda rho: solver.solve(lorenz, given["t0"], given["t1"], y0, rho))(rho)
    assert all_are(solution, "successful")
    np.testing.assert_allclose(solution.ys[:, 0], list(given["y_by_rho"].values()), rtol=3e-9, atol=1e-8)


def test_oral_dose_in_closed_form(platform):
    """One compartment with first-order absorption, every subject with a dose, rates and sampling times of their own."""
    subjects = 12
    dose = np.linspace(3.1, 5.9, subjects)
    absorb, clear = np.linspace(1.0, 2.5, subjects), np.linspace(0.05, 0.12, subjects)
    hours = np.sort(np.random.default_rng(3).uniform(0, 24, (subjects, 10)), axis=1)
    hours[:, 0] = 0
    hours[::2, -1] = 24

    def field(t, y, args):
        return {"gut": -args["absorb"] * y["gut"], "blood": args["absorb"] * y["gut"] - args["clear"] * y["blood"]}

    def one(dose, args, ts):
        y0 = {"gut": dose, "blood": 0.0}
        return solve(field, 0.0, 24.0, y0, args, saveat=SaveAt(ts=ts), rtol=1e-10, atol=1e-12, dtmax=0.02)

    solution = jax.vmap(one)(dose, {"absorb": absorb, "clear": clear}, hours)
    assert all_are(solution, "successful")
    d, a, c = (column[:, None] for column in (dose, absorb, clear))
    exact = d * a / (a - c) * (np.exp(-c * hours) - np.exp(-a * hours))
    np.testing.assert_allclose(solution.ys["blood"], exact, rtol=1e-8, atol=1e-9)


def test_like_scipy(platform):
    """solve_ivp against SciPy's own, by its names."""
    scipy_integrate = pytest.importorskip("scipy.integrate")

    def ours(t, y, a, b):
        return jnp.stack([a * y[0] - b * y[0] * y[1], b * y[0] * y[1] - y[1]])

    def theirs(t, y, a, b):
        return [a * y[0] - b * y[0] * y[1], b * y[0] * y[1] - y[1]]

    times = np.linspace(0, 10, 21)
    for t_eval in (times, None):
        one = solve_ivp(ours, (0, 10), [2.0, 1.0], "DOPRI5", t_eval, args=(1.5, 1.0), rtol=1e-10, atol=1e-10, dtmax=0.01)
        two = scipy_integrate.solve_ivp(theirs, (0, 10), [2.0, 1.0], "DOP853", t_eval, args=(1.5, 1.0), rtol=1e-11, atol=1e-11)
        if t_eval is None:
            assert one.t.tolist() == [0, 10] and one.y.shape == (2, 2)
            np.testing.assert_allclose(one.y, two.y[:, [0, -1]], rtol=1e-8)
        else:
            assert one.t.shape == two.t.shape and one.y.shape == two.y.shape
            np.testing.assert_allclose(one.y, two.y, rtol=1e-7)
        assert bool(one.success) is two.success and int(one.status) == two.status and one.message
        assert int(one.nfev) > 6000
    failed = solve_ivp(ours, (0, 10), [2.0, 1.0], args=(1.5, 1.0), max_steps=3)
    assert not failed.success and int(failed.status) == -1 and "max_steps" in failed.message
    many = jax.vmap(lambda limit: solve_ivp(ours, (0, 10), jnp.array([2.0, 1.0]), args=(1.5, 1.0), max_steps=limit))(
        np.array([3, 1000])
    )
    assert np.asarray(many.status).tolist() == [-1, 0] and np.asarray(many.success).tolist() == [False, True]
    assert "max_steps" in many.message[0] and many.message[1] == one.message and many.y.shape == (2, 2, 2)
