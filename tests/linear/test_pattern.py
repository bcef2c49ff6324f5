"""Patterns of Jacobians hold every entry that JAX's Jacobian has, and for common functions no other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax

from jax_cubie.linear import Pattern, colours, jacobian_pattern
from jax_cubie.translate import trace

_ON_DEMAND = os.environ.get("JAX_CUBIE_EXAMPLES")
_N = 6


def pattern_of(field: Callable[..., Any], n: int, *values: Any, dtype: str = "float32") -> Pattern:
    """The pattern of a function of t, y and values."""
    avals = [jax.ShapeDtypeStruct(np.shape(value), np.asarray(value).dtype) for value in values]
    return jacobian_pattern(trace(field, jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((n,), dtype), *avals))


def rows(pattern: Pattern) -> list[str]:
    return ["".join("#" if there else "." for there in row) for row in pattern.mask()]


def band(n: int, *offsets: int, periodic: bool = False) -> np.ndarray:
    """The mask of a matrix with those diagonals."""
    found = np.zeros((n, n), bool)
    for offset in offsets:
        for i in range(n):
            if periodic or 0 <= i + offset < n:
                found[i, (i + offset) % n] = True
    return found


def laplacian(n: int) -> np.ndarray:
    return (np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)).astype(np.float32)


# -- exact ----------------------------------------------------------------------------------------------------


def by_slices(t: Any, y: Any) -> Any:
    return jnp.concatenate([y[1:2] - 2 * y[:1], y[2:] - 2 * y[1:-1] + y[:-2], y[-2:-1] - 2 * y[-1:]])


def by_padding(t: Any, y: Any) -> Any:
    wide = jnp.pad(y, 1)
    return wide[2:] - 2 * y + wide[:-2]


def by_convolution(t: Any, y: Any) -> Any:
    return jnp.convolve(y, jnp.array([1, -2, 1.0]), "same")


def by_updates(t: Any, y: Any) -> Any:
    return (-2 * y).at[1:].add(y[:-1]).at[:-1].add(y[1:])


def by_a_matrix(t: Any, y: Any) -> Any:
    return jnp.asarray(laplacian(len(y))) @ y


def by_a_loop(t: Any, y: Any) -> Any:
    n = len(y)

    def element(i: Any, out: Any) -> Any:
        left, right = jnp.where(i > 0, y[i - 1], 0), jnp.where(i < n - 1, y[(i + 1) % n], 0)
        return out.at[i].set(left - 2 * y[i] + right)

    return lax.fori_loop(0, n, element, jnp.zeros_like(y))


def by_indices(t: Any, y: Any) -> Any:
    n = len(y)
    out = jnp.zeros_like(y)
    pairs = np.array([(i, j) for i in range(n) for j in (i - 1, i, i + 1) if 0 <= j < n])
    return out.at[pairs[:, 0]].add(y[pairs[:, 1]] ** 2)


@pytest.mark.parametrize(
    "field", [by_slices, by_padding, by_convolution, by_updates, by_a_matrix, by_a_loop, by_indices], ids=lambda f: f.__name__
)
def test_tridiagonal(field: Callable[..., Any]) -> None:
    pattern = pattern_of(field, 9)
    np.testing.assert_array_equal(pattern.mask(), band(9, -1, 0, 1))
    assert max(colours(pattern)) + 1 == 3


def test_periodic() -> None:
    pattern = pattern_of(lambda t, y: (jnp.roll(y, -1) - jnp.roll(y, 2)) * jnp.roll(y, 1) - y + 8, 10)
    np.testing.assert_array_equal(pattern.mask(), band(10, -2, -1, 0, 1, periodic=True))


def test_blocks() -> None:
    """Reaction networks side by side, as vmap writes them."""

    def robertson(t: Any, y: Any, rates: Any) -> Any:
        slow, fast, back = rates
        one = lambda a, b, c: jnp.stack([-slow * a + back * b * c, slow * a - back * b * c - fast * b * b, fast * b * b])  # noqa: E731
        return jax.vmap(lambda cell: one(*cell))(y.reshape(-1, 3)).reshape(-1)

    block = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 0]], bool)
    pattern = pattern_of(robertson, 12, np.float32([0.04, 3e7, 1e4]))
    np.testing.assert_array_equal(pattern.mask(), np.kron(np.eye(4, dtype=bool), block))
    assert max(colours(pattern)) + 1 == 3


def test_brusselator() -> None:
    """Two fields that diffuse along a line and react."""
    n = 20

    def field(t: Any, y: Any, diffusion: Any) -> Any:
        u, v = y.reshape(2, -1)
        spread = lambda w: diffusion * (jnp.pad(w[1:], (0, 1)) - 2 * w + jnp.pad(w[:-1], (1, 0)))  # noqa: E731
        return jnp.concatenate([1 + u**2 * v - 4 * u + spread(u), 3 * u - u**2 * v + spread(v)])

    line, point = band(n, -1, 0, 1), band(n, 0)
    np.testing.assert_array_equal(pattern_of(field, 2 * n, np.float32(0.02)).mask(), np.block([[line, point], [point, line]]))


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (lambda t, y: y.at[1].set(y[3] * t), ["#...", "...#", "..#.", "...#"]),
        (lambda t, y: y.at[jnp.array([0, 0])].set(y[2:]), ["#.##", ".#..", "..#.", "...#"]),
        (lambda t, y: lax.scan(lambda c, x: (c * x, c + x), y[0], y)[1], ["#...", "##..", "###.", "####"]),
        (lambda t, y: jnp.cumsum(y)[::-1], ["####", "###.", "##..", "#..."]),
        (lambda t, y: jnp.where(jnp.arange(4) % 2 == 0, y, y[0]), ["#...", "#...", "..#.", "#..."]),
        (lambda t, y: jnp.where(y[3] > 0, y, 2 * y), ["#...", ".#..", "..#.", "...#"]),
        (lambda t, y: lax.stop_gradient(y[0]) * y + jnp.floor(y[1]), ["#...", ".#..", "..#.", "...#"]),
        (lambda t, y: y * jnp.float32([1, 0, 1, 0]), ["#...", "....", "..#.", "...."]),
        (lambda t, y: y[jnp.int32(t)] + 0 * y, ["####"] * 4),
        (lambda t, y: jnp.sort(y.reshape(2, 2), axis=1).reshape(-1), ["##..", "##..", "..##", "..##"]),
        (lambda t, y: jnp.interp(y, jnp.arange(3.0), jnp.float32([0, 2, 1])), ["#...", ".#..", "..#.", "...#"]),
        (lambda t, y: lax.switch(jnp.int32(t), [lambda z: z, lambda z: z[::-1]], y), ["#..#", ".##.", ".##.", "#..#"]),
        (lambda t, y: jnp.broadcast_to(jnp.sum(y[:2]), (4,)), ["##.."] * 4),
        (lambda t, y: jnp.ones(4), ["...."] * 4),
        (lambda t, y: lax.fori_loop(0, jnp.int32(t), lambda k, z: z.at[1:].set(z[:-1]), y), ["#...", "##..", "###.", "####"]),
        (lambda t, y: lax.fori_loop(0, 5000, lambda k, z: jnp.sin(z) * z, y), ["#...", ".#..", "..#.", "...#"]),
        (lambda t, y: lax.dynamic_slice(y.reshape(2, 2), (jnp.int32(t), 0), (1, 2)).repeat(2),
         ["#.#.", "#.#.", ".#.#", ".#.#"]),
        (lambda t, y: y.reshape(2, 2).at[jnp.int32(t), 0].set(y[3]).reshape(-1), ["#..#", ".#.#", "..##", "...#"]),
        (lambda t, y: jax.vmap(lambda row, k: row[k] * row)(y.reshape(2, 2), jnp.int32([t, t])).reshape(-1),
         ["##..", "##..", "..##", "..##"]),
    ],
)  # fmt: skip
def test_exact(field: Callable[..., Any], expected: list[str]) -> None:
    assert rows(pattern_of(field, 4)) == expected


def test_custom_derivatives_count_as_they_are() -> None:
    @jax.custom_jvp
    def rounded(x: Any) -> Any:
        return jnp.round(x)

    rounded.defjvps(lambda moved, answer, x: moved)
    assert rows(pattern_of(lambda t, y: rounded(y), 2)) == ["#.", ".#"]


def test_what_is_closed_over_is_known_under_jit() -> None:
    matrix = jnp.asarray(laplacian(4))
    found = []

    @jax.jit
    def traced(scale: Any) -> Any:
        found.append(pattern_of(lambda t, y: matrix @ y, 4))
        found.append(pattern_of(lambda t, y: (scale * matrix) @ y, 4))
        return scale

    traced(2.0)
    np.testing.assert_array_equal(found[0].mask(), band(4, -1, 0, 1))
    assert found[1] == Pattern.dense(4, 4)


def test_another_argument() -> None:
    avals = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((), (3,), (2,))]
    closed = trace(lambda t, y, p: y[:2] * t + p, *avals)
    assert [rows(jacobian_pattern(closed, wrt)) for wrt in range(3)] == [["#", "#"], ["#..", ".#."], ["#.", ".#"]]


def test_patterns_are_plain() -> None:
    pattern = Pattern.of(band(3, 0, 1))
    assert pattern == Pattern(3, 3, ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2)))
    assert hash(pattern) == hash(Pattern.of(pattern.mask()))
    assert (pattern | Pattern.of(band(3, -1))) == Pattern.of(band(3, -1, 0, 1))


# -- conservative ---------------------------------------------------------------------------------------------


def _clipped(x: Any) -> Any:
    return jnp.clip(x, -2, 2)


def _at(x: Any, y: Any) -> Any:
    return jnp.int32(jnp.abs(y[0]) * 3) % len(x)


# Steps on two vectors of _N and a number from 0 to 9.
STEPS: dict[str, Callable[[Any, Any, int], Any]] = {
    "sin": lambda x, y, i: jnp.sin(x),
    "tanh": lambda x, y, i: jnp.tanh(x) * y,
    "multiply": lambda x, y, i: x * y,
    "divide": lambda x, y, i: x / (2 + y * y),
    "power": lambda x, y, i: _clipped(x) ** (i % 4),
    "maximum": lambda x, y, i: jnp.maximum(x, y),
    "where": lambda x, y, i: jnp.where(x > 0.1 * i, x, y),
    "sign": lambda x, y, i: jnp.sign(x) * jnp.floor(3 * y) + x,
    "mask": lambda x, y, i: jnp.where(jnp.arange(_N) % 3 == i % 3, x, y * (jnp.arange(_N) > i)),
    "roll": lambda x, y, i: jnp.roll(x, i),
    "reverse": lambda x, y, i: x[::-1] + y,
    "slices": lambda x, y, i: jnp.concatenate([x[: i % _N], y[i % _N :]]),
    "strides": lambda x, y, i: jnp.concatenate([x[::2], y[1::2]]),
    "pad": lambda x, y, i: lax.pad(x[:3], y[i % _N], [(1, 0, 1)]),
    "transpose": lambda x, y, i: x.reshape(2, 3).T.reshape(-1),
    "take": lambda x, y, i: x[jnp.array([i, 0, -1, 3, 2, i + 1]) % _N],
    "take or fill": lambda x, y, i: jnp.take(x, jnp.array([i, 0, 1, 7, 2, 3]), mode="fill", fill_value=0),
    "take at run time": lambda x, y, i: x[_at(x, y)] * y,
    "slice at run time": lambda x, y, i: jnp.tile(lax.dynamic_slice(x, (_at(x, y),), (2,)), 3),
    "update at run time": lambda x, y, i: lax.dynamic_update_slice(x, y[:2], (_at(x, y),)),
    "set": lambda x, y, i: x.at[i % _N].set(y[0] * y[1]),
    "set some": lambda x, y, i: x.at[jnp.array([1, i, 4])].set(y[:3], mode="drop"),
    "add some": lambda x, y, i: x.at[jnp.array([1, i % _N, 1])].add(y[:3]),
    "multiply some": lambda x, y, i: x.at[jnp.array([1, 3])].multiply(y[:2], unique_indices=True),
    "set at run time": lambda x, y, i: x.at[_at(x, y)].set(y[i % _N]),
    "set rows at run time": lambda x, y, i: x.reshape(2, 3).at[_at(x, y) % 2].set(y[:3]).reshape(-1),
    "sum": lambda x, y, i: x * jnp.sum(y[: i % _N]),
    "sum of rows": lambda x, y, i: jnp.repeat(jnp.sum(x.reshape(3, 2), axis=1), 2) - y,
    "max": lambda x, y, i: jnp.max(x[i % 3 :]) - y,
    "prod": lambda x, y, i: jnp.prod(_clipped(x[:3])) + y,
    "logsumexp": lambda x, y, i: jnp.tile(jax.scipy.special.logsumexp(x.reshape(3, 2), axis=0), 3),
    "norm": lambda x, y, i: y * jnp.sqrt(1 + jnp.sum(x[:2] ** 2)),
    "cumsum": lambda x, y, i: jnp.cumsum(x.reshape(2, 3), axis=i % 2).reshape(-1),
    "cumprod": lambda x, y, i: jnp.cumprod(_clipped(x)),
    "cummax": lambda x, y, i: lax.cummax(x, reverse=i > 4) + y,
    "sort": lambda x, y, i: jnp.sort(x.reshape(3, 2), axis=i % 2).reshape(-1),
    "top_k": lambda x, y, i: jnp.concatenate([lax.top_k(x, 2)[0], y[2:]]),
    "known matrix": lambda x, y, i: jnp.asarray(np.eye(_N, k=i - 4) + np.eye(_N)) @ x,
    "matrix": lambda x, y, i: (x.reshape(2, 3) @ y.reshape(3, 2)).reshape(-1)[jnp.array([0, 1, 2, 3, 0, 1])],
    "batched matrix": lambda x, y, i: jnp.einsum("bij,bj->bi", jnp.ones((2, 3, 3)) * x[0], y.reshape(2, 3)).reshape(-1),
    "vmapped outer": lambda x, y, i: jax.vmap(lambda a, b: jnp.sum(jnp.outer(a, b), 1))(
        x.reshape(3, 2), y.reshape(3, 2)).reshape(-1),
    "convolve": lambda x, y, i: jnp.convolve(x, y[:3] if i % 2 else jnp.array([1.0, 0, 2]), "same"),
    "window": lambda x, y, i: lax.reduce_window(x, 0.0, lax.add, (3,), (1,), "SAME"),
    "solve": lambda x, y, i: jnp.tile(jnp.linalg.solve(jnp.eye(3) * 9 + x[0], y[:3]), 2),
    "cond": lambda x, y, i: lax.cond(y[0] > 0, lambda z: z * 2, lambda z: jnp.roll(z, i), x),
    "fori_loop": lambda x, y, i: lax.fori_loop(0, 3, lambda k, z: z.at[k].set(z[k + 1] * y[k]), x),
    "long loop": lambda x, y, i: lax.fori_loop(0, 2000, lambda k, z: jnp.sin(z).at[k % 2].add(y[3]), x),
    "while_loop": lambda x, y, i: lax.while_loop(lambda s: (s[1] < i) & (s[0][0] < 5), lambda s: (jnp.roll(s[0], 1), s[1] + 1),
                                                 (x, 0))[0],
    "scan": lambda x, y, i: lax.scan(lambda c, z: (z * y[1], c + z), y[0], x, reverse=i > 4)[1],
    "long scan": lambda x, y, i: x + lax.scan(lambda c, z: (c * 0.9 + z, z), x[0], jnp.tile(jnp.sin(y), 200))[0],
    "vmap": lambda x, y, i: jax.vmap(lambda a, k: jnp.sin(a)[k] * a)(x.reshape(2, 3), jnp.array([i % 3, 1])).reshape(-1),
    "barrier": lambda x, y, i: jnp.multiply(*lax.optimization_barrier((x, jnp.tile(y[:2], 3)))),
    "jit": lambda x, y, i: jax.jit(lambda a: a[1:] * a[:-1])(jnp.append(x, y[0])),
    "checkpoint": lambda x, y, i: jax.checkpoint(lambda a: jnp.sin(a) * y)(x),
    "sigmoid": lambda x, y, i: jax.nn.silu(x) + jax.nn.relu(y),
}  # fmt: skip


class Step(NamedTuple):
    kind: str
    x: int  # which of the values so far, counted from the last
    y: int
    number: int


def _run(steps: tuple[Step, ...], y: Any) -> Any:
    values = [y]
    for step in steps:
        x, other = (values[-1 - which % len(values)] for which in (step.x, step.y))
        values.append(_clipped(STEPS[step.kind](x, other, step.number)))
    return values[-1]


def _check(*several: tuple[Step, ...]) -> None:
    def field(y: Any) -> Any:
        return jnp.concatenate([_run(steps, y) for steps in several])

    with jax.enable_x64(True):
        mask = pattern_of(lambda t, y: field(y), _N, dtype="float64").mask()
        jacobian = jax.jit(jax.jacfwd(field), compiler_options={"xla_backend_optimization_level": 0})
        for seed in range(3):
            found = np.asarray(jacobian(np.random.default_rng(seed).normal(size=_N)))
            assert not (found != 0)[~mask].any(), (several, np.argwhere((found != 0) & ~mask))


@pytest.mark.parametrize("kind", STEPS)
def test_each_step(kind: str) -> None:
    _check((Step("strides", 0, 0, 0), Step("roll", 0, 0, 1), Step(kind, 0, 1, 2)), (Step(kind, 0, 1, 7),))


_steps = st.builds(Step, st.sampled_from(sorted(STEPS)), st.integers(0, 3), st.integers(0, 5), st.integers(0, 9))


@settings(derandomize=_ON_DEMAND is None, max_examples=int(_ON_DEMAND or 8), deadline=None, database=None,
          phases=[Phase.generate])  # fmt: skip
@given(st.lists(_steps, min_size=2, max_size=6).map(tuple))
def test_random_functions(steps: tuple[Step, ...]) -> None:
    _check(steps)


# -- colours --------------------------------------------------------------------------------------------------

_masks = st.integers(0, 1000).map(lambda seed: np.random.default_rng(seed)).map(
    lambda random: random.random((random.integers(1, 15), random.integers(1, 15))) < random.random())  # fmt: skip


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(_masks)
def test_columns_of_a_colour_share_no_row(mask: np.ndarray) -> None:
    chosen = np.array(colours(Pattern.of(mask)))
    assert chosen.shape == (mask.shape[1],)
    assert set(chosen) == set(range(chosen.max() + 1))
    for colour in set(chosen):
        assert mask[:, chosen == colour].sum(axis=1).max() <= 1
    assert chosen.max() + 1 >= mask.sum(axis=1).max()


@pytest.mark.parametrize(
    ("mask", "count"),
    [(band(50, 0), 1), (band(50, -1, 0, 1), 3), (band(51, -1, 0, 1, periodic=True), 3), (band(40, -3, -2, -1, 0, 1), 5),
     (band(20, 0) | (np.arange(20) == 0), 2), (np.ones((4, 4), bool), 4)],
)  # fmt: skip
def test_as_few_colours_as_there_can_be(mask: np.ndarray, count: int) -> None:
    assert max(colours(Pattern.of(mask))) + 1 == count
