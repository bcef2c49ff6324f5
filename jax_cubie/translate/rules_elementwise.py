"""Elementwise rules, each written once for one scalar.

Most names map to an operation of the builder or the emitter; what is composed of others is written with the builder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import Array, Index, Registers, cheap, indexable, readable
from .builder import Builder, Scalar, bits
from .products import Grouped
from .program import FLOATS, UNSIGNED, dtype_name
from .rules_structural import broadcast_in_dim

if TYPE_CHECKING:
    from .context import Context

ScalarRule = Callable[..., Scalar]  # (builder, eqn, *scalars) -> scalar


def apply_elementwise(context: Context, element: Callable[..., Scalar], dtype: str, *args: Array,
                      work: int = 1) -> Array:
    """``element(*scalars)`` over arrays of one rank, or scalars; axes of length 1 are stretched.

    ``work`` is how many statements an element costs: small arrays are unrolled if that is little.
    """
    b = context.b
    ranked = [x.shape for x in args if x.shape]
    shape = tuple(np.broadcast_shapes(*ranked)) if ranked else ()
    size = math.prod(shape)
    if len(shape) == 1 and any(isinstance(x, Grouped) for x in args):
        return _grouped(context, element, dtype, shape, args)
    if size == 1 or context.unrolls_work(size, work):
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
        operands.append(indexable(b, x) if context.unrolls(size) else readable(b, x))
    return context.make(shape, dtype, lambda index: element(*[x.at(b, index if x.shape else ()) for x in operands]), work)


def _grouped(context: Context, element: Callable[..., Scalar], dtype: str, shape: tuple[int, ...],
             args: Sequence[Array]) -> Array:
    operands = []
    for x in args:
        if x.shape and x.shape != shape:
            x = broadcast_in_dim(context, x, shape, range(1))
        operands.append(x if isinstance(x, Grouped) or not x.shape else context.addressable(x))
    b = context.b
    return Grouped(shape, dtype, lambda index: element(*[x.at(b, index if x.shape else ()) for x in operands]))


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


def _polynomial(b: Builder, eqn: Any, x: Scalar, *coefficients: Scalar) -> Scalar:
    """Horner's scheme; the constant comes first."""
    total = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        total = b.add(b.mul(total, x), coefficient)
    return total


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
    """Rounded to even to fewer bits; what the narrower exponent has no room for becomes zero or infinity."""
    exponent_bits, mantissa_bits = eqn.params["exponent_bits"], eqn.params["mantissa_bits"]
    dtype = b.types[x]
    integer, own_exponent, own_mantissa = ("uint32", 8, 23) if dtype == "float32" else ("uint64", 11, 52)
    bias, narrow_bias = 2 ** (own_exponent - 1) - 1, 2 ** (exponent_bits - 1) - 1
    number = b.bitcast(x, integer)
    dropped = own_mantissa - mantissa_bits
    if dropped > 0:
        shifted = b.binary("shift_right_logical", number, b.const(integer, dropped))
        odd = b.logical_and(shifted, b.const(integer, 1))
        number = b.add(number, b.add(odd, b.const(integer, 2 ** (dropped - 1) - 1)))
        number = b.logical_and(number, b.const(integer, -(2**dropped)))
    if exponent_bits < own_exponent:
        infinite = b.const(integer, (2**own_exponent - 1) << own_mantissa)
        sign = b.logical_and(number, b.const(integer, 1 << (bits(integer) - 1)))
        exponent = b.logical_and(number, infinite)
        overflows = b.compare("gt", exponent, b.const(integer, (bias + narrow_bias) << own_mantissa))
        vanishes = b.compare("le", exponent, b.const(integer, (bias - narrow_bias) << own_mantissa))
        number = b.select(overflows, b.logical_or(sign, infinite), b.select(vanishes, sign, number))
    return b.select(b.compare("ne", x, x), x, b.bitcast(number, dtype))


def _mulhi(b: Builder, eqn: Any, x: Scalar, y: Scalar) -> Scalar:
    dtype = b.types[x]
    width = bits(dtype)
    if width < 64:
        wide = "uint64" if dtype in UNSIGNED else "int64"
        product = b.mul(b.cast(x, wide), b.cast(y, wide))
        return b.cast(b.binary("shift_right_logical", product, b.const(wide, width)), dtype)
    half, mask = b.const("uint64", 32), b.const("uint64", 2**32 - 1)

    def high(value: Scalar) -> Scalar:
        return b.binary("shift_right_logical", value, half)

    def low(value: Scalar) -> Scalar:
        return b.logical_and(value, mask)

    u, v = b.cast(x, "uint64"), b.cast(y, "uint64")
    one, other = b.mul(high(u), low(v)), b.mul(low(u), high(v))
    carry = high(b.add(b.add(low(one), low(other)), high(b.mul(low(u), low(v)))))
    product = b.add(b.add(b.mul(high(u), high(v)), carry), b.add(high(one), high(other)))
    if dtype == "int64":  # a negative factor was taken for one that is larger by 2 ** 64
        zero, none = b.const("int64", 0), b.const("uint64", 0)
        product = b.sub(product, b.select(b.compare("lt", x, zero), v, none))
        product = b.sub(product, b.select(b.compare("lt", y, zero), u, none))
    return b.cast(product, dtype)


def _add_any(b: Builder, eqn: Any, x: Scalar, y: Scalar) -> Scalar:
    """A sum of derivatives. A zero that JAX had to write out is none, as it is where JAX knows it for one; the sign of a zero
    derivative means nothing."""
    if b.constants.get(x) == 0:
        return y
    return x if b.constants.get(y) == 0 else b.add(x, y)


def _logistic(b: Builder, eqn: Any, x: Scalar) -> Scalar:
    one = b.const(b.types[x], 1)
    return b.div(one, b.add(one, b.unary("exp", b.neg(x))))


SCALAR: dict[str, ScalarRule] = {
    "add": lambda b, eqn, x, y: b.add(x, y),
    "add_any": _add_any,
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
    "polynomial": _polynomial,
    "sign": _sign,
    "round": _round,
    "integer_pow": _integer_pow,
    "pow": _pow,
    "clamp": _clamp,
    "select_n": _select_n,
    "logistic": _logistic,
    "reduce_precision": _reduce_precision,
    "and": lambda b, eqn, x, y: b.logical_and(x, y),
    "or": lambda b, eqn, x, y: b.logical_or(x, y),
    "xor": lambda b, eqn, x, y: b.logical_xor(x, y),
    "not": lambda b, eqn, x: b.logical_not(x),
    "lt_to": _total("lt"),
    "le_to": _total("le"),
    "eq_to": _total("eq"),
    **{name: _compare(name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: _unary(name) for name in (
        "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "log2", "sin", "cos", "tan", "asin", "acos", "atan",
        "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "floor", "ceil", "erf", "erfc", "lgamma", "is_finite",
        "population_count", "clz")},
    **{name: _binary(name) for name in (
        "atan2", "nextafter", "shift_left", "shift_right_arithmetic", "shift_right_logical")},
}
"""Primitive name -> scalar rule."""


def _bitcast(context: Context, eqn: Any, x: Array) -> Array:
    """Between widths a last axis comes or goes, of the parts from the lowest on."""
    b, aval = context.b, eqn.outvars[0].aval
    source, dtype = x.dtype, dtype_name(aval.dtype)
    if bits(source) == bits(dtype):
        return apply_elementwise(context, lambda s: b.bitcast(s, dtype), dtype, x)
    step = min(bits(source), bits(dtype))
    wide, narrow = f"uint{max(bits(source), bits(dtype))}", f"uint{step}"
    x = cheap(b, x)

    def part(index: Index) -> Scalar:
        whole = b.bitcast(x.at(b, index[:-1]), wide)
        shift = b.mul(b.cast(index[-1], wide), b.const(wide, step))
        return b.bitcast(b.cast(b.binary("shift_right_logical", whole, shift), narrow), dtype)

    def whole(index: Index) -> Scalar:
        total = b.const(wide, 0)
        for k in range(x.shape[-1]):
            piece = b.cast(b.bitcast(x.at(b, (*index, b.index(k))), narrow), wide)
            total = b.logical_or(total, b.binary("shift_left", piece, b.const(wide, k * step)))
        return b.bitcast(total, dtype)

    return context.make(tuple(aval.shape), dtype, whole if bits(source) < bits(dtype) else part, 4)


def _convert(context: Context, eqn: Any, x: Array) -> Array:
    dtype = dtype_name(eqn.outvars[0].aval.dtype)
    if dtype == x.dtype:
        return x
    outside = context.convert_outside(x, dtype)
    return outside if outside is not None else apply_elementwise(context, lambda s: context.b.cast(s, dtype), dtype, x)


ELEMENTWISE_RULES: dict[str, Callable[..., Array]] = {
    **{name: _rule(scalar) for name, scalar in SCALAR.items()},
    "convert_element_type": _convert,
    "bitcast_convert_type": _bitcast,
}
