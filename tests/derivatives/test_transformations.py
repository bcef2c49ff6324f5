"""JAX's and equinox's transformations through derivatives of solves: values in closed form, and what is compiled."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import monitoring
from jax.ad_checkpoint import checkpoint_name
from solve_helpers import assert_same_bits, has_cuda, python

from jax_cubie import SaveAt, solve
from jax_cubie.kernel.custom_call import FFI_TARGETS

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


RATES, STATES = np.linspace(0.5, 1.5, 3, dtype=np.float32), np.stack([Y0, 2 * Y0])
BOTH = (0, 1)


def exact(rate, y0):
    return y0 * jnp.exp(-rate)


def outer(f):
    """Over rates and states, two levels."""
    return jax.vmap(jax.vmap(f, (0, None)), (None, 0))


def total(f):
    return lambda *p: jnp.sum(f(*p) ** 2)


def scanned(f, wrap=lambda body: body):
    return lambda rate, y0: jax.lax.scan(wrap(lambda y, r: (f(r * rate, jnp.sin(y)), y[0])), y0, RATES)


def repeated(f):
    """As often as the rate says, which a while_loop finds out; lanes differ."""

    def run(rate, y0):
        return jax.lax.while_loop(lambda at: at[0] < 2 * rate, lambda at: (at[0] + 1, f(rate, at[1])), (0, y0))[1]

    return run


def branched(f):
    return lambda rate, y0: jax.lax.cond(rate > 0.9, f, lambda rate, y: rate * y, rate, y0)


def linearized(f, by):
    """Many directions through one linearization, and back."""
    value, push = jax.linearize(lambda rate: f(rate, Y0), by)
    ways = jax.vmap(push)(np.stack([np.ones_like(by), np.arange(by.size, dtype=np.float32)]))
    return value, ways, jax.vmap(jax.linear_transpose(push, by))(ways)


NESTS = {
    "vmaps of jits of grads": lambda f: jax.jit(outer(jax.jit(jax.grad(total(f), BOTH))))(RATES, STATES),
    "a gradient of jitted vmaps": lambda f: jax.grad(total(jax.jit(outer(f))), BOTH)(RATES, STATES),
    "a shared rate": lambda f: jax.grad(total(jax.vmap(f, (None, 0))), BOTH)(RATES[0], STATES),
    "jvp of a jit of a vmap": lambda f: jax.jvp(jax.jit(jax.vmap(f, (0, None))), (RATES, Y0), (RATES, Y0)),
    "directions": lambda f: linearized(jax.jit(jax.vmap(f, (0, None))), RATES),
    "a scan": lambda f: jax.jit(jax.value_and_grad(lambda *p: jnp.sum(scanned(f)(*p)[1]), BOTH))(RATES[0], Y0),
    "a while_loop": lambda f: jax.jvp(jax.vmap(repeated(f), (0, None)), (RATES, Y0), (RATES, Y0)),
    "a cond": lambda f: jax.vmap(jax.grad(total(branched(f)), BOTH), (0, None))(RATES, Y0),
    "a cond that is one": lambda f: jax.jit(jax.jacrev(branched(f), BOTH))(RATES[1], Y0),
}


def close(found, expected, rtol=5e-5):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-5), found, expected)


@pytest.mark.parametrize("nest", NESTS)
def test_transformations(nest):
    close(NESTS[nest](end), NESTS[nest](exact))


def test_policies():
    """What a policy keeps is not computed again: all of a solve, its last state alone, or nothing."""
    policies = jax.checkpoint_policies
    named = policies.save_only_these_names("end")

    def gradient(f, policy):
        saved = scanned(lambda r, y: checkpoint_name(f(r, y), "end"), functools.partial(jax.checkpoint, policy=policy))
        return jax.grad(lambda *p: jnp.sum(saved(*p)[0] ** 2), BOTH)

    expected = gradient(exact, None)(RATES[0], Y0)
    solves = {policies.everything_saveable: 1, policies.nothing_saveable: 2, policies.dots_saveable: 2, named: 2}
    for policy, count in solves.items():
        assert str(jax.make_jaxpr(gradient(end, policy))(RATES[0], Y0)).count("jax_cubie_solve[") == count
        close(jax.jit(gradient(end, policy))(RATES[0], Y0), expected)


class Model(eqx.Module):
    """rate and name are the user's; f is how it is solved."""

    rate: jax.Array
    f: Callable = eqx.field(static=True)
    name: str = "decay"

    def __call__(self, y0):
        return jnp.sum(self.f(self.rate, y0) ** 2)


def by_equinox(f):
    model, y0 = Model(jnp.float32(0.5), f), jnp.asarray(Y0)
    way = Model(jnp.float32(2.0), f, None)

    def call(m):
        return m(y0)

    yield eqx.filter_jit(eqx.filter_value_and_grad(call))(model)
    yield eqx.filter_grad(eqx.filter_jit(call))(model)
    yield eqx.filter_jvp(call, (model,), (way,))
    value, pull = eqx.filter_vjp(call, model)
    yield value, pull(2 * value)
    yield eqx.filter_jit(eqx.filter_grad(eqx.filter_checkpoint(call)))(model)
    yield eqx.filter_jit(eqx.filter_grad(eqx.filter_closure_convert(call, model)))(model)
    closed = eqx.filter_closure_convert(lambda y: model(y), y0)
    yield eqx.filter_grad(lambda y: closed(y))(y0)


def test_equinox():
    for found, expected in zip(by_equinox(end), by_equinox(exact), strict=True):
        close(jax.tree.leaves(found), jax.tree.leaves(expected))


def test_checks_and_nans_of_jax_s():
    """jax_enable_checks finds nothing; debug_nans finds a lane's failure in the derivative, and nothing before."""
    with jax.enable_checks(True), jax.debug_nans(True):
        for nest in ("vmaps of jits of grads", "directions", "a scan", "a while_loop"):
            close(NESTS[nest](end), NESTS[nest](exact))
        jax.jit(gradient_of_steps)(0.5)
        function = ruled(lambda x: 1.0 * x, jnp.ones_like)
        close(jax.grad(by_rate(function))(0.5), -3 * np.exp(-0.5))
        with pytest.raises(FloatingPointError, match="jax_cubie"):
            jax.grad(lambda y: jnp.sum(solve(lambda t, y, args: y**2, 0.0, 1.0, y).ys))(np.full(2, 3.0, np.float32))


def gradient_of_steps(rate):
    """Of the rows that are written, which are not all."""

    def loss(rate):
        solution = solve(decay, 0.0, 1.0, Y0, rate, saveat=SaveAt(steps=True), max_steps=40, **TIGHT)
        return jnp.sum(jnp.where(jnp.isfinite(solution.ys), solution.ys, 0.0))

    return jax.grad(loss)(rate)


EXPORTED = """
import sys
import jax, jax.export
import numpy as np
import jax_cubie
for name in ("known", "symbolic"):
    with open(f"{sys.argv[1]}/{name}", "rb") as file:
        again = jax.export.deserialize(bytearray(file.read()))
    assert again.platforms == ("cpu", "cuda")
    arrays = np.load(f"{sys.argv[1]}/in.npz").values()
    np.savez(f"{sys.argv[1]}/{name}.npz", *again.call(*arrays))
print("numba" in sys.modules)
"""


def test_export_of_a_gradient(tmp_path, monkeypatch):
    """For two platforms at once, of a batch whose size is known or not; another process runs it, without Numba."""
    pytest.importorskip("flatbuffers")
    if not has_cuda():
        monkeypatch.setenv("JAX_CUBIE_CUDA_TARGET", "cuda:90")
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in FFI_TARGETS.values()]
    run = jax.jit(lambda rate, y0: jax.grad(total(jax.vmap(end, (None, 0))), BOTH)(rate, y0))
    arrays = RATES[0], np.tile(STATES, (20, 1))
    shapes = {"known": arrays[1].shape, "symbolic": jax.export.symbolic_shape("lanes, 2")}
    for name, shape in shapes.items():
        states = jax.ShapeDtypeStruct(shape, np.float32)
        exported = jax.export.export(run, platforms=["cpu", "cuda"], disabled_checks=checks)(RATES[0], states)
        (tmp_path / name).write_bytes(exported.serialize())
    np.savez(tmp_path / "in.npz", *arrays)
    assert python(EXPORTED, str(tmp_path), JAX_CUBIE_CACHE="").strip() == "False"
    with jax.default_device(jax.devices("cpu")[0]):
        expected = run(*arrays)
    close(expected, jax.grad(total(jax.vmap(exact, (None, 0))), BOTH)(*arrays))
    assert_same_bits(list(np.load(tmp_path / "known.npz").values()), expected)
    close(tuple(np.load(tmp_path / "symbolic.npz").values()), expected, 1e-6)
