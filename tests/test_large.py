"""Results beyond 2^31 elements: their offsets take 64 bits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_cubie


def test_more_elements_than_an_int32_counts(platform):
    if platform == "cpu":
        pytest.skip("8 GiB of results: only where a GPU holds them")
    lanes, points = 2**20 + 33, 1025
    times = jnp.linspace(0.0, 1.0, points)
    saveat = jax_cubie.SaveAt(ts=times)

    @eqx.filter_jit
    def solve_all(rates):
        def one(rate):
            y0 = jnp.stack([1.0 + rate, rate])
            # y is linear in t, so that one step and cubic interpolation are exact to rounding.
            return jax_cubie.solve(lambda t, y, r: r * jnp.ones(2), 0.0, 1.0, y0, rate, method="heun", saveat=saveat).ys

        return jax.vmap(one, out_axes=-1)(rates)

    rates = jnp.linspace(-1.0, 1.0, lanes)
    ys = solve_all(rates)
    assert ys.size > 2**31
    want = np.asarray(rates)[None, None] * (1 + np.asarray(times)[:, None, None]) + np.array([1.0, 0.0])[:, None]
    for lane in (0, 1, lanes // 2, lanes - 2, lanes - 1):
        np.testing.assert_allclose(np.asarray(ys[:, :, lane]), want[:, :, lane], atol=1e-6)
    np.testing.assert_allclose(np.asarray(ys[-1, -1]), want[-1, -1], atol=1e-6)
