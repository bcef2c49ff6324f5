"""Reductions, windows, sums of products, sorting: unrolled and as loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import FLOATS, INF, NAN, Case, normal, only
from jax import lax


def _cases() -> list[Case]:
    cases: list[Case] = []
    for n, m in ((2, 3), (5, 40)):
        a = normal((n, m))
        line = normal((n * m,))
        start = n * m // 2
        cases += [
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
    # Sizes that are NumPy's, as those of jax.hessian.
    cases += [Case("dot_general", lambda x, y: jnp.split(x, np.array([13]))[1] @ y, normal((20, 7), (7,)), 256, 1e-5)]
    cases += _windows() + _convolutions() + _sorts()
    box = normal((3, 4, 5))
    cases += [
        Case("reduce_sum", lambda x: (x.sum((0, 2)), x.mean(1), x.std(), jnp.var(x, axis=0)), box, 64, 1e-6),
        Case("reduce_sum", lambda x: (x.sum(), x.sum(1), x.sum((0, 1))), box, 0, dtypes=("int32", "int64", "uint8")),
        Case("reduce_prod", lambda x: (x.prod(), x.prod(1)), box, 0, dtypes=("int32", "int64")),
        Case("reduce_max", lambda x: (x.max(), x.min(1), x.argmax(0), jnp.argmin(x), jnp.ptp(x)), box, 0,
             dtypes=("int32", "int8")),
        Case("reduce_max", lambda x: (x.max(1), x.min((0, 2)), x.at[1, 2, 3].set(NAN).max(), jnp.where(x > 0, NAN, x).min(1)),
             box, 0),
        Case("reduce_sum", lambda x: (x.at[0].set(INF).sum(), x.at[0, 0].set(INF).at[1, 1].set(-INF).sum(0)), box, 16, 1e-6),
        Case("reduce", lambda x: lax.reduce(x, np.array(0, x.dtype), _one_more, (1,)), box, 64, 1e-5),
        Case("reduce", lambda x: lax.reduce((x, -x), (np.array(1, x.dtype), np.array(0, x.dtype)), _complex_product, (0, 2)),
             box, 64, 1e-5),
        Case("reduce", lambda x: lax.reduce((x, lax.broadcasted_iota("int32", x.shape, 1)), (np.array(-INF, x.dtype),
             np.int32(-1)), lambda a, b: (lax.max(a[0], b[0]), jnp.where(a[0] >= b[0], a[1], b[1])), (1, 2)), box, 0),
        Case("cumsum", lambda x: (jnp.cumsum(x, 1), jnp.cumsum(x, 2)[..., ::-1]), box, 0, dtypes=("int32",)),
        Case("cumsum", lambda x: (jnp.cumsum(x, 1), lax.cumsum(x, 2, reverse=True)), box, 64, 1e-6),
        Case("cumlogsumexp", lambda x: lax.cumlogsumexp(x.at[0].set(-INF).at[1, 0].set(INF), 0), box, 64, 1e-6),
    ]
    return cases


def _one_more(u: Any, v: Any) -> Any:
    return u + v + u * v


def _complex_product(u: Any, v: Any) -> Any:
    return u[0] * v[0] - u[1] * v[1], u[0] * v[1] + u[1] * v[0]


def _windows() -> list[Case]:
    cases = []
    for shape, dtype in (((2, 9), "float32"), ((3, 20), "float64")):
        a = normal(shape)
        cases += only(dtype, [
            Case("reduce_window_sum", lambda x: (lax.reduce_window(x, 0.0, lax.add, (1, 3), (1, 2), "SAME"),
                                                 lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 1), "VALID")), a, 16, 1e-6),
            Case("reduce_window_max", lambda x: lax.reduce_window(x, -INF, lax.max, (1, 3), (1, 2), ((0, 0), (2, 1)),
                                                                  window_dilation=(1, 2)), a, 0),
            Case("reduce_window_min", lambda x: lax.reduce_window(x, INF, lax.min, (1, 4), (1, 1), ((0, 0), (0, 3)),
                                                                  base_dilation=(1, 2)), a, 0),
            Case("reduce_window", lambda x: lax.reduce_window(x, x[0, 0] * 0, _one_more, (2, 3), (1, 1), "SAME"), a,
                 64, 1e-5),
            Case("reduce_window", lambda x: lax.reduce_window((x, -x), (x[0, 0] * 0 + 1, x[0, 0] * 0), _complex_product,
                                                              (1, 3), (1, 3), "VALID"), a, 64, 1e-5),
            Case("select_and_gather_add", lambda x: jax.jvp(_pool, (x,), (x[::-1],))[1], a, 0),
            Case("select_and_scatter_add", jax.grad(lambda x: (_pool(x) * jnp.arange(_pool(x).size).reshape(
                _pool(x).shape)).sum()), a, 4),
        ])
    return cases


def _pool(x: Any) -> Any:
    return lax.reduce_window(x, -INF, lax.max, (1, 3), (1, 2), "SAME")


def _convolutions() -> list[Case]:
    def conv(x: Any, w: Any, **options: Any) -> Any:
        settings: dict[str, Any] = {"window_strides": (1,) * (x.ndim - 2), "padding": "SAME"}
        return lax.conv_general_dilated(x, w, **(settings | options))

    cases = []
    for width, dtype in ((5, "float64"), (24, "float32")):
        line, small = normal((1, 2, width), (3, 2, 3)), normal((2, 4, width), (6, 2, 3))
        plane = normal((1, 6, width, 2), (3, 3, 2, 2))
        cases += only(dtype, [
            Case("conv_general_dilated", lambda x, w: (conv(x, w), conv(x, w, padding="VALID", window_strides=(2,))), line,
                 64, 1e-5),
            Case("conv_general_dilated", lambda x, w: conv(x, w, padding=((2, 1),), lhs_dilation=(2,), rhs_dilation=(3,)),
                 line, 64, 1e-5),
            Case("conv_general_dilated", lambda x, w: conv(x, w, padding=((-1, 2),)), line, 64, 1e-5),
            Case("conv_general_dilated", lambda x, w: conv(x, w, feature_group_count=2), small, 64, 1e-5),
            Case("conv_general_dilated", lambda x, w: conv(x, w[:, :, :].repeat(2, 1), batch_group_count=2), small, 64, 1e-5),
            Case("conv_general_dilated", lambda x, w: conv(x, w, dimension_numbers=("NHWC", "HWIO", "NHWC")), plane, 64, 1e-5),
            Case("conv_general_dilated", lambda x, w: jax.grad(lambda *p: (conv(*p, feature_group_count=2) ** 2).sum(), (0, 1))(
                x, w), small, 256, 1e-4),
            Case("conv_general_dilated", lambda x, y: [jnp.convolve(x, y, mode) for mode in ("full", "same", "valid")],
                 normal((width,), (4,)), 64, 1e-5),
        ])
    return cases


def _sorts() -> list[Case]:
    cases = []
    for n in (2, 3, 8, 33, 70, 1500):
        a = _with_ties(n)
        dtypes = {33: ("float64", "uint8"), 70: ("float32",), 1500: ("float64",)}.get(n, (*FLOATS, "int32", "uint8"))
        cases += [
            Case("sort", lambda x: (jnp.sort(x), jnp.argsort(x), jnp.argsort(x, descending=True)), a, 0, dtypes=dtypes),
            Case("top_k", lambda x: lax.top_k(x, min(4, x.size)), a, 0, dtypes=dtypes),
        ]
    square = normal((6, 7))
    cases += [
        Case("sort", lambda x: (jnp.sort(x, 0), jnp.sort(x > 0, 1), jnp.lexsort((x[0], (x[1] > 0))), jnp.median(x, 0)), square,
             4, 1e-6),
        Case("sort", lambda x: jnp.sort(jnp.stack([x, -x, x[::-1]]), axis=1, descending=True), square, 0),
        Case("top_k", lambda x: lax.top_k(x, 3, axis=0), square, 0),
        *[Case("sort", lambda x, method=method: jnp.searchsorted(
            jnp.sort(x.ravel()), x[0], method=method), square, 0) for method in ("sort", "scan", "compare_all")],
        Case("sort", lambda x: (jnp.percentile(x, 30.0), jnp.quantile(x, 0.7, axis=1), jnp.nanmedian(x.at[0].set(NAN))), square,
             16, 1e-6),
    ]
    return cases


def _with_ties(n: int) -> Callable[[str], tuple[Any, ...]]:
    def make(dtype: str) -> tuple[Any, ...]:
        random = np.random.default_rng(n)
        if dtype not in FLOATS:
            return (random.integers(0, 9, n).astype(dtype),)
        x = np.round(random.normal(size=n), 1)
        x[random.random(n) < 0.1] = random.choice([NAN, INF, -INF, 0.0, -0.0])
        return (x.astype(dtype),)

    return make


REDUCTION_CASES = _cases()
