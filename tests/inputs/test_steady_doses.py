"""Doses that lead to a steady state: when it is there, how lanes end in which it is not, and derivatives by what it is of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import code

from jax_cubie import Doses, Event, Resets, SaveAt, Solver, SteadyDoses, check_successful, read_dose_table, solve
from jax_cubie.solution import CODES

EVERY, AMOUNT, ABSORBED = 12.0, 100.0, 1.5
REACHED, MISSED = CODES["successful"], CODES["steady_state_not_reached"]


def gut(y):
    return y["gut"]


def absorption(t, y, gone):
    return {"blood": ABSORBED * y["gut"] - gone * y["blood"], "gut": -ABSORBED * y["gut"]}


def steadily_in_blood(since, gone):
    """What is in the blood so long after a dose into the gut, where such have always been given."""

    def repeated(rate):
        return jnp.exp(-rate * since) / -jnp.expm1(-rate * EVERY)

    return ABSORBED * AMOUNT / (ABSORBED - gone) * (repeated(gone) - repeated(ABSORBED))


SINCE = np.array([0.5, 4.0, 11.0])


@functools.cache
def table(number):
    columns = dict(
        ID=[1] * 4, TIME=[30.0, *(30 + SINCE)], AMT=[AMOUNT, 0, 0, 0], II=[EVERY, 0, 0, 0], SS=[1, 0, 0, 0]
    )  # fmt: skip
    return jax.tree.map(lambda leaf: leaf[0], read_dose_table(columns, gut, steady_doses=number))


def run(gone, number=16, dtype=np.float64, lag=0.0, steady_rtol=None, steady_atol=None, **settings):
    lane = table(number)
    doses = lane.doses(lag=lag, steady_rtol=steady_rtol, steady_atol=steady_atol)
    y0, gone = {"blood": np.zeros((), dtype), "gut": np.zeros((), dtype)}, jnp.asarray(gone, dtype)
    saveat = SaveAt(ts=lane.ts, side=lane.side)
    return solve(absorption, lane.t0, lane.t1, y0, gone, doses=doses, saveat=saveat, **settings)


# Of each kind of steps. Their errors allow for a steady state, those of steps of one size are always the same.
KINDS = {
    "float32": {"dtype": np.float32},
    "float64": {"rtol": 1e-8, "atol": 1e-8, "steady_rtol": 1e-6, "steady_atol": 1e-6},
    "stiff": {"method": "rodas5p", "rtol": 1e-7, "atol": 1e-7},
    "one size": {"method": "rk4", "dt0": 0.05, "steady_rtol": 1e-6, "steady_atol": 1e-6},
}


@pytest.mark.parametrize("kind", KINDS)
def test_against_the_closed_form(kind, platform, x64):
    """The slowest lane does not come to its steady state; the others are what they are without it."""
    gone = np.array([0.2, 0.12, 0.01])
    found = jax.jit(jax.vmap(lambda gone: run(gone, **KINDS[kind])))(gone)
    assert code(found).tolist() == [REACHED, REACHED, MISSED]
    expected = jax.vmap(lambda gone: steadily_in_blood(SINCE, gone))(gone[:2])
    np.testing.assert_allclose(found.ys["blood"][:2], expected, rtol=4e-6)
    assert np.isnan(found.ys["blood"][2]).all()
    assert "1 steady_state_not_reached" in repr(found)
    check_successful(jax.tree.map(lambda leaf: leaf[:2], found))
    with pytest.raises(RuntimeError, match="1 of 3 lanes failed. 1 x steady_state_not_reached: .*steady_doses=.*lane 2"):
        check_successful(found)


def test_derivatives(x64):
    """In both modes, by what the steady state depends on; of a lane that has none, NaN."""
    settings = {"rtol": 1e-9, "atol": 1e-9, "steady_rtol": 1e-6, "steady_atol": 1e-6, "checkpoints": 8}
    at = (np.array([0.2, 0.12, 0.01]), np.array([0.25, 0.0, 0.25]))

    def solved(gone, lag):
        return jnp.sum(run(gone, lag=lag, **settings).ys["blood"])

    def closed_form(gone, lag):
        return jnp.sum(steadily_in_blood(SINCE - lag, gone))

    by_rate, by_lag = jax.jit(jax.vmap(jax.grad(closed_form, (0, 1))))(*at)
    forwards = jax.jit(jax.vmap(lambda gone: jax.jvp(lambda gone: solved(gone, 0.0), (gone,), (1.0,))[1]))(at[0])
    np.testing.assert_allclose(forwards[1], by_rate[1], rtol=1e-5)
    back = jax.jit(jax.vmap(jax.grad(solved, (0, 1))))(*at)
    np.testing.assert_allclose(back[0][:2], by_rate[:2], rtol=1e-5)
    np.testing.assert_allclose(back[1][:2], by_lag[:2], rtol=1e-5)
    assert np.isnan([forwards[2], back[0][2], back[1][2]]).all()


# --- What is compared


def gathered(steady, doses=(), args=None, **given):
    """Of two components that hold what they are given."""
    return solve(lambda t, y, a: 0 * y, 0.0, 10.0, jnp.zeros(2), args, doses=(*steady, *doses), method="rk4", dt0=1.0, **given)


def test_what_is_below_the_tolerance(platform):
    """The root mean square over components of the change over the tolerance at the later state, from just before one dose to
    just before the other, without what is given at the later one."""
    doses = (Doses([1.0, 2.0, 3.0], np.array([1.0, 3.0, 99.0]), into=lambda y: y[0]), Doses(0.0, 2.0, into=lambda y: y[1]))

    def one(ts, since, rtol, atol):
        return gathered((SteadyDoses(ts, since, rtol=rtol, atol=atol),), doses)

    rows = [
        # From 1 to 4 in the first, with 2 in the second: 3 / sqrt(2) over the tolerance.
        ([3.0], [2.0], 0.0, [2.13, 1.0], REACHED),
        ([3.0], [2.0], 0.0, [2.11, 1.0], MISSED),
        ([3.0], [2.0], 0.5, [0.13, 0.0], REACHED),
        ([3.0], [2.0], 0.5, [0.11, 0.0], MISSED),
        # One that changes no more; one that changes once, two times, in the one before, and one that is not come to.
        ([9.0], [4.0], 0.0, [1e-3, 1e-3], REACHED),
        ([9.0], [2.5], 0.0, [1e-3, 1e-3], MISSED),
        ([np.inf], [2.0], 0.0, [1e-3, 1e-3], REACHED),
        ([10.0], [0.0], 0.0, [1e-3, 1e-3], REACHED),
        ([3.0], [2.0], 0.0, [0.0, 0.0], CODES["not_finite"]),
        # What only the kernel can know to be wrong.
        ([2.0], [3.0], 0.0, [9.0, 9.0], CODES["invalid_input"]),
        ([2.0], [2.0], 0.0, [9.0, 9.0], CODES["invalid_input"]),
        ([3.0], [2.0], 0.0, [np.nan, 9.0], CODES["not_finite"]),
    ]
    *columns, expected = zip(*rows, strict=True)
    found = jax.jit(jax.vmap(one))(*(jnp.array(column) for column in columns))
    assert code(found).tolist() == list(expected)


def test_several_in_a_lane(platform):
    """Of which one begins where the one before ends, in any order; what is kept is the state behind a reset."""
    doses = Doses([1.0, 2.0, 3.0], np.array([1.0, 3.0, 5.0]), into=lambda y: y[0])

    def one(ts, since):
        return gathered((Resets(2.0), SteadyDoses(ts, since, rtol=0.0, atol=4.0)), (doses,))

    # 0, 0 | 1, then 0 | 3, 8, 8: of two components a change of 5 is 0.9 times the tolerance, one of 8 is 1.4 times.
    ts = np.array([[2.0, 3.0, 4.0], [4.0, 3.0, 2.0], [3.0, 9.0, np.inf], [4.0, *[np.inf] * 2]])
    since = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 2.5, np.inf], [2.0, *[np.inf] * 2]])
    found = jax.jit(jax.vmap(one))(ts, since)
    assert code(found).tolist() == [REACHED, REACHED, CODES["invalid_input"], MISSED]
    with pytest.raises(ValueError, match="expected each time behind its own of `since`, and no other time in between"):
        one(ts[2], since[2])


def test_beside_events(platform):
    """A lane that an event ends before has no steady state to come to; steps that are cut are looked at once."""
    doses = Doses([1.0, 2.0, 3.0], 1.0, into=lambda y: y[0])
    stop = Event(lambda t, y, level: y[0] > level)

    def one(level):
        return gathered((SteadyDoses(3.0, 2.0, rtol=0.0, atol=0.1),), (doses,), args=level, events=stop)

    assert code(jax.jit(jax.vmap(one))(jnp.array([0.5, 9.0]))).tolist() == [CODES["event_occurred"], MISSED]


# --- What is refused


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"goes by the rtol of the solve, which has none.*doses\(steady_rtol=..., steady_atol"):
        gathered((SteadyDoses(2.0, 1.0),))
    with pytest.raises(ValueError, match="SteadyDoses: rtol and atol are both 0 in float32"):
        gathered((SteadyDoses(2.0, 1.0, rtol=0.0, atol=0.0),))
    with pytest.raises(ValueError, match="several SteadyDoses"):
        gathered((SteadyDoses(2.0, 1.0), SteadyDoses(3.0, 2.0)))
    with pytest.raises(ValueError, match="SteadyDoses has a dose at -1.0, before t0=0.0"):
        gathered((SteadyDoses(2.0, -1.0),))
    for ts, since in ((1.0, 1.0), (1.0, 2.0), ([2.0, 5.0], [1.0, 1.5])):
        with pytest.raises(ValueError, match="expected each time behind its own"):
            SteadyDoses(ts, since)
    with pytest.raises(ValueError, match=r"since=...\) has shape \(2,\), but ts has \(1,\)"):
        SteadyDoses(2.0, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"SteadyDoses\(since=...\) has a time that is NaN"):
        SteadyDoses(2.0, np.nan)
    with pytest.raises(ValueError, match="atol"):
        SteadyDoses(2.0, 1.0, atol=-1.0)
    assert repr(SteadyDoses(2.0, 1.0, rtol=0.1)).startswith("SteadyDoses(np.array([2.]")


def test_a_look_at_the_image():
    """Of shapes alone."""
    shapes = jax.eval_shape(lambda: (SteadyDoses(jnp.zeros(2), jnp.zeros(2)), Doses(jnp.zeros(2), 1.0, into=gut)))
    y0 = {"blood": 0.0, "gut": 0.0}
    found = Solver().inspect(absorption, 0.0, 1.0, y0, 0.1, doses=shapes, batched=("y0", "doses"), target="cuda:90")
    assert found.registers and dict(found.buffers)["steady_dose_state"][1] == 2
