"""Functions of jax.numpy, jax.nn and jax.scipy as users write them, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np
from cases import FLOATS, INF, NAN, Case, normal

_LINE = np.array([0.3, -1.2, 2.5, -0.0, 0.0, 1.0, -1.0, 3.7, -2.5, 0.5, NAN, INF, -INF])
_OTHER = np.array([1.5, 2.0, -0.5, 1.0, -1.0, 0.0, NAN, -1.5, 2.5, INF, 1.0, 2.0, 0.3])


def _one(dtype: str) -> tuple[Any, ...]:
    return (_LINE.astype(dtype),)


def _two(dtype: str) -> tuple[Any, ...]:
    return _LINE.astype(dtype), _OTHER.astype(dtype)


def _unit(dtype: str) -> tuple[Any, ...]:
    return (np.linspace(0.02, 0.98, 13).astype(dtype),)


def _whole(dtype: str) -> tuple[Any, ...]:
    return np.array([3, 0, -2, 7, 5, -1], dtype), np.array([2, 5, 3, -4, -3, 1], dtype)


_UNARY = ("abs", "around", "ceil", "cbrt", "conj", "deg2rad", "exp", "exp2", "expm1", "fabs", "fix", "floor", "i0", "isfinite",
          "isinf", "isnan", "isneginf", "isposinf", "log", "log10", "log1p", "log2", "logical_not", "nan_to_num", "negative",
          "positive", "rad2deg", "reciprocal", "rint", "sign", "signbit", "sin", "sinc", "spacing", "sqrt", "square", "trunc",
          "frexp", "modf", "nancumsum", "nancumprod", "nanmax", "nanmin", "nansum", "nanprod", "nanargmax", "nanargmin",
          "nanmean", "nanstd", "nanvar", "nanmedian", "angle", "real", "imag")
_BINARY = ("add", "arctan2", "copysign", "divmod", "equal", "float_power", "floor_divide", "fmax", "fmin", "fmod", "greater",
           "heaviside", "hypot", "isclose", "logaddexp", "logaddexp2", "logical_and", "logical_or", "logical_xor", "maximum",
           "mod", "nextafter", "power", "remainder", "true_divide", "array_equal", "allclose")
_INTEGER = ("bitwise_and", "bitwise_or", "bitwise_xor", "divmod", "floor_divide", "fmod", "gcd", "lcm", "mod", "remainder",
            "true_divide", "multiply", "maximum", "arctan2", "hypot", "isclose")
_ACTIVATIONS = ("celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "log_sigmoid", "log_softmax",
                "logsumexp", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softmax", "softplus",
                "sparse_plus", "sparse_sigmoid", "squareplus", "standardize", "tanh", "hard_swish", "swish")
_SPECIAL = ("digamma", "entr", "erf", "erfc", "erfinv", "expit", "gammaln", "gamma", "i0", "i0e", "i1", "i1e", "log_ndtr",
            "logit", "ndtr", "ndtri", "spence", "zeta", "xlogy", "xlog1py", "rel_entr", "kl_div", "beta", "betaln", "gammainc",
            "gammaincc", "factorial", "dawsn", "erfcx")
_OF_TWO = {"zeta", "xlogy", "xlog1py", "rel_entr", "kl_div", "beta", "betaln", "gammainc", "gammaincc"}


def _shapes() -> dict[str, Callable[..., Any]]:
    """On a matrix of 4 by 5."""
    return {
        "append": lambda x: jnp.append(x, x[0]),
        "apply_along_axis": lambda x: jnp.apply_along_axis(lambda r: r[::2] * 2, 1, x),
        "apply_over_axes": lambda x: jnp.apply_over_axes(jnp.sum, x, (0, 1)),
        "array_split": lambda x: jnp.array_split(x, 3, axis=1),
        "average": lambda x: jnp.average(x, axis=0, weights=jnp.arange(1.0, 5.0).astype(x.dtype)),
        "block": lambda x: jnp.block([[x, x], [x[:1], x[1:2]]]),
        "choose": lambda x: jnp.choose(jnp.array([0, 1, 2, 1]), [x[0, :4], x[1, :4], x[2, :4]], mode="clip"),
        "column_stack": lambda x: jnp.column_stack([x[:, 0], x]),
        "compress": lambda x: jnp.compress(x[:, 0] > 0, x, axis=0, size=2, fill_value=0),
        "corrcoef": lambda x: jnp.corrcoef(x),
        "correlate": lambda x: jnp.correlate(x[0], x[1, :3], "full"),
        "count_nonzero": lambda x: jnp.count_nonzero(x > 0, axis=1),
        "cov": lambda x: jnp.cov(x),
        "cross": lambda x: jnp.cross(x[:, :3], x[:, 2:]),
        "cumulative_prod": lambda x: jnp.cumulative_prod(x, axis=1),
        "cumulative_sum": lambda x: jnp.cumulative_sum(x, axis=1, include_initial=True),
        "delete": lambda x: jnp.delete(x, 1, axis=1),
        "diag": lambda x: (jnp.diag(x), jnp.diag(x[0], 1), jnp.diagonal(x, 1), jnp.diagflat(x[:2])),
        "diff": lambda x: (jnp.diff(x), jnp.diff(x, 2, axis=0), jnp.ediff1d(x)),
        "digitize": lambda x: jnp.digitize(x[0], jnp.array([-1.0, 0.0, 0.5, 2.0], x.dtype)),
        "einsum": lambda x: (jnp.einsum("ij,kj->ik", x, x), jnp.einsum("ij,jk,kl->il", x, x.T, x), jnp.einsum("ij->j", x),
                             jnp.einsum("ii->i", x[:, :4])),
        "fill_diagonal": lambda x: jnp.fill_diagonal(x, 7, inplace=False),
        "flip": lambda x: (jnp.flip(x), jnp.fliplr(x), jnp.flipud(x), jnp.rot90(x)),
        "gradient": lambda x: jnp.gradient(x),
        "histogram": lambda x: jnp.histogram(x[:2], bins=6, range=(-2, 2))[0],
        "inner": lambda x: (jnp.inner(x, x), jnp.vdot(x, x), jnp.outer(x[0], x[1])),
        "insert": lambda x: jnp.insert(x, 2, 9.0, axis=0),
        "interp": lambda x: (jnp.interp(x[1], jnp.linspace(-1, 1, 5).astype(x.dtype), x[0]),
                             jnp.interp(x[2, 0], jnp.linspace(-1, 1, 5).astype(x.dtype), x[0], period=2.0)),
        "isin": lambda x: jnp.isin(jnp.round(x), jnp.array([0.0, 1.0], x.dtype)),
        "kron": lambda x: jnp.kron(x[:2, :2], x[2:, :3]),
        "ldexp": lambda x: jnp.ldexp(x, jnp.arange(5) - 2),
        "linspace": lambda x: jnp.linspace(x[0, 0], x[1, 1], 7),
        "logspace": lambda x: jnp.logspace(x[0, 0], x[1, 1], 4),
        "matvec": lambda x: (jnp.matvec(x, x[0]), jnp.vecmat(x[:, 0], x), jnp.vecdot(x, x)),
        "meshgrid": lambda x: jnp.meshgrid(x[0], x[1, :3]),
        "nonzero": lambda x: (jnp.nonzero(x > 0, size=6, fill_value=-1), jnp.flatnonzero(x > 0, size=3)),
        "packbits": lambda x: jnp.unpackbits(jnp.packbits(x > 0)),
        "partition": lambda x: jnp.partition(x, 2, axis=1),
        "percentile": lambda x: (jnp.percentile(x, 40), jnp.quantile(x, 0.3, axis=0), jnp.median(x, 1)),
        "piecewise": lambda x: jnp.piecewise(x, [x < -0.5, x > 0.5], [lambda z: -z, lambda z: z**2, 0.0]),
        "poly": lambda x: (jnp.polyval(x[0], x[1]), jnp.polymul(x[0], x[1, :3]), jnp.polyder(x[0]), jnp.polyint(x[0]),
                           jnp.polyadd(x[0], x[1, :2]), jnp.vander(x[0], 3)),
        "put": lambda x: jnp.put(x, jnp.array([1, 7]), 5, inplace=False),
        "put_along_axis": lambda x: jnp.put_along_axis(x, jnp.array([[1], [0], [2], [3]]), 5, 1, inplace=False),
        "ravel_multi_index": lambda x: (jnp.ravel_multi_index((jnp.array([1, 2]), jnp.array([3, 4])), (4, 5), mode="clip"),
                                        jnp.unravel_index(jnp.array([7, 13]), (4, 5))),
        "repeat": lambda x: (jnp.repeat(x, 2, axis=0), jnp.repeat(x[0], jnp.array([1, 0, 2, 1, 3]), total_repeat_length=7)),
        "resize": lambda x: jnp.resize(x, (3, 9)),
        "roll": lambda x: (jnp.roll(x, 2), jnp.roll(x, (1, -2), (0, 1)), jnp.rollaxis(x, 1)),
        "searchsorted": lambda x: (jnp.searchsorted(jnp.sort(x[0]), x[1]),
                                   jnp.searchsorted(jnp.sort(x[0]), x[2], side="right")),
        "select": lambda x: jnp.select([x > 1, x > 0], [x, 2 * x], -1.0),
        "split": lambda x: (jnp.hsplit(x, [2]), jnp.vsplit(x, 2)),
        "stack": lambda x: (jnp.dstack([x, x]), jnp.hstack([x, x]), jnp.vstack([x, x[0]])),
        "take": lambda x: (jnp.take(x, jnp.array([3, 1]), axis=1), x[jnp.array([0, 3]), jnp.array([1, 1])],
                           x[x[:, 0].argsort()]),
        "tensordot": lambda x: (jnp.tensordot(x, x, ([1], [1])), jnp.tensordot(x, x.T, 1), jnp.tensordot(x, x, 2)),
        "tile": lambda x: (jnp.tile(x, 2), jnp.broadcast_to(x[0], (3, 5)), jnp.atleast_3d(x)),
        "trace": lambda x: jnp.trace(x, 1),
        "trapezoid": lambda x: (jnp.trapezoid(x), jnp.trapezoid(x, dx=0.1, axis=0), jnp.trapezoid(x[0], jnp.cumsum(x[1] ** 2))),
        "tri": lambda x: (jnp.tril(x), jnp.triu(x, 1), jnp.tri(4, 5, dtype=x.dtype), x[jnp.tril_indices(4)]),
        "unique": lambda x: jnp.unique(jnp.round(x[:2]), size=5, fill_value=0, return_counts=True),
        "unwrap": lambda x: jnp.unwrap(3 * x),
        "where": lambda x: (jnp.where(x > 0, x, 0), jnp.clip(x, -0.5, 0.5), jnp.clip(x, max=x[0])),
        "bartlett": lambda x: x[0] * jnp.hanning(5).astype(x.dtype) + jnp.eye(4, 5, dtype=x.dtype)[0],
        "unstack": lambda x: jnp.unstack(x, axis=1),
        "one_hot": lambda x: jax.nn.one_hot(jnp.array([1, 0, 4]), 5, dtype=x.dtype) @ x.T,
        "glu": lambda x: jax.nn.glu(x[:, :4]),
        "logsumexp": lambda x: (jax.nn.logsumexp(x, axis=1), special.logsumexp(x, b=jnp.abs(x))),
        "toeplitz": lambda x: (jax.scipy.linalg.toeplitz(x[0], x[1]), jax.scipy.linalg.block_diag(x[:2, :2], x[2:, 2:])),
        "map_coordinates": lambda x: jax.scipy.ndimage.map_coordinates(x, [x[0] + 1, x[1] + 2], order=1),
        "convolve2d": lambda x: jax.scipy.signal.convolve2d(x, x[:2, :2], mode="same"),
        "norm_logpdf": lambda x: (jax.scipy.stats.norm.logpdf(x), jax.scipy.stats.norm.cdf(x)),
        "rk_tableau": lambda x: jnp.tensordot(jnp.array([[0.5, 0], [0.1, 0.4]], x.dtype), x[:2], axes=1),
    }


def _numpy_cases() -> list[Case]:
    cases = [Case(f"jnp.{name}", getattr(jnp, name), _one, 32, 1e-6) for name in _UNARY if hasattr(jnp, name)]
    cases += [Case(f"jnp.{name}", getattr(jnp, name), _two, 32, 1e-6) for name in _BINARY]
    cases += [Case(f"jnp.{name}", getattr(jnp, name), _whole, 32, 1e-6, ("int32", "int64", "int8")) for name in _INTEGER]
    cases += [Case(f"nn.{name}", getattr(jax.nn, name), normal((13,)), 64, 1e-6, ("float32",)) for name in _ACTIVATIONS]
    for name in _SPECIAL:
        function = getattr(special, name, None)
        if function is not None:
            of_two = name in _OF_TWO
            cases.append(Case(f"special.{name}", (lambda x, f=function: f(1 + x, x)) if of_two else function, _unit, 512, 1e-5,
                              ("float64",)))
    cases += [Case(f"jnp.{name}", function, normal((4, 5)), 256, 2e-6, ("float32",)) for name, function in _shapes().items()]
    cases += [
        Case("power", lambda x, y: (x ** jnp.abs(y), jnp.power(2.0, y), jnp.ldexp(1.5, y), x // 2, x % 3, x >> 1, x << 2,
                                    ~x, jnp.sign(x), jnp.bitwise_count(x)), _whole, 32, 0, ("int32", "int64")),
        Case("bincount", lambda x, y: (jnp.bincount(jnp.abs(x), length=9), jnp.cumsum(x), jnp.sort(y)), _whole, 0, 0,
             ("int32", "int64")),
        Case("dot_product_attention", lambda x: jax.nn.dot_product_attention(
            x[None, :, None], 2 * x[None, :, None], x[None, :, None]), normal((4, 5)), 256, 2e-6, ("float32",)),
        Case("promotion", lambda x: (x * np.int32(2), x + True, 3 * x, x / 7, x.astype(int) // 2), normal((5,)), 1, 0, FLOATS),
    ]
    return cases


NUMPY_CASES = _numpy_cases()
