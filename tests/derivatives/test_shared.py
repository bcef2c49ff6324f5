"""Gradients of what lanes share: sums, which are never there for each lane, whatever the batch is."""

import math
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import assert_same_bits

from jax_cubie import solve
from jax_cubie.kernel.custom_call import FFI_TARGETS

WEIGHTS = 777  # more than any lane's other arrays


def field(t, y, args):
    rate, weights = args
    return 0.3 * weights[:2] - rate * y + 0.01 * jnp.sum(weights[2:]) * y


def one(rate, weights, y0):
    return solve(field, 0.0, 1.0, y0, (rate, weights), checkpoints=2).ys


def arrays_of(outer, inner):
    """Rates of the inner level, weights of the outer, states of both."""
    random = np.random.default_rng(outer * inner)
    arrays = random.uniform(1, 2, inner), random.normal(size=(outer, WEIGHTS)) / 10, random.normal(size=(outer, inner, 2))
    return tuple(array.astype(np.float32) for array in arrays)


def squares(run):
    """The gradient of a loss by all of its arguments."""
    return jax.jit(jax.grad(lambda *arrays: jnp.sum(run(*arrays) ** 2), (0, 1, 2)))


def largest(compiled):
    """Elements of the largest array of floats in a compiled module."""
    shapes = re.findall(r"f32\[([\d,]+)\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def inside(rate, weights, y0):
    """The lanes of the inner level share weights."""
    return jax.vmap(jax.vmap(one, (0, None, 0)), (None, 0, 0))(rate, weights, y0)


def outside(rate, weights, y0):
    """Those of the outer one do."""
    return jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, 1))(rate, weights, y0)


@pytest.mark.parametrize("inner", [5, 64, 70])
def test_one_of_two_levels(inner, platform):
    """Chunks of lanes have no lanes of two sums, however many lanes there are to one."""
    outer, arrays = 3, arrays_of(3, inner)
    each = jax.jit(jax.vmap(jax.vmap(squares(one), (0, None, 0)), (None, 0, 0)))(*arrays)
    expected = each[0].sum(0), each[1].sum(1), each[2]
    for run in (inside, outside):
        gradient = squares(run)
        compiled = gradient.lower(*arrays).compile()
        found = compiled(*arrays)
        for name, one_, other in zip(("rate", "weights", "y0"), found, expected, strict=True):
            np.testing.assert_allclose(one_, other, rtol=1e-4, atol=1e-5, err_msg=f"{run.__name__}: {name}")
        assert_same_bits(found[2], expected[2])
        assert_same_bits(gradient(*arrays), found)
        assert largest(compiled) <= outer * WEIGHTS * -(-inner // 32)


def test_levels_that_are_shared_differently(platform):
    """Weights that all lanes share, and others of the outer level; and three levels."""
    rate, weights, y0 = arrays_of(2, 40)
    shared = weights[0] / 2

    def two(rate, weights, shared, y0):
        def both(t, y, args):
            return field(t, y, args[:2]) + 0.01 * jnp.sum(jnp.sin(args[2])) * y

        return solve(both, 0.0, 1.0, y0, (rate, weights, shared), checkpoints=2).ys

    def nested(rate, weights, shared, y0):
        return jax.vmap(jax.vmap(two, (0, None, None, 0)), (None, 0, None, 0))(rate, weights, shared, y0)

    def loss(*arrays):
        return jnp.sum(nested(*arrays) ** 2)

    arrays = rate, weights, shared, y0
    found = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*arrays)
    lane = jax.grad(lambda *arrays: jnp.sum(two(*arrays) ** 2), (0, 1, 2, 3))
    each = jax.jit(jax.vmap(jax.vmap(lane, (0, None, None, 0)), (None, 0, None, 0)))(*arrays)
    for got, expected in zip(found, (each[0].sum(0), each[1].sum(1), each[2].sum((0, 1)), each[3]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert largest(jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(*arrays).compile()) <= 2 * 2 * WEIGHTS

    thrice = squares(lambda rate, weights, y0: jax.vmap(inside, (0, None, None))(rate, weights, y0))
    rates = np.stack([rate, 1.5 * rate])
    compiled = thrice.lower(rates, weights, y0).compile()
    expected = [squares(inside)(rate, weights, y0) for rate in rates]
    np.testing.assert_allclose(compiled(rates, weights, y0)[1], expected[0][1] + expected[1][1], rtol=1e-4, atol=1e-5)
    assert largest(compiled) < rates.size * weights.size / 4


def test_lanes_that_fail(platform):
    """Sums that one of them has a share in are NaN, and no others."""
    rate, weights, y0 = arrays_of(3, 40)
    y0[1, 7] = np.nan
    found = squares(inside)(rate, weights, y0)
    assert np.isnan(found[1]).all(1).tolist() == [False, True, False]
    assert np.isfinite(found[1][::2]).all()


def test_of_unknown_size():
    """An exported gradient of symbolic batches has the bits of the one that knows them, and no array more."""
    pytest.importorskip("flatbuffers")
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in FFI_TARGETS.values()]
    rate, weights, y0 = arrays_of(3, 40)
    outer, inner = jax.export.symbolic_shape("outer, inner")
    shapes = (inner,), (outer, WEIGHTS), (outer, inner, 2)
    lanes = squares(jax.vmap(one, (0, None, 0)))
    few = (inner,), (WEIGHTS,), (inner, 2)
    cases = (squares(inside), shapes, (rate, weights, y0)), (lanes, few, (rate, weights[0], y0[0]))
    for gradient, symbolic, arrays in cases:
        given = [jax.ShapeDtypeStruct(shape, np.float32) for shape in symbolic]
        exported = jax.export.export(gradient, platforms=["cpu"], disabled_checks=checks)(*given)
        with jax.default_device(jax.devices("cpu")[0]):
            compiled = jax.jit(exported.call).lower(*arrays).compile()
            assert_same_bits(compiled(*arrays), gradient(*arrays))
        assert largest(compiled) <= 2 * arrays[1].size
