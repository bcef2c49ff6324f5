"""Derivatives of what depends on when events happen: their times and states, what they change, and all that comes behind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jax_cubie import Doses, Driver, Event, SaveAt, Summary, solve, steady_state

pytestmark = pytest.mark.usefixtures("x64")

# Of each family; steps of one size are those of `test_bools_and_what_ends_a_lane`.
KINDS = ("tsit5", "rodas5p", "kvaerno3", "radau_iia_5")
POINT = {"t0": 0.0, "t1": 2.0, "y0": np.array([1.0, 0.3]), "g": 9.81, "floor": 0.1, "kept": 0.8}


def fall(t, y, args):
    return jnp.stack([y[1], -args["g"] + 0.1 * jnp.sin(3 * t) - 0.05 * y[1]])


def bounce(t, y, args):
    return jnp.stack([y[0] + 0.01 * t, -args["kept"] * y[1]])


HITS = Event(lambda t, y, a: y[0] - a["floor"] * jnp.cos(t), direction=-1, affect=bounce, record=3)


def bouncing(point, events=HITS, **settings):
    """With so few checkpoints that steps are taken again over bounces."""
    tolerances = {} if "dt0" in settings else {"rtol": 1e-9, "atol": 1e-9}
    saved = SaveAt(ts=jnp.array([0.2, 0.7, 1.6]), t1=True)
    given = {"events": events, "saveat": saved, "max_steps": 4000, "checkpoints": 2, **tolerances, **settings}
    return solve(fall, point["t0"], point["t1"], point["y0"], point, **given)


def loss_of(solution):
    record, weights = solution.events, jnp.arange(1.0, 4.0)
    return (
        jnp.sum(jnp.sin(solution.ys) * jnp.arange(1.0, 9.0).reshape(4, 2))
        + weights @ jnp.nan_to_num(record.times)
        + 0.1 * jnp.sum(weights[:, None] * jnp.nan_to_num(record.ys))
    )


def differences(function, flat, step):
    """The Jacobian of a function of a vector, by central differences."""
    moved = [(function(flat.at[i].add(step)) - function(flat.at[i].add(-step))) / (2 * step) for i in range(flat.size)]
    return np.stack(moved, -1)


def gradients(loss, flat):
    """By differences, forwards, and in reverse, of the first of what it gives; and the second, asked of the solution."""
    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    forwards, _ = jax.jit(jax.jacfwd(loss, has_aux=True))(flat)
    (_, asked), reverse = both(flat)
    return differences(lambda moved: both(moved)[0][0], flat, 1e-6), np.asarray(forwards), np.asarray(reverse), asked


@pytest.mark.parametrize("method", KINDS)
def test_bounces(method):
    """With a floor that moves, and a bounce that changes both components."""
    flat, unravel = ravel_pytree(POINT)

    def loss(flat):
        solution = bouncing(unravel(flat), method=method)
        return loss_of(solution), solution.events.count

    by_differences, forwards, reverse, count = gradients(loss, flat)
    assert int(count) == 3
    np.testing.assert_allclose(forwards, by_differences, rtol=2e-5)
    np.testing.assert_allclose(reverse, forwards, rtol=1e-8)


def test_twice():
    """By three routes; and a third time, in reverse."""
    flat, unravel = ravel_pytree(POINT)

    def loss(flat):
        return loss_of(bouncing(unravel(flat)))

    forwards, step, along = jax.jit(jax.jacfwd(jax.jacfwd(loss))), 1e-5, np.cos(np.arange(flat.size))
    hessian = forwards(flat)
    np.testing.assert_allclose(hessian, differences(jax.jit(jax.jacfwd(loss)), flat, step), rtol=1e-5, atol=1e-3)
    for outer in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(outer(jax.jacrev(loss)))(flat), hessian, rtol=1e-10, atol=1e-9)

    def curvature(flat):
        slope = lambda flat: jax.jvp(loss, (flat,), (along,))[1]  # noqa: E731
        return jax.jvp(slope, (flat,), (along,))[1]

    moved = (along @ forwards(flat + step * along) @ along - along @ forwards(flat - step * along) @ along) / (2 * step)
    assert float(jax.jit(jax.grad(curvature))(flat) @ along) == pytest.approx(float(moved), rel=1e-6)


def test_the_time_at_which_a_lane_ends():
    """Against the closed form: a stone that falls from a height; and the state then, by `SaveAt.fn`. Once and twice."""

    def ends(height, gravity):
        start = jnp.stack([height, jnp.zeros_like(height)])
        given = {"events": Event(lambda t, y, g: y[0]), "saveat": SaveAt(t1=True, fn=lambda t, y, g: (t * y[1], y))}
        found = solve(lambda t, y, g: jnp.stack([y[1], -g]), 0.0, 30.0, start, gravity, **given)
        return found.ts[0], found.ys[0][0]

    height, gravity = 3.0, 9.81
    time = np.sqrt(2 * height / gravity)
    expected = [(time / (2 * height), -time / (2 * gravity)), (-2.0, 0.0)]  # of T, and of T v(T) = -2 h
    for mode in (jax.jacfwd, jax.jacrev):
        found = jax.jit(mode(ends, (0, 1)))(height, gravity)
        np.testing.assert_allclose(np.array(found), expected, rtol=1e-10, atol=1e-10)
    mixed = -time / (4 * height * gravity)
    twice = [[[-time / (4 * height**2), mixed], [mixed, 3 * time / (4 * gravity**2)]], np.zeros((2, 2))]
    np.testing.assert_allclose(np.array(jax.jit(jax.hessian(ends, (0, 1)))(height, gravity)), twice, rtol=1e-10, atol=1e-10)
    assert ends(height, gravity)[0] == pytest.approx(time, rel=1e-12)


def test_many_lanes():
    """Lanes that bounce differently often, rates that they share: sums of gradients are those of the lanes."""
    heights = jnp.array([0.5, 1.0, 2.0, 30.0])

    def loss(height, shared):
        return loss_of(bouncing({**POINT, "y0": jnp.stack([height, 0.3]), "g": shared}))

    def total(shared):
        return jnp.sum(jax.vmap(loss, (0, None))(heights, shared))

    slope = jax.jit(jax.grad(loss, 1))
    alone = sum(float(slope(height, 9.81)) for height in heights)
    assert float(jax.jit(jax.grad(total))(9.81)) == pytest.approx(alone, rel=1e-9)
    assert float(jax.jit(jax.jacfwd(total))(9.81)) == pytest.approx(alone, rel=1e-8)


def test_statistics_do_not_depend_on_derivatives():
    """A step that is taken again for the sake of tangents counts for nothing, and changes no bit."""
    plain = bouncing(POINT)
    moved = jax.jvp(lambda g: bouncing({**POINT, "g": g}), (9.81,), (1.0,))[0]
    twice = jax.jvp(lambda g: jax.jvp(lambda g: bouncing({**POINT, "g": g}), (g,), (1.0,))[0], (9.81,), (1.0,))[0]
    for other in (moved, twice):
        assert np.array_equal(plain.ys, other.ys) and np.array_equal(plain.events.times, other.events.times)
        assert {name: int(value) for name, value in plain.stats.items()} == {k: int(v) for k, v in other.stats.items()}


def test_with_jumps_and_other_events():
    """A dose of speed at a time of its own, a boolean event, one that is only counted, and a steady state that never comes."""
    flat, unravel = ravel_pytree({**POINT, "jump": 0.31})
    events = {
        "hits": HITS, "high": Event(lambda t, y, a: y[0] - 0.9, terminal=False), "still": steady_state(rtol=1e-9, atol=1e-9),
        "late": Event(lambda t, y, a: t > 1.9),
    }  # fmt: skip

    def loss(flat):
        point = unravel(flat)
        solution = bouncing(point, events, jump_ts=point["jump"][None], method="tsit5")
        hits = solution.events["hits"]
        return jnp.sum(jnp.nan_to_num(hits.times)) + jnp.sum(jnp.nan_to_num(solution.ys[:3])), solution

    by_differences, forwards, reverse, solution = gradients(loss, flat)
    assert int(solution.events["hits"].count) == 3 and int(solution.events["high"].count) >= 1
    assert bool(solution.events["late"].ended) and 1.9 < float(solution.ts[-1]) < 2.0
    np.testing.assert_allclose(forwards, by_differences, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(reverse, forwards, rtol=1e-7, atol=1e-9)


def test_bools_and_what_ends_a_lane():
    """A step at whose end a bool holds moves with its beginning, and what ends a lane changes nothing. Steps of one size, so
    that differences see the same ones; in front of the bounce steps end at a time that is a parameter."""
    flat, unravel = ravel_pytree({**POINT, "dt0": 0.011, "jump": 0.31})
    turn = lambda t, y, a: y * jnp.array([1.1, jnp.cos(t)])  # noqa: E731
    late = Event(lambda t, y, a: t > 1.2, terminal=2, affect=turn)  # at the end of one step, and of the next one

    for events in ({"late": late, "hits": HITS}, {"late": late}):

        def loss(flat, events=events):
            point = unravel(flat)
            solution = bouncing(point, events, method="rk4", dt0=point["dt0"], jump_ts=point["jump"][None])
            time = solution.ts[3] if "hits" in events else 0.0  # of bools alone, the times of steps have no derivative
            return jnp.sum(jnp.sin(solution.ys[:2])) + jnp.sum(jnp.sin(solution.ys[3])) + time, solution.events["late"]

        by_differences, forwards, reverse, ended = gradients(loss, flat)
        assert bool(ended.ended) and int(ended.count) == 2
        np.testing.assert_allclose(forwards, by_differences, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(reverse, forwards, rtol=1e-10, atol=1e-10)
    alone = lambda flat: loss(flat)[0]  # noqa: E731
    twice = differences(jax.jit(jax.jacrev(alone)), flat, 1e-6)
    np.testing.assert_allclose(jax.jit(jax.hessian(alone))(flat), twice, rtol=1e-5, atol=1e-7 * np.abs(twice).max())


def test_under_a_driver():
    """Functions of the user's look times up then, which they count from t0."""
    flat, unravel = ravel_pytree({**POINT, "t0": 0.05, "values": np.sin(np.arange(6.0))})
    cond = lambda t, y, a, u: y[0] - a["floor"] * jnp.cos(t) - 0.01 * u  # noqa: E731
    affect = lambda t, y, a, u: bounce(t, y, a) + jnp.stack([0.01 * u, 0.0])  # noqa: E731
    hits = Event(cond, direction=-1, affect=affect, record=2)

    def loss(flat):
        point = unravel(flat)
        given = Driver(jnp.linspace(-0.2, 2.2, 6), point["values"], kind="cubic")
        driven = lambda t, y, a, u: fall(t, y, a) + jnp.stack([0.0, 0.3 * u])  # noqa: E731
        found = solve(
            driven, point["t0"], point["t1"], point["y0"], point, events=hits, drivers=given, checkpoints=2, max_steps=400,
            rtol=1e-10, atol=1e-10,
        )  # fmt: skip
        return jnp.sum(jnp.sin(found.ys)) + jnp.sum(found.events.times**2) + 0.1 * jnp.sum(found.events.ys), None

    by_differences, forwards, reverse, _ = gradients(loss, flat)
    np.testing.assert_allclose(forwards, by_differences, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(reverse, forwards, rtol=1e-10, atol=1e-10)


def test_summaries_of_lanes_that_events_end():
    """An extremum at the end moves with it, and so do means; against the closed form, once and twice."""
    asks = {"max": Summary.max(), "time": Summary.time_of_max(), "mean": Summary.mean(), "integral": Summary.integral()}
    ends = Event(lambda t, y, a: y - a[1])

    def summarised(rate, level):
        ramp = lambda t, y, a: a[0] + 0 * y  # noqa: E731
        found = solve(ramp, 0.0, 9.0, jnp.zeros(()), (rate, level), events=ends, summaries=asks, method="rk4", dt0=1.0)
        return jnp.stack([found.summaries[name] for name in asks])

    def expected(rate, level):
        return jnp.stack([level, level / rate, level / 2, level**2 / (2 * rate)])

    for transform in (jax.jacfwd, jax.jacrev, jax.hessian):
        found, closed_form = (jax.jit(transform(function, (0, 1)))(0.7, 2.0) for function in (summarised, expected))
        np.testing.assert_allclose(np.array(found), np.array(closed_form), rtol=1e-10, atol=1e-10)


def test_at_the_time_of_a_dose_and_at_t1():
    """An event in front of a dose of its time, and one that is kept at t1, move by themselves; the first one's change of state
    does not commute with the dose."""
    events = {
        "halved": Event(lambda t, y, p: t - p[1], affect=lambda t, y, p: 0.5 * y, record=1),
        "kept": Event(lambda t, y, p: t - p[3], terminal=False, record=1),
    }

    def run(p):
        doses = Doses(p[0], 1.0, into=lambda y: y)
        summaries = {"least": Summary.min(), "peak": Summary.time_of_max()}
        given = {"events": events, "doses": doses, "summaries": summaries, "method": "dopri8", "rtol": 1e-10, "atol": 1e-10}
        return solve(lambda t, y, p: -y, 0.0, p[2], jnp.ones(()), p, **given)

    def asked(p):
        found = run(p)
        halved, kept = found.events["halved"], found.events["kept"]
        return jnp.stack([found.ys[-1], halved.ys[0], kept.ys[0], kept.times[0], *found.summaries.values()])

    point = jnp.array([1.0, 1.0, 2.0, 2.0])  # of the dose, of the event in front of it, t1, of the event there
    assert all(int(one.count) == 1 for one in run(point).events.values())
    end = 0.5 * np.exp(-2.0) + np.exp(-1.0)
    least, peak = [-0.5 * np.exp(-1.0), 0, 0, 0], [1, 0, 0, 0]  # in front of the dose and behind it
    expected = [[np.exp(-1.0), 0, -end, 0], [0, -np.exp(-1.0), 0, 0], [np.exp(-1.0), 0, 0, -end], [0, 0, 0, 1], least, peak]
    for transform in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(transform(asked))(point), expected, rtol=1e-8, atol=1e-8)
