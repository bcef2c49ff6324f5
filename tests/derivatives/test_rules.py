"""The rules of the primitives, with kernels in plain JAX (`toy_kernels.py`), against JAX's own derivatives of those."""

import random

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives.toy_kernels import STEPS, toy  # noqa: F401 - a fixture
from jax import lax
from jax.dtypes import float0
from jax.sharding import PartitionSpec as P

from jax_cubie import SaveAt

# Compiling is most of the time here.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
COUNT = np.int32(2)


def field(t, y, args):
    matrix, push, count = args
    return jnp.tanh(matrix @ y) * count - push * y * jnp.sin(t + 1)


def observed(t, y, args):
    matrix, push, _ = args
    return y, jnp.sum(y**2 * push) + t * matrix[0, 1] * y[0], jnp.int32(3)


def outputs(solve, y, matrix, push, count=COUNT, t1=1.5, **settings):
    saveat = SaveAt(t1=True, fn=observed)
    return solve(field, 0.25, t1, y, (matrix, push, count), saveat, **settings)


def vector(solve):
    def function(y, matrix, push):
        state, number, *_ = outputs(solve, y, matrix, push)
        return state[0] * number[0]

    return function


def scalar(solve):
    def function(y, matrix, push):
        state, number, *_ = outputs(solve, y, matrix, push)
        return state[0] @ jnp.array([1.0, 2.0]) * number[0] + jnp.sin(number[0])

    return function


def rows(solve):
    """Times and states of steps: results that are filled before the launch, whose levels stand in front."""

    def function(y, matrix, push):
        return solve(field, 0.25, 1.5, y, (matrix, push, COUNT), SaveAt(steps=1), max_steps=STEPS)[:2]

    return function


def some(key, *shape):
    return np.random.default_rng(key).uniform(0.2, 1.0, shape)


ONE = some(0, 2), some(1, 2, 2), some(2, 2)
MANY = some(3, 3, 2), some(4, 2, 2), some(5, 3, 2)
IN_TURN = ONE[0], ONE[1], MANY[2]
ALL = (0, 1, 2)


def waves(arrays):
    return jax.tree.map(lambda one: jnp.cos(3 * jnp.asarray(one)), arrays)


def total(tree):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(tree))


def lanes(function, **axes):
    return jax.vmap(function, **{"in_axes": (0, None, 0), **axes})


def along(function):
    """Its derivative in one direction."""
    return lambda *arrays: jax.jvp(function, arrays, waves(arrays))[1]


def gradient(function, wrt=ALL):
    return jax.grad(lambda *arrays: total(function(*arrays)), wrt)


def close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def agree(toy, build, *arrays):  # noqa: F811
    expected = jax.jit(build(toy.reference), compiler_options=FAST)(*arrays)
    toy.launches.clear()
    close(jax.jit(build(toy.solve), compiler_options=FAST)(*arrays), expected)
    assert toy.launches
    return expected


CASES = {
    "jvp": (lambda s: lambda *a: jax.jvp(vector(s), a, waves(a)), ONE),
    "jvp by y0": (lambda s: lambda y, *a: jax.jvp(lambda y: vector(s)(y, *a), (y,), (y,)), ONE),
    "jacfwd": (lambda s: jax.jacfwd(vector(s), ALL), ONE),
    "grad": (lambda s: jax.value_and_grad(scalar(s), ALL), ONE),
    "jacrev": (lambda s: jax.jacrev(vector(s), ALL), ONE),
    "hessian, reverse in forward": (lambda s: jax.jacfwd(jax.jacrev(vector(s), (0, 2)), (0, 1)), ONE),
    "hessian, forward in forward": (lambda s: jax.jacfwd(jax.jacfwd(vector(s), (0, 2)), (0, 1)), ONE),
    "hessian, forward in reverse": (lambda s: jax.jacrev(jax.jacfwd(vector(s), (0, 2)), (0, 1)), ONE),
    "hessian, reverse in reverse": (lambda s: jax.jacrev(jax.jacrev(vector(s), (0, 2)), (0, 1)), ONE),
    "jvp of grad, by other operands": (
        lambda s: lambda y, m, p: jax.jvp(lambda y: jax.grad(scalar(s), 2)(y, m, p), (y,), (y,)), ONE
    ),
    "grad of jvp": (lambda s: gradient(along(vector(s))), ONE),
    "grad of grad": (lambda s: gradient(jax.grad(scalar(s), ALL)), ONE),
    "third: jvp of jacfwd of grad": (lambda s: along(jax.jacfwd(jax.grad(scalar(s)))), ONE),
    "third: grad of grad of grad": (lambda s: gradient(gradient(gradient(scalar(s), 2), 0), 1), ONE),
    "third: jacrev of jacfwd of grad": (lambda s: jax.jacrev(jax.jacfwd(jax.grad(scalar(s), 2))), ONE),
    "linearize, many directions": (
        lambda s: lambda y, m, p: jax.vmap(jax.linearize(lambda p: vector(s)(y, m, p), p)[1])(jnp.eye(2)), ONE
    ),
    "linear_transpose of linearize": (
        lambda s: lambda *a: jax.linear_transpose(jax.linearize(vector(s), *a)[1], *a)(jnp.ones(2)), ONE
    ),
    "linear_transpose of vjp": (
        lambda s: lambda *a: jax.linear_transpose(jax.vjp(vector(s), *a)[1], jnp.ones(2))(waves(a)), ONE
    ),
    "linear_transpose of jvp": (
        lambda s: lambda *a: jax.linear_transpose(jax.jit(lambda *d: jax.jvp(vector(s), a, d)[1]), *a)(jnp.ones(2)), ONE
    ),
    "lanes": (lambda s: lanes(vector(s)), MANY),
    "lanes at other axes": (
        lambda s: lambda y, m, p: gradient(lanes(vector(s), in_axes=(1, None, 0), out_axes=1))(y.T, m, p), MANY
    ),
    "jacfwd of lanes": (lambda s: jax.jacfwd(lanes(vector(s)), (0, 1)), MANY),
    "jacrev of lanes": (lambda s: jax.jacrev(lanes(vector(s)), (0, 1)), MANY),
    "jacfwd in lanes": (lambda s: lanes(jax.jacfwd(vector(s), (1, 2))), MANY),
    "jacrev in lanes": (lambda s: lanes(jax.jacrev(vector(s), (1, 2))), MANY),
    "hessian in lanes": (lambda s: lanes(jax.hessian(scalar(s), (0, 1))), MANY),
    "grad of lanes": (lambda s: gradient(lanes(scalar(s))), MANY),
    "hessian by what lanes share": (lambda s: lambda y, m, p: jax.hessian(lambda m: total(lanes(scalar(s))(y, m, p)))(m), MANY),
    "grad of grad by what lanes share": (lambda s: gradient(gradient(lanes(scalar(s)), 1)), MANY),
    "grad of lanes times lanes": (
        lambda s: gradient(jax.vmap(jax.vmap(scalar(s), (0, None, None)), (None, None, 0))), MANY
    ),
    "grad of grad of lanes times lanes": (
        lambda s: gradient(gradient(jax.vmap(jax.vmap(scalar(s), (0, None, None)), (None, None, 0)), 1)), MANY
    ),
    "cotangents and lanes": (
        lambda s: lambda y, m, p: jax.vmap(
            lambda c: jax.vmap(lambda y: jax.vjp(lambda m: vector(s)(y, m, p[0]), m)[1](c)[0])(y)
        )(jnp.eye(2)),
        MANY,
    ),
    "steps are saved": (lambda s: jax.jacrev(lanes(rows(s))), MANY),
    "steps are saved, forward": (lambda s: jax.jacfwd(lanes(rows(s)), 1), MANY),
    "inner jit": (lambda s: gradient(jax.grad(jax.jit(scalar(s)), 2)), ONE),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives(toy, name):  # noqa: F811
    agree(toy, *CASES[name][:1], *CASES[name][1])


def carried(solve):
    """A scan over segments."""

    def function(y, matrix, push):
        def segment(y, push):
            state, number, *_ = outputs(solve, y, matrix, push)
            return jnp.tanh(state[0]), number[0]

        return lax.scan(segment, y, push)

    return function


def branched(solve):
    return lambda y, m, p: lax.cond(y[0] < 5, lambda: vector(solve)(y, m, p), lambda: p)


def chosen(solve, direction=None):
    """Lanes that share what is solved for, and of which some take the branch: the others have no checkpoints."""

    def function(y, matrix, push):
        def lane(number):
            def branch(m):
                return lax.cond(number > 0.5, lambda: vector(solve)(y, m, push), lambda: push * m[0])

            return jax.linearize(branch, matrix)[1](matrix if direction is None else direction)

        return jax.vmap(lane)(jnp.array([0.0, 1.0, 1.0]))

    return function


def repeated(solve):
    def function(y, m, p):
        return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, vector(solve)(c[1], m, p)), (0, y))[1]

    return function


CONTROL = {
    "scan, jvp": (lambda s: along(carried(s)), IN_TURN),
    "scan, grad": (lambda s: gradient(carried(s)), IN_TURN),
    "scan, grad by what iterations share": (lambda s: gradient(carried(s), 1), IN_TURN),
    "scan, grad of grad": (lambda s: gradient(gradient(carried(s))), IN_TURN),
    "while": (lambda s: along(repeated(s)), ONE),
    "cond": (lambda s: gradient(jax.grad(lambda *a: total(branched(s)(*a)), (0, 2))), ONE),
    "cond in lanes": (lambda s: gradient(chosen(s)), ONE),
    "cond in lanes, transposed": (
        lambda s: lambda *a: jax.vjp(lambda d: chosen(s, d)(*a), a[1])[1](jnp.ones((3, 2))), ONE
    ),
}


@pytest.mark.parametrize("name", CONTROL)
def test_control_flow(toy, name):  # noqa: F811
    agree(toy, *CONTROL[name][:1], *CONTROL[name][1])


@pytest.mark.parametrize("policy", ["nothing_saveable", "everything_saveable"])
def test_checkpoint(toy, policy):  # noqa: F811
    def kept(function):
        return jax.checkpoint(function, policy=getattr(jax.checkpoint_policies, policy))

    agree(toy, lambda s: gradient(kept(scalar(s))), *ONE)
    agree(toy, lambda s: gradient(kept(gradient(scalar(s), 2))), *ONE)
    agree(toy, lambda s: gradient(kept(along(jax.grad(scalar(s), 2)))), *ONE)


def test_checkpoint_in_a_scan(toy):  # noqa: F811
    def build(s):
        def function(y, m, push):
            return lax.scan(jax.checkpoint(lambda y, p: (vector(s)(y, m, p), None)), y, push)[0]

        return gradient(function)

    agree(toy, build, *IN_TURN)


def launches(toy, build, *arrays):  # noqa: F811
    toy.launches.clear()
    jax.jit(build(toy.solve)).lower(*arrays)
    return [(direction, depth) for direction, depth, _ in toy.launches], [record for *_, record in toy.launches]


def test_how_many_launches(toy):  # noqa: F811
    forward, backward = ("forward", 0), ("backward", 0)
    assert launches(toy, vector, *ONE) == ([forward], [None])
    assert launches(toy, lambda s: jax.jacfwd(vector(s), ALL), *ONE) == ([("forward", 1)], [None])
    assert launches(toy, lambda s: jax.jacfwd(jax.jacfwd(vector(s))), *ONE) == ([("forward", 2)], [None])
    operands = toy.request(field, 0.25, 1.5, ONE[0], (*ONE[1:], COUNT), SaveAt(t1=True, fn=observed)).problem.operands
    wrt = tuple(number for number, one in enumerate(operands) if one.name == "f0")
    assert launches(toy, lambda s: jax.grad(scalar(s), 1), *ONE) == ([forward, backward], [0, wrt])
    assert launches(toy, lambda s: jax.jacrev(vector(s), ALL), *ONE)[0] == [forward, backward]
    assert launches(toy, lambda s: gradient(lanes(scalar(s))), *MANY)[0] == [forward, backward]
    assert launches(toy, lambda s: gradient(along(vector(s))), *ONE)[0] == [("forward", 1), ("backward", 1)]
    assert launches(toy, lambda s: jax.hessian(scalar(s)), *ONE)[0] == [("forward", 1), ("forward", 1), ("backward", 1)]
    kept = jax.checkpoint_policies.everything_saveable
    assert launches(toy, lambda s: jax.grad(jax.checkpoint(scalar(s), policy=kept)), *ONE)[0] == [forward, backward]
    assert launches(toy, lambda s: jax.value_and_grad(jax.checkpoint(scalar(s))), *ONE)[0] == [forward, forward, backward]
    # Nobody looks at the tangents; nobody at the gradient.
    assert launches(toy, lambda s: lambda *a: jax.jvp(vector(s), a, a)[0], *ONE) == ([forward], [None])
    assert launches(toy, lambda s: lambda *a: jax.value_and_grad(scalar(s))(*a)[0], *ONE) == ([forward], [None])
    # Integers have no derivative.
    assert launches(toy, lambda s: jax.grad(lambda *a: outputs(s, *a)[3].astype(float)), *ONE)[0] == []
    integers = SaveAt(t1=True, fn=lambda t, y, args: y > 0)

    def signs(solve):
        return lambda y: jax.jvp(lambda y: solve(field, 0.0, 1.0, y, (*ONE[1:], COUNT), integers), (y,), (y,))

    assert launches(toy, signs, ONE[0]) == ([forward], [None])


def equations(jaxpr, name):
    found = [one for one in jaxpr.eqns if one.primitive.name == name]
    for one in jaxpr.eqns:
        for value in one.params.values():
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                found += equations(inner, name)
    return found


def test_directions_are_not_lanes(toy):  # noqa: F811
    """The primal results and the checkpoints are not repeated for each direction, nor gradients kept for each lane."""
    (solve,) = equations(jax.make_jaxpr(jax.jacfwd(vector(toy.solve), 1))(*ONE).jaxpr, "jax_cubie_solve")
    assert [one.aval.shape for one in solve.outvars[:2]] == [(1, 2), (1,)]
    assert [one.aval.shape for one in solve.outvars[-2:]] == [(1, 2, 4), (1, 4)]
    whole = jax.make_jaxpr(gradient(lanes(scalar(toy.solve))))(*MANY).jaxpr
    (adjoint,) = equations(whole, "jax_cubie_adjoint")
    assert {one.aval.shape for one in adjoint.outvars} == {(3, 2), (2, 2)}
    assert all(len(str(value)) < 80 for value in adjoint.params.values())


def test_what_has_no_derivative(toy):  # noqa: F811
    """Tolerances, step counts, integers: zero, as documented."""

    def ends(y, tolerance, count, t1):
        return outputs(toy.solve, y, *ONE[1:], count, t1, rtol=tolerance, atol=tolerance)

    zeros = np.zeros((), float0)
    arrays = (ONE[0], 1e-6, COUNT, 1.5)
    _, dots = jax.jvp(ends, arrays, (ONE[0], 1.0, zeros, 0.0))
    _, expected = jax.jvp(lambda y: ends(y, *arrays[1:]), arrays[:1], ONE[:1])
    close(dots[:2], expected[:2])
    assert all(one.dtype == float0 for one in dots[2:])
    _, pull = jax.vjp(ends, *arrays)
    seeds = [np.zeros(one.shape, float0) if one.dtype == float0 else jnp.ones(one.shape) for one in dots]
    gradients = pull(seeds)
    assert gradients[1] == 0 and gradients[2].dtype == float0 and gradients[3] != 0 and jnp.all(gradients[0] != 0)
    curvature = jax.hessian(lambda *a: total(ends(a[0], a[1], COUNT, a[2])[:2]), ALL)(ONE[0], 1e-6, 1.5)
    assert not any(np.any(curvature[one][other]) for one, other in ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1)))
    assert np.all(curvature[0][2] != 0) and curvature[2][2] != 0


def test_times(toy):  # noqa: F811
    def ends(solve):
        return lambda t0, t1: total(solve(lambda t, y, _: -t * y, t0, t1, ONE[0], None, SaveAt(t1=True)))

    agree(toy, lambda s: jax.hessian(ends(s), (0, 1)), 0.5, 2.0)


def test_no_directions(toy):  # noqa: F811
    """Without a single one, there are results all the same."""

    def build(solve):
        def function(y, m, p):
            none = jnp.zeros((0, 2))
            ends = lambda y: outputs(solve, y, m, p)[:2]  # noqa: E731
            pushed = jax.vmap(lambda d: jax.jvp(ends, (y,), (d,)), out_axes=(None, 0))(none)
            return pushed, jax.vmap(jax.vjp(lambda m: vector(solve)(y, m, p), m)[1])(none)

        return function

    agree(toy, build, *ONE)


def test_eager(toy):  # noqa: F811
    """Without jit, and with it switched off."""
    expected = jax.jit(jax.grad(scalar(toy.reference), ALL))(*ONE)
    close(jax.grad(scalar(toy.solve), ALL)(*ONE), expected)
    with jax.disable_jit():
        close(jax.grad(scalar(toy.solve), ALL)(*ONE), expected)
    close(jax.jacfwd(jax.grad(scalar(toy.solve)))(*ONE), jax.jit(jax.hessian(scalar(toy.reference)))(*ONE))


def test_custom_rules_around_it(toy):  # noqa: F811
    def build(solve):
        wrapped = jax.custom_vjp(scalar(solve))
        wrapped.defvjp(
            lambda *a: (scalar(solve)(*a), a),
            lambda a, c: jax.tree.map(lambda one: c * one, jax.grad(scalar(solve), ALL)(*a)),
        )
        return gradient(jax.grad(wrapped, 2), (0, 1))

    agree(toy, build, *ONE)


def test_equinox(toy):  # noqa: F811
    class Model(eqx.Module):
        matrix: jax.Array
        push: jax.Array
        name: str = eqx.field(static=True)

        def __call__(self, solve, y):
            return scalar(solve)(y, self.matrix, self.push)

    model, y = Model(*map(jnp.asarray, ONE[1:]), "model"), jnp.asarray(ONE[0])
    expected = eqx.filter_jit(eqx.filter_value_and_grad(lambda m: m(toy.reference, y)))(model)
    close(eqx.filter_jit(eqx.filter_value_and_grad(lambda m: m(toy.solve, y)))(model), expected)
    close(eqx.filter_jit(eqx.filter_grad(eqx.filter_checkpoint(lambda m: m(toy.solve, y))))(model), expected[1])
    converted = eqx.filter_closure_convert(jax.grad(lambda y: model(toy.solve, y)), y)
    close(jax.jit(jax.jacrev(converted))(y), jax.jit(jax.hessian(lambda y: model(toy.reference, y)))(y))


@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
def test_shard_map(toy, check_vma):  # noqa: F811
    """The rules' types; `eight_devices.py` has the numbers."""
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))

    def mapped(solve):
        specs = {"in_specs": (P("i"), P(), P("i")), "out_specs": P("i"), "check_vma": check_vma}
        return jax.shard_map(lanes(scalar(solve)), mesh=mesh, **specs)

    expected = jax.jit(gradient(lanes(scalar(toy.reference))))(*MANY)
    close(jax.jit(gradient(mapped(toy.solve)))(*MANY), expected)
    twice = jax.jit(gradient(gradient(lanes(scalar(toy.reference)))))(*MANY)
    close(jax.jit(gradient(gradient(mapped(toy.solve))))(*MANY), twice)
    if check_vma:  # what is replicated is summed inside
        inner = jax.shard_map(
            lambda *a: gradient(lanes(scalar(toy.solve)), 1)(*a), mesh=mesh, in_specs=(P("i"), P(), P("i")), out_specs=P()
        )
        close(jax.jit(inner)(*MANY), expected[1])


def test_export(toy):  # noqa: F811
    function = jax.jit(jax.grad(scalar(toy.solve), ALL))
    exported = jax.export.deserialize(jax.export.export(function)(*map(jnp.asarray, ONE)).serialize())
    close(exported.call(*map(jnp.asarray, ONE)), jax.jit(jax.grad(scalar(toy.reference), ALL))(*ONE))


def test_a_solve_is_not_linear(toy):  # noqa: F811
    with pytest.raises(TypeError, match="a solve is not a linear function .* use jax.vjp"):
        jax.linear_transpose(lambda y: outputs(toy.solve, y, *ONE[1:])[0], ONE[0])(jnp.ones((1, 2)))


SCALES = np.array([1.0, 1.25, 0.75])
NESTED = {
    "jvp": along,
    "jvp by one": lambda g: lambda y, m, p: along(lambda m: g(y, m, p))(m),
    "grad y0": lambda g: gradient(g, 0),
    "grad args": lambda g: gradient(g, (1, 2)),
    "jacfwd": lambda g: jax.jacfwd(g, 2),
    "jacrev": lambda g: jax.jacrev(g, 0),
    "linearize": lambda g: lambda *a: jax.linearize(g, *a)[1](*waves(a)),
    "transpose": lambda g: lambda *a: jax.linear_transpose(jax.vjp(g, *a)[1], g(*a))(waves(a))[0],
    "vmap y0": lambda g: lambda y, m, p: jax.vmap(lambda c: g(y * c, m, p))(SCALES),
    "vmap args": lambda g: lambda y, m, p: jax.vmap(lambda c: g(y, m * c, p), out_axes=-1)(SCALES),
    "vmap behind": lambda g: lambda *a: jax.vmap(lambda c: jax.tree.map(lambda one: one * c, g(*a)))(SCALES),
    "checkpoint": jax.checkpoint,
    "checkpoint all": lambda g: jax.checkpoint(g, policy=jax.checkpoint_policies.everything_saveable),
    "jit": jax.jit,
    "scan": lambda g: lambda y, m, p: lax.scan(lambda c, _: (c + 0.1 * total(g(y + c, m, p)), None), 0.0, None, length=2)[0],
    "cond": lambda g: lambda y, m, p: lax.cond(
        y[0] < 5, lambda: g(y, m, p), lambda: jax.tree.map(lambda one: 0 * one, g(y, m, 2 * p))
    ),
}
DERIVATIVES = tuple(NESTED)[:8]


def nests(seed, count):
    """Two to four transformations of which one to three are derivatives."""
    rng = random.Random(seed)
    while count:
        names = rng.choices(list(NESTED), k=rng.choice([2, 3, 3, 4]))
        if 1 <= sum(name in DERIVATIVES for name in names) <= 3:
            count -= 1
            yield names


def nested(names):
    def build(solve):
        function = scalar(solve)
        for name in names:
            function = NESTED[name](function)
        return function

    return build


@pytest.mark.parametrize("names", list(nests(0, 6)), ids="-".join)
def test_nests(toy, names):  # noqa: F811
    agree(toy, nested(names), *ONE)
