"""Elementwise rules, each written once for one scalar.

Most names map to an operation of the builder or the emitter. What is composed of others is written with the
builder, or as a JAX function (``COMPOSITES``) that is traced and walked in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .arrays import Array, Lazy, Registers, readable
from .builder import Builder, Scalar, bits
from .errors import Refusal
from .program import FLOATS, UNSIGNED, dtype_name
from .rules_structural import broadcast_in_dim

if TYPE_CHECKING:
    from .context import Context

ScalarRule = Callable[..., Scalar]  # (builder, eqn, *scalars) -> scalar


def apply_elementwise(context: Context, element: Callable[..., Scalar], dtype: str, *args: Array) -> Array:
    """``element(*scalars)`` over arrays of one rank, or scalars; axes of length 1 are stretched."""
    b = context.b
    ranked = [x.shape for x in args if x.shape]
    shape = tuple(np.broadcast_shapes(*ranked)) if ranked else ()
    size = math.prod(shape)
    if size <= context.unroll:
        columns = []
        for x in args:
            ids = context.in_registers(x).ids
            columns.append((ids if x.shape == shape else np.broadcast_to(ids, shape)).ravel().tolist())
        out = np.array([element(*row) for row in zip(*columns, strict=True)], dtype=np.int64).reshape(shape)
        return Registers(shape, dtype, out)
    operands = []
    for x in args:
        if x.shape and x.shape != shape:
            x = broadcast_in_dim(context, x, shape, range(len(shape)))
        operands.append(readable(b, x))
    return Lazy(shape, dtype, lambda index: element(*[x.at(b, index if x.shape else ()) for x in operands]))


def _rule(scalar: ScalarRule) -> Callable[..., Array]:
    def rule(context: Context, eqn: Any, *args: Array) -> Array:
        dtype = dtype_name(eqn.outvars[0].aval.dtype)
        return apply_elementwise(context, lambda *s: scalar(context.b, eqn, *s), dtype, *args)

    return rule


# -- one operation --------------------------------------------------------------------------------------------

def _unary(op: str) -> ScalarRule:
    return lambda b, eqn, x: b.unary(op, x)


def _binary(op: str) -> ScalarRule:
    return lambda b, eqn, x, y: b.binary(op, x, y)


def _compare(op: str) -> ScalarRule:
    return lambda b, eqn, x, y: b.compare(op, x, y)


# -- several --------------------------------------------------------------------------------------------------

def _sign(b: Builder, eqn: Any, x: Scalar) -> Scalar:
    dtype = b.types[x]
    zero, one = b.const(dtype, 0), b.const(dtype, 1)
    if dtype in UNSIGNED:
        return b.select(b.compare("eq", x, zero), zero, one)
    # A zero keeps its sign and a NaN stays.
    positive = b.select(b.compare("gt", x, zero), one, x)
    return b.select(b.compare("lt", x, zero), b.const(dtype, -1), positive)


def _one_minus_square(b: Builder, eqn: Any, x: Scalar) -> Scalar:
    """As a product: 1 - x * x would lose digits near 1."""
    one = b.const(b.types[x], 1)
    return b.mul(b.sub(one, x), b.add(one, x))


def _round(b: Builder, eqn: Any, x: Scalar) -> Scalar:
    return b.unary("rint" if int(eqn.params["rounding_method"]) == 1 else "round", x)


def power(b: Builder, x: Scalar, exponent: int) -> Scalar:
    """Repeated squaring."""
    dtype = b.types[x]
    if exponent == 0:
        return b.const(dtype, 1)
    n, factors = abs(exponent), []
    while n:
        if n & 1:
            factors.append(x)
        n >>= 1
        if n:
            x = b.mul(x, x)
    result = factors[0]
    for factor in factors[1:]:
        result = b.mul(result, factor)
    return b.div(b.const(dtype, 1), result) if exponent < 0 else result


def _integer_pow(b: Builder, eqn: Any, x: Scalar) -> Scalar:
    return power(b, x, eqn.params["y"])


def _pow(b: Builder, eqn: Any, x: Scalar, y: Scalar) -> Scalar:
    return b.binary("pow", x, b.cast(y, b.types[x]))


def _clamp(b: Builder, eqn: Any, low: Scalar, x: Scalar, high: Scalar) -> Scalar:
    return b.min(b.max(x, low), high)


def _select_n(b: Builder, eqn: Any, which: Scalar, *cases: Scalar) -> Scalar:
    if b.types[which] == "bool":
        return b.select(which, cases[1], cases[0]) if len(cases) == 2 else cases[0]
    result = cases[-1]
    for k in range(len(cases) - 2, -1, -1):
        result = b.select(b.compare("le", which, b.const(b.types[which], k)), cases[k], result)
    return result


def _ordered(b: Builder, x: Scalar) -> Scalar:
    """A float as an integer with the total order; -0 and 0, and all NaN of a sign, stay apart as IEEE says."""
    dtype = b.types[x]
    if dtype not in FLOATS:
        return x
    integer = "int32" if dtype == "float32" else "int64"
    i = b.bitcast(x, integer)
    flipped = b.logical_xor(i, b.const(integer, (1 << (bits(integer) - 1)) - 1))
    return b.select(b.compare("lt", i, b.const(integer, 0)), flipped, i)


def _total(op: str) -> ScalarRule:
    return lambda b, eqn, x, y: b.compare(op, _ordered(b, x), _ordered(b, y))


def _reduce_precision(b: Builder, eqn: Any, x: Scalar) -> Scalar:
    width = (eqn.params["exponent_bits"], eqn.params["mantissa_bits"])
    dtype = b.types[x]
    if width == ((8, 23) if dtype == "float32" else (11, 52)):
        return x
    if dtype == "float64" and width == (8, 23):
        return b.cast(b.cast(x, "float32"), "float64")
    raise Refusal(f"to {width[0]} exponent bits and {width[1]} mantissa bits", "stay in float32 or float64")


def _mulhi(b: Builder, eqn: Any, x: Scalar, y: Scalar) -> Scalar:
    dtype = b.types[x]
    width = bits(dtype)
    if width == 64:
        raise Refusal("of 64-bit integers", "use 32-bit integers")
    wide = "uint64" if dtype in UNSIGNED else "int64"
    product = b.mul(b.cast(x, wide), b.cast(y, wide))
    return b.cast(b.binary("shift_right_logical", product, b.const(wide, width)), dtype)


def _bitcast(b: Builder, eqn: Any, x: Scalar) -> Scalar:
    dtype = dtype_name(eqn.outvars[0].aval.dtype)
    if bits(dtype) != bits(b.types[x]):
        raise Refusal("between dtypes of different width", "bitcast between dtypes of one width")
    return b.bitcast(x, dtype)


def _logistic(b: Builder, eqn: Any, x: Scalar) -> Scalar:
    one = b.const(b.types[x], 1)
    return b.div(one, b.add(one, b.unary("exp", b.neg(x))))


SCALAR: dict[str, ScalarRule] = {
    "add": lambda b, eqn, x, y: b.add(x, y),
    "add_any": lambda b, eqn, x, y: b.add(x, y),
    "sub": lambda b, eqn, x, y: b.sub(x, y),
    "mul": lambda b, eqn, x, y: b.mul(x, y),
    "mulhi": _mulhi,
    "div": lambda b, eqn, x, y: b.div(x, y),
    "rem": lambda b, eqn, x, y: b.rem(x, y),
    "neg": lambda b, eqn, x: b.neg(x),
    "abs": lambda b, eqn, x: b.abs(x),
    "max": lambda b, eqn, x, y: b.max(x, y),
    "min": lambda b, eqn, x, y: b.min(x, y),
    "square": lambda b, eqn, x: b.mul(x, x),
    "one_minus_square": _one_minus_square,
    "sign": _sign,
    "round": _round,
    "integer_pow": _integer_pow,
    "pow": _pow,
    "clamp": _clamp,
    "select_n": _select_n,
    "logistic": _logistic,
    "reduce_precision": _reduce_precision,
    "bitcast_convert_type": _bitcast,
    "and": lambda b, eqn, x, y: b.logical_and(x, y),
    "or": lambda b, eqn, x, y: b.logical_or(x, y),
    "xor": lambda b, eqn, x, y: b.logical_xor(x, y),
    "not": lambda b, eqn, x: b.logical_not(x),
    "lt_to": _total("lt"),
    "le_to": _total("le"),
    "eq_to": _total("eq"),
    **{name: _compare(name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: _unary(name) for name in (
        "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan",
        "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "floor", "ceil", "erf", "erfc", "lgamma", "is_finite",
        "population_count", "clz")},
    **{name: _binary(name) for name in (
        "atan2", "nextafter", "shift_left", "shift_right_arithmetic", "shift_right_logical")},
}
"""Primitive name -> scalar rule."""


# -- written in JAX -------------------------------------------------------------------------------------------

def _horner(coefficients: tuple[float, ...], x: Any) -> Any:
    total = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total = total * x + c
    return total


def _erf_inv(x: Any) -> Any:
    """Giles' approximation for float32; for float64 two Newton steps (on erfc in the tails) follow it."""
    small = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
             -0.00417768164, 0.246640727, 1.50140941)
    large = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
             0.00943887047, 1.00167406, 2.83297682)
    w = -lax.log1p(-x * x)
    p = jnp.where(w < 5, _horner(small, w - 2.5), _horner(large, lax.sqrt(w) - 3))
    y = p * x
    if x.dtype == jnp.float64:
        for _ in range(3):
            a, ay = abs(x), abs(y)
            residual = jnp.where(a < 0.5, lax.erf(ay) - a, (1 - a) - lax.erfc(ay))
            slope = 2 / math.sqrt(math.pi) * lax.exp(-ay * ay)
            step = residual / slope
            ay = ay - step / (1 + ay * step)
            y = jnp.where(x < 0, -ay, ay)
        y = jnp.where(x == 0, x, y)
    return jnp.where(abs(x) == 1, x * jnp.inf, y)


def _digamma(x: Any) -> Any:
    """Reflection below 1/2, recurrence up to 10, then the asymptotic series."""
    reflected = x < 0.5
    z = jnp.where(reflected, 1 - x, x)
    shift = jnp.zeros_like(x)
    for _ in range(10):
        small = z < 10
        shift = jnp.where(small, shift + 1 / z, shift)
        z = jnp.where(small, z + 1, z)
    r = 1 / (z * z)
    series = r * _horner((-1 / 12, 691 / 32760, -1 / 132, 1 / 240, -1 / 252, 1 / 120, -1 / 12), r)
    value = lax.log(z) - 0.5 / z + series - shift
    fraction = x - lax.floor(x)
    # cot(pi x) with the argument near 0, where tan keeps its digits.
    fraction = jnp.where(fraction > 0.5, fraction - 1, fraction)
    value = jnp.where(reflected, value - math.pi / lax.tan(math.pi * fraction), value)
    pole = (x <= 0) & (x == lax.floor(x))
    return jnp.where(pole, jnp.where(x == 0, -jnp.copysign(jnp.inf, x), jnp.nan), value)


COMPOSITES: dict[str, Callable[..., Any]] = {
    "erf_inv": _erf_inv,
    "digamma": _digamma,
}
"""Primitive name -> JAX function of scalars."""


def _composite(fn: Callable[..., Any]) -> Callable[..., Array]:
    def rule(context: Context, eqn: Any, *args: Array) -> Array:
        avals = [jax.ShapeDtypeStruct((), a.aval.dtype) for a in eqn.invars]
        closed = jax.make_jaxpr(fn)(*avals)

        def element(*scalars: Scalar) -> Scalar:
            small = [Registers((), x.dtype, np.array(s)) for x, s in zip(args, scalars, strict=True)]
            (result,) = context.call(closed, *small)
            assert isinstance(result, Registers)
            return int(result.ids)

        return apply_elementwise(context, element, dtype_name(eqn.outvars[0].aval.dtype), *args)

    return rule


def _convert(context: Context, eqn: Any, x: Array) -> Array:
    dtype = dtype_name(eqn.outvars[0].aval.dtype)
    if dtype == x.dtype:
        return x
    outside = context.convert_outside(x, dtype)
    return outside if outside is not None else apply_elementwise(context, lambda s: context.b.cast(s, dtype), dtype, x)


ELEMENTWISE_RULES: dict[str, Callable[..., Array]] = {
    **{name: _rule(scalar) for name, scalar in SCALAR.items()},
    **{name: _composite(fn) for name, fn in COMPOSITES.items()},
    "convert_element_type": _convert,
}
