"""A function of each saved row beside the state: its values, and its derivatives together with those of the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import code, decay

from jax_cubie import SaveAt, Solver, solve
from jax_cubie.solution import CODES

Y0 = {"a": np.array([1.0, 2.0]), "b": np.array([0.5])}
TS = np.array([0.0, 0.3, 0.7, 1.0])


def field(t, y, rate):
    return {"a": -rate * y["a"], "b": y["a"][:1] - y["b"] * t}


def observe(t, y, rate):
    return {"wave": jnp.sin(t) * y["a"] * rate, "large": y["b"] > 0.6, "count": jnp.int32(3)}


def run(y0=Y0, rate=2.0, ts=TS, t0=0.0, fn=None, observables=observe, **settings):
    saveat = SaveAt(t0=True, ts=ts, t1=True, fn=fn)
    return solve(field, t0, 1.2, y0, rate, saveat=saveat, observables=observables, **settings)


def both(fn):
    """What `SaveAt.fn` would have to be, for the same of one function."""
    return lambda t, y, rate: (y if fn is None else fn(t, y, rate), observe(t, y, rate))


FUNCTIONS = pytest.mark.parametrize("fn", [None, lambda t, y, rate: (y["a"] * rate, t)], ids=("state", "fn"))


@FUNCTIONS
def test_rows_are_those_of_one_function(fn, platform):
    y0 = jax.tree.map(np.float32, Y0)
    found, expected = run(y0, fn=fn), run(y0, fn=both(fn), observables=None)
    assert expected.observables is None
    for one, other in zip(jax.tree.leaves((found.ys, found.observables)), jax.tree.leaves(expected.ys), strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)
    assert found.observables["large"].dtype == bool and "observables['wave']" in repr(found)


def test_rows_of_steps_and_of_lanes_that_fail():
    """Rows that were not needed, and those that were not reached, are as in `ys`."""

    def one(limit):
        saveat = SaveAt(ts=TS, steps=2, t1=True)
        return solve(field, 0.0, 1.2, jax.tree.map(np.float32, Y0), 2.0, saveat=saveat, observables=observe, max_steps=limit)

    found = one(30)
    last = int(np.isfinite(found.ts).sum())
    np.testing.assert_allclose(found.observables["wave"][:last], (np.sin(found.ts)[:, None] * found.ys["a"] * 2)[:last], 1e-6)
    assert np.isinf(found.observables["wave"][last:]).all() and found.observables["count"][last:].min() == 2**31 - 1
    many = jax.vmap(lambda limit: run(jax.tree.map(np.float32, Y0), max_steps=limit))(np.array([100, 1]))
    assert code(many).tolist() == [CODES["successful"], CODES["max_steps_reached"]]
    assert np.isfinite(many.observables["wave"][0]).all() and np.isnan(many.observables["wave"][1, -1]).all()
    assert many.observables["count"][1, -1] == -(2**31)


@pytest.mark.usefixtures("x64")
@FUNCTIONS
def test_derivatives_are_those_of_one_function(fn):
    """By all that moves rows, times among them; and where only one of the two is differentiated."""

    def apart(y0, rate, ts, t0):
        found = run(y0, rate, ts, t0, fn=fn)
        return found.ys, found.observables["wave"]

    def together(y0, rate, ts, t0):
        ys, observables = run(y0, rate, ts, t0, fn=both(fn), observables=None).ys
        return ys, observables["wave"]

    inputs = (jax.tree.map(jnp.asarray, Y0), 2.0, jnp.asarray(TS), 0.0)
    modes = ((jax.jacfwd, together), (jax.jacfwd, apart), (jax.jacrev, apart))
    expected, *found = (jax.tree.leaves(jax.jit(mode(one, argnums=(0, 1, 2, 3)))(*inputs)) for mode, one in modes)
    for derivatives in found:
        for one, other in zip(derivatives, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)
    if fn is None:

        def squares(rate, one):
            return sum((leaf**2).sum() for leaf in jax.tree.leaves(one(inputs[0], rate, TS, 0.0)[1]))

        expected = jax.jit(jax.jacfwd(jax.jacfwd(squares)), static_argnums=1)(2.0, together)
        np.testing.assert_allclose(jax.jit(jax.hessian(squares), static_argnums=1)(2.0, apart), expected, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("method", "saveat"),
    [
        ("tsit5", SaveAt(t1=True)),
        ("tsit5", SaveAt(steps=2)),
        ("dopri5", SaveAt(t1=True, fn=lambda t, y, rate: jnp.sin(3 * y["a"] * rate))),
        ("heun", SaveAt(steps=2)),
    ],
)
def test_derivatives_of_ends_alone(method, saveat):
    """Where nothing inside of steps is asked for, the end of a step that is gone back over has to be found all the same."""

    loose = {"rtol": 1e-3, "atol": 1e-3}

    def ends(rate):
        observables = None if saveat.fn is not None else lambda t, y, rate: jnp.sin(3 * y["a"] * rate)
        found = solve(field, 0.0, 1.2, Y0, rate, saveat=saveat, observables=observables, method=method, max_steps=90, **loose)
        rows = found.ys if observables is None else found.observables
        return jnp.where(jnp.isfinite(rows), rows, 0.0)

    np.testing.assert_allclose(*(jax.jit(mode(ends))(2.0) for mode in (jax.jacfwd, jax.jacrev)), rtol=1e-9, atol=1e-12)


def test_second_derivatives_of_as_many_numbers_as_a_state_and_its_tangents(x64):
    """y = exp(-rate t), at t = 1: rows of y, rate y and y^2, rate y^2 of a state of two."""

    def total(rate):
        def numbers(t, y, rate):
            return jnp.stack([y, rate * y, y**2, rate * y**2])

        saveat = SaveAt(ts=jnp.ones(1), fn=lambda t, y, rate: numbers(t, y[0], rate))
        return solve(decay, 0.0, 2.0, jnp.ones(2), rate, saveat=saveat, rtol=1e-9, atol=1e-9).ys.sum()

    expected = np.exp(-0.5) * (1 + 0.5 - 2) + np.exp(-1) * (4 + 2 - 4)
    np.testing.assert_allclose(jax.jit(jax.hessian(total))(0.5), expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_what_has_no_cotangent_is_not_transposed():
    """The square root has no derivative at 0, which nobody asks for."""

    def end(rate):
        observables = lambda t, y, rate: jnp.sqrt(y["a"] * 0)  # noqa: E731
        return run(rate=rate, observables=observables).ys["a"][-1, 0]

    np.testing.assert_allclose(jax.grad(end)(2.0), -1.2 * np.exp(-2.4), rtol=1e-3)


def test_wrong_functions():
    with pytest.raises(TypeError, match=r"observables is 3 of type int: expected a function observables\(t, y, args\)"):
        run(observables=3)
    with pytest.raises(ValueError, match="observables returns no arrays"):
        run(observables=lambda t, y, rate: ())
    with pytest.raises(TypeError, match="what observables returns has a leaf of type str"):
        run(observables=lambda t, y, rate: "y")
    with pytest.raises(NotImplementedError, match="`observables` cannot be translated.*: complex64 has no place in a kernel"):
        run(observables=lambda t, y, rate: rate * 1j)
    with pytest.raises(TypeError, match=r"is called as observables\(t, y, args\)"):
        run(observables=lambda t, y: y)
    inspected = Solver().inspect(field, 0.0, 1.2, jax.tree.map(np.float32, Y0), 2.0, observables=observe, target="cuda:90")
    assert inspected.registers > 0
