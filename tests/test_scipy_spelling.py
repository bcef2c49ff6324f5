"""solve_ivp: SciPy's arguments, defaults, result, and the way it prints."""

import functools
import inspect
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from solve_helpers import assert_same_bits, lorenz

from jax_cubie import Event, SaveAt, Solver, solve, solve_ivp, steady_state

Y0 = np.array([1.0, 0.5], np.float32)


def decay(t, y):
    return -y


def decay_at(t, y, rate):
    return -rate * y


def test_arguments_are_scipys():
    """Each argument of SciPy's has its name and its default here; what is only there to be refused says so."""
    theirs, ours = (inspect.signature(f).parameters for f in (scipy.integrate.solve_ivp, solve_ivp))
    for name, parameter in theirs.items():
        if name != "options":
            assert ours[name].default == parameter.default, name
    options = inspect.signature(scipy.integrate.RK45).parameters
    for name in ("rtol", "atol", "first_step"):
        assert ours[name].default == options[name].default
    assert options["max_step"].default == np.inf  # ours is None: dtmax is the solver's then, infinite by default
    assert list(ours)[:5] == list(theirs)[:5]


@pytest.mark.usefixtures("x64")
def test_defaults_are_as_accurate_as_scipys(platform):
    """RK45 with rtol 1e-3 and atol 1e-6: errors of the same size as SciPy's, by about as many evaluations."""
    y0 = np.array([1.0, 0.0, 0.0])
    ours = solve_ivp(lorenz, (0.0, 1.0), y0, args=(28.0,))
    theirs = scipy.integrate.solve_ivp(_lorenz, (0.0, 1.0), y0, args=(28.0,))
    exact = scipy.integrate.solve_ivp(_lorenz, (0.0, 1.0), y0, args=(28.0,), method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    errors = [np.abs(np.asarray(found.y)[:, -1] - exact).max() for found in (ours, theirs)]
    assert errors[0] < 3 * errors[1] and 0.5 * theirs.nfev < int(ours.nfev) < 1.5 * theirs.nfev
    assert_same_bits(ours.ys[-1], solve(lorenz, 0.0, 1.0, y0, 28.0, method="rk45", rtol=1e-3, atol=1e-6).ys[-1])


def _lorenz(t, y, rho):
    a, b, c = y
    return [10.0 * (b - a), a * (rho - c) - b, a * b - 8 / 3 * c]


def test_two_ends_without_t_eval(platform):
    found = solve_ivp(decay_at, [0.0, 2.0], [1.0, 2.0], args=(0.5,))
    assert found.t.tolist() == [0.0, 2.0] and found.y.shape == (2, 2)
    np.testing.assert_allclose(found.y[:, -1], np.exp(-1.0) * np.array([1.0, 2.0]), rtol=1e-3)
    assert (int(found.status), bool(found.success)) == (0, True) and "successfully" in found.message
    assert (found.sol, found.t_events, found.y_events, found.njev, found.nlu) == (None, None, None, 0, 0)


def test_what_stiff_methods_count(platform):
    """Jacobians and factorisations, of each lane; SciPy's lines, with an array for each count."""

    def field(t, y, rate):
        return jnp.stack([-rate * (y[0] - jnp.cos(t)), y[0] - y[1]])

    found = solve_ivp(field, (0.0, 1.0), Y0, "Kvaerno3", args=(50.0,))
    steps = int(found.stats["num_steps"])
    assert steps > 3 and (int(found.njev), int(found.nlu)) == (steps, steps) and int(found.nfev) > 3 * steps
    assert f"njev: {steps}\n" in repr(found) and repr(found).endswith(f"nlu: {steps}")
    many = jax.vmap(lambda rate: solve_ivp(field, (0.0, 1.0), Y0, "ROS3P", args=(rate,)))(jnp.array([1.0, 50.0]))
    assert many.njev.shape == (2,) and np.array_equal(many.njev, many.stats["num_accepted_steps"])


def test_first_step_and_max_step(platform):
    """A size each, whatever the direction, known or traced."""
    many = SaveAt(steps=True)
    for sign in (1.0, -1.0):
        forwards = solve_ivp(decay, (0.0, sign), Y0, first_step=0.125, max_step=0.25)
        same = solve(
            lambda t, y, a: -y, 0.0, sign, Y0, method="rk45", rtol=1e-3, atol=1e-6, dt0=sign * 0.125, dtmax=0.25, saveat=many,
            max_steps=50,
        )  # fmt: skip
        assert_same_bits(forwards.stats["num_steps"], same.stats["num_steps"])
        steps = np.diff(np.concatenate([[0.0], np.asarray(same.ts)[np.isfinite(same.ts)]]))
        assert steps[0] == sign * 0.125 and np.abs(steps).max() <= 0.25
        traced = jax.jit(lambda end, step: solve_ivp(decay, (0.0, end), Y0, first_step=step, max_step=2 * step))(sign, 0.125)
        assert_same_bits(traced.ys, forwards.ys)
    fixed = solve_ivp(decay, (0.0, -1.0), Y0, "RK4", first_step=0.25)
    assert int(fixed.stats["num_steps"]) == 4


def test_tolerances_in_lists():
    listed = solve_ivp(decay, (0.0, 1.0), Y0, rtol=0.0, atol=[1e-3, 1e-9])
    assert_same_bits(listed.stats, solve_ivp(decay, (0.0, 1.0), Y0, rtol=0.0, atol=np.array([1e-3, 1e-9])).stats)
    assert int(listed.stats["num_steps"]) > int(solve_ivp(decay, (0.0, 1.0), Y0, rtol=0.0, atol=1e-3).stats["num_steps"])


def test_what_says_no_is_taken():
    found = solve_ivp(decay, (0.0, 1.0), Y0, args=None, dense_output=False, events=None, vectorized=False, max_step=np.inf)
    assert_same_bits(found.ys, solve_ivp(decay, (0.0, 1.0), Y0).ys)


def test_prints_as_scipys_does(x64):
    """The same lines, but for the numbers of digits that differ."""
    times = np.linspace(0.0, 2.0, 30)
    for t_eval in (None, times[:3], times):
        ours = solve_ivp(decay, (0.0, 2.0), [1.0, 2.0], t_eval=t_eval)
        theirs = scipy.integrate.solve_ivp(decay, (0.0, 2.0), [1.0, 2.0], t_eval=[0.0, 2.0] if t_eval is None else t_eval)
        shapes = [re.sub(r"\d+", "0", repr(found)) for found in (ours, theirs)]
        assert [line.split() for line in shapes[0].splitlines()] == [line.split() for line in shapes[1].splitlines()]
    failed = solve_ivp(decay, (0.0, 2.0), [1.0, 2.0], max_steps=1)
    assert "success: False" in repr(failed) and "status: -1" in repr(failed) and "max_steps" in repr(failed)


def test_many_lanes_are_counted():
    run = jax.vmap(lambda y, limit: solve_ivp(decay, (0.0, 2.0), y, max_steps=limit))
    many = run(jnp.ones((4, 2)), jnp.array([1, 9, 9, 9]))
    assert repr(many).startswith("IVPSolution of 4 lanes\n  ended   3 successful, 1 max_steps_reached\n")
    assert many.status.tolist() == [-1, 0, 0, 0] and "successfully" in many.message[1] and "max_steps" in many.message[0]


# --- The solution as a function


@pytest.mark.usefixtures("x64")
def test_sol_is_scipys(platform):
    """Of a time and of an array of times, forwards and backwards, up to where an event ended it; NaN beyond."""
    settings = dict(args=(2.0,), dense_output=True, **TIGHT)
    for sign, events in ((1.0, None), (-1.0, event(lambda t, y, rate: y[0], terminal=True))):
        ours, theirs = (
            solver(field, (0.5, 0.5 + 3 * sign), [1.0, 0.3], "RK45", events=events, **settings)
            for solver, field in ((solve_ivp, turning), (scipy.integrate.solve_ivp, _turning))
        )
        assert ours.sol(0.5).shape == theirs.sol(0.5).shape == (2,)
        ends = [theirs.sol.t_min, theirs.sol.t_max]
        np.testing.assert_allclose([ours.sol.t_min, ours.sol.t_max], ends, rtol=1e-8)
        assert (int(ours.status), len(ours.t)) == (theirs.status, 2)
        ts = np.concatenate([[ours.sol.t_max, ours.sol.t_min], np.linspace(*ends, 23)[1:-1]])
        assert ours.sol(ts).shape == theirs.sol(ts).shape == (2, 23)
        np.testing.assert_allclose(ours.sol(ts), theirs.sol(ts), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(ours.sol(list(ts[2:4]))[:, 0], ours.sol(ts[2]), rtol=1e-14)
        assert np.isnan(ours.sol(np.array([ends[0] - 0.1, ends[1] + 0.1]))).all()
    slope = jax.jvp(ours.sol, (0.3,), (1.0,))[1]
    np.testing.assert_allclose(slope, turning(0.3, ours.sol(0.3), 2.0), rtol=1e-4)
    assert "sol: OdeSolution" in repr(ours)
    with pytest.raises(ValueError, match=r"t has shape \(2, 2\): expected a time, or a one-dimensional array of times"):
        ours.sol(np.zeros((2, 2)))


def test_sol_of_lanes_and_for_want_of_room(platform):
    """It keeps room for max_steps steps, of which one that is known warns where nobody asked for so few."""

    def run(rate, **settings):
        return solve_ivp(decay_at, (0.0, 2.0), Y0, t_eval=[1.0, 2.0], args=(rate,), dense_output=True, **settings)

    many = jax.jit(jax.vmap(functools.partial(run, max_steps=20)))(jnp.array([0.5, 1.5]))
    at = jax.vmap(lambda found, t: found.sol(t), (0, None))(many, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(at, many.y, rtol=1e-6)
    with pytest.raises(ValueError, match="this solution holds 2 lanes"):
        many.sol(1.0)
    small = functools.partial(solve_ivp, decay_at, (0.0, 2.0), Y0, "RK4", args=(0.5,), dense_output=True)
    with pytest.warns(UserWarning, match="keeps room for 4,096 steps, after which t1 was not reached: give max_") as warned:
        one = small(first_step=1 / 4096)
    assert warned[0].filename == __file__
    assert int(one.status) == -1 and "max_steps" in one.message and one.sol.t_max == 1.0 and np.isfinite(one.sol(1.0)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert int(small(first_step=0.5, max_steps=3).status) == -1


# --- Events


def cannon(t, y):
    """SciPy's example: a ball shot upwards."""
    return jnp.stack([y[1], jnp.full_like(y[1], -0.5)])


def _cannon(t, y):
    return [y[1], -0.5]


def hit_ground(t, y):
    return y[0]


def apex(t, y):
    return y[1]


hit_ground.terminal = True
hit_ground.direction = -1


def turning(t, y, rate):
    return jnp.stack([y[1], -rate * rate * y[0]])


def _turning(t, y, rate):
    return [y[1], -rate * rate * y[0]]


def event(function, **attributes):
    """A new event, with SciPy's attributes."""

    def found(*arguments):
        return function(*arguments)

    found.__dict__ |= attributes
    return found


TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def same_events(ours, theirs):
    """Counts, times and states, and how it ended."""
    assert [len(times) for times in ours.t_events] == [len(times) for times in theirs.t_events]
    for one, other in zip((*ours.t_events, *ours.y_events), (*theirs.t_events, *theirs.y_events), strict=True):
        if len(other):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)
    assert (int(ours.status), bool(ours.success), ours.message) == (theirs.status, theirs.success, theirs.message)


@pytest.mark.usefixtures("x64")
def test_examples_of_scipys(platform):
    """The cannon of its documentation, in the two ways in which that is solved; times end where the ball lands."""
    for events in (hit_ground, [hit_ground, apex]):
        ours = solve_ivp(cannon, [0, 100], [0, 10], events=events)
        theirs = scipy.integrate.solve_ivp(_cannon, [0, 100], [0, 10], events=events)
        same_events(ours, theirs)
        assert isinstance(ours.t_events, list) and ours.t_events[0].tolist() == pytest.approx([40.0], rel=1e-12)
        assert ours.t.tolist() == pytest.approx([0.0, 40.0], rel=1e-12)
    t_eval = np.linspace(1.0, 100.0, 100) - 0.5
    ours, theirs = solve_ivp(cannon, [0, 100], [0, 10], t_eval=t_eval, events=(hit_ground, apex)), scipy.integrate.solve_ivp(
        _cannon, [0, 100], [0, 10], t_eval=t_eval, events=(hit_ground, apex)
    )  # fmt: skip
    assert ours.t.tolist() == theirs.t.tolist() == t_eval[:40].tolist() and ours.y.shape == (2, 40)
    np.testing.assert_allclose(ours.y, theirs.y, atol=1e-10)
    lines = [[re.sub(r"\d+", "0", line).split() for line in repr(found).splitlines()] for found in (ours, theirs)]
    assert [line[0] for line in lines[0]] == [line[0] for line in lines[1]] and "[array([ 4.000e+01]), " in repr(ours)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("method", "sign"), [("RK45", 1.0), ("RK45", -1.0), ("DOP853", 1.0), ("DOP853", -1.0), ("Radau", 1.0)]
)
def test_events_are_scipys(method, sign, platform):
    """Zeros of an oscillator: all, growing, falling, and up to the third; of a moving target, by args."""
    zero, late = (lambda t, y, rate: y[0]), lambda t, y, rate: y[1] - 0.1 * t * rate
    events = [
        event(zero), event(zero, direction=2.5), event(zero, direction=-1), event(late, terminal=False),
        event(zero, terminal=3, direction=1),
    ]  # fmt: skip
    settings = dict(args=(2.0,), events=events, t_eval=sign * np.linspace(0.0, 20.0, 41), **TIGHT)
    ours = solve_ivp(turning, (0.0, sign * 20.0), [1.0, 0.3], method, **settings)
    theirs = scipy.integrate.solve_ivp(_turning, (0.0, sign * 20.0), [1.0, 0.3], "DOP853", **settings)
    same_events(ours, theirs)
    assert len(ours.t_events[4]) == 3 and int(ours.status) == 1 and ours.t.tolist() == theirs.t.tolist()
    np.testing.assert_allclose(ours.y, theirs.y, atol=1e-7)
    without = solve_ivp(turning, (0.0, sign * 20.0), [1.0, 0.3], method, **{**settings, "events": events[:4]})
    assert int(without.status) == 0 and len(without.t_events[0]) > len(ours.t_events[0])


@pytest.mark.usefixtures("x64")
def test_a_ball_that_bounces(platform):
    """As it is done with SciPy: each flight is a solve, which ends where the next begins."""

    def flights(solve, field):
        start, state, times = 0.0, np.array([1.0, 0.0]), []
        for _ in range(4):
            found = solve(field, (start, 100.0), state, events=hit_ground, **TIGHT)
            start, state = float(found.t_events[0][0]), np.asarray(found.y_events[0][0]) * [0.0, -0.8]
            times.append(start)
        return times

    expected = 2.0 * (1.0 + 2.0 * np.cumsum([0.0, 0.8, 0.8**2, 0.8**3]))
    np.testing.assert_allclose(flights(solve_ivp, cannon), expected, rtol=1e-12)
    np.testing.assert_allclose(flights(scipy.integrate.solve_ivp, _cannon), expected, rtol=1e-9)


def test_rows_of_events(platform):
    """Of one known lane as many as there were, of others as many as there may be, NaN behind; what had no row is counted."""
    zero = event(lambda t, y, rate: y[0])
    last = event(lambda t, y, rate: y[1] - 0.5, terminal=2, direction=-1)

    def run(rate, **settings):
        events = dict(events=[zero, last], max_events=np.int64(3))
        return solve_ivp(turning, (0.0, 10.0), [1.0, 0.0], args=(rate,), **events, **settings)

    with pytest.warns(UserWarning, match="event 0 happened 4 times, of which the first 3 are in t_events") as warned:
        one = run(1.5, t_eval=[1.0, 5.0, 9.9])
    assert warned[0].filename == __file__
    assert [len(times) for times in one.t_events] == [3, 2] and one.y_events[0].shape == (3, 2)
    assert int(one.events[0].count) == 4 and one.t.shape[0] == one.y.shape[1] < 3
    many = jax.vmap(run)(jnp.array([0.2, 1.5]))
    assert [times.shape for times in many.t_events] == [(2, 3), (2, 2)] and many.y_events[1].shape == (2, 2, 2)
    assert np.isnan(many.t_events[0][0, 1:]).all() and many.status.tolist() == [0, 1]
    assert many.message.tolist() == ["The solver successfully reached the end of the integration interval.",
                                     "A termination event occurred."]  # fmt: skip
    np.testing.assert_allclose(many.t_events[0][1], one.t_events[0], rtol=1e-6)
    shape = jax.eval_shape(run, 1.5)
    assert shape.t_events[0].shape == (3,) and shape.t.shape == (2,)
    assert jax.jit(run)(1.5).t_events[0].shape == (3,)
    assert solve_ivp(decay, (0.0, 1.0), Y0, events=[]).t_events == [] and solve_ivp(decay, (0.0, 1.0), Y0).t_events is None


@pytest.mark.parametrize(
    ("events", "kind", "words"),
    [
        (1.0, TypeError, r"events has 1.0 of type float: expected a function event\(t, y, \*args\)"),
        ([apex, None], TypeError, "events has None of type NoneType"),
        (Event(lambda t, y, args: y[0]), TypeError, "a jax_cubie.Event: .* call jax_cubie.solve"),
        ([steady_state()], TypeError, r"a jax_cubie.steady_state\(\): .* call jax_cubie.solve"),
        (lambda t: t, TypeError, r"is called as event\(t, y, \*args\): it has to take 2 arguments"),
        (lambda y, t: y[0], TypeError, "takes the state first"),
        (event(apex, terminal=1.5), ValueError, "events.terminal is 1.5: expected a boolean, or at which of them"),
        ([apex, event(apex, terminal=-1)], ValueError, r"events\[1\].terminal is -1"),
        (event(apex, direction="up"), ValueError, "events.direction is 'up': expected a number"),
        (lambda t, y: y, ValueError, r"what events returns has shape \(2,\): expected a scalar"),
        ([apex, lambda t, y: y[0] > 0], TypeError, r"what events\[1\] returns has dtype bool: .*jax_cubie.Event"),
        (lambda t, y: 1 if y[0] > 0 else 0, TypeError, "events is traced"),
    ],
)
def test_wrong_events(events, kind, words):
    with pytest.raises(kind, match=words):
        solve_ivp(decay, (0.0, 1.0), Y0, events=events)


@pytest.mark.parametrize("most", [0, True, 2.0])
def test_wrong_numbers_of_rows(most):
    with pytest.raises(ValueError, match=f"max_events is {most}: expected of how many events"):
        solve_ivp(decay, (0.0, 1.0), Y0, events=apex, max_events=most)


def test_a_fixed_method_needs_no_tolerance():
    assert "rtol" not in Solver("rk4").settings()
    with pytest.raises(ValueError, match="dt0 is None"):
        solve_ivp(decay, (0.0, 1.0), Y0, "rk4")
