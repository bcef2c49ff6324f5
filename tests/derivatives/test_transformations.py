"""JAX's and equinox's transformations through derivatives of solves: values in closed form, and what is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import monitoring

from jax_cubie import solve

Y0 = np.array([1.0, 2.0], np.float32)
TIGHT = {"rtol": 1e-6, "atol": 1e-6}


def decay(t, y, rate):
    return -rate * y


def end(rate, y0=Y0, f=decay):
    """y0 exp(-rate)."""
    return solve(f, 0.0, 1.0, y0, rate, **TIGHT).ys[0]


def ruled(function, derivative):
    """The function, with what is said to be its derivative."""
    same = jax.custom_jvp(lambda x: function(x))
    same.defjvp(lambda primals, tangents: (same(*primals), derivative(*primals) * tangents[0]))
    return same


@pytest.fixture
def compiled():
    """What XLA compiles."""
    seen = []

    def listen(name, *_, **__):
        if name.endswith("backend_compile_duration"):
            seen.append(name)

    monitoring.register_event_duration_secs_listener(listen)
    yield seen
    monitoring.unregister_event_duration_listener(listen)


def by_rate(function):
    """A loss by the rate: exp(-function(rate)) times the sum of y0."""
    return lambda rate: jnp.sum(end(rate, f=lambda t, y, rate: -function(rate) * y))


def test_rules_of_functions_that_are_otherwise_the_same():
    """Each has the derivative that it says, and not that of an equal program."""
    functions = {factor: ruled(lambda x: 1.0 * x, lambda x, factor=factor: factor * jnp.ones_like(x)) for factor in (1.0, 3.0)}
    functions[0.0] = lambda x: jax.lax.stop_gradient(1.0 * x)
    expected = 3 * np.exp(-0.5)
    both = jax.jit(lambda rate: [jax.grad(by_rate(function))(rate) for function in functions.values()])(0.5)
    for (factor, function), together in zip(functions.items(), both, strict=True):
        value, alone = jax.value_and_grad(by_rate(function))(0.5)
        forwards = jax.jvp(by_rate(function), (0.5,), (1.0,))[1]
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose([together, alone, forwards], -factor * expected, rtol=1e-5, atol=1e-6)


def test_rules_that_differ_in_what_they_call():
    """Their second derivatives are not the same, nor those by what a rule closes over."""
    table = np.arange(3.0, dtype=np.float32)
    for second in (0.0, 2.0):
        first = ruled(jnp.ones_like, lambda x, second=second: second * jnp.ones_like(x))
        function = ruled(lambda x: 1.0 * x, first)
        curvature = jax.grad(jax.grad(by_rate(function)))(0.5)
        np.testing.assert_allclose(curvature, (1 - second) * 3 * np.exp(-0.5), rtol=1e-4)

    def problem(scale):
        function = ruled(jnp.sin, lambda x: jnp.asarray(scale * table)[jnp.int32(x)])
        jaxpr = jax.make_jaxpr(lambda rate: jax.jvp(by_rate(function), (rate,), (rate,)))(0.5).jaxpr
        return next(eqn.params["problem"] for eqn in jaxpr.eqns if eqn.primitive.name == "jax_cubie_solve")

    assert problem(1) == problem(1) != problem(2)


def test_eager_derivatives_of_fresh_functions_are_compiled_once(builds, compiled):
    """With and without a rule in them."""

    def step():
        for function in (jnp.sin, jax.nn.relu):
            jax.grad(by_rate(lambda rate: function(rate)))(0.5)  # noqa: B023
            jax.jvp(by_rate(lambda rate: function(rate)), (0.5,), (1.0,))  # noqa: B023

    step()
    assert builds.new() > 0 and compiled
    compiled.clear()
    step()
    assert builds.new() == 0 and not compiled
