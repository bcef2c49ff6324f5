"""Every rule against jax.jit of the same function: special values, edges of the integers, float32 and float64.

The cases are data. Those that are jitted together share one XLA executable and one image, or the suite would
spend its time in compilers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import Compiled
from jax import lax

from jax_cubie.translate import trace
from jax_cubie.translate.rules import RULES

NAN, INF = float("nan"), float("inf")
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.1, -0.7, 3.7, -3.7, 10.3, 77.0, -20.0, NAN, INF, -INF]
UNIT = [0.0, -0.0, 0.1, -0.1, 0.5, -0.5, 0.9, -0.9, 0.999, 1.0, -1.0, 1e-6, NAN]


class Case(NamedTuple):
    """A function, its arguments by dtype, and how far it may be off, in ULP of the result's dtype."""

    name: str
    fn: Callable[..., Any]
    args: Callable[[str], tuple[Any, ...]]
    ulp: float = 4
    atol: float = 0.0
    dtypes: tuple[str, ...] = ("float32", "float64")


def special(*others: list[float]) -> Callable[[str], tuple[Any, ...]]:
    lists = others or (SPECIAL,)
    return lambda dtype: tuple(np.array(v, dtype) for v in lists)


def pairs(dtype: str) -> tuple[Any, ...]:
    x, y = np.meshgrid(np.array([0.0, -0.0, 1.0, -2.5, 3.0, 0.7, NAN, INF, -INF], dtype),
                       np.array([0.0, -0.0, 2.0, -1.5, 0.3, NAN, INF, -INF], dtype))
    return x.ravel(), y.ravel()


def integers(dtype: str) -> tuple[Any, ...]:
    info = np.iinfo(dtype)
    values = [0, 1, 2, 3, 7, 31, 100, info.max, info.min, info.max - 1]
    if info.min < 0:
        values += [-1, -2, -7, info.min + 1]
    x, y = np.meshgrid(np.array(values, dtype), np.array(values, dtype))
    return x.ravel(), y.ravel()


def one_integer(dtype: str) -> tuple[Any, ...]:
    return (np.unique(integers(dtype)[0]),)


def normal(*shapes: tuple[int, ...]) -> Callable[[str], tuple[Any, ...]]:
    def make(dtype: str) -> tuple[Any, ...]:
        random = np.random.default_rng(0)
        if np.issubdtype(np.dtype(dtype), np.floating):
            return tuple(random.normal(size=s).astype(dtype) for s in shapes)
        return tuple(random.integers(-9, 9, size=s).astype(dtype) for s in shapes)

    return make


def with_index(shape: tuple[int, ...], *index: Any) -> Callable[[str], tuple[Any, ...]]:
    return lambda dtype: (*normal(shape)(dtype), *(np.array(i, np.int32) for i in index))


INTEGERS = ("int32", "int64", "uint32", "int8", "uint8")
BOOLS = np.array([True, False, True, False]), np.array([True, True, False, False])


def _cases() -> list[Case]:
    unary = {
        "sin": 4, "cos": 4, "tan": 8, "atan": 4, "sinh": 32, "cosh": 32, "tanh": 8, "asinh": 8, "exp": 4, "exp2": 16,
        "expm1": 8, "erf": 8, "floor": 0, "ceil": 0, "sign": 0, "abs": 0, "neg": 0, "is_finite": 0, "cbrt": 4,
        "logistic": 8, "square": 0,
    }
    cases = [Case(n, getattr(lax, n), special(), u, atol=1e-30) for n, u in unary.items()]
    cases += [Case(n, getattr(lax, n), special(UNIT), u) for n, u in
              {"asin": 8, "acos": 8, "atanh": 8, "log1p": 4, "erf_inv": 64}.items()]
    positive = [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 3.3, 10.0, 123.0, INF, NAN, -1.0]
    cases += [Case(n, getattr(lax, n), special(positive), u) for n, u in
              {"sqrt": 0, "rsqrt": 2, "log": 4, "acosh": 16}.items()]
    cases += [
        Case("erfc", lax.erfc, special([0.0, 0.5, 1.0, 2.0, 3.0, -1.0, -3.0, INF, -INF, NAN]), 32),
        Case("lgamma", lax.lgamma, special([0.5, 1.5, 2.5, 3.3, 10.0, 100.5, -0.5, -1.5, INF]), 64, 1e-6),
        Case("digamma", lax.digamma, special([0.3, 0.5, 1.0, 2.5, 3.3, 10.0, 100.5, -0.5, -1.7, INF]), 64, 1e-6),
        Case("round", lambda x: (lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO),
                                 lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)), special(), 0),
        Case("integer_pow", lambda x: (x**2, x**3, x**-1, x**-2, x**7), special(), 8),
        Case("integer_pow", lambda x: (x**2, x**3, x**5), one_integer, 0, dtypes=INTEGERS),
        Case("sign", lax.sign, one_integer, 0, dtypes=("int32", "int64", "int8")),
        Case("abs", lax.abs, one_integer, 0, dtypes=("int32", "int64", "int8")),
        Case("neg", lax.neg, one_integer, 0, dtypes=("int32", "int64", "int8")),
        Case("population_count", lax.population_count, one_integer, 0, dtypes=INTEGERS),
        Case("clz", lax.clz, one_integer, 0, dtypes=INTEGERS),
        Case("not", lax.bitwise_not, one_integer, 0, dtypes=INTEGERS),
        Case("not", lambda x, y: (~x, x & y, x | y, x ^ y), lambda d: BOOLS, 0, dtypes=("bool",)),
        Case("pow", lambda x, y: x**y, pairs, 8),
        Case("pow", lambda x, n: lax.pow(x, n), lambda d: (np.array([2.0, -1.5, 0.5, 3.0], d),
                                                          np.array([3, -2, 0, 5], np.int32)), 8),
        Case("select_n", lambda x, y: (jnp.where(x > y, x, y), lax.select_n((x > y).astype(np.int32), x, y)), pairs, 0),
        Case("clamp", lambda x, y: lax.clamp(jnp.asarray(-1, x.dtype), x, jnp.asarray(2, x.dtype)) + 0 * y,
             pairs, 0),
        Case("copy", lambda x: jnp.array(x, copy=True) + lax.stop_gradient(x), special(), 0),
        Case("optimization_barrier", lambda x: lax.optimization_barrier(x), special(), 0),
        Case("reduce_precision", lambda x: lax.reduce_precision(x, 8, 23), special(), 0),
        Case("mulhi", lambda x, y: lax.mulhi(x, y), integers, 0, dtypes=("int32", "uint32")),
        Case("bitcast_convert_type", lambda x: lax.bitcast_convert_type(x, np.int32), special(), 0,
             dtypes=("float32",)),
        Case("iota", lambda x: x + jnp.arange(19, dtype=x.dtype) + lax.broadcasted_iota(x.dtype, (3, 19), 1)[1],
             special(), 0),
        # A primitive from JAX 0.11 on; the same derivative without it before.
        Case("one_minus_square", lambda x: jax.jvp(jnp.tanh, (x,), (jnp.ones_like(x),))[1],
             lambda d: (np.linspace(-2, 2, 19, dtype=d),), 64),
        Case("lt_to", lambda x, y: (lax.lt_to_p.bind(x, y), lax.le_to_p.bind(x, y), lax.eq_to_p.bind(x, y)),
             pairs, 0),
    ]
    for name in ("add", "sub", "mul", "div", "rem", "max", "min", "atan2", "nextafter"):
        cases.append(Case(name, getattr(lax, name), pairs, 4 if name == "atan2" else 0))
    for name in ("add", "sub", "mul", "div", "rem", "max", "min"):
        cases.append(Case(name, getattr(lax, name), integers, 0, dtypes=INTEGERS))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        cases.append(Case(name, getattr(lax, name), pairs, 0))
        cases.append(Case(name, getattr(lax, name), integers, 0, dtypes=INTEGERS))
    for name in ("and", "or", "xor"):
        cases.append(Case(name, getattr(lax, f"bitwise_{name}"), integers, 0, dtypes=INTEGERS))
    for name in ("shift_left", "shift_right_logical", "shift_right_arithmetic"):
        cases.append(Case(name, getattr(lax, name), integers, 0, dtypes=INTEGERS))
    wide = [0.0, -0.0, 0.9, -0.9, 1.5, -1.5, 300.0, -300.0, 3e9, -3e9, 1e19, -1e19, 2e30, NAN, INF, -INF]
    targets = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "bool")
    cases.append(Case("convert_element_type", lambda x: [x.astype(t) for t in targets], special(wide), 0))
    cases.append(Case("convert_element_type", lambda x: [x.astype(t) for t in targets], one_integer, 1,
                      dtypes=(*INTEGERS, "int16", "uint64")))

    # Shapes: small (in registers) and large (in memory).
    for n, m in ((2, 3), (5, 40)):
        a = normal((n, m))
        line = normal((n * m,))
        start = n * m // 2
        index = np.array([0, 3, 5, 1]) % (n * m)
        cases += [
            Case("reshape", lambda x: x.reshape(-1) * 2, a, 0),
            Case("reshape", lambda x, m=m, n=n: (x.reshape(m, n) * 2, x.T.reshape(-1), (2 * x).T.reshape(n, m)), a, 0),
            Case("squeeze", lambda x: lax.squeeze(lax.expand_dims(x, (1,)), (1,)) + x, a, 0),
            Case("expand_dims", lambda x: x[:, None] * 2, a, 0),
            Case("transpose", lambda x: (x.T, (x * 2).T), a, 0),
            Case("broadcast_in_dim", lambda x, n=n: jnp.broadcast_to(x, (2, *x.shape)) + x[:, :1], a, 0),
            Case("broadcast_in_dim", lambda x: x[:, 0][:, None] * jnp.ones_like(x) + x[0] * 2, a, 0),
            Case("slice", lambda x: (x[1:-1] * 2, x[::2], x[1:] - x[:-1]), line, 0),
            Case("slice", lambda x: (x * 2)[:, 1:] + x[:, :-1], a, 0),
            Case("split", lambda x, n=n: jnp.split(x, n), line, 0),
            Case("rev", lambda x: (x[::-1], lax.rev(x * 2, (0,))), line, 0),
            Case("rev", lambda x: x[::-1, ::-1], a, 0),
            Case("concatenate", lambda x: (jnp.roll(x, 1) + x, jnp.concatenate([x, x[:2] * 2, x])), line, 0),
            Case("stack", lambda x: (jnp.stack([x, x * 2]), jnp.stack([x, x], axis=1)), line, 0),
            Case("unstack", lambda x: list(jnp.unstack(x)), a, 0),
            Case("tile", lambda x: jnp.tile(x, (2, 2)), a, 0),
            Case("pad", lambda x: (jnp.pad(x, ((1, 2), (0, 1))),
                                   lax.pad(x, x[0, 0] * 0 + 7, ((1, -1, 0), (-1, 2, 1)))), a, 0),
            Case("gather", lambda x, i=index: (x[i] * 2, x[np.flip(i)]), line, 0),
            Case("gather", lambda x, i: (x[i], x[i] * 2), with_index((n * m,), [0, -1, 2, 1000]), 0),
            Case("gather", lambda x, i, j: (x[i, j], x[i]), with_index((n, m), [0, 1, 1], [2, 0, 1]), 0),
            Case("gather", lambda x, i: (x.at[i].get(mode="fill", fill_value=3), x.at[i].get(mode="clip")),
                 with_index((n * m,), [0, 99999, 2]), 0),
            Case("gather", lambda x, i: jnp.take_along_axis(x, i, axis=1), with_index((n, m), [[0], [1]] * (n // 2) +
                                                                                    [[1]] * (n % 2)), 0),
            Case("dynamic_slice", lambda x, i: (x[i], lax.dynamic_slice(x, (i,), (3,)) * 2),
                 with_index((n * m,), 4), 0),
            Case("dynamic_slice", lambda x, i: lax.dynamic_slice(x * 2, (i, i), (2, 2)), with_index((n, m), 7), 0),
            Case("dynamic_update_slice", lambda x, i: (lax.dynamic_update_slice(x, x[:2] * 3, (i,)),
                                                       x.at[i].set(5), lax.dynamic_update_slice(x, x[:2] * 3, (1,))),
                 with_index((n * m,), 3), 0),
            Case("scatter", lambda x, i=index: (x.at[i].set(x[i] * 2), x.at[0].set(3)), line, 0),
            Case("scatter", lambda x, i: (x.at[i].set(7), x.at[i].set(x[:3] * 2, mode="clip")),
                 with_index((n * m,), [1, 99999, 3]), 0),
            Case("scatter", lambda x, i: x.at[i].set(7), with_index((n, m), [1]), 0),
            Case("scatter-add", lambda x, i=index: x.at[i].add(x[i]), line, 0),
            Case("scatter-add", lambda x, i: x.at[i].add(x[:3]), with_index((n * m,), [1, 1, 3]), 0),
            Case("scatter-sub", lambda x, i: x.at[i].subtract(x[:3]), with_index((n * m,), [1, 1, 3]), 0),
            Case("scatter-mul", lambda x, i: x.at[i].mul(x[:3]), with_index((n * m,), [1, 1, 3]), 0),
            Case("scatter-min", lambda x, i: x.at[i].min(x[:3]), with_index((n * m,), [1, 2, 3]), 0),
            Case("scatter-max", lambda x, i: x.at[i].max(x[:3]), with_index((n * m,), [1, 2, 3]), 0),
            Case("reduce_sum", lambda x: (x.sum(), x.sum(0), x.sum(1), jnp.mean(x), jnp.linalg.norm(x)), a, 64, 1e-5),
            Case("reduce_prod", lambda x: (x.prod(), x.prod(0), x.prod(1)), a, 256),
            Case("reduce_max", lambda x: (x.max(), x.max(0), x.max(1)), a, 0),
            Case("reduce_min", lambda x: (x.min(), x.min(0), x.min(1)), a, 0),
            Case("reduce_and", lambda x: ((x > -9).all(), (x > 0).all(0), lax.reduce_and((x > 0), (1,))), a, 0),
            Case("reduce_or", lambda x: ((x > 9).any(), (x > 1).any(0)), a, 0),
            Case("reduce_xor", lambda x: (lax.reduce_xor((x * 100).astype(jnp.int32), (0,)),
                                          lax.reduce_xor(x > 0, (0, 1))), a, 0),
            Case("reduce_and", lambda x: (lax.reduce_and(x, (0,)), lax.reduce_or(x, (0, 1))), a, 0, dtypes=("int32",)),
            Case("argmax", lambda x: (jnp.argmax(x), jnp.argmax(x, 0), jnp.argmax(x, 1)), a, 0),
            Case("argmin", lambda x: (jnp.argmin(x), jnp.argmin(x, 0), jnp.argmin(x, 1)), a, 0),
            Case("argmax", lambda x, k=start: (jnp.argmax(x.at[k].set(NAN)), jnp.argmin(x.at[k].set(NAN))), line, 0),
            Case("cumsum", lambda x: (jnp.cumsum(x), jnp.cumsum(x, 0), lax.cumsum(x, 1, reverse=True)), a, 64, 1e-5),
            Case("cumprod", lambda x: lax.cumprod(x, 0), a, 64),
            Case("cummax", lambda x: (lax.cummax(x, 0), lax.cummax(x, 1, reverse=True)), a, 0),
            Case("cummin", lambda x: (lax.cummin(x, 0), lax.cummin(x, 1)), a, 0),
            Case("cumlogsumexp", lambda x: lax.cumlogsumexp(x, 1), a, 64),
            Case("sort", lambda x: (jnp.sort(x, 0), jnp.sort(x, 1), jnp.argsort(x, 1), jnp.median(x)), a, 0),
            Case("sort", lambda x: jnp.sort(x.at[1].set(NAN)), line, 0),
            Case("sort", lambda x: lax.sort((x.astype(jnp.int32), x, x), dimension=0, num_keys=2), line, 0),
        ]
    for n, m, k in ((2, 3, 4), (3, 3, 3), (5, 40, 4), (40, 2, 3), (10, 10, 10)):
        cases += [
            Case("dot_general", lambda x, y: x @ y, normal((n, k), (k, m)), 256, 1e-5),
            Case("dot_general", lambda x, y: (x @ y, y @ x.T, jnp.dot(y, y), jnp.outer(y, y)),
                 normal((n, k), (k,)), 256, 1e-5),
            Case("dot_general", lambda x, y: jnp.einsum("bij,bkj->bik", x, y), normal((2, n, k), (2, m, k)), 256, 1e-5),
            Case("dot_general", lambda x, y: x @ y, normal((n, k), (k, m)), 0, dtypes=("int32",)),
        ]
    calls = normal((4,))
    cases += [
        Case("jit", lambda x: jax.jit(lambda z: z * 2)(x), calls, 0),
        Case("remat2", lambda x: jax.checkpoint(lambda z: z * 2)(x), calls, 0),
        Case("custom_jvp_call", jax.nn.relu, calls, 0),
        Case("custom_jvp_call", jax.nn.softplus, calls, 8, 1e-6),
        Case("custom_vjp_call", _with_vjp, calls, 0),
        Case("add_any", lambda x: jax.vjp(lambda z: z * z + z, x)[1](x)[0], calls, 0),
    ]
    for shape in ((4,), (50,)):
        a = normal(shape)
        flag = with_index(shape, 2)
        cases += [
            Case("cond", lambda x, i: lax.cond(i > 1, lambda z: z * 2, lambda z: -z, x), flag, 0),
            Case("cond", lambda x, i: [lax.switch(k * i, [lambda z: z * 2, lambda z: -z, jnp.zeros_like], x)
                                       for k in (-1, 0, 1, 9)], flag, 0),
            Case("cond", lambda x, i: lax.cond(i < 1, lambda z: _halve(z), lambda z: (z, z.sum()), x), flag, 8, 1e-6),
            Case("cond", lambda x, i: lax.cond(i > 1, lambda z: _halve(z), lambda z: (z, z.sum()), x), flag, 8, 1e-6),
            Case("while", lambda x: lax.while_loop(lambda s: jnp.abs(s).max() > 1e-2, lambda s: s * 0.5, x), a, 0),
            Case("while", lambda x, i: lax.fori_loop(0, i + 3, lambda k, s: (s[1], s[0] * 2), (x, x + 1)), flag, 0),
            Case("while", lambda x: lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.roll(s[1], 1), s[1]),
                                                   (0, x, x)), a, 0),
            Case("scan", lambda x: lax.fori_loop(0, 3, lambda k, s: s * x[k], x), a, 4),
            Case("scan", lambda x: lax.fori_loop(0, 60, lambda k, s: s * 0.5 + x[k % 3], x), a, 64, 1e-6),
            Case("scan", lambda x: lax.scan(lambda c, z: (c + z, c * z), x[0], x), a, 64, 1e-6),
            Case("scan", lambda x: lax.scan(lambda c, z: (c + z, c * 2), x, jnp.stack([x, x * 2, x]), reverse=True),
                 a, 8, 1e-6),
            Case("scan", lambda x: lax.scan(lambda c, z: (c * 0.9 + z, (c[:2], c.sum())), x, jnp.arange(70.0)
                                            .astype(x.dtype)), a, 64, 1e-5),
            Case("scan", lambda x: lax.scan(lambda c, z: (c * 0.5, z * 2), x, jnp.tile(x[None], (40, 1)) + 1,
                                            reverse=True), a, 8, 1e-6),
            Case("scan", lambda x: jnp.interp(x, jnp.linspace(-2, 2, 9).astype(x.dtype),
                                              jnp.linspace(-2, 2, 9).astype(x.dtype) ** 2), a, 16, 1e-6),
            Case("jit", lambda x: jax.jacfwd(lambda z: jnp.sin(z[:3]) * z[1:4])(x), a, 8, 1e-6),
            Case("jit", lambda x: jax.grad(lambda z: (jnp.tanh(z) ** 2).sum())(x), a, 64, 1e-6),
            Case("jit", lambda x: jax.vmap(lambda z: jnp.where(z > 0, z, 0) * x[0])(x), a, 0),
        ]
    cases.append(Case("platform_index", lambda x: lax.platform_dependent(
        x, cpu=lambda z: z + z, default=lambda z: z * 2), calls, 0))
    for n in (3, 8):
        a = normal((n, n), (n,))
        matrices = normal((2, n, n), (2, n))
        cases += [
            Case("lu", lambda x, y: lax.linalg.lu(x), a, 2000, 1e-4),
            Case("lu", lambda x, y: lax.linalg.lu(x), matrices, 2000, 1e-4),
            Case("lu", lambda x, y: (jnp.linalg.det(x), jnp.linalg.inv(x)), a, 2000, 1e-4),
            Case("lu_pivots_to_permutation", lambda x, y: lax.linalg.lu_pivots_to_permutation(
                lax.linalg.lu(x)[1], x.shape[-1]), a, 0),
            Case("custom_linear_solve", lambda x, y: (jnp.linalg.solve(x, y), jnp.linalg.solve(x.T, y[:, None])), a,
                 2000, 1e-4),
            Case("custom_linear_solve", lambda x, y: jax.vmap(jnp.linalg.solve)(x, y), matrices, 2000, 1e-4),
            Case("cholesky", lambda x, y: jnp.linalg.cholesky(x @ x.T + 2 * jnp.eye(len(x), dtype=x.dtype)), a,
                 2000, 1e-4),
            Case("triangular_solve", lambda x, y: [
                lax.linalg.triangular_solve(x + 4 * jnp.eye(len(x), dtype=x.dtype), x, left_side=left, lower=lower,
                                            transpose_a=transpose, unit_diagonal=left)
                for left in (True, False) for lower in (True, False) for transpose in (True, False)], a, 2e5, 1e-2),
        ]
    return cases


def _halve(x: Any) -> Any:
    return lax.fori_loop(0, 40, lambda k, s: (s[0] * 0.5, s[1] + s[0][0]), (x, x[0]))


@jax.custom_vjp
def _with_vjp(x: Any) -> Any:
    return x * 5


_with_vjp.defvjp(lambda x: (x * 5, None), lambda _, g: (g * 5,))

CASES = _cases()


def ulp_close(got: np.ndarray, want: np.ndarray, ulp: float, atol: float, where: str) -> None:
    assert got.dtype == want.dtype, where
    assert got.shape == want.shape, where
    if not np.issubdtype(want.dtype, np.floating):
        np.testing.assert_array_equal(got, want, where)
        return
    np.testing.assert_allclose(got, want, rtol=ulp * np.finfo(want.dtype).eps,
                               atol=atol if want.dtype == np.float32 else atol * 1e-6, err_msg=where)
    zeros = (want == 0) & (got == 0)
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(want[zeros]), where + " (sign of zero)")


def as_list(x: Any) -> list[Any]:
    return jax.tree.leaves(x)


SETS = [(dtype, k) for dtype in ("float32", "float64", *INTEGERS, "int16", "uint64", "bool")
        for k in range(0, len([c for c in CASES if dtype in c.dtypes]), 50)]


@pytest.mark.parametrize(("dtype", "begin"), SETS)
def test_rules_against_jit(dtype: str, begin: int) -> None:
    with jax.enable_x64(True):
        cases = [c for c in CASES if dtype in c.dtypes][begin:begin + 50]
        arguments = [c.args(dtype) for c in cases]
        wants = jax.jit(lambda all_args: [as_list(c.fn(*a)) for c, a in zip(cases, all_args, strict=True)])(arguments)
        traced = [trace(lambda *z, fn=c.fn: as_list(fn(*z)), *[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in a])
                  for c, a in zip(cases, arguments, strict=True)]
        image = Compiled([program for program, _ in traced])
        failures = []
        for k, (case, args, want, (_, constants)) in enumerate(zip(cases, arguments, wants, traced, strict=True)):
            got = image(k, *args, *constants)
            for i, (g, w) in enumerate(zip(got, want, strict=True)):
                try:
                    ulp_close(g, np.asarray(w), case.ulp, case.atol, f"{case.name}, output {i}, {dtype}")
                except AssertionError as error:
                    failures.append(f"{error}\n{args}")
        assert not failures, f"{len(failures)} failures\n" + "\n".join(failures)


SAME_RULE = {"pjit": "jit", "closed_call": "jit", "core_call": "jit", "remat": "remat2", "checkpoint": "remat2",
             "custom_vjp_call_jaxpr": "custom_vjp_call", "scatter_mul": "scatter-mul", "le_to": "lt_to",
             "eq_to": "lt_to",
             "copy_p": "copy", "pvary": "copy",
             "pcast": "copy", "pbroadcast": "copy", "device_put": "copy", "sharding_constraint": "copy",
             "reshard": "copy", "stop_gradient": "copy", "empty": "iota"}
"""Names that share another's rule; other versions of JAX use them, or only sharded programs."""


def test_every_rule_has_a_case() -> None:
    covered = {c.name for c in CASES}
    missing = sorted(n for n in RULES if SAME_RULE.get(n, n) not in covered)
    assert not missing, f"rules without a case: {missing}"
