"""Functions as users write them, for derivatives of them: what they are made of meets here what differentiation makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from cases import normal
from jax import lax


class Field(NamedTuple):
    """A function of float arrays; modes: "f" where it has a forward derivative, "r" where it has a reverse one."""

    name: str
    fn: Callable[..., Any]
    args: Callable[[str], tuple[Any, ...]]
    modes: str = "fr"


def network(width: int, activation: Callable[..., Any] = jnp.tanh) -> tuple[Callable[..., Any], list[np.ndarray]]:
    """A network of two components with two hidden layers, as a function of the state and its weights."""
    model = eqx.nn.MLP(2, 2, width, 2, activation=activation, key=jax.random.key(0))
    arrays, rest = eqx.partition(model, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def field(y: Any, *weights: Any) -> Any:
        return eqx.combine(jax.tree.unflatten(structure, weights), rest)(y)

    return field, [np.asarray(leaf) for leaf in leaves]


def _network(width: int, activation: Callable[..., Any]) -> Field:
    field, weights = network(width, activation)
    return Field(f"network of {width}", field, lambda d: (np.array([0.3, -0.8], d), *(w.astype(d) for w in weights)))


@jax.custom_jvp
def _softened(x: Any) -> Any:
    return jnp.sqrt(x * x + 1e-3)


@_softened.defjvp
def _softened_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    value = lax.sqrt(x**2 + 1e-3) * 1.0
    return value, x / value * dx


@jax.custom_vjp
def clipped(x: Any) -> Any:
    """Whose cotangent is clipped."""
    return x * jnp.sin(x)


clipped.defvjp(lambda x: (x * jnp.sin(x), x), lambda x, ct: (jnp.clip(ct * (jnp.sin(x) + x * jnp.cos(x)), -1, 1),))


@eqx.filter_custom_vjp
def clipped_by_equinox(x: Any) -> Any:
    return x * jnp.sin(x)


clipped_by_equinox.def_fwd(lambda perturbed, x: (x * jnp.sin(x), None))
clipped_by_equinox.def_bwd(lambda residuals, ct, perturbed, x: jnp.clip(ct * (jnp.sin(x) + x * jnp.cos(x)), -1, 1))


def _kuramoto(y: Any, frequencies: Any, coupling: Any) -> Any:
    return frequencies + coupling * jnp.mean(jnp.sin(y[None, :] - y[:, None]), axis=1)


def _lorenz96(y: Any, forcing: Any) -> Any:
    return (jnp.roll(y, -1) - jnp.roll(y, 2)) * jnp.roll(y, 1) - y + forcing


def _recurrent(y: Any, w: Any) -> Any:
    return lax.scan(lambda h, x: (jnp.tanh(w @ h + x), h[0] * x), y, jnp.stack([y, 2 * y, -y, y * y]))


def _long_scan(y: Any, w: Any) -> Any:
    return lax.fori_loop(0, 50, lambda k, h: 0.9 * h + 0.1 * jnp.sin(h * w[0, k % 3]), y)


def _pieces(y: Any, w: Any) -> Any:
    place = (w[0] > 0).astype(int)
    return (y[place], y.at[place].add(w[1]), lax.dynamic_slice(y, (place[1],), (2,)) ** 2,
            lax.dynamic_update_slice(y, w[0, :2], (place[0],)), jnp.cumsum(y * w[0]), jnp.cumprod(y)[::-1])


def _ordered(y: Any, w: Any) -> Any:
    return jnp.sort(w, axis=1), lax.top_k(w.ravel() * w.ravel(), 3)[0], w.max(0), w.min(), jnp.median(w), y[jnp.argsort(w[0])]


def _kinks(y: Any, w: Any) -> Any:
    zero = y - y
    return (jnp.abs(zero), jnp.sqrt(y * y), jnp.maximum(y, zero + y), jnp.clip(w, -0.5, 0.5),
            jnp.where(y > 0, jnp.sqrt(abs(y)), 0), y**2,
            abs(y) ** 1.5, abs(y) ** w[0], y**-3, jnp.sign(y) * y, jax.nn.relu(w), jax.nn.softplus(w), jax.nn.silu(w),
            jax.nn.logsumexp(w, 1), jnp.linalg.norm(y), jnp.hypot(y, w[0]), jnp.arctan2(y, w[1]), zero**3)


def _branches(y: Any, w: Any) -> Any:
    return (lax.cond(y[0] > 0, lambda z: z * w[0], lambda z: jnp.sin(z), y),
            lax.switch((y[1] > 0).astype(int) + 1, [lambda z: z, lambda z: z * z, lambda z: lax.fori_loop(
                0, 40, lambda k, s: s * 0.9 + w[0] * 0.1, z)], y))


def _linear_algebra(y: Any, w: Any) -> Any:
    a = w @ w.T + 2 * jnp.eye(3, dtype=w.dtype)
    return jnp.linalg.solve(a + w, y), jnp.linalg.slogdet(a)[1], jnp.linalg.inv(a) @ y, jnp.linalg.cholesky(a)


def _convolution(y: Any, w: Any) -> Any:
    return jnp.convolve(y * y, w[0], "same"), jax.nn.softmax(w @ y), jnp.einsum("ij,jk,k->i", w, w, y)


def _held(y: Any, w: Any) -> Any:
    layer = jax.checkpoint(lambda z: jnp.sin(w @ z))
    return layer(layer(y)) * lax.stop_gradient(y) + lax.stop_gradient(w[0]) * _softened(y) + jax.jit(jnp.tanh)(y)


def _iterated(y: Any, w: Any) -> Any:
    return lax.while_loop(lambda s: jnp.max(jnp.abs(s)) > 0.1, lambda s: 0.7 * s * jnp.cos(w[0]), y)


_SMALL = normal((3,), (3, 3))
FIELDS = [
    _network(5, jax.nn.softplus),
    _network(40, jnp.tanh),
    Field("Kuramoto of 8", _kuramoto, normal((8,), (8,), ())),
    Field("Kuramoto of 23", _kuramoto, normal((23,), (23,), ())),
    Field("Lorenz-96 of 6", _lorenz96, normal((6,), ())),
    Field("Lorenz-96 of 30", _lorenz96, normal((30,), ())),
    *(Field(fn.__name__.strip("_"), fn, _SMALL) for fn in (
        _recurrent, _long_scan, _pieces, _ordered, _kinks, _branches, _linear_algebra, _convolution, _held)),
    Field("iterated", _iterated, _SMALL, "f"),
    Field("clipped", lambda y, w: clipped(y) * w[0], _SMALL, "r"),
    Field("clipped by equinox", lambda y, w: clipped_by_equinox(y) * w[0], _SMALL, "r"),
]
