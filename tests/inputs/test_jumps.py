"""Times at which the vector field jumps: steps end on them, derivatives move with them."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from solve_helpers import all_are, code, lorenz

from jax_cubie import Doses, SaveAt, Solver, solve
from jax_cubie.solution import CODES

# Of each family; steps of one size too.
KINDS = {"tsit5": {}, "rodas5p": {}, "kvaerno5": {}, "radau_iia_5": {}, "auto": {}, "rk4": {"dt0": 0.03}}


def switched(t, y, times):
    """-y, and from the second of the times on 2 y - 1: f jumps at the first two, and is as before behind the first."""
    return jnp.where((t >= times[0]) & (t < times[1]), 2.0 * y - 1.0, -y)


def exact(y0, times, t1):
    before = np.exp(-times[0]) * y0
    inside = 0.5 + (before - 0.5) * np.exp(2 * (times[1] - times[0]))
    return inside * np.exp(times[1] - t1)


@pytest.mark.parametrize(("method", "dtype"), [("tsit5", "float32"), *((method, "float64") for method in KINDS)])
def test_steps_end_on_jumps(method, dtype, platform):
    with jax.enable_x64(dtype == "float64"):
        times, y0 = jnp.asarray([0.3, 0.7], dtype), jnp.asarray([1.0, 2.0], dtype)
        tolerances = {} if "dt0" in KINDS[method] else {"rtol": 1e-7, "atol": 1e-7}
        solver = Solver(method, max_steps=400, **tolerances)
        given = {"saveat": SaveAt(steps=True), **KINDS[method]}
        found = solver.solve(switched, 0.0, 1.0, y0, times, jump_ts=times, **given)
        assert all_are(found, "successful")
        taken = np.asarray(found.ts)[np.isfinite(found.ts)]
        assert set(np.asarray(times)) <= set(taken) and taken[-1] == 1
        error = np.abs(np.asarray(found.ys)[len(taken) - 1] - exact(np.asarray(y0), np.asarray(times), 1.0)).max()
        assert error < 2e-6
        # No step looks over a jump: none has to be rejected there.
        without = solver.solve(switched, 0.0, 1.0, y0, times, **given)
        if "dt0" not in KINDS[method]:
            assert int(found.stats["num_rejected_steps"]) < int(without.stats["num_rejected_steps"])


@pytest.mark.usefixtures("x64")
def test_far_from_zero_in_float32():
    """A day in, half of the times that f is given are rounded the wrong way."""
    t0, times = 86_400.0, 86_400.0 + np.array([0.3, 0.7])
    y0 = jnp.ones(1, jnp.float32)

    def f(t, y, _):
        return jnp.where(t >= 86_400.5, 2.0 * y - 1.0, -y)

    found = solve(f, t0, t0 + 1.0, y0, jump_ts=np.array([86_400.5]), rtol=1e-6, atol=1e-6)
    expected = 0.5 + (np.exp(-0.5) - 0.5) * np.exp(1.0)
    assert all_are(found, "successful") and float(found.ys[0, 0]) == pytest.approx(expected, rel=1e-5)
    assert int(found.stats["num_rejected_steps"]) <= 2
    # Times that are no jumps are met, too.
    both = solve(f, t0, t0 + 1.0, y0, jump_ts=np.array([86_400.5]), step_ts=times, saveat=SaveAt(steps=True), max_steps=99)
    assert {np.float32(86_400.3), np.float32(86_400.5), np.float32(86_400.7)} <= set(np.asarray(both.ts))


@pytest.mark.usefixtures("x64")
def test_the_method_goes_on_behind_the_end_of_a_step():
    """With what its controller remembers: to say so of a time on which a step ends anyway changes nothing."""
    y0, controller = jnp.array([1.0, 2.0, 15.0]), dict(pcoeff=0.4, icoeff=0.3, rtol=1e-6, atol=1e-6)

    def run(y0, saveat=SaveAt(t1=True), **times):  # noqa: B008
        return solve(lorenz, 0.0, 0.7, y0, 28.0, saveat=saveat, max_steps=90, **controller, **times)

    every = SaveAt(steps=True)
    plain = run(y0, every)
    lanes = jax.vmap(lambda time: run(y0, every, step_ts=time[None]))(plain.ts[2:12])
    np.testing.assert_allclose(lanes.ts, np.tile(plain.ts, (10, 1)), rtol=1e-8)
    np.testing.assert_allclose(lanes.ys, np.tile(plain.ys, (10, 1, 1)), rtol=1e-8)
    again = run(y0, every, jump_ts=plain.ts[5:6])
    assert np.array_equal(again.ts[:6], plain.ts[:6]) and not np.allclose(again.ts[:9], plain.ts[:9], rtol=1e-4)
    # Through several, of which some cut steps.
    point, way = (y0, jnp.linspace(0.1, 0.6, 5)), (jnp.array([0.3, -1.0, 0.5]), jnp.linspace(1.0, -1.0, 5))
    total = lambda given: run(given[0], step_ts=given[1]).ys.sum()  # noqa: E731
    _, forwards = jax.jit(lambda given: jax.jvp(total, (given,), (way,)))(point)
    backwards = jax.jit(jax.grad(total))(point)
    np.testing.assert_allclose(sum(map(jnp.vdot, backwards, way)), forwards, rtol=1e-10)
    assert np.all(backwards[1] != 0)


@pytest.mark.usefixtures("x64")
def test_ends_of_steps_beside_doses():
    """Also at the time of one, where the method starts again; times of lanes and traced ones alike."""

    def lane(step_ts, amount):
        doses = Doses(ts=0.5, amounts=amount, into=lambda y: y[0])
        given = dict(doses=doses, step_ts=step_ts, saveat=SaveAt(steps=True), max_steps=90, rtol=1e-9, atol=1e-9)
        return solve(lambda t, y, _: -y, 0.0, 1.0, jnp.ones(1), **given)

    step_ts, amounts = jnp.array([[0.3, 0.5, 0.8], [0.2, jnp.inf, jnp.inf]]), jnp.array([1.0, 2.0])
    many = jax.jit(jax.vmap(lane))(step_ts, amounts)
    for number, times in enumerate(([0.3, 0.5, 0.8, 1.0], [0.2, 0.5, 1.0])):
        taken = np.isfinite(many.ts[number])
        assert set(times) <= set(np.asarray(many.ts[number]).tolist())
        np.testing.assert_allclose(many.ys[number, taken][-1, 0], np.exp(-1) + amounts[number] * np.exp(-0.5), 1e-8)
    known = lane(np.array([0.3, 0.5, 0.8]), 1.0)
    np.testing.assert_allclose(known.ts, many.ts[0], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_behind_a_step_that_was_cut_steps_are_as_long_as_before():
    """diffrax makes the next one of what was left of it, and takes as many steps, or more."""
    step_ts, y0 = jnp.linspace(0, 5, 100)[1:-1], jnp.array([1.0, 0.0])
    controller = dict(pcoeff=0.2, icoeff=0.5, rtol=1e-8, atol=1e-8)
    ours = solve(lambda t, y, _: jnp.stack([y[1], -9 * y[0]]), 0.0, 5.0, y0, step_ts=step_ts, dt0=0.01, **controller)
    theirs = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, _: jnp.stack([y[1], -9 * y[0]])), diffrax.Tsit5(), 0.0, 5.0, 0.01, y0, max_steps=2000,
        stepsize_controller=diffrax.ClipStepSizeController(diffrax.PIDController(**controller), step_ts=step_ts),
    )  # fmt: skip
    assert len(step_ts) < int(ours.stats["num_accepted_steps"]) <= int(theirs.stats["num_accepted_steps"])
    np.testing.assert_allclose(ours.ys, theirs.ys, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_backwards_in_time():
    times = jnp.array([0.7, 0.3])
    end = solve(switched, 0.0, 1.0, jnp.ones(2), times[::-1], jump_ts=times[::-1], rtol=1e-9, atol=1e-9).ys[0]
    found = solve(lambda t, y, a: switched(t, y, a), 1.0, 0.0, end, times[::-1], jump_ts=times, rtol=1e-9, atol=1e-9)
    assert all_are(found, "successful") and np.allclose(found.ys[0], 1.0, rtol=1e-6)
    assert int(found.stats["num_rejected_steps"]) <= 2
    # What is infinite is never reached in this direction, too.
    for none in (jnp.inf, -jnp.inf):
        padded = jnp.append(times, none)
        again = solve(lambda t, y, a: switched(t, y, a), 1.0, 0.0, end, times[::-1], jump_ts=padded, rtol=1e-9, atol=1e-9)
        assert all_are(again, "successful") and np.array_equal(again.ys, found.ys)


def test_lanes_have_their_own():
    """In any number: what is infinite is never reached; a lane whose times are wrong disturbs no other."""
    fine, astray = [[0.3, 0.7], [0.2, jnp.inf], [jnp.inf, jnp.inf], [0.0, 0.0]], [[0.7, 0.3], [jnp.nan, 0.5], [-0.1, 0.5]]
    times = jnp.array([*fine, *astray, [jnp.inf, 0.5], [-jnp.inf, 0.5]])

    def lane(times, saved):
        return solve(lambda t, y, _: -y, 0.0, 1.0, jnp.ones(1), jump_ts=times, saveat=saved, max_steps=50)

    found = jax.jit(jax.vmap(lane, (0, None)), static_argnums=1)(times, SaveAt(steps=True))
    assert code(found).tolist() == [0] * len(fine) + [CODES["invalid_input"]] * 5
    steps = [set(np.asarray(row)[np.isfinite(row)].tolist()) for row in found.ts]
    assert {np.float32(0.3), np.float32(0.7)} <= steps[0] and np.float32(0.2) in steps[1]
    assert steps[2] == steps[3] and not steps[2] & {np.float32(0.3), np.float32(0.7)}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["tsit5", "kvaerno3", "rk4"])
def test_derivatives(method):
    """By the times of jumps and of the ends of steps, with all that they meet: against differences, both modes, twice."""
    settings = {"dt0": 0.031} if method == "rk4" else {"rtol": 1e-10, "atol": 1e-10}
    point = {"t0": 0.0, "t1": 2.0, "y0": jnp.array([1.0, 2.0]), "rate": 1.3, "times": jnp.array([0.5, 0.9, 1.2])}
    both = method in ("tsit5", "rk4")
    if both:
        # Two are at one time, and part as they move: steps of one size then are others, which second derivatives see.
        point["ends"] = jnp.array([0.3, 0.9 if method == "tsit5" else 0.95, 1.44])
    flat, unravel = ravel_pytree(point)

    def f(t, y, args):
        rate, times = args
        return -rate * y * y + jnp.sin(3 * t) + jnp.where(t >= times[0], 1.0, 0.0) - jnp.where(t >= times[2], y, 0.0)

    @jax.jit
    def loss(flat):
        p = unravel(flat)
        saved = SaveAt(ts=jnp.array([0.2, 0.7, 1.6]), t1=True)
        args = (p["rate"], jax.lax.stop_gradient(p["times"]))
        given = {"jump_ts": p["times"], "step_ts": p.get("ends"), "saveat": saved, "method": method, **settings}
        found = solve(f, p["t0"], p["t1"], p["y0"], args, **given)
        return jnp.sum(jnp.sin(found.ys) * jnp.arange(1.0, 9.0).reshape(4, 2))

    # The step sizes between jumps are held fixed, and so the differences are as far off as the tolerances.
    check_grads(loss, (flat,), 1, eps=1e-5, rtol=1e-5, atol=1e-5)
    gradient = jax.jit(jax.grad(loss))
    if both:
        modes = ("fwd", "rev") if method == "tsit5" else ("fwd",)
        check_grads(gradient, (flat,), 1, modes=modes, eps=1e-5, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"jump_ts": 0.5}, r"jump_ts is 0.5: expected a one-dimensional array of times"),
        ({"step_ts": ["a"]}, r"step_ts is .*expected a one-dimensional array of times"),
        ({"jump_ts": [0.5, 0.2]}, r"jump_ts=.* is not in order: expected it non-decreasing, with infinite times behind all"),
        ({"jump_ts": [np.inf, 0.2]}, r"is not in order"),
        ({"jump_ts": [np.nan]}, r"has times that are no numbers"),
        ({"jump_ts": [-0.5]}, r"jump_ts begins with -0.5: expected times from t0=0.0 on"),
        ({"jump_ts": [0.5], "controller": "even", "dt0": 0.1}, r"controller='even' says itself where steps end"),
    ],
)
def test_wrong_times(given, said):
    with pytest.raises((ValueError, TypeError), match=said):
        solve(lambda t, y, _: -y, 0.0, 1.0, jnp.ones(1), **given)
