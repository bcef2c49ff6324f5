"""Controllers that say when steps end: "given" times, and "even" parts of the interval."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are, code, decay

from jax_cubie import SaveAt, Solver, solve
from jax_cubie.solution import CODES

Y0 = np.array([1.0, -2.0], np.float32)
ENDS = np.array([0.1, 0.11, 0.6, 2.0], np.float32)


def euler(times, rate):
    """Y0 and what Euler's method makes of it at each of the times."""
    sizes = np.diff(np.asarray(times, np.float64))
    return Y0 * np.concatenate([[1.0], np.cumprod(1 - rate * sizes)])[:, None]


@pytest.mark.parametrize("direction", [1, -1])
def test_given_ends(platform, direction):
    """Counted from t0, met exactly; each lane may have its own."""
    saveat = SaveAt(t0=True, steps=True, t1=True)

    def one(ends):
        return solve(
            decay, 1000.0, 1000.0 + 2 * direction, Y0, 0.5, method="euler", controller="given", step_ends=ends, saveat=saveat,
            max_steps=6,
        )  # fmt: skip

    lanes = direction * np.stack([ENDS, [0.5, 1.0, 1.5, 2.0]]).astype(np.float32)
    solution = jax.vmap(one)(lanes)
    assert all_are(solution, "successful")
    assert solution.stats["num_steps"].tolist() == [4, 4] and solution.stats["nfev"].tolist() == [5, 5]
    for lane, ends in enumerate(lanes):
        times = np.array([0, *ends], np.float32)
        assert np.array_equal(solution.ts[lane, :5], np.float32(1000) + times) and np.all(np.isinf(solution.ts[lane, 5:]))
        np.testing.assert_allclose(solution.ys[lane, :5], euler(times, 0.5), rtol=1e-6)


def test_even_ends(platform):
    """The first step is dt0, all others end at equal parts; rounding of dt0 takes no step more."""
    sizes = np.array([0.35, 0.1, 2.0, 1 / 3], np.float32)
    saveat = SaveAt(t0=True, steps=True)
    one = lambda dt0: solve(decay, 0.0, 1.0, Y0, 0.5, method="euler", controller="even", dt0=dt0, saveat=saveat, max_steps=12)  # noqa: E731
    solution = jax.vmap(one)(sizes)
    assert all_are(solution, "successful") and solution.stats["num_steps"].tolist() == [3, 10, 1, 3]
    expected = [[0, 0.35, 2 / 3, 1], np.linspace(0, 1, 11), [0, 1], [0, 1 / 3, 2 / 3, 1]]
    for lane, times in enumerate(expected):
        np.testing.assert_allclose(solution.ts[lane, : len(times)], times, rtol=2e-7)
        np.testing.assert_allclose(solution.ys[lane, : len(times)], euler(times, 0.5), rtol=1e-6)


def test_codes_of_traced_ends(platform):
    def given(ends, limit):
        return solve(decay, 0.0, 1.0, Y0, 0.5, method="heun", controller="given", step_ends=ends, max_steps=limit)

    ends = np.array([[0.5, 1], [0.5, 1], [1, 0.5], [0.5, 0.9], [0.5, 1.1], [-0.5, 1], [np.nan, 1]], np.float32)
    limits = np.array([5, 1, 5, 5, 5, 5, 5])
    invalid = CODES["invalid_input"]
    expected = [CODES["successful"], CODES["max_steps_reached"], *[invalid] * 5]
    assert code(jax.vmap(given)(ends, limits)).tolist() == expected
    even = jax.vmap(lambda dt0: solve(decay, 0.0, 1.0, Y0, 0.5, method="heun", controller="even", dt0=dt0))
    assert code(even(np.array([0.5, -0.5, 0, np.nan, np.inf]))).tolist() == [CODES["successful"], *[invalid] * 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(step_ends=[[0.5]]), "step_ends is .*expected a one-dimensional array"),
        (dict(step_ends=np.array([0.5, 0.5])), "step_ends=.*each further from it than the one before"),
        (dict(), "takes steps that end at step_ends, which is None: give step_ends="),
        (dict(step_ends=ENDS, dt0=0.1), "dt0 is 0.1, but controller 'given' says itself where steps end: leave dt0 out"),
        (dict(step_ends=[0.5, 1.9]), "step_ends ends with 1.9, and t0=0.0 and t1=2.0 are 2 apart: .* last of which is t1 - t0"),
        (dict(step_ends=[-1.0, -2.0]), "step_ends ends with -2, and t0=0.0 and t1=2.0 are 2 apart"),
        (dict(controller="even"), "dt0 is None, but the controller is 'even'.*give dt0"),
        (dict(controller="even", step_ends=ENDS), "step_ends is a setting of controller 'given', and this solver's is 'even'"),
    ],
)
def test_wrong_ends(settings, message):
    with pytest.raises(ValueError, match=message):
        solve(decay, 0.0, 2.0, Y0, 0.5, **{"controller": "given", **settings})


def test_ends_may_be_a_list():
    assert Solver(controller="given", step_ends=[0.5, 1]).step_ends.tolist() == [0.5, 1.0]


def test_ends_on_cuda():
    """Images are built; nothing is judged, so no error estimate is kept."""
    for solver, dt0 in ((Solver(controller="even"), 0.1), (Solver(controller="given", step_ends=ENDS), None)):
        report = solver.inspect(decay, 0.0, 2.0, jnp.ones(3), 0.5, dt0=dt0, target="cuda:90")
        assert "none spilled" in str(report)
