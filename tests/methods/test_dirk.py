"""Diagonally implicit steps as compiled: those of their tableaus, steps on stiff systems, and steps that can't be taken."""

import json
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_steps import Implicit, exact
from reference_steps import field as numpy_field
from solve_helpers import MIXED, all_are, code

from jax_cubie import ContinuousExtension, ImplicitTableau, SaveAt, Solver, solve
from jax_cubie.methods import DIRK
from jax_cubie.solution import CODES

pytestmark = pytest.mark.usefixtures("x64")

IVP = json.loads((Path(__file__).parent.parent / "tables" / "ivp.json").read_text())
TIGHT = {"newton_rtol": 1e-14, "newton_atol": 1e-14, "newton_max_steps": 40}


def field(t, y, args):
    pace = 1 + 0.9 * jnp.cos(3 * t)
    return jnp.stack([pace * y[0] * y[1], -pace * y[0] * y[0]])


def robertson(t, y, k):
    first, second, third = k[0] * y[0], k[1] * y[1] * y[1], k[2] * y[1] * y[2]
    return jnp.stack([third - first, first - third - second, second])


def hires(t, y, args):
    y1, y2, y3, y4, y5, y6, y7, y8 = y
    seventh = 280 * y6 * y8 - 1.81 * y7
    return jnp.stack([
        -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007, 1.71 * y1 - 8.75 * y2, -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
        8.32 * y2 + 1.71 * y3 - 1.12 * y4, -1.745 * y5 + 0.43 * y6 + 0.43 * y7,
        -280 * y6 * y8 + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7, seventh, -seventh,
    ])  # fmt: skip


PROBLEMS = {"robertson": robertson, "hires": hires}


INSIDE = [Fraction(1, 7), Fraction(1, 2), Fraction(6, 7)]


def cubics(t, y, h, end):
    """Of the values and slopes at both ends of a step, at INSIDE."""
    (x,), slopes = np.array([INSIDE], float)[..., None], (numpy_field(t, y), numpy_field(t + h, end))
    return y + x * x * (3 - 2 * x) * (end - y) + h * x * (1 - x) * ((1 - x) * slopes[0] - x * slopes[1])


@pytest.mark.parametrize("tableau", [*DIRK.values(), MIXED], ids=lambda tableau: tableau.name)
def test_steps(platform, tableau):
    """Their ends and points inside are the tableau's, of the second step, too; and the largest tolerance at which one is
    rejected is the embedded error, to four digits."""
    start, sizes, step = 0.3, np.array([0.05, 0.1]), Implicit(tableau, between=INSIDE)
    adaptive = tableau.b_embedded is not None
    method = tableau if tableau is MIXED else tableau.name
    ends, inside, norms = [], [], []
    for h in sizes:
        t, y = start, exact(start)
        for _ in range(2):
            end, error, between = step(t, y, h)
            ends.append(end)
            inside.append(between or cubics(t, y, h, end))
            norms.append(np.sqrt(np.mean(error**2)) if adaptive else 1.0)
            t, y = t + h, end

    @jax.vmap
    @jax.vmap
    def last_step(h, atol, steps):
        settings = {"atol": atol, "rtol": 0.0, "dtmax": h} if adaptive else {"controller": "fixed"}
        solver, first = Solver(method, max_steps=steps, **TIGHT, **settings), start + (steps - 1) * h
        saveat = SaveAt(ts=first + h * np.array(INSIDE, float), t1=True)
        return solver.solve(field, start, first + h, exact(start), dt0=h, saveat=saveat)

    # Of two steps the first has so small an error that the second is as long as may be.
    norms = np.array(norms[::2])
    atol = np.stack([norms * (1 + 1e-4), norms * 1e6, norms * (1 - 1e-4)], 1)
    steps = np.tile([1, 2, 1], (2, 1))
    solution = last_step(np.tile(sizes[:, None], 3), atol, steps)
    assert np.array_equal(solution.stats["num_accepted_steps"], np.tile([1, 2, int(not adaptive)], (2, 1)))
    found = np.asarray(solution.ys)[:, :2].reshape(4, len(INSIDE) + 1, 2)
    np.testing.assert_allclose(found[:, -1], ends, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found[:, :-1], inside, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("method", "problem", "expected"),
    [("kvaerno3", "robertson", 476), ("kvaerno3", "hires", 511), ("kvaerno5", "robertson", 77), ("kvaerno5", "hires", 81)],
)
def test_steps_like_diffrax(method, problem, expected):
    """Where diffrax 0.7.2 rejects no step because of its root finder, which compares slopes with the tolerances of the state.

    expected: accepted steps of diffeqsolve(ODETerm(f), Kvaerno3(), t0, t1, 1e-4, y0, args,
    stepsize_controller=PIDController(rtol=rtol, atol=atol)) with the tolerances below. Kvaerno5 has other root finders, since
    VeryChord gives up on stages that have a solution: with that it has 491 and 289 steps. On Robertson: optimistix.Newton, with
    eight iterations at each stage, whatever they leave; its Chord gives up there, too. On HIRES, where Newton finds solutions
    from far away: with_stepsize_controller_tols(optimistix.Chord)(cauchy_termination=False), up to 40 iterations.
    """
    given = IVP[problem]
    tolerances = {"rtol": 1e-4, "atol": 1e-16} if problem == "robertson" else {"rtol": 1e-6, "atol": 1e-8}
    args = jnp.array(given["k"]) if problem == "robertson" else None
    y0 = jnp.array(given["y0"], float)
    solution = solve(PROBLEMS[problem], given["t0"], given["t1"], y0, args, method=method, dt0=1e-4, **tolerances)
    assert all_are(solution, "successful")
    assert abs(int(solution.stats["num_accepted_steps"]) - expected) <= 0.02 * expected


def test_what_is_counted(platform):
    """Of a linear system, whose first iteration leaves nothing but rounding: a second one finds that out, not at each stage."""

    def turning(t, y, rate):
        return rate * jnp.stack([y[1], -y[0]])

    solution = solve(turning, 0.0, 1.0, np.ones(2), 3.0, method="kvaerno5", controller="fixed", dt0=0.1)
    stats = {name: int(value) for name, value in solution.stats.items()}
    assert stats["num_steps"] == stats["num_accepted_steps"] == stats["num_jacobians"] == stats["num_factorisations"] == 10
    assert stats["num_newton_iterations"] == stats["num_linear_solves"] == stats["nfev"] - 1
    assert 70 <= stats["num_newton_iterations"] <= 90
    # Of a method that evaluates f at the end of a step, too, and once inside; with two matrices.
    solution = solve(turning, 0.0, 1.0, np.ones(2), 3.0, method=MIXED, controller="fixed", dt0=0.1)
    stats = {name: int(value) for name, value in solution.stats.items()}
    assert stats["num_jacobians"] == 10 and stats["num_factorisations"] == 20
    assert stats["nfev"] == 1 + stats["num_newton_iterations"] + 20


def test_float32(platform):
    solution = solve(robertson, 0.0, 1e4, np.array([1, 0, 0], np.float32), jnp.array(IVP["robertson"]["k"], jnp.float32),
                     method="kvaerno3", rtol=1e-4, atol=1e-8)  # fmt: skip
    assert all_are(solution, "successful")
    precise = solve(robertson, 0.0, 1e4, np.array([1.0, 0, 0]), jnp.array(IVP["robertson"]["k"]), method="kvaerno5", rtol=1e-8,
                    atol=1e-14)  # fmt: skip
    np.testing.assert_allclose(solution.ys, precise.ys, rtol=2e-3)


def test_a_jacobian_that_serves(platform):
    """For several steps where it is asked for; the solution is the same within the tolerances."""
    given = IVP["hires"]

    def run(**settings):
        y0 = jnp.array(given["y0"], float)
        return solve(hires, given["t0"], given["t1"], y0, method="kvaerno3", rtol=1e-6, atol=1e-8, **settings)

    usual, reusing = run(), run(jacobian_reuse=True)
    assert all_are(reusing, "successful")
    np.testing.assert_allclose(reusing.ys, usual.ys, rtol=1e-5)
    assert int(usual.stats["num_jacobians"]) == int(usual.stats["num_steps"]) == int(usual.stats["num_factorisations"])
    assert int(reusing.stats["num_jacobians"]) < int(reusing.stats["num_steps"]) // 3
    assert abs(int(reusing.stats["num_steps"]) - int(usual.stats["num_steps"])) < 30


# --- What fails


def test_smaller_steps_mend(platform):
    """A matrix that is singular for the first step size, and an iteration that does not converge with it."""
    gamma = float(DIRK["kvaerno3"].a[1][1])
    growing = solve(lambda t, y, a: 2 / gamma * y, 0.0, 1.0, np.ones(2), method="kvaerno3", dt0=0.5, rtol=1e-4, atol=1e-4)
    assert all_are(growing, "successful") and int(growing.stats["num_rejected_steps"]) > 0
    np.testing.assert_allclose(growing.ys, np.exp(2 / gamma), rtol=1e-2)
    logistic = solve(lambda t, y, a: y * (1 - y) * 50, 0.0, 1.0, np.full(2, 1e-3), method="kvaerno3", dt0=1.0)
    assert all_are(logistic, "successful") and int(logistic.stats["num_rejected_steps"]) > 0
    np.testing.assert_allclose(logistic.ys, 1.0, rtol=1e-4)


def test_steps_that_fail(platform):
    """Each with its own code; steps that are not judged end with the first."""

    def run(f, y0=(1.0, 1.0), args=None, **settings):
        solution = solve(f, 0.0, 1.0, np.array(y0), args, method="kvaerno3", **settings)
        steps, accepted, rejected = (int(solution.stats[f"num_{name}steps"]) for name in ("", "accepted_", "rejected_"))
        assert steps == accepted + rejected and np.isnan(solution.ys).all()
        return solution, rejected

    gamma = float(DIRK["kvaerno3"].a[1][1])
    singular, rejected = run(lambda t, y, a: 2 / gamma * y, controller="fixed", dt0=0.5)
    assert all_are(singular, "singular_matrix") and rejected == 1
    given = IVP["robertson"]
    failed, rejected = run(robertson, [1.0, 0.0, 0.0], np.array(given["k"]), controller="fixed", dt0=1.0)
    assert all_are(failed, "nonlinear_divergence") and rejected == 1
    # The smallest step is taken whatever its error, but not without a solution.
    failed, rejected = run(robertson, [1.0, 0.0, 0.0], np.array(given["k"]), dt0=1.0, dtmin=0.5)
    assert all_are(failed, "nonlinear_divergence") and rejected == 2
    lost, _ = run(lambda t, y, a: jnp.where(t > 0.5, jnp.nan, -y))
    assert all_are(lost, "not_finite")


# --- Settings


def test_settings():
    solver = Solver("kvaerno3", newton_rtol=1e-9)
    settings = solver.settings()
    assert settings["newton_rtol"] == 1e-9 and settings["newton_atol"] is None
    assert settings["newton_max_steps"] == 10 and settings["jacobian_reuse"] is False
    assert solver.update(newton_max_steps=7, newton_delta_location="shared").newton_max_steps == 7
    assert "newton_rtol" not in Solver("tsit5").settings() | Solver("rodas4").settings()
    with pytest.raises(ValueError, match="newton_rtol was set, but method 'tsit5'"):
        solver.update(method="tsit5")
    with pytest.raises(ValueError, match="Did you mean 'newton_delta_location'"):
        Solver("kvaerno3", newton_detla_location="shared")
    for wrong in ({"newton_rtol": -1.0}, {"newton_atol": np.nan}, {"newton_max_steps": 0}, {"jacobian_reuse": "yes"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Solver("kvaerno3", **wrong)
    with pytest.raises(TypeError, match="jacobian_reuse is a traced value"), pytest.warns(UserWarning, match="set as static"):
        jax.jit(lambda reuse: Solver("kvaerno3", jacobian_reuse=reuse))(True)
    with pytest.raises(ValueError, match="newton_rtol and newton_atol are both 0"):
        solve(field, 0.0, 1.0, np.ones(2), method="kvaerno3", newton_rtol=0.0, newton_atol=0.0)
    with pytest.raises(ValueError, match="stages of their own"):
        dense = ContinuousExtension(order=1, weights=[[1], [0]], a=[[0]])
        Solver(ImplicitTableau("own", order=1, a=[[1]], b=[1], dense=dense))


def test_settings_that_are_traced(platform, builds):
    """One image for all values; those that can't be end the lane."""
    names = ("newton_rtol", "newton_atol", "newton_max_steps")
    values = np.array([[1e-10, 1e-10, 20], [1e-2, 1e-2, 20], [-1.0, 1.0, 20], [1.0, np.nan, 20], [1e-10, 1e-10, 0], [0, 0, 20]])

    def one(rtol, atol, most):
        settings = dict(zip(names, (rtol, atol, most), strict=True))
        return solve(field, 0.0, 1.0, exact(0.0), method="kvaerno3", controller="fixed", dt0=0.1, **settings)

    solution = jax.jit(jax.vmap(one))(values[:, 0], values[:, 1], values[:, 2].astype(np.int32))
    fine, wrong = CODES["successful"], CODES["invalid_input"]
    assert code(solution).tolist() == [fine, fine, wrong, wrong, wrong, fine]
    iterations = np.asarray(solution.stats["num_newton_iterations"])
    assert iterations[1] < iterations[0] <= iterations[5]
    np.testing.assert_allclose(solution.ys[0], solution.ys[5], rtol=1e-10)


def test_tolerances_of_components(platform):
    """As pytrees, and beside those of the steps."""
    y0 = {"fast": jnp.array(exact(0.0)[0]), "slow": jnp.array(exact(0.0)[1])}

    def by_name(t, y, args):
        found = field(t, jnp.stack([y["fast"], y["slow"]]), args)
        return {"fast": found[0], "slow": found[1]}

    saveat = SaveAt(t1=True)
    newton_rtol = {"fast": 1e-9, "slow": np.array(1e-3)}
    solution = solve(by_name, 0.0, 1.0, y0, method="trbdf2", saveat=saveat, newton_rtol=newton_rtol)
    assert all_are(solution, "successful")
    np.testing.assert_allclose([solution.ys["fast"][0], solution.ys["slow"][0]], exact(1.0), rtol=1e-4)
