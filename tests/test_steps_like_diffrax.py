"""Accepted and rejected steps equal diffrax's. Its counts come from a table; tables/diffrax_steps.py writes that."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are, code
from tables.diffrax_steps import CASES, CONTROLLERS, FIXED, PATH, PROBLEMS, SAVED, TOLERANCES, lanes, lorenz

from jax_cubie import SaveAt, Solver
from jax_cubie.solution import CODES

pytestmark = pytest.mark.usefixtures("x64")

EVERYTHING = json.loads(PATH.read_text())
TABLE = EVERYTHING["problems"]
DEFAULTS = {
    "pcoeff": 0.0, "icoeff": 1.0, "dcoeff": 0.0, "safety": 0.9, "factormin": 0.2, "factormax": 10.0, "dtmin": 0.0,
    "dtmax": np.inf,
}  # fmt: skip


def solve_lanes(method, problem, dt0s, rows):
    """Every lane of the table in one launch: each has settings, tolerance, args and first step of its own."""
    f, t0, t1, y0, _, _ = PROBLEMS[problem]
    settings = {
        name: np.array([CONTROLLERS[row[0]].get(name, default) for row in rows]) for name, default in DEFAULTS.items()
    }

    def one(settings, tolerance, value, dt0):
        solver = Solver(method, rtol=tolerance, atol=tolerance, **settings)
        return solver.solve(f, t0, t1, jnp.array(y0), value, dt0=dt0)

    columns = [np.array([row[k] for row in rows]) for k in (1, 2)]
    return jax.vmap(one, in_axes=(0, 0, 0, None if dt0s is None else 0))(settings, *columns, dt0s)


def check_counts(solution, accepted, rejected, rows, platform):
    assert all_are(solution, "successful")
    ours = np.stack([solution.stats["num_accepted_steps"], solution.stats["num_rejected_steps"]], 1)
    theirs = np.stack([accepted, rejected], 1)
    wrong = [(row, a.tolist(), b.tolist()) for row, a, b in zip(rows, ours, theirs, strict=True) if (a != b).any()]
    if platform == "cuda":
        # The controller's powers have float32's accuracy there: once in a while a step falls on the other side.
        wrong = [lane for lane in wrong if np.abs(np.subtract(*lane[1:])).max() > 1]
    assert not wrong, f"{len(wrong)} of {len(rows)} lanes (controller, tolerance, args, dt0), ours, diffrax's: {wrong[:5]}"
    assert np.array_equal(solution.stats["num_steps"], ours.sum(1))


@pytest.mark.parametrize(("method", "problem"), CASES)
def test_counts_with_a_first_step_given(platform, method, problem):
    """Of some lanes it is 0.01, which diffrax 0.7.2 takes with dt0=None, whatever the problem."""
    rows, table = list(lanes(problem, method)), TABLE[problem][method]
    rows += [(*row[:3], 0.01) for row in rows if row[0] == 0]
    solution = solve_lanes(method, problem, np.array([row[3] for row in rows]), rows)
    accepted, rejected = (table[name] + table[f"none_{name}"] for name in ("accepted", "rejected"))
    check_counts(solution, accepted, rejected, rows, platform)
    # Equal steps, so equal values, but for rounding that the problem itself amplifies; on CUDA the controller's powers
    # have float32's accuracy, so that step sizes differ in their seventh digit.
    rtol, atol = (1e-7, 1e-8) if platform == "cpu" else (1e-4, 1e-4)
    np.testing.assert_allclose(solution.ys[: len(table["end"]), 0], table["end"], rtol=rtol, atol=atol)
    assert sum(table["rejected"]) > 50


@pytest.mark.parametrize(("method", "problem"), CASES)
def test_first_step_chosen(platform, method, problem):
    """Against diffrax's own choice for the bare ODETerm."""
    rows, table = [row for row in lanes(problem, method) if row[0] == 0], TABLE[problem][method]
    solution = solve_lanes(method, problem, None, rows)
    check_counts(solution, table["first_step_accepted"], table["first_step_rejected"], rows, platform)


@functools.cache
def saved(method, platform):
    return Solver(method).solve(lorenz, 0.0, 2.0, jnp.array([1.0, 0.0, 0.0]), 28.0, dt0=0.01, saveat=SaveAt(ts=SAVED))


@pytest.mark.parametrize("method", EVERYTHING["saved"])
def test_saved_times_leave_the_steps(platform, method):
    solution = saved(method, platform)
    assert all_are(solution, "successful")
    assert int(solution.stats["num_steps"]) == EVERYTHING["saved"][method]["steps"]


@pytest.mark.parametrize("method", EVERYTHING["saved"])
def test_saved_values(platform, method):
    """diffrax saves the values of the method's own extension, too; Lorenz's system amplifies rounding."""
    rtol = 1e-8 if platform == "cpu" else 1e-4
    np.testing.assert_allclose(saved(method, platform).ys, EVERYTHING["saved"][method]["ys"], rtol=rtol, atol=rtol)


def test_fixed_steps_of_euler(platform):
    """As many as diffrax takes. Where they do not end at t1 it stretches or shrinks them, and here the last one is cut."""
    f, t0, t1, y0, _, _ = PROBLEMS["driven"]
    solver = Solver("euler")
    solution = jax.vmap(lambda dt0: solver.solve(f, t0, t1, jnp.array(y0), 2.0, dt0=dt0))(np.array(FIXED))
    assert all_are(solution, "successful")
    assert solution.stats["num_steps"].tolist() == EVERYTHING["euler"]["steps"]
    equal = [dt0 > t1 - t0 or abs((t1 - t0) / dt0 % 1 - 0.5) > 0.499 for dt0 in FIXED]
    assert sum(equal) == len(FIXED) - 2
    ours, theirs = (np.array(ends)[equal] for ends in (solution.ys[:, 0], EVERYTHING["euler"]["end"]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_first_step_has_diffrax_size(platform):
    """One step: what it adds to a clock is its size."""
    f, t0, t1, y0, _, _ = PROBLEMS["lorenz"]
    rows, table = [row for row in lanes("lorenz", "tsit5") if row[0] == 0], TABLE["lorenz"]["tsit5"]

    def one(tolerance, value, step):
        solver = Solver(rtol=tolerance, atol=tolerance, max_steps=1)
        return solver.solve(f, t0, t0 + step, jnp.array(y0), value)

    columns = [np.array([row[k] for row in rows]) for k in (1, 2)]
    sizes = np.array(table["first_step"])
    # A span a hair longer than the first step is not done in one step; one a hair shorter is.
    assert all_are(jax.vmap(one)(*columns, sizes * (1 + 1e-8)), "max_steps_reached")
    assert all_are(jax.vmap(one)(*columns, sizes * (1 - 1e-8)), "successful")


@pytest.mark.parametrize(
    ("t1", "dt0", "settings"),
    [
        (1.0, 0.01, {}),
        # Rejected, and dtmin would take the next step beyond t1: half of what is left.
        (0.15, 0.15, {"dtmin": 0.2}),
    ],
)
def test_live(t1, dt0, settings):
    """The installed diffrax, whichever that is."""
    diffrax = pytest.importorskip("diffrax")
    tolerance, y0, rho = TOLERANCES[1], jnp.array([1.0, 0.0, 0.0]), 28.0
    theirs = diffrax.diffeqsolve(
        diffrax.ODETerm(lorenz), diffrax.Tsit5(), 0.0, t1, dt0, y0, rho,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance, **settings),
    )  # fmt: skip
    solver = Solver(rtol=tolerance, atol=tolerance, **settings)
    ours = solver.solve(lorenz, 0.0, t1, y0, rho, dt0=dt0, saveat=SaveAt(t1=True))
    for name in ("num_steps", "num_accepted_steps", "num_rejected_steps"):
        assert int(ours.stats[name]) == int(theirs.stats[name]), name
    assert set(theirs.stats) <= set(ours.stats)
    for name in ("t0", "t1", "ts", "ys"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-10)
    assert ours.ys.shape == theirs.ys.shape


def test_dtmin_not_forced_live(platform):
    """Steps below dtmin end a solve after as many steps as in diffrax; those that stay above it do not."""
    diffrax = pytest.importorskip("diffrax")
    dtmin, dt0 = np.array([0.03, 0.03, 0.012, 1e-3]), np.array([0.01, 0.5, 0.5, 0.5])
    y0, rho = jnp.array([1.0, 0.0, 0.0]), 28.0

    def theirs(dtmin, dt0):
        controller = diffrax.PIDController(rtol=1e-6, atol=1e-6, dtmin=dtmin, force_dtmin=False)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lorenz), diffrax.Tsit5(), 0.0, 2.0, dt0, y0, rho, stepsize_controller=controller, throw=False
        )
        return solution.stats, solution.result == diffrax.RESULTS.dt_min_reached

    solver = Solver(rtol=1e-6, atol=1e-6, force_dtmin=False)
    ours = jax.vmap(lambda dtmin, dt0: solver.solve(lorenz, 0.0, 2.0, y0, rho, dt0=dt0, dtmin=dtmin))(dtmin, dt0)
    stats, reached = jax.vmap(theirs)(dtmin, dt0)
    assert reached.tolist() == [True, True, True, False]
    assert np.array_equal(code(ours) == CODES["dt_min_reached"], reached) and code(ours)[3] == CODES["successful"]
    for name in ("num_steps", "num_accepted_steps", "num_rejected_steps"):
        assert np.array_equal(ours.stats[name], stats[name]), name
