"""The elementwise rules: one row each, and the values that every row is tried with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from cases import EVERY_INTEGER, INF, NAN, Case, grid, one_integer, two_integers
from jax import lax

UNARY = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.1, -0.1, 0.7, -0.7, 0.9, -0.9, 0.999, 1.1, 3.7, -3.7,
         10.3, -10.3, 77.0, -20.0, 123.4, 1e-5, -1e-5, 3e5, -3e5, 1e30, -1e30, NAN, INF, -INF)
BINARY = (0.0, -0.0, 1.0, -1.0, 0.3, 3.0, -2.5, 1e-15, 1e30, -1e30, NAN, INF, -INF)
TERNARY = (0.0, -0.0, 0.5, -1.0, 2.0, NAN, INF, -INF)
SHAPES = (0.0, -0.0, 0.6, 1.0, 2.0, 2.5, 7.3, 30.0, -1.0, -2.0, -3.5, NAN, INF, -INF)
ZERO = ((0.0,), (-0.0,))
GAMMA_LIMITS = ((0.0, 0.6), (-0.0, 0.6), *((INF, x) for x in SHAPES if x > 0))


class Row(NamedTuple):
    """An elementwise rule on floats.

    ``numpy`` is the same function in NumPy, for subnormal numbers; the functions of two and three parameters have none
    that is right there.
    """

    fn: Callable[..., Any]
    numpy: Callable[..., Any] | None
    arguments: int = 1
    ulp: float = 4
    atol: float = 0.0
    values: tuple[float, ...] = ()
    but: tuple[tuple[float, ...], ...] = ()
    """Arguments where XLA is no reference, for the reason that stands by the row."""


def _round(x: Any) -> Any:
    return lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)


def _polynomial(x: Any) -> Any:
    if hasattr(lax, "polynomial"):  # from JAX 0.12 on
        return lax.polynomial(x, [3.0, 2.0, -1.0, 0.5])
    return ((0.5 * x - 1) * x + 2) * x + 3


def _total_order(x: Any) -> Any:
    integer = np.asarray(x).view(np.int32 if np.asarray(x).dtype == np.float32 else np.int64)
    return np.where(integer < 0, np.bitwise_xor(integer, np.iinfo(integer.dtype).max), integer)


def _halves(x: Any) -> Any:
    """x to float16 and back, which has the exponent and mantissa of the row below, but keeps subnormals of its own."""
    return np.where(abs(x) < 2.0**-14, np.copysign(0, x), x.astype(np.float16).astype(x.dtype)).astype(x.dtype)


FLOAT_ROWS: dict[str, Row] = {
    "sin": Row(lax.sin, np.sin),
    "cos": Row(lax.cos, np.cos),
    "tan": Row(lax.tan, np.tan, ulp=16),
    "asin": Row(lax.asin, np.arcsin, ulp=8),
    "acos": Row(lax.acos, np.arccos, ulp=8),
    "atan": Row(lax.atan, np.arctan),
    "sinh": Row(lax.sinh, np.sinh, ulp=32),
    "cosh": Row(lax.cosh, np.cosh, ulp=64),
    "tanh": Row(lax.tanh, np.tanh, ulp=8),
    "asinh": Row(lax.asinh, np.arcsinh, ulp=8),
    "acosh": Row(lax.acosh, np.arccosh, ulp=16),
    "atanh": Row(lax.atanh, np.arctanh, ulp=8),
    "exp": Row(lax.exp, np.exp),
    "exp2": Row(lax.exp2, np.exp2, ulp=16),
    "expm1": Row(lax.expm1, np.expm1, ulp=8),
    "log": Row(lax.log, np.log),
    "log1p": Row(lax.log1p, np.log1p),
    "log2": Row(jnp.log2, np.log2, ulp=8, atol=1e-7),  # a primitive from JAX 0.11 on
    "cbrt": Row(lax.cbrt, np.cbrt),
    "sqrt": Row(lax.sqrt, np.sqrt, ulp=0),
    "rsqrt": Row(lax.rsqrt, lambda x: 1 / np.sqrt(x), ulp=2),
    "erf": Row(lax.erf, scipy.special.erf, ulp=8),
    "erfc": Row(lax.erfc, scipy.special.erfc, ulp=64),
    "erf_inv": Row(lax.erf_inv, scipy.special.erfinv, ulp=64),
    "lgamma": Row(lax.lgamma, np.vectorize(math.lgamma), ulp=64, atol=1e-6),
    # Next to the pole XLA has four digits; at 0 its versions differ.
    "digamma": Row(lax.digamma, scipy.special.digamma, ulp=64, atol=1e-5, but=((-1e-5,), *ZERO)),
    "bessel_i0e": Row(lax.bessel_i0e, scipy.special.i0e, ulp=16),
    "bessel_i1e": Row(lax.bessel_i1e, scipy.special.i1e, ulp=16),
    "logistic": Row(lax.logistic, scipy.special.expit, ulp=8),
    "floor": Row(lax.floor, np.floor, ulp=0),
    "ceil": Row(lax.ceil, np.ceil, ulp=0),
    "round": Row(_round, lambda x: (np.zeros_like(x) * x, np.rint(x)), ulp=0),
    "sign": Row(lax.sign, np.sign, ulp=0),
    "abs": Row(lax.abs, np.abs, ulp=0),
    "neg": Row(lax.neg, np.negative, ulp=0),
    "square": Row(lax.square, np.square, ulp=0),
    "one_minus_square": Row(lambda x: jax.jvp(jnp.tanh, (x,), (jnp.ones_like(x),))[1],
                            lambda x: 1 - np.tanh(x) ** 2, ulp=64, atol=1e-6),
    "polynomial": Row(_polynomial, lambda x: np.polyval([0.5, -1.0, 2.0, 3.0], x).astype(x.dtype), ulp=16, atol=1e-6),
    "integer_pow": Row(lambda x: (x**2, x**3, x**-1, x**-2, x**7), lambda x: (x**2, x**3, x**-1, x**-2, x**7), ulp=8),
    "is_finite": Row(lax.is_finite, np.isfinite),
    "reduce_precision": Row(lambda x: lax.reduce_precision(x, 5, 10), _halves, ulp=0),
    "add": Row(lax.add, np.add, 2, ulp=0),
    "add_any": Row(lambda x, y: jax.vjp(lambda z: (z, z), x)[1]((x, y))[0], np.add, 2, ulp=0),
    "sub": Row(lax.sub, np.subtract, 2, ulp=0),
    "mul": Row(lax.mul, np.multiply, 2, ulp=0),
    "div": Row(lax.div, np.divide, 2, ulp=0),
    "rem": Row(lax.rem, np.fmod, 2, ulp=0),
    "max": Row(lax.max, np.maximum, 2, ulp=0),
    "min": Row(lax.min, np.minimum, 2, ulp=0),
    "pow": Row(lax.pow, np.power, 2, ulp=8),
    "atan2": Row(lax.atan2, np.arctan2, 2, ulp=8),
    "nextafter": Row(lax.nextafter, np.nextafter, 2, ulp=0),
    "eq": Row(lax.eq, np.equal, 2),
    "ne": Row(lax.ne, np.not_equal, 2),
    "lt": Row(lax.lt, np.less, 2),
    "le": Row(lax.le, np.less_equal, 2),
    "gt": Row(lax.gt, np.greater, 2),
    "ge": Row(lax.ge, np.greater_equal, 2),
    "lt_to": Row(lax.lt_to_p.bind, lambda x, y: _total_order(x) < _total_order(y), 2),
    "le_to": Row(lax.le_to_p.bind, lambda x, y: _total_order(x) <= _total_order(y), 2),
    "eq_to": Row(lax.eq_to_p.bind, lambda x, y: _total_order(x) == _total_order(y), 2),
    "select_n": Row(lambda x, y: (lax.select(x > y, x, y), lax.select_n((x > y).astype(np.int32), x, y)),
                    lambda x, y: (np.where(x > y, x, y), np.where(x > y, y, x)), 2, ulp=0),
    # XLA answers infinity where an argument is NaN.
    "zeta": Row(lax.zeta, None, 2, ulp=64, values=SHAPES, but=((1.0, NAN),)),
    # As for digamma, which it is for 0.
    # At (30, -3.5) terms of 1e31 cancel, and XLA's result is their rounding.
    "polygamma": Row(
        lax.polygamma, None, 2, ulp=512, values=SHAPES, but=(*((*n, *x) for n in ZERO for x in ZERO), (30.0, -3.5))
    ),
    # There are limits at a = 0 and at a = infinity, of which XLA's versions know some and answer NaN for others.
    "igamma": Row(lax.igamma, None, 2, ulp=512, values=SHAPES, but=GAMMA_LIMITS),
    "igammac": Row(lax.igammac, None, 2, ulp=512, values=SHAPES, but=GAMMA_LIMITS),
    # Rounded as a number near 1 is, which results in the tails are far below.
    "igamma_grad_a": Row(lax.igamma_grad_a, None, 2, ulp=4096, atol=1e-5, values=(0.05, 0.6, 1.0, 2.0, 2.5, 7.3, 30.0)),
    "clamp": Row(lambda x, y, z: lax.clamp(lax.min(x, z), y, lax.max(x, z)), lambda x, y, z: np.clip(
        y, np.minimum(x, z), np.maximum(x, z)), 3, ulp=0),
    "regularized_incomplete_beta": Row(lax.betainc, None, 3, ulp=512, values=(
        0.0, -0.0, 0.3, 1.0, 2.5, 7.3, -1.0, NAN, INF)),
}
"""The rules for floats."""

INTEGER_ROWS: dict[str, tuple[Callable[..., Any], int]] = {
    **{name: (getattr(lax, name), 1) for name in ("sign", "population_count", "clz", "square")},
    "abs": (jnp.abs, 1),
    "neg": (lax.neg, 1),
    "not": (lax.bitwise_not, 1),
    "integer_pow": (lambda x: (x**2, x**3, x**5), 1),
    **{name: (getattr(lax, name), 2) for name in (
        "add", "sub", "mul", "div", "rem", "max", "min", "eq", "ne", "lt", "le", "gt", "ge", "shift_left",
        "shift_right_logical", "shift_right_arithmetic")},
    **{name: (getattr(lax, f"bitwise_{name}"), 2) for name in ("and", "or", "xor")},
    "select_n": (lambda x, y: lax.select(x > y, x, y), 2),
    "clamp": (lambda x, y: lax.clamp(lax.min(x, y), x + y, lax.max(x, y)), 2),
}
"""The rules for integers: the function, and of how many arguments."""

_BOOLS = np.array([True, False, True, False]), np.array([True, True, False, False])
_WIDE = (0.0, -0.0, 0.9, -0.9, 1.5, -1.5, 300.0, -300.0, 3e9, -3e9, 1e19, -1e19, 2e30, NAN, INF, -INF)
_TARGETS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "bool")


def values(row: Row) -> Callable[[str], tuple[Any, ...]]:
    """The arguments of a row's case."""
    own = row.values or (UNARY, BINARY, TERNARY)[row.arguments - 1]
    unlike = {repr(point) for point in row.but}
    points = [p for p in itertools.product(own, repeat=row.arguments) if repr(p) not in unlike]
    return lambda dtype: tuple(np.array(column).astype(dtype) for column in zip(*points, strict=True))


def _cases() -> list[Case]:
    cases = [Case(name, row.fn, values(row), row.ulp, row.atol) for name, row in FLOAT_ROWS.items()]
    for name, (fn, arguments) in INTEGER_ROWS.items():
        cases.append(Case(name, fn, one_integer if arguments == 1 else two_integers, 0, dtypes=EVERY_INTEGER))
    bools = ("bool",)
    cases += [
        Case("mulhi", lax.mulhi, two_integers, 0, dtypes=("int32", "uint32", "int64", "uint64")),
        Case("pow", lax.pow, lambda d: (*grid((2.0, -1.5, 0.5, 3.0, -0.0), range(-4, 5))(d)[:1],
                                        grid((2.0, -1.5, 0.5, 3.0, -0.0), range(-4, 5))("int32")[1]), 8),
        Case("not", lambda x, y: (~x, x & y, x | y, x ^ y), lambda d: _BOOLS, 0, dtypes=bools),
        Case("and", lambda x, y: (x & y, x == y, x != y), lambda d: _BOOLS, 0, dtypes=bools),
        Case("or", lambda x, y: (x | y, lax.max(x, y)), lambda d: _BOOLS, 0, dtypes=bools),
        Case("xor", lambda x, y: (x ^ y, lax.min(x, y)), lambda d: _BOOLS, 0, dtypes=bools),
        Case("select_n", lambda x, y: lax.select(x, y, ~x), lambda d: _BOOLS, 0, dtypes=bools),
        Case("select_n", lambda x: lax.select_n(jnp.arange(34, dtype=np.int32) % 3, x, 2 * x, -x), grid(UNARY), 0),
        Case("convert_element_type", lambda x: [x.astype(t) for t in _TARGETS], grid(_WIDE), 0),
        Case("convert_element_type", lambda x: [x.astype(t) for t in _TARGETS], one_integer, 1, dtypes=EVERY_INTEGER),
        Case("convert_element_type", lambda x, y: [x.astype(t) for t in _TARGETS], lambda d: _BOOLS, 0, dtypes=bools),
        Case("bitcast_convert_type", lambda x: [lax.bitcast_convert_type(x, t) for t in (
            f"int{8 * x.dtype.itemsize}", f"uint{8 * x.dtype.itemsize}", "uint8", "int16")], grid(UNARY), 0),
        Case("bitcast_convert_type", lambda x: [
            lax.bitcast_convert_type(x, t) for t in ("uint8", "int16", "float32")], one_integer, 0, dtypes=("int32",)),
        Case("bitcast_convert_type", lambda x: (lax.bitcast_convert_type(x[:8].reshape(2, 4), "float32"), x[:8].view("int64"),
                                                jnp.tile(x[:8], 9).view("int16")), one_integer, 0, dtypes=("uint8",)),
        Case("bitcast_convert_type", lambda x: (x.view("float32"), x.view("uint16"), x.view("float64")), one_integer, 0,
             dtypes=("int64",)),
    ]
    for bits in ((8, 7), (4, 3), (8, 23), (11, 52), (5, 2)):
        cases.append(Case("reduce_precision", lambda x, bits=bits: lax.reduce_precision(x, *bits), _near_halfway, 0))
    return cases


def _near_halfway(dtype: str) -> tuple[Any, ...]:
    steps = 1 + np.arange(64) / 256
    return (np.concatenate([s * steps * 2.0**e for s in (1, -1) for e in (-20, -7, 0, 7, 8, 15, 126)]).astype(dtype),)


ELEMENTWISE_CASES = _cases()
