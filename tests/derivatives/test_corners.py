"""Derivatives where something is left out: lanes that fail, lanes and outputs that nobody asks for; and constant steps."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import assert_same_bits

import jax_cubie.diffrax
from jax_cubie import Event, SaveAt, Summary, solve

pytestmark = pytest.mark.usefixtures("x64")
REVERSE = diffrax.RecursiveCheckpointAdjoint()


@jax.custom_jvp
def poisoned(x):
    return 1.0 * x


# No number where x is negative.
poisoned.defjvp(lambda primals, tangents: (1.0 * primals[0], jnp.where(primals[0] < 0, jnp.nan, 1.0) * tangents[0]))


def explodes(t, y, args):
    """From y0 above 1 / (rate * shared * t1) there is no solution up to t1."""
    rate, shared = args
    return rate * shared * poisoned(y) * y


def rows(t, y, args):
    return {"own": jnp.sin(y), "left out": poisoned(y - 9.0)}


KINDS = {
    "std": Summary.std(), "max": Summary.max(), "first": Summary.first_crossing(0.25),
    "fold": Summary(lambda t, y, *_: y, lambda s, t, y, *_: s + t * y**2, lambda s, *_: s),
}  # fmt: skip
# The second lane fails, the third has no derivative.
STATES, RATES = np.array([0.2, 3.0, -0.5, 0.24]), np.array([1.2, 1.1, 0.5, 0.9])


def asked_of(y0, rate, shared, t1):
    """Of one lane, which may be any: a number of each kind."""
    saveat = SaveAt(t1=True, ts=jnp.array([0.25, 0.5]) * t1, fn=rows, dense=True)
    limits = {"method": "bosh3", "dtmin": 1e-4, "force_dtmin": False, "max_steps": 200}
    solution = solve(explodes, 0.0, t1, y0, (rate, shared), saveat=saveat, summaries=KINDS, **limits)
    before = solution.evaluate(-0.1)  # there is none, and nothing to differentiate where that is left out
    evaluated = solution.evaluate(0.7) + jnp.where(jnp.isnan(before), 0.0, before)
    return jnp.stack([jnp.sum(solution.ys["own"]), evaluated, *(solution.summaries[name] for name in KINDS)])


@jax.jit
def gradients(asked, *arrays):
    """Of each kind, summed over the lanes that are asked, by all that they have, and by the number they share."""

    def sums(y0, rate, shared, t1):
        numbers = jax.vmap(asked_of, (0, 0, None, 0))(y0, rate, shared, t1)
        return jnp.sum(jnp.where(asked[:, None], numbers, 0.0), axis=0)

    return jax.jacrev(sums, (0, 1, 2, 3))(*arrays)


def test_lanes_that_nobody_asks_for():
    """They have 0, and others the bits that they have beside any lanes; asked for they have NaN, and so has what all share."""
    good, others = np.array([0, 3]), (RATES, np.float64(1.1), np.array([1.0, 1.1, 0.9, 1.2]))
    fine, every = np.array([True, False, False, True]), np.ones(4, bool)
    alone = gradients(fine, np.where(fine, STATES, 0.2), *others)
    assert np.isfinite(np.concatenate([one.reshape(-1) for one in alone])).all() and (alone[2] != 0).all()
    found = gradients(fine, STATES, *others)
    assert_same_bits(found, alone)
    assert all((found[k][:, 1:3] == 0).all() for k in (0, 1, 3))
    found = gradients(every, STATES, *others)
    assert_same_bits([found[k][:, good] for k in (0, 1, 3)], [alone[k][:, good] for k in (0, 1, 3)])
    assert all(np.isnan(found[k][:, 1]).all() for k in (0, 1, 3)) and np.isnan(found[2]).all()


@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
def test_a_tangent_that_is_no_number_leaves_the_values_as_they_are(method):
    def run(y0):
        found = solve(lambda t, y, args: poisoned(y) * jnp.array([1.0, -1.0]), 0.0, 1.0, y0, method=method)
        return found.ys[-1], found.result._value

    y0, along = np.array([-0.5, 2.0]), np.ones(2)
    found, tangents = jax.jit(lambda y: jax.jvp(run, (y,), (along,)))(y0)
    assert_same_bits(found, jax.jit(run)(y0))
    assert np.isnan(tangents[0][0]) and np.isfinite(tangents[0][1] if method == "tsit5" else 0.0)


def test_whatever_is_read_of_a_solution_waits_for_what_is_raised():
    """In either pass, under jit; it says which of the lanes failed, and how many."""

    def run(y0):
        limits = {"dtmin": 1e-4, "force_dtmin": False, "throw": True}
        event = Event(lambda t, y, args: y - 0.6, terminal=False, record=1)
        return solve(lambda t, y, args: y**2, 0.0, 1.0, y0, events=event, **limits)

    y0 = np.array([0.5, 2.0, 0.4, 3.0, 4.0, 0.2, 5.0, 6.0, 7.0, 0.3])
    reads = {
        "ts": lambda s: s.ts[-1], "stats": lambda s: s.stats["num_steps"], "result": lambda s: s.result._value,
        "times": lambda s: s.events.times[0], "count": lambda s: s.events.count,
    }  # fmt: skip
    runs = [jax.jit(jax.vmap(lambda y, read=read: read(run(y)))) for read in reads.values()]
    runs += [jax.jit(jax.grad(lambda y: jnp.sum(jax.vmap(lambda one: run(one).events.times[0])(y))))]
    for one in runs:
        with pytest.raises(Exception, match=r"6 of 10 lanes failed. 6 x dt_min_reached: .*\(lanes 1, 3, 4, 6, 7, \.\.\.\)"):
            jax.block_until_ready(one(y0))
    assert np.isfinite(runs[-1](y0[:1]))


def test_constant_steps_like_diffrax():
    """By both ends, save times, the size of steps, state and arguments; forwards and backwards in time; with any adjoint."""

    def field(t, y, rho):
        return 0.3 * jnp.stack([10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2] + jnp.sin(3 * t)])

    def loss(library, point, adjoint=REVERSE):
        solution = library.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Heun(), point["t0"], point["t1"], point["dt0"], point["y0"], point["rho"],
            saveat=diffrax.SaveAt(ts=point["ts"], steps=True, t1=True), max_steps=64, adjoint=adjoint,
        )  # fmt: skip
        return jnp.sum(jnp.sin(jnp.where(jnp.isfinite(solution.ys), solution.ys, 0.0)))

    point = {"t0": 0.03, "t1": 0.65, "dt0": 0.0123, "ts": [0.0567, 0.3, 0.31, 0.6], "y0": [1.0, 2.0, 3.0], "rho": 28.0}
    back = {**point, "t0": 0.65, "t1": 0.03, "dt0": -0.0123, "ts": point["ts"][::-1]}
    ours = jax.jit(jax.grad(functools.partial(loss, jax_cubie.diffrax)))
    theirs = jax.jit(jax.jacfwd(functools.partial(loss, diffrax, adjoint=diffrax.ForwardMode())))
    points = [{name: jnp.asarray(value) for name, value in one.items()} for one in (point, back)]
    for one in points:
        found, expected = ours(one), theirs(one)
        for name in one:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)
    way = points[1]
    along = sum(jnp.vdot(expected[name], way[name]) for name in expected)
    forwards = functools.partial(loss, jax_cubie.diffrax, adjoint=diffrax.ForwardMode())
    np.testing.assert_allclose(jax.jit(lambda p: jax.jvp(forwards, (p,), (p,))[1])(way), along, rtol=1e-9)
    direct = functools.partial(loss, jax_cubie.diffrax, adjoint=diffrax.DirectAdjoint())
    assert_same_bits(jax.jit(jax.grad(direct))(way), found)
