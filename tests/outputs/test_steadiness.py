"""Lanes that end in a steady state: behind which step, what is saved of them, and their derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import code

import jax_cubie
from jax_cubie import RESULTS, SaveAt, Solver, check_successful, solve, solve_ivp, steady_state
from jax_cubie.solution import CODES

Y0 = np.array([3.0, -1.0, 0.5])
RATES, GOAL = np.array([1.0, 4.0, 2.0]), np.array([1.0, 2.0, 0.0])
STEADY, MOVING = CODES["event_occurred"], CODES["successful"]


def field(t, y, goal):
    return -RATES.astype(y.dtype) * (y - goal)


def run(events=(), y0=Y0, goal=GOAL, t1=60.0, **settings):
    return solve(field, 0.0, t1, jnp.asarray(y0), jnp.asarray(goal, y0.dtype), events=events, **settings)


def first_steady(tolerances, dtype=np.float64, **settings):
    """The number of the accepted step behind which a solve without an event would be steady, its time and its state."""
    rtol, atol = tolerances
    whole = run(y0=Y0.astype(dtype), saveat=SaveAt(steps=True), max_steps=3000, **settings)
    states = np.asarray(whole.ys)[np.isfinite(whole.ts)]
    rates = -RATES * (states - GOAL) / (atol + rtol * np.abs(states))
    (number, *_) = np.flatnonzero(np.mean(rates**2, axis=1) < 1)
    assert 0 < number < len(states) - 1
    return number + 1, float(whole.ts[number]), states[number]


# Of each family, with and without f at the end of the step among its stages; steps of one size, and of the user's.
KINDS = {
    "tsit5": {}, "rodas4": {}, "kvaerno3": {}, "l_stable_sdirk4": {}, "radau_iia_5": {},
    "gauss_legendre_4": {"dt0": 0.11}, "rk4": {"dt0": 0.11}, "euler": {"controller": "even", "dt0": 0.11},
}  # fmt: skip


@pytest.mark.parametrize(("method", "dtype"), [("tsit5", "float32"), *((method, "float64") for method in KINDS)])
def test_ends_behind_the_first_step_that_is_steady(method, dtype, platform):
    with jax.enable_x64(dtype == "float64"):
        settings = {"method": method, **KINDS[method]}
        number, time, state = first_steady((1e-3, 1e-4), dtype, **settings)
        found = run(steady_state(rtol=1e-3, atol=1e-4), Y0.astype(dtype), **settings)
        assert code(found) == STEADY and bool(found.result == RESULTS.event_occurred)
        assert int(found.stats["num_accepted_steps"]) == number and int(found.stats["nfev"]) > number
        assert np.array_equal(found.ys[0], state) and float(found.ts[0]) == pytest.approx(time, rel=1e-6)
        assert float(found.t1) == 60.0


@pytest.mark.usefixtures("x64")
def test_what_is_saved():
    """Times that were reached, those that were not, and the end: when and where that was; so of functions, and of steps."""
    settings = {"rtol": 1e-5, "atol": 1e-5}
    number, time, state = first_steady((1e-3, 1e-3), **settings)
    steady = steady_state(rtol=1e-3, atol=1e-3)
    ts = np.array([0.0, 0.5, time - 1e-3, time + 1e-3, 50.0])
    whole = run(saveat=SaveAt(ts=ts), **settings)
    found = run(steady, saveat=SaveAt(t0=True, ts=ts, t1=True), **settings)
    np.testing.assert_allclose(found.ts, [0.0, *ts, time], rtol=1e-12)
    assert np.array_equal(found.ys[1:4], whole.ys[:3]) and np.isnan(found.ys[4:6]).all() and np.array_equal(found.ys[6], state)
    clock = SaveAt(ts=ts, t1=True, fn=lambda t, y, args: {"t": t, "y": y})
    found = run([steady], saveat=clock, **settings)
    np.testing.assert_allclose(found.ys["t"], [*ts[:3], np.nan, np.nan, time], rtol=1e-12)
    assert np.array_equal(found.ys["y"][-1], state)
    for every in (1, 7):
        saveat = SaveAt(steps=every, ts=ts[1:2], t1=True)
        stepped = run((steady,), saveat=saveat, max_steps=500, **settings)
        reached = np.asarray(stepped.ts)[np.isfinite(stepped.ts)]
        assert len(reached) == 1 + -(-number // every) and reached[-1] == pytest.approx(time, rel=1e-12)
        assert np.array_equal(stepped.ys[len(reached) - 1], state)


def test_lanes_end_each_by_itself(platform):
    """Some are steady, some come to t1, some fail; only the latter raise. Tolerances are of each lane and each component."""

    def one(t1, atol, limit):
        steady = steady_state(rtol=0.0, atol=atol * jnp.ones(3))
        return run(steady, Y0.astype(np.float32), t1=t1, max_steps=limit)

    t1, atol = jnp.array([60.0, 60.0, 1.0, 60.0]), jnp.array([1e-2, 1e-4, 1e-4, 1e-4])
    many = jax.vmap(one)(t1, atol, jnp.array([500, 500, 500, 5]))
    assert code(many).tolist() == [STEADY, STEADY, MOVING, CODES["max_steps_reached"]]
    assert many.ts[0, 0] < many.ts[1, 0] < 60 and many.ts[2, 0] == 1
    assert "2 event_occurred" in repr(many)
    np.testing.assert_allclose(many.ys[:2, 0], [GOAL] * 2, atol=2e-2)
    check_successful(jax.tree.map(lambda leaf: leaf[:3], many))
    with pytest.raises(RuntimeError, match="1 of 4 lanes failed"):
        check_successful(many)
    stiff = {"method": "rodas4", "rtol": 1e-4, "atol": 1e-4, "throw": True}
    thrown = jax.jit(lambda: run(steady_state(), Y0.astype(np.float32), **stiff))()
    assert code(thrown) == STEADY


def test_ends_that_are_both(platform):
    """Steady from the beginning on, in a step that ends at t1; and where there is no step."""
    goal = GOAL.astype(np.float32)
    found = run(steady_state(rtol=0.1, atol=0.1), goal, t1=0.5, method="rk4", dt0=0.5)
    assert code(found) == STEADY and found.ts.tolist() == [0.5] and np.array_equal(found.ys[0], goal)
    assert code(run(steady_state(), goal, t1=0.0)) == MOVING
    broken = solve(lambda t, y, a: y * jnp.nan, 0.0, 1.0, goal, events=steady_state(1e3, 1e3))
    assert code(broken) not in (STEADY, MOVING)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("settings", "fn"),
    [({"rtol": 1e-5, "atol": 1e-5}, None), ({"method": "rk4", "dt0": 0.11}, lambda t, y, goal: t * y + goal)],
    ids=("adaptive", "fixed, of a function"),
)
def test_derivatives_are_those_of_the_steps_up_to_there(settings, fn):
    """Those of the same steps by a controller that is told where they end, which knows of no event."""
    ts = np.array([0.4, 50.0])

    def early(y0, goal, t0, saveat=SaveAt(ts=ts, t1=True, fn=fn)):  # noqa: B008
        steady = {"events": steady_state(rtol=1e-3, atol=1e-3), "checkpoints": 2, "max_steps": 900}
        return solve(slow_field, t0, t0 + 60.0, y0, goal, saveat=saveat, **steady, **settings)

    inputs = (jnp.asarray(Y0), jnp.asarray(GOAL), 0.0)
    whole = early(*inputs, SaveAt(steps=True))
    ends = np.asarray(whole.ts)[np.isfinite(whole.ts)]
    assert code(whole) == STEADY and 0.4 < ends[-1] < 50.0

    def told(y0, goal, t0):
        given = {"method": settings.get("method", "tsit5"), "controller": "given", "step_ends": ends}
        return solve(slow_field, t0, t0 + ends[-1], y0, goal, saveat=SaveAt(ts=ts[:1], t1=True, fn=fn), **given).ys

    def reached(*inputs):
        return early(*inputs).ys[np.array([0, 2])]

    def derivatives(mode, solved, argnums):
        """With the values that they are of."""
        return jax.jit(mode(lambda *inputs: (solved(*inputs),) * 2, argnums, has_aux=True))(*inputs)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
    *expected, values = jax.tree.leaves(derivatives(jax.jacfwd, told, (0, 1)))
    # By t0, too, with which all times move; of the save time's row, that moves against the steps.
    *forwards, same = jax.tree.leaves(derivatives(jax.jacfwd, reached, (0, 1, 2)))
    np.testing.assert_allclose(same, values, rtol=1e-12)
    for found, one in zip(forwards, expected, strict=False):
        close(found, one)
    for found, one in zip(jax.jit(jax.jacrev(reached, argnums=(0, 1, 2)))(*inputs), forwards, strict=True):
        close(found, one)
    if fn is not None:
        return
    found, known = (lambda y, one=one: (one(y, *inputs[1:]) ** 2).sum() for one in (reached, told))
    close(jax.jit(jax.jacfwd(jax.grad(found)))(inputs[0]), jax.jit(jax.jacfwd(jax.jacfwd(known)))(inputs[0]))


def slow_field(t, y, goal):
    """`field`, but that time has a say as long as it is short."""
    return -RATES * (y - goal) + jnp.exp(-4 * t) * jnp.sin(y)


def test_wrong_conditions():
    with pytest.raises(ValueError, match=r"goes by the rtol of the solve, which has none.*steady_state\(rtol=..., atol=...\)"):
        run(steady_state(atol=1e-3), Y0.astype(np.float32), method="rk4", dt0=0.1)
    with pytest.raises(ValueError, match=r"steady_state\(\): rtol and atol are both 0 in float32"):
        run(steady_state(0.0, 0.0), Y0.astype(np.float32))
    with pytest.raises(ValueError, match="rtol=-1.0: expected a number at least 0"):
        steady_state(rtol=-1.0)
    with pytest.raises(TypeError, match=r"events has <function .* expected a jax_cubie.Event, or jax_cubie.steady_state"):
        run(lambda t, y, args: y[0], Y0.astype(np.float32))
    with pytest.raises(ValueError, match=r"events has several steady_state\(\)"):
        run((steady_state(), steady_state(0.1)), Y0.astype(np.float32))
    with pytest.raises(TypeError, match=r"events has a jax_cubie.steady_state\(\): .*call jax_cubie.solve"):
        solve_ivp(lambda t, y: -y, (0.0, 1.0), Y0, events=steady_state())
    assert isinstance(steady_state(), jax_cubie.outputs.SteadyState)
    assert Solver().inspect(field, 0.0, 1.0, Y0, GOAL, events=steady_state(), target="cuda:90").registers > 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["rodas4", "kvaerno3"])
def test_derivatives_of_stiff_steps(method):
    """Forwards and backwards alike; a steady state has forgotten y0, and follows the goal."""

    def end(y0, goal):
        settings = {"method": method, "rtol": 1e-5, "atol": 1e-5, "events": steady_state(1e-6, 1e-6)}
        return solve(field, 0.0, 1e6, y0, goal, **settings).ys[0]

    inputs = (jnp.asarray(Y0), jnp.asarray(GOAL))
    forwards, backwards = (jax.jit(mode(end, argnums=(0, 1)))(*inputs) for mode in (jax.jacfwd, jax.jacrev))
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(forwards[0], np.zeros((3, 3)), atol=1e-4)
    np.testing.assert_allclose(forwards[1], np.eye(3), atol=1e-4)
