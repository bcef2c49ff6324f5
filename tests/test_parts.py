"""What a trajectory meets, together: drivers, doses, observables and summaries of one solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cubie import Doses, Driver, Event, SaveAt, Summary, solve

TS = np.linspace(0.0, 10.0, 11)
DOSES = np.array([2.0, 4.5])


def field(t, y, k, u):
    """Elimination; and what gathers of it and of an input, that is the time."""
    return {"c": -k * y["c"], "a": y["c"] + u["w"]}


def observed(t, y, k, u):
    return {"rate": k * y["c"] + u["w"]}


def level(t, y, k, u):
    return y["c"]


SUMMARIES = {
    "peak": Summary.max(),
    "when": Summary.time_of_max(of=level),
    "late": Summary.max(of=lambda t, y, k, u: y["c"] + 0 * u["w"], start=3.0),
    "input": Summary.integral(of=lambda t, y, k, u: u["w"]),
    "largest": Summary(lambda t, y, k, u: u["w"], lambda so_far, t, y, k, u: jnp.maximum(so_far, u["w"])),
    "falls": Summary.crossings(level=0.6, direction=-1, of=level),
}


def run(k, amounts, times, **given):
    y0 = {"c": jnp.asarray([1.0]), "a": jnp.zeros(1)}
    doses = Doses(ts=times, amounts=amounts, into=lambda y: y["c"][0])
    saveat = SaveAt(t0=True, ts=TS, t1=True)
    drivers = {"w": Driver(TS, TS)}
    together = dict(drivers=drivers, doses=doses, observables=observed, saveat=saveat)
    return solve(field, 0.0, 10.0, y0, k, **together, **given)


def exact(t, k, amounts):
    return np.exp(-k * t) + sum(a * np.exp(-k * (t - when)) * (t >= when) for a, when in zip(amounts, DOSES, strict=True))


@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
def test_summaries_and_observables_between_doses(method, platform, x64):
    k, amounts = 0.7, np.array([1.0, 2.0])
    found = run(k, jnp.asarray(amounts), jnp.asarray(DOSES), method=method, summaries=SUMMARIES, rtol=1e-9, atol=1e-10)
    # At the time of a dose saved rows see what is behind it, or before; t0 and t1 are no such times.
    free = ~np.isin(found.ts, DOSES)
    np.testing.assert_allclose(found.ys["c"][free, 0], exact(np.asarray(found.ts), k, amounts)[free], 1e-7)
    np.testing.assert_allclose(found.observables["rate"], k * found.ys["c"] + found.ts[:, None], 1e-12)
    # The largest is behind a dose, where no step ends before it.
    highest = exact(DOSES[1], k, amounts)
    for name in ("late", "peak"):
        top = found.summaries[name]["c"] if name == "peak" else found.summaries[name]
        np.testing.assert_allclose(top, [highest], 1e-7)
    np.testing.assert_array_equal(found.summaries["when"], [DOSES[1]])
    np.testing.assert_allclose(found.summaries["input"], 50.0, 1e-9)
    assert found.summaries["largest"] == pytest.approx(10.0, rel=1e-14)
    assert found.summaries["falls"] == 3  # a dose is no crossing, what follows it is


def test_derivatives_together(platform, x64):
    weights = np.linspace(1.0, 2.0, len(TS) + 2)[:, None]

    def objective(given):
        found = run(*given, dt0=0.05, method="rk4", controller="fixed")
        return jnp.sum(weights * found.observables["rate"]) + jnp.sum(found.ys["a"])

    # Not on a time that is saved: there the state jumps.
    given = (jnp.asarray(0.7), jnp.asarray([1.0, 2.0]), jnp.asarray([2.1, 4.5]))
    along = (jnp.asarray(1.0), jnp.asarray([0.3, -1.0]), jnp.asarray([0.5, -0.7]))

    solved = jax.jit(jax.value_and_grad(objective))

    def moved(h):
        return solved(jax.tree.map(lambda x, v: x + h * v, given, along))[0]

    value = jax.jit(lambda *at: jax.jvp(objective, at[:1], at[1:])[1])(given, along)
    np.testing.assert_allclose(value, (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-6)
    gradient = solved(given)[1]
    back = sum(jnp.vdot(g, v) for g, v in zip(gradient, along, strict=True))
    np.testing.assert_allclose(back, value, 1e-9)


def summarised(given, names, t0=0.0, **more):
    """Numbers of a trajectory under a driver, between a dose and what is taken away again."""
    k, amount, begin, values = given

    def driven(t, y, k, u):
        return jnp.stack([u - k * y[0], y[0]])

    def sensed(t, y, k, u):
        return y[0] + 0.1 * u

    asks = {
        "mean": Summary.mean(),
        "top": Summary.max(of=sensed),
        "own": Summary.max(),
        "when": Summary.time_of_max(of=sensed),
        "least": Summary.min(start=0.5 + t0),
        "peaks": Summary.peaks(1),
        "last": Summary.last_crossing(0.6, of=lambda t, y, k, u: y[0] * u),
    }
    doses = Doses(ts=t0 + jnp.stack([begin, begin + 2]), amounts=jnp.stack([amount, -0.5 * amount]), into=lambda y: y[0])
    inputs = {"drivers": Driver(t0 + np.linspace(0, 6, 7), values), "doses": doses, "dt0": 0.1, "method": "rk4", **more}
    summaries = {name: asks[name] for name in names}
    found = solve(driven, t0, t0 + 6.0, jnp.asarray([0.1, 0.0]), k, summaries=summaries, **inputs).summaries
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(found) if leaf.dtype.kind == "f"]
    return jnp.nan_to_num(jnp.concatenate(leaves))


# No stage is where the driver bends.
INPUTS = (jnp.asarray(0.7), jnp.asarray(2.0), jnp.asarray(1.137), jnp.linspace(0.5, 1.0, 7) ** 2)
ALONG = (jnp.asarray(1.0), jnp.asarray(0.3), jnp.asarray(0.5), jnp.linspace(1.0, -0.5, 7))


# Behind the first the state is largest; the other ends the lane.
EVENTS = (
    Event(lambda t, y, k, u: y[1] - 2.0 - 0.1 * u, affect=lambda t, y, k, u: y + jnp.stack([3.0 * k + 0.1 * t, u])),
    Event(lambda t, y, k, u: t - 5.2 * k / 0.7),
)


@pytest.mark.parametrize("events", [(), EVENTS], ids=("alone", "events"))
def test_derivatives_of_summaries_together(events, x64):
    """By an argument, by amounts and times of doses, and by values of a driver; of an extremum that is behind a dose, or in
    front of one, too, or behind an event."""
    given, along = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (INPUTS, ALONG))
    names = ("mean", "top", "own", "when", "least", "peaks", "last")

    numbers = lambda given: summarised(given, names, events=events)  # noqa: E731
    weights = jnp.arange(1.0, 1.0 + jax.eval_shape(numbers, given).size)

    def weighed(given):
        found = numbers(given)
        return weights @ found, found

    solved = jax.jit(jax.grad(weighed, has_aux=True))

    def moved(h):
        return solved(jax.tree.map(lambda x, v: x + h * v, given, along))[1]

    forwards = jax.jit(lambda *at: jax.jvp(numbers, at[:1], at[1:])[1])(given, along)
    np.testing.assert_allclose(forwards, (moved(1e-5) - moved(-1e-5)) / 2e-5, 2e-6, 2e-6)
    gradient, _ = solved(given)
    back = sum(jnp.vdot(g, v) for g, v in zip(gradient, along, strict=True))
    np.testing.assert_allclose(back, weights @ forwards, 1e-9)


def test_an_extremum_at_a_jump_of_f(x64):
    """It moves with the jump: y rises up to it, and falls behind it."""

    def top(jump, rate):
        field = lambda t, y, args: jnp.where(t < args[0], args[1], -2.0) + 0 * y  # noqa: E731
        summaries = {"top": Summary.max(), "when": Summary.time_of_max(), "mean": Summary.mean()}
        given = {"jump_ts": jnp.stack([jump]), "dt0": 0.3, "method": "rk4"}
        found = solve(field, 0.0, 5.0, jnp.zeros(1), (jax.lax.stop_gradient(jump), rate), summaries=summaries, **given)
        return jnp.stack([found.summaries[name][0] for name in summaries])

    # The integral is rate jump^2 / 2 + rate jump (5 - jump) - (5 - jump)^2.
    for mode in (jax.jacfwd, jax.jacrev):
        by_jump, by_rate = jax.jit(mode(top, argnums=(0, 1)))(jnp.asarray(2.2), jnp.asarray(3.0))
        np.testing.assert_allclose(by_jump, [3.0, 1.0, ((3.0 + 2.0) * 2.8) / 5], 1e-12)
        np.testing.assert_allclose(by_rate, [2.2, 0.0, (2.2**2 / 2 + 2.2 * 2.8) / 5], 1e-12, 1e-12)


@pytest.mark.parametrize("driven", [False, True])
@pytest.mark.parametrize(("t0", "jump"), [(0.0, 3.3), (1000.0, 1003.3), (-100.0, 0.1)])
def test_a_leg_is_given_no_time_behind_its_jump(t0, jump, driven, platform):
    """Also where the time since t0 is known less well than the time, and where functions count from t0 themselves."""

    def switched(t, y, args, u=0.0):
        return jnp.where(t < args, 1.0, -2.0) + 0 * (u + y)

    inputs = {"drivers": Driver(np.array([t0, t0 + 200.0]), np.ones(2))} if driven else {}
    given = {"dt0": 0.5, "method": "rk4", "controller": "fixed", "jump_ts": jnp.asarray([jump]), **inputs}
    found = solve(switched, t0, jump + 6.7, jnp.zeros(1, jnp.float32), jnp.float32(jump), **given)
    np.testing.assert_allclose(found.ys[0], [jump - t0 - 2 * 6.7], 1e-5)
