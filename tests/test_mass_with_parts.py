"""Events, doses and summaries of problems with mass matrices, singular ones among them: against solutions in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from solve_helpers import all_are

from jax_cubie import Doses, Driver, Event, SaveAt, Summary, solve

pytestmark = pytest.mark.usefixtures("x64")

TIGHT = {"rtol": 1e-9, "atol": 1e-11}
NEWTON = {"newton_rtol": 1e-10, "newton_atol": 1e-12}
FULL = np.array([[2.0, 1.0], [0.5, 3.0]])
COUPLED = np.array([[1.0, -1.0], [-1.0, 1.0]])


def first(y):
    return y[0]


def test_a_ball_bounces_as_it_does_with_the_inverse_of_its_mass(platform):
    """Nine bounces, of which the times are known."""
    kept, gravity = 0.9, 9.81
    speeds = np.sqrt(2 * gravity) * kept ** np.arange(9)
    times = np.cumsum([speeds[0], *2 * speeds[1:]]) / gravity

    def fall(t, y, gravity):
        return jnp.asarray(FULL) @ jnp.stack([y[1], -gravity])

    bounce = Event(lambda t, y, a: y[0], direction=-1, affect=lambda t, y, a: jnp.stack([0.0, -kept * y[1]]), record=9)
    given = {"mass": FULL, "method": "rodas5p", "events": bounce}
    found = jax.jit(lambda: solve(fall, 0.0, 5.2, np.array([1.0, 0.0]), gravity, **given))().events
    assert int(found.count) == 9
    np.testing.assert_allclose(found.times, times, rtol=1e-13)
    np.testing.assert_allclose(found.ys[:, 1], -speeds, rtol=1e-12)


# u decays, driven by v, the root of an algebraic equation. A dose at t0; an event that v is in, which adds to u what v is; an
# infusion, and within it a dose.
POINT = {
    "rate": 1.0, "depth": 0.2, "level": 1.0, "more": 0.8, "start": 1.2, "doses": np.array([0.8, 0.3]),
    "when": np.array([0.0, 0.9]), "infused": 0.3, "begin": 0.8, "over": 0.2, "t1": 1.15, "mass": 2.5,
}  # fmt: skip
SAVED = np.array([0.2, 0.75, 0.95])


def equations(t, y, p):
    wave = p["depth"] * jnp.sin(3 * t)
    return jnp.stack([-p["mass"] * p["rate"] * (y[1] ** 2 - wave), y[1] ** 2 - y[0] - wave])


def level(t, y, p):
    return y[1] ** 2 - p["depth"] * jnp.sin(3 * t) - p["level"]


def numbers(p, **given):
    """The time of the event, the state then, at `SAVED` and at t1; and the summaries."""
    infusion = Doses(p["begin"], p["infused"], into=first, duration=p["over"])
    event = Event(level, direction=-1, affect=lambda t, y, p: y.at[0].add(p["more"] * y[1]), record=1)
    mass, pattern = jnp.stack([p["mass"], 0.0]), np.array([True, False])
    found = solve(
        equations, 0.0, p["t1"], jnp.stack([p["start"], 1.0]), p, mass=mass, mass_pattern=pattern, events=event,
        doses=(Doses(p["when"], p["doses"], into=first), infusion), checkpoints=2, max_steps=4000,
        saveat=SaveAt(ts=SAVED, t1=True), **TIGHT, **given,
    )  # fmt: skip
    return jnp.concatenate([found.events.times, found.events.ys[0], found.ys.reshape(-1)]), found.summaries


def closed_form(p):
    """The same, without the summaries."""
    rate, (first, second) = p["rate"], p["when"]

    def row(t, u):
        return jnp.stack([u, jnp.sqrt(u + p["depth"] * jnp.sin(3 * t))])

    begun = p["start"] + p["doses"][0] * jnp.exp(rate * first)
    time = jnp.log(begun / p["level"]) / rate
    hit = row(time, p["level"])

    def at(t):
        behind = (p["level"] + p["more"] * hit[1]) * jnp.exp(-rate * (t - time))
        since = jnp.clip(t - p["begin"], 0, p["over"])
        fed = p["infused"] / p["over"] / rate * (1 - jnp.exp(-rate * since)) * jnp.exp(-rate * (t - p["begin"] - since))
        dose = jnp.where(t > second, p["doses"][1] * jnp.exp(-rate * (t - second)), 0)
        return row(t, jnp.where(t < time, begun * jnp.exp(-rate * t), behind + jnp.where(since > 0, fed, 0) + dose))

    return jnp.concatenate([time[None], hit, *(at(t) for t in (*SAVED, p["t1"]))])


def test_algebraic_components_follow_what_changes(platform):
    """With summaries: of a slope, which is the steepest behind the dose at t0, and of an extremum inside of a step."""
    turn = Summary.peaks(2, lambda t, y, p: y[1] ** 2 - y[0])
    summaries = {"slope": Summary.min(lambda t, y, p: y[0], derivative=1), "turn": turn}
    found, summed = jax.jit(lambda: numbers(POINT, summaries=summaries, method="radau_iia_5", **NEWTON))()
    np.testing.assert_allclose(found, closed_form(POINT), rtol=1e-7)
    np.testing.assert_allclose(summed["slope"], -2.0, rtol=1e-8)
    assert int(summed["turn"].number) == 1
    np.testing.assert_allclose(summed["turn"].times[0], np.pi / 6, rtol=1e-5)
    np.testing.assert_allclose(summed["turn"].values[0], POINT["depth"], rtol=1e-6)


def test_derivatives_behind_jumps():
    """In both modes, by all there is: of the event's time, through what it changes, doses, an infusion, and the mass matrix,
    which is a factor of both sides."""
    flat, unravel = ravel_pytree(POINT)
    run = lambda flat: numbers(unravel(flat), method="rodas5p")[0]  # noqa: E731
    expected = jax.jit(jax.jacfwd(lambda flat: closed_form(unravel(flat))))(flat)
    weights, along = jnp.cos(jnp.arange(len(expected))), jnp.sin(1 + jnp.arange(len(flat)))
    values, forwards = jax.jit(lambda flat: jax.jvp(run, (flat,), (along,)))(flat)
    reverse = jax.jit(jax.grad(lambda flat: weights @ run(flat)))(flat)
    np.testing.assert_allclose(values, closed_form(POINT), rtol=1e-7)
    np.testing.assert_allclose(forwards, expected @ along, rtol=1e-5)
    np.testing.assert_allclose(reverse, weights @ expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(reverse @ along, weights @ forwards, rtol=1e-10)


def test_derivatives_of_summaries():
    """An extremum inside of a step, and its time: y0 swings, y1 is its double."""

    def found(swing, mass):
        field = lambda t, y, args: jnp.stack([args[1] * args[0] * jnp.cos(args[0] * t), y[1] - 2 * y[0]])  # noqa: E731
        of = lambda t, y, args: y[1]  # noqa: E731
        summaries = {"most": Summary.max(of), "when": Summary.time_of_max(of)}
        given = {"mass": jnp.stack([mass, 0.0]), "mass_pattern": np.array([True, False]), "method": "rodas5p", **TIGHT}
        run = solve(field, 0.0, 2.0, jnp.zeros(2), (swing, mass), summaries=summaries, **given)
        return jnp.stack(list(run.summaries.values()))

    values, slopes = jax.jvp(lambda swing: found(swing, 2.0), (1.5,), (1.0,))
    np.testing.assert_allclose(values, [2.0, np.pi / 3], rtol=1e-7)
    np.testing.assert_allclose(slopes, [0, -np.pi / 4.5], rtol=1e-6, atol=1e-8)


def root(t, y, args):
    return jnp.stack([-args * y[1], y[1] ** 2 - y[0]])


def test_drivers_that_jump():
    """Into an algebraic equation; what can't be solved then ends a lane, and disturbs no other."""
    ts = np.array([0.2, 0.6, 0.9])

    def field(t, y, args, u):
        return jnp.stack([-0.5 * (y[1] ** 2 - u), y[1] ** 2 - y[0] - u])

    def run(scale):
        driver = Driver(np.array([0.0, 0.4, 0.8]), jnp.stack([0.0, scale, 0.5]), kind="previous")
        given = {"mass": [1, 0], "method": "kvaerno3", "drivers": driver, "saveat": SaveAt(ts=ts), **TIGHT, **NEWTON}
        return solve(field, 0.0, 1.0, np.array([2.0, 1.0]), **given)

    found, u = jax.vmap(run)(jnp.array([-9.0, 1.0])), 2 * np.exp(-0.5 * ts)
    assert all_are(jax.tree.map(lambda one: one[0], found), "inconsistent_initial_state")
    assert all_are(jax.tree.map(lambda one: one[1], found), "successful")
    expected = np.stack([u, np.sqrt(u + [0.0, 1.0, 0.5])], 1)
    np.testing.assert_allclose(found.ys[1], expected, rtol=1e-7)
    np.testing.assert_allclose(found.ys[0, 0], expected[0], rtol=1e-7)
    assert np.isnan(found.ys[0, 1:]).all()


def test_equations_that_do_not_separate():
    """y1 + y2 = sin t, in the sum of both: events and slopes are found, but nothing may jump."""

    def coupled(t, y, k):
        return jnp.stack([-k * y[0], k * y[0] + y[0] + y[1] - jnp.sin(t)])

    def forced(t):
        return (0.65 * np.cos(t) + np.sin(t)) / (2 + 0.5 * 1.3**2)

    def run(**given):
        return solve(coupled, 0.0, 1.5, np.array([0.7, -0.7]), 1.3, mass=COUPLED, method="rodas5p", **TIGHT, **given)

    reached = Event(lambda t, y, k: y[0] - 0.6, record=1, terminal=False)
    found = run(events=reached, summaries={"slope": Summary.max(lambda t, y, k: y[1], derivative=1)})
    time = float(found.events.times[0])
    np.testing.assert_allclose((0.7 - forced(0.0)) * np.exp(-0.65 * time) + forced(time), 0.6, rtol=1e-8)
    t, falling = np.linspace(0, 1.5, 100001), 0.65 * (0.7 - forced(0.0))
    slopes = np.cos(t) + falling * np.exp(-0.65 * t) - (np.cos(t) - 0.65 * np.sin(t)) / (2 + 0.5 * 1.3**2)
    np.testing.assert_allclose(found.summaries["slope"], slopes.max(), rtol=1e-7)
    changing = Event(lambda t, y, k: y[0] - 0.6, affect=lambda t, y, k: y)
    for jumps in ({"doses": Doses(0.5, 1.0, into=first)}, {"jump_ts": [0.5]}, {"events": changing}):
        with pytest.raises(NotImplementedError, match="mass matrix whose row . is 0, or a sum of others, without as many"):
            run(**jumps)


def test_doses_go_into_components_that_have_a_derivative():
    with pytest.raises(ValueError, match="names component 1 of y0, in whose column the mass matrix is 0"):
        doses = Doses(0.5, 1.0, into=lambda y: y[1])
        solve(root, 0.0, 1.0, np.array([2.0, 1.0]), 1.3, mass=[1, 0], method="rodas5p", doses=doses)


def test_a_slope_that_a_mass_does_not_give_ends_a_lane_with_its_code():
    """Of a mass that is traced nobody knows that it is singular."""
    event = Event(lambda t, y, a: y[1] - 1.0)
    run = jax.jit(lambda mass: solve(root, 0.0, 1.0, np.array([4.0, 2.0]), 1.3, mass=mass, method="rodas5p", events=event))
    assert all_are(run(jnp.array([1.0, 0.0])), "not_finite")
