"""Time is counted from t0: a float32 solve at 86,400 s or on a Julian day is as good as one at 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from solve_helpers import all_are, assert_same_bits, decay

from jax_cubie import SaveAt, Solver, solve
from jax_cubie.times import read_times

JULIAN_DAY = 2460000.55
FEW = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def oscillator(t, y, omega):
    return jnp.stack([y[1], -omega * omega * y[0]])


def relaxation(t, y, args):
    return 1 - y


def switched(t, y, sign):
    """A source that is switched on at t = 1000, or backwards at -1000."""
    return sign * (jnp.where(sign * t >= 1000, 100.0, 0.0) - y / 10)


def steps(solution):
    return [int(solution.stats[f"num_{kind}_steps"]) for kind in ("accepted", "rejected")]


def test_fixed_steps_far_from_zero(platform):
    """As from 0 to 1, bit for bit: 1,000 equal steps at every t0, in both directions."""
    start = jnp.array([1.0, 0.0], jnp.float32)
    solver = Solver("tsit5", controller="fixed")
    for direction in (1, -1):
        near = solver.solve(oscillator, 0.0, 1.0 * direction, start, 300.0, dt0=1e-3 * direction)
        assert steps(near) == [1000, 0] and abs(np.hypot(*(np.asarray(near.ys[0]) / [1, 300])) - 1) < 1e-3
        for t0 in (2000.0, -2000.0, 86400.0, -1.0 * direction):
            far = solver.solve(oscillator, t0, t0 + direction, start, 300.0, dt0=1e-3 * direction)
            assert_same_bits((far.ys, far.stats), (near.ys, near.stats), f"t0 = {t0}")
    million = Solver("rk4").solve(oscillator, 1e6, 1e6 + 4, start, 10.0, dt0=0.1)
    assert steps(million) == [40, 0]


def test_adaptive_steps_far_from_zero(platform):
    for dt0 in (None, 1e-4):
        solution = solve(relaxation, 86400, 86464, jnp.zeros(1, jnp.float32), dt0=dt0)
        assert all_are(solution, "successful") and abs(float(solution.ys[0, 0]) - 1) < 2e-6
        near = solve(relaxation, 0, 64, jnp.zeros(1, jnp.float32), dt0=dt0)
        assert_same_bits((solution.ys, solution.stats), (near.ys, near.stats))


@pytest.mark.parametrize("wide", [float, np.float64])
def test_julian_days(platform, wide):
    """The span and the saved times are those of the numbers that were given, not of their float32."""
    t0 = wide(JULIAN_DAY)
    ts = [t0 + 0, t0 + 0.1, t0 + 0.2, t0 + 0.3, t0 + 0.4]
    for times in (ts, np.array(ts)):
        solution = solve(decay, t0, t0 + 0.4, jnp.ones(1, jnp.float32), 0.5, saveat=SaveAt(t0=True, ts=times, t1=True))
        exact = np.exp(-0.5 * (np.array([ts[0], *ts, t0 + 0.4]) - t0))
        np.testing.assert_allclose(solution.ys[:, 0], exact, rtol=1e-6)
        assert np.array_equal(solution.ts, np.array([t0, *ts, t0 + 0.4], np.float32))
    jitted = jax.jit(lambda y0: solve(decay, t0, t0 + 0.4, y0, 0.5).ys)(jnp.ones(1, jnp.float32))
    assert_same_bits(jitted[0], solution.ys[-1])


def test_integers_and_traced_times(platform):
    """Integers are exact beyond float32's 2^24; of two traced times the types that they have count."""
    start = 2**24 + 1
    run = jax.jit(lambda t0, t1: solve(decay, t0, t1, jnp.ones(1, jnp.float32), 0.5).ys[0, 0])
    known = solve(decay, float(start), start + 2, jnp.ones(1, jnp.float32), 0.5).ys[0, 0]
    for end in (known, run(jnp.int32(start), jnp.int32(start + 2))):
        np.testing.assert_allclose(end, np.exp(-1), rtol=2e-6)
    with jax.enable_x64(True):
        t0, t1 = np.float64(JULIAN_DAY), np.float64(JULIAN_DAY + 0.4)
        np.testing.assert_allclose(run(t0, t1), np.exp(-0.2), rtol=1e-6)
    mixed = jax.jit(lambda t0: solve(decay, t0, JULIAN_DAY + 0.4, jnp.ones(1, jnp.float32), 0.5).ys[0, 0])
    np.testing.assert_allclose(mixed(jnp.float32(2460000.5)), np.exp(-0.5 * 0.45), rtol=1e-6)


def test_a_switch_far_from_zero(platform):
    """Steps become smaller than a unit in the last place of the time, which loses none of them."""
    for sign in (1.0, -1.0):
        solution = solve(switched, sign * 980.0, sign * 1020.0, jnp.ones(1, jnp.float32), sign)
        assert all_are(solution, "successful")
        np.testing.assert_allclose(solution.ys, [[1000 * (1 - np.exp(-2)) + np.exp(-4)]], rtol=1e-6)


def test_times_that_are_handed_on(platform):
    """A function and the rows of steps are given the times as they were written, at the points and at t1."""
    ts = jnp.array([0.7, 1.1, 1.3], jnp.float32)
    saveat = SaveAt(t0=True, ts=ts, t1=True, steps=True, fn=lambda t, y, args: t)
    run = lambda ts, t1: solve(decay, 0.1, t1, jnp.ones(1, jnp.float32), 0.5, saveat=saveat, dt0=0.5, dtmax=0.5, max_steps=8)  # noqa: E731
    solution = run(ts, 1.3)
    rows = np.isfinite(solution.ts)
    assert set(ts.tolist()) <= set(solution.ts.tolist()) and solution.ts[rows][-1] == np.float32(1.3)
    assert_same_bits(solution.ys[rows], solution.ts[rows])


def test_ends_in_a_narrower_type():
    """0.3 in float32 is t1 = 0.3, and 0.1 in float32 is t0 = 0.1."""
    ts = np.linspace(0.1, 0.3, 5, dtype=np.float32)
    for times in (ts, jnp.asarray(ts)):
        read = read_times(0.1, 0.3, times, "float32")
        assert float(read.offsets[0]) == 0 and read.offsets[-1] == read.span
        traced = jax.jit(lambda ts: read_times(0.1, 0.3, ts, "float32").offsets)(times)
        assert float(traced[0]) == 0 and traced[-1] == read.span


numbers = st.floats(-1e7, 1e7, width=64)


@FEW
@given(numbers, st.floats(1e-3, 1e4), st.lists(st.floats(0, 1), min_size=1, max_size=5), st.sampled_from([1, -1]))
def test_offsets(t0, span, shares, sign):
    """Within half a unit in the last place of what float64 says; in order; within the span; traced as well as known."""
    t1 = t0 + sign * span
    ts = t0 + sign * span * np.sort(shares)
    assume(np.all(sign * ts <= sign * t1) and t1 != t0)
    read = read_times(t0, t1, ts, "float32")
    assert np.array_equal(read.offsets, (ts - t0).astype(np.float32)) and read.span == np.float32(t1 - t0)
    narrow = np.array([t0, t1, *ts], np.float32)
    mixed = jax.jit(lambda t1: read_times(t0, t1, None, "float32").span)(narrow[1])
    exact = float(narrow[1]) - t0
    assert abs(float(mixed) - exact) <= 2**-23 * abs(exact)


@pytest.mark.parametrize("t0", [0.0, 2000.0, -3.0, 1e6, -7.3])
def test_no_fixed_step_is_longer(t0):
    """The last of N steps of span / N is no longer than the others by more than 4 units in the last place of the span."""
    counts = np.array([1, 2, 3, 7, 10, 33, 100, 499, 1000, 1024])
    for span in (1.0, -0.7, 3.3, 1e-3):
        solution = jax.vmap(lambda h, span=span: solve(decay, t0, t0 + span, jnp.float32(1), 1.0, dt0=h, method="euler"))(
            (np.float32(t0 + span - t0) / counts).astype(np.float32)
        )
        assert np.array_equal(solution.stats["num_steps"], counts)
    longer = jax.vmap(lambda h: solve(decay, t0, t0 + 1, jnp.float32(1), 1.0, dt0=h, method="euler"))(
        np.array([0.5 * (1 - 1e-6), 0.25 * (1 - 1e-6), 0.1 * (1 - 2e-6)], np.float32)
    )
    assert longer.stats["num_steps"].tolist() == [3, 5, 11]
