"""The values of Jacobians: they are JAX's, and their programs do no more than they have to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cubie.linear import Pattern, colours, jacobian_function, jacobian_pattern, without_custom_vjp
from jax_cubie.translate import Program, trace, translate_for_all

sys.path.append(str(Path(__file__).parent.parent / "translate"))
from harness import Compiled  # noqa: E402


def lorenz(t: Any, y: Any, rho: Any) -> Any:
    return jnp.stack([10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - (8 / 3) * y[2]])


def hires(t: Any, y: Any, scale: Any) -> Any:
    """Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.10."""
    a, b, c, d, e, f, g, h = y
    fast = 280 * scale * f * h
    return jnp.stack([
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007, 1.71 * a - 8.75 * b, -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d, -1.745 * e + 0.43 * f + 0.43 * g, -fast + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
        fast - 1.81 * g, -fast + 1.81 * g])  # fmt: skip


def brusselator(t: Any, y: Any, diffusion: Any) -> Any:
    u, v = y.reshape(2, -1)

    def spread(w: Any, edge: float) -> Any:
        wide = jnp.pad(w, 1, constant_values=edge)
        return diffusion * (wide[2:] - 2 * w + wide[:-2])

    return jnp.concatenate([1 + u**2 * v - 4 * u + spread(u, 1), 3 * u - u**2 * v + spread(v, 3)])


def layers(t: Any, y: Any, scale: Any) -> Any:
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(2, len(y), len(y))), y.dtype)
    return weights[1] @ jnp.tanh(scale * (weights[0] @ y))


def recurrence(t: Any, y: Any, scale: Any) -> Any:
    return jax.lax.scan(lambda carry, x: (jnp.sin(carry) + scale * x, carry * x), y[0], y)[1]


FIELDS = [(lorenz, 3), (hires, 8), (brusselator, 16), (brusselator, 64), (brusselator, 300), (layers, 5), (layers, 34),
          (recurrence, 6), (recurrence, 200)]  # fmt: skip


def programs(function: Callable[..., Any], n: int, dtype: str = "float32", **options: Any) -> dict[str, tuple[Program, list]]:
    avals = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((), (n,), ())]
    translated, _ = translate_for_all(trace(function, *avals), "auto", **options)
    return {platform: (program, constants) for platform, (program, constants, _) in translated.items()}


def derived(field: Callable[..., Any], n: int, dtype: str = "float32") -> tuple[Callable[..., Any], Pattern]:
    avals = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((), (n,), ())]
    pattern = jacobian_pattern(trace(field, *avals))
    return jacobian_function(field, pattern, colours(pattern)), pattern


@pytest.mark.parametrize(("field", "n"), FIELDS, ids=lambda x: getattr(x, "__name__", x))
def test_values(field: Callable[..., Any], n: int, x64: None) -> None:
    function, pattern = derived(field, n, "float64")
    y = np.random.default_rng(1).normal(size=n)
    dense = np.asarray(jax.jit(jax.jacfwd(field, argnums=1))(0.5, jnp.asarray(y), 1.7))
    assert not dense[~pattern.mask()].any()
    expected = dense[pattern.mask()]
    made = list(programs(function, n, "float64", structural_zeros=True).values())
    image = Compiled([program for program, _ in made])
    for k, (_, constants) in enumerate(made):
        (found,) = image(k, 0.5, y, 1.7, *constants)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("field", "n", "statements"),
    [
        # Four loads, a difference, a sign, and eight stores.
        (lorenz, 3, {"cpu": 14, "cuda": 14}),
        (hires, 8, {"cpu": 35, "cuda": 35}),
        (brusselator, 16, {"cpu": 145, "cuda": 145}),
        (brusselator, 64, {"cpu": 900, "cuda": 600}),
        (brusselator, 400, {"cpu": 140, "cuda": 140}),
    ],
)
def test_sizes_of_programs(field: Callable[..., Any], n: int, statements: dict[str, int]) -> None:
    function, _ = derived(field, n)
    for platform, (program, _) in programs(function, n, structural_zeros=True).items():
        assert program.statement_count() <= statements[platform], platform


def test_structural_zeros_are_for_those_who_ask() -> None:
    def field(t: Any, y: Any, scale: Any) -> Any:
        return jnp.stack([y[0] * 0.0 + scale, 0.0 - y[1], 0.0 / y[2], -0.0 + y[0]])

    y = np.array([np.inf, 0.0, np.nan], np.float32)
    found = []
    for zeros in (False, True):
        program, _ = programs(field, 3, structural_zeros=zeros)["cpu"]
        found.append(Compiled([program])(0, 0, y, 2)[0])
    np.testing.assert_array_equal(found[0], np.float32([np.nan, 0, np.nan, np.inf]))
    np.testing.assert_array_equal(found[1], np.float32([2, 0, 0, np.inf]))


@jax.custom_vjp
def clipped(x: Any) -> Any:
    """Whose cotangent is clipped."""
    return x * jnp.sin(x)


clipped.defvjp(lambda x: (clipped(x), x), lambda x, ct: (jnp.clip(ct, -1, 1),))


@pytest.mark.parametrize(
    "field",
    [
        lambda t, y, scale: clipped(y),
        lambda t, y, scale: jax.jit(clipped)(y),
        lambda t, y, scale: jax.lax.map(clipped, y),
        lambda t, y, scale: jax.vmap(clipped)(y),
        lambda t, y, scale: jax.lax.cond(scale > 0, lambda z: clipped(z), lambda z: z, y),
    ],
)
def test_what_is_derived_in_reverse_alone(field: Callable[..., Any], x64: None) -> None:
    avals = [jax.ShapeDtypeStruct(shape, "float64") for shape in ((), (3,), ())]
    closed = without_custom_vjp(trace(field, *avals))
    function, pattern = derived(lambda *args: jex.jaxpr_as_fun(closed)(*args)[0], 3, "float64")
    assert pattern == jacobian_pattern(trace(field, *avals)) == Pattern.of(np.eye(3))
    program, constants = programs(function, 3, "float64", structural_zeros=True)["cpu"]
    y = np.array([0.5, 2, -3])
    (found,) = Compiled([program])(0, 0, y, 1, *constants)
    np.testing.assert_allclose(found, np.sin(y) + y * np.cos(y), rtol=1e-14)


def test_what_has_no_custom_derivative_stays_as_it_is() -> None:
    closed = trace(recurrence, *[jax.ShapeDtypeStruct(shape, "float32") for shape in ((), (3,), ())])
    assert without_custom_vjp(closed) is closed


def test_nothing_to_derive() -> None:
    function, pattern = derived(lambda t, y, scale: jnp.ones(3) * scale, 3)
    assert pattern.entries == ()
    assert function(0.0, jnp.ones(3), 1.0).shape == (0,)
