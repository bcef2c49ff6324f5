"""The elementary functions on the CPU, as arithmetic that LLVM vectorises.

Each is written once, for a scalar: the bits of a result depend on the argument alone, wherever it stands. What is rare
stands in a function of its own, which a vector calls for those of its numbers that want it (`guarded`), or in a branch of
arithmetic only, which becomes a select in a vector loop. Each needs a fused multiply-add. Results are within 4 units in the
last place; `function_tables.py` holds the coefficients.

exp is arranged as by W. J. Cody and W. Waite (Software manual for the elementary functions, 1980), log and pow with a table as
by P. T. P. Tang (ACM TOMS 16, 1990), log1p as in FreeBSD's msun.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from .angles import acos, asin, atan, atan2, sin_and_cos, tan
from .function_tables import POLYNOMIALS
from .numbers import (
    constant,
    copysign,
    either,
    fma,
    guarded,
    lookup,
    polynomial,
    quick_two_sum,
    rint,
    sqrt,
    table,
    two_product,
    two_sum,
)
from .scalar import FORMATS, Scalar, where

INF, NAN = float("inf"), float("nan")


# -- exponential functions ------------------------------------------------------------------------------------------------


def _clamped(x: Scalar, low: float, high: float) -> Scalar:
    """A NaN stays."""
    return where(x < low, low, where(x > high, high, x))


def _exponent_and_rest(x: Scalar, less: Any = None) -> tuple[Scalar, Scalar]:
    """exp(x - less) = 2^n (1 + q): integer bits that end in n, and q. `less` is small."""
    log2e, (high, low) = constant("1/ln(2)", x)[0], constant("ln(2)", x)
    shifted = fma(x, log2e, x.format.magic)
    n = -(shifted - x.format.magic)
    r = fma(n, low, fma(n, high, x))
    return shifted.bits, _exp_less_1(r if less is None else r - less)


def _exp_less_1(r: Scalar) -> Scalar:
    return fma(r * r, table("exp", r), r)


def _power_of_two(n: Scalar, dtype: str) -> Scalar:
    """2^n where that is a normal number."""
    kind = FORMATS[dtype]
    return ((n + kind.bias) << kind.mantissa).float(dtype)


def _scaled(x: Scalar, n: Scalar) -> Scalar:
    """x 2^n, by two powers, so that it may be subnormal, or 2^n too large. n are integer bits."""
    kind = x.format
    half = (n + (2 * kind.bias + 2)) >> 1  # bias + 1 + floor(n / 2)
    first = ((half - 1) << kind.mantissa).float(x.dtype)
    second = ((n + (2 * kind.bias + 1) - half) << kind.mantissa).float(x.dtype)
    return x * first * second


def _times_power(n: Scalar, q: Scalar) -> Scalar:
    """(1 + q) 2^n where 2^n is a normal number."""
    power = _power_of_two(n, q.dtype)
    return fma(q, power, power)


def _extreme_power(x: Scalar, n: Scalar, q: Scalar) -> Scalar:
    """(1 + q) 2^n, where x is n without its rounding, and decides over zero and infinity."""
    beyond = float(x.format.bias + x.format.mantissa + 2)
    return where(x > beyond, INF, where(x < -beyond, 0, _scaled(1 + q, n)))


def exp(x: Scalar) -> Scalar:
    def extreme(x: Scalar) -> Scalar:
        return _extreme_power(x * constant("1/ln(2)", x)[0], *_exponent_and_rest(x))

    return guarded("exp", abs(x), 0.69 * (x.format.bias - 3), _times_power(*_exponent_and_rest(x)), extreme, x)


def _binary_exponent_and_rest(x: Scalar) -> tuple[Scalar, Scalar]:
    n = x + x.format.magic
    return n.bits, _exp_less_1((x - (n - x.format.magic)) * constant("ln(2)", x)[0])


def exp2(x: Scalar) -> Scalar:
    def extreme(x: Scalar) -> Scalar:
        return _extreme_power(x, *_binary_exponent_and_rest(x))

    return guarded("exp2", abs(x), x.format.bias - 3.0, _times_power(*_binary_exponent_and_rest(x)), extreme, x)


def expm1(x: Scalar) -> Scalar:
    low, high = (-20.0, 89.0) if x.dtype == "float32" else (-40.0, 710.0)
    n, q = _exponent_and_rest(_clamped(x, low, high))
    half = _power_of_two(n - 1, x.dtype)
    # For n = 0 the half of a small q might be subnormal.
    result = where(abs(x) < 0.34, q, 2 * fma(q, half, half - 0.5))
    return where(x.equals(0), x, result)


def tanh(x: Scalar) -> Scalar:
    """By exp(-2 |x|) = 2^n (1 + r + r^2 q), less 1 and more 1. The chain of operations is short: layers wait for it."""
    a = -2 * abs(x)
    a = where(a < -50, -50, a)
    shifted = fma(a, constant("1/ln(2)", x)[0], x.format.magic)
    r = fma(x.format.magic - shifted, constant("ln(2)", x)[0], a)  # how ln(2) is rounded does not show: 1 is near there
    power, q = _power_of_two(shifted.bits, x.dtype), table("exp", r)
    times = (r * r) * power
    return copysign(fma(times, q, fma(r, power, power - 1)) / fma(times, q, fma(r, power, power + 1)), x)


def _half_exp(a: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """exp(a) / 2 for a of at least 0, and n and q."""
    n, q = _exponent_and_rest(where(a > 712, 712, a) if a.dtype == "float64" else where(a > 91, 91, a))
    return _scaled(1 + q, n - 1), n, q


def sinh(x: Scalar) -> Scalar:
    a = abs(x)
    half, n, q = _half_exp(a)
    power = _power_of_two(n, x.dtype)
    less = fma(q, power, power - 1)  # exp(|x|) - 1
    return copysign(where(a < 1, 0.5 * (less + less / (less + 1)), half - 0.25 / half), x)


def cosh(x: Scalar) -> Scalar:
    half, _, _ = _half_exp(abs(x))
    return half + 0.25 / half


# -- logarithms -----------------------------------------------------------------------------------------------------------


def _split(x: Scalar, first: int) -> tuple[Scalar, Scalar, Scalar]:
    """A normal x > 0 as 2^k m, with m from the number on whose bits are `first` to its double: k, m, m's bits above `first`."""
    kind, high = x.format, 2.0**x.format.mantissa
    t = x.bits + (kind.one - first)
    k = ((t >> kind.mantissa) | x.like(high).bits).float(x.dtype) - (high + kind.bias)
    above = t & ((1 << kind.mantissa) - 1)
    return k, (above + first).float(x.dtype), above


def _split_at_root(x: Scalar) -> tuple[Scalar, Scalar]:
    """(k, m) with m between sqrt(1/2) and sqrt(2)."""
    return _split(x, x.format.root_half)[:2]


_ENTRIES = 128


@functools.cache
def _inverses() -> tuple[tuple[float, Decimal], ...]:
    """1 / c and log(c), for the 128 intervals of m between 0.6875 and its double, with a c of each.

    1 / c has 8 bits, so that m / c - 1 is exact; it is below 2^-7. Next to 1, c is 1, and nothing cancels.
    """
    rows = []
    with localcontext() as context:
        context.prec = 50
        for k in range(_ENTRIES):
            middle = 0.6875 + (k + 0.5) / 256 if k < 80 else 1 + (k - 79.5) / 128
            unit = 128 if middle < 1 else 256
            inverse = 1.0 if k in (79, 80) else round(unit / middle) / unit
            rows.append((inverse, -Decimal(inverse).ln()))
    return tuple(rows)


@functools.cache
def _logarithms() -> tuple[tuple[float, ...], ...]:
    """1 / c and log(c)."""
    return tuple((inverse, float(log)) for inverse, log in _inverses())


@functools.cache
def _binary_logarithms() -> tuple[tuple[float, ...], ...]:
    """1 / c, and log2(c) in two numbers, of which the first leaves room for an exponent to be added."""
    rows = []
    for inverse, log in _inverses():
        exact = Fraction(log) / Fraction(Decimal(2).ln())
        first = round(exact * 2**42) / 2**42
        rows.append((inverse, first, float(exact - Fraction(first))))
    return tuple(rows)


def _near_1(x: Scalar, name: str, rows: tuple[tuple[float, ...], ...]) -> tuple[Scalar, ...]:
    """A normal x > 0 as 2^k c (1 + r): k, r, and what the table says of c."""
    k, m, above = _split(x, FORMATS[x.dtype].table_start)
    inverse, *others = lookup(f"{name}.{x.dtype}", x.dtype, rows, above >> (x.format.mantissa - 7))
    return k, fma(m, inverse, -1), *others


def _above_tiny(x: Scalar) -> tuple[Scalar, int]:
    """An integer that is below another one for normal x > 0 alone, and that one."""
    tiny = 1 << x.format.mantissa
    return x.bits - tiny, 2 * x.format.bias * tiny


def _with_log_limits(name: str, formula: Callable[[Scalar, float], Scalar], x: Scalar) -> Scalar:
    """formula(x, less) is the logarithm of a normal x > 0, divided by 2^less."""
    def special(x: Scalar) -> Scalar:
        digits = x.format.mantissa + 1
        finite = where(x < INF, formula(x * 2.0**digits, digits), x)
        return where(x.equals(0), -INF, where(x < 0, NAN, finite))

    return guarded(name, *_above_tiny(x), formula(x, 0), special, x)


def log(x: Scalar) -> Scalar:
    def formula(x: Scalar, less: float) -> Scalar:
        k, r, log_c = _near_1(x, "log", _logarithms())
        k = k - less if less else k
        high, low = constant("ln(2)", x)
        rest = fma(r * r, fma(r, table("log_near_1", r), -0.5), fma(k, low, r))
        return fma(k, high, log_c) + rest

    return _with_log_limits("log", formula, x)


def _log2_in_two(x: Scalar, less: float = 0) -> tuple[Scalar, Scalar]:
    """log2(x) - less, x > 0 and normal, in two numbers, to some 64 bits. x is in float64."""
    k, r, log_c, log_c_low = _near_1(x, "log2", _binary_logarithms())
    k = k - less if less else k
    log2e, log2e_low = constant("1/ln(2)", x)
    p, p_low = two_product(r, log2e)
    u, u_low = two_product(r, r)
    v, v_low = two_product(u, -0.5 * log2e)
    tail = (r * u) * (table("log_near_1_long", r) * log2e)
    low = fma(r, log2e_low, p_low) + (fma(u_low, -0.5 * log2e, v_low) + fma(u, -0.5 * log2e_low, tail))
    total, p_left = quick_two_sum(k + log_c, p)
    total, v_left = quick_two_sum(total, v)
    return quick_two_sum(total, (p_left + v_left) + (low + log_c_low))


def _log2_short(x: Scalar, less: float = 0, dtype: str = "float32") -> Scalar:
    """log2(x) - less, x > 0 and normal, in float64 for results in `dtype`: near 1 to as many digits as elsewhere."""
    k, r, log_c, log_c_low = _near_1(x, "log2", _binary_logarithms())
    k = k - less if less else k
    log2e, r_squared = constant("1/ln(2)", x)[0], r * r
    if dtype == "float32":
        cubic = polynomial(r, POLYNOMIALS["log_near_1_long"]["float32"])
        return fma(fma(r_squared, fma(r, cubic, -0.5), r), log2e, k + log_c)
    rest = fma(r_squared, fma(r, table("log_near_1", r), -0.5), r)
    return (k + log_c) + fma(rest, log2e, log_c_low)


def log2(x: Scalar) -> Scalar:
    def formula(x: Scalar, less: float) -> Scalar:
        return _log2_short(x.to("float64"), less, x.dtype).to(x.dtype)

    return _with_log_limits("log2", formula, x)


def _log_rest(f: Scalar) -> tuple[Scalar, Scalar]:
    """log(1 + f) = f - (h - r) with h = f^2 / 2: (h, r), for 1 + f between sqrt(1/2) and sqrt(2)."""
    s = f / (f + 2)
    z = s * s
    h = 0.5 * f * f
    return h, s * fma(z, table("log", z), h)


def log1p(x: Scalar) -> Scalar:
    u, error = two_sum(x.like(1), x)
    k, m = _split_at_root(u)
    near = k.equals(0)
    f = where(near, x, m - 1)
    high, low = constant("ln(2)", x)
    h, r = _log_rest(f)
    # The part of x that 1 + x has lost: log(u + error) = log(u) + error / u.
    lost = where(near, 0, error / u)
    result = fma(k, high, f - (h - (fma(k, low, lost) + r)))

    def special() -> tuple[Scalar, ...]:
        return (where(x.equals(-1), -INF, where(x < -1, NAN, x)),)

    return either(~((x > -1) & (x < INF)) | x.equals(0), (result,), special)[0]


def _log1p_of_root(a: Scalar, moderate: Scalar) -> Scalar:
    """log1p(moderate), or log(2 a) for a beyond 2^60, where `moderate` may have overflown."""
    large = a > 2.0**60
    return log1p(where(large, a, moderate)) + where(large, a.like(constant("ln(2)", a)[0]), 0)


def asinh(x: Scalar) -> Scalar:
    a = abs(x)
    square = a * a
    return copysign(_log1p_of_root(a, a + square / (1 + sqrt(square + 1))), x)


def acosh(x: Scalar) -> Scalar:
    t = x - 1
    return where(x < 1, NAN, _log1p_of_root(x, t + sqrt(t * (t + 2))))


def atanh(x: Scalar) -> Scalar:
    a = abs(x)
    return copysign(0.5 * log1p(2 * a / (1 - a)), x)


# -- powers ---------------------------------------------------------------------------------------------------------------


def _power(x: Scalar, y: Scalar, dtype: str, less: float = 0) -> tuple[Scalar, Scalar, Scalar]:
    """y log2(x 2^-less) = e = n + rest, and 2^rest - 1: e, bits that end in n, q. x > 0 is normal; in float64 for `dtype`."""
    high, low = (_log2_short(x), None) if dtype == "float32" else _log2_in_two(x, less)
    e = y * high
    shifted = e + e.format.magic
    rest = e - (shifted - e.format.magic)
    if low is not None:
        rest = rest + fma(y, low, fma(y, high, -e))
    r = rest * constant("ln(2)", e)[0]
    return e, shifted.bits, fma(r * r, polynomial(r, POLYNOMIALS["exp"][dtype]), r)


def _special_pow(given_x: Scalar, given_y: Scalar) -> Scalar:
    dtype, x, y = given_x.dtype, given_x.to("float64"), given_y.to("float64")
    a = abs(x)
    result = _extreme_power(*_power(a, y, dtype))
    if dtype == "float64":
        result = where(a < a.format.tiny, _extreme_power(*_power(a * 2.0**64, y, dtype, 64)), result)
    zero, infinite = a.equals(0), a.equals(INF)
    vanishes = (zero & (y > 0)) | (infinite & (y < 0))
    result = where(zero | infinite, where(vanishes, result.like(0), INF), result)
    result = where(a.equals(1), 1, result)  # infinite y, too
    whole, half = rint(y).equals(y), 0.5 * y
    negative, odd = (x.bits >> 63).equals(1), whole & ~rint(half).equals(half)
    result = where(negative & odd, -result, result)
    result = where((x < 0) & ~whole & ~infinite, NAN, result)
    result = where(x.equals(x) & y.equals(y), result, x + y)
    return where(given_y.equals(0) | given_x.equals(1), 1, result).to(dtype)


def pow(x: Scalar, y: Scalar) -> Scalar:
    e, n, q = _power(x.to("float64"), y.to("float64"), x.dtype)
    above, limit = _above_tiny(x)
    return guarded("pow", where(above < limit, abs(e), INF), 1000.0, _times_power(n, q).to(x.dtype), _special_pow, x, y)


def cbrt(x: Scalar) -> Scalar:
    third_of_lift = -(-(x.format.mantissa + 1) // 3)
    small = abs(x) < x.format.tiny
    a = abs(x) * where(small, x.like(8.0**third_of_lift), 1)
    k, m = _split_at_root(a)
    third = rint(k * (1 / 3))
    rest = fma(third, -3, k)  # -1, 0 or 1
    up, down = rest > 0, rest < 0
    (root,), (inverse,) = constant("cbrt(2)", x), constant("1/cbrt(2)", x)
    y = table("cbrt", m) * where(up, x.like(root), where(down, x.like(inverse), 1))
    m = m * where(up, x.like(2), where(down, x.like(0.5), 1))
    cube = y * y * y
    y = fma(y, (m - cube) / fma(cube, 2, m), y)  # E. Halley's step
    lowered = where(small, x.like(2.0**-third_of_lift), 1)
    result = copysign(y * _power_of_two((third + x.format.magic).bits, x.dtype) * lowered, x)
    return where((a > 0) & (a < INF), result, x)


# -- the error function ---------------------------------------------------------------------------------------------------


def _erfc_tail(a: Scalar) -> Scalar:
    """erfc(a) for a of at least 1/2; in float64."""
    dtype = a.dtype
    zero = 10.5 if dtype == "float32" else 27.5  # from here on
    a = where(a > zero, zero, a).to("float64")
    square, low = two_product(a, a)
    n, q = _exponent_and_rest(-square, low)
    inverse = 1 / (a + 2.5)
    t = (a - 2.5) * inverse
    t = fma(inverse, fma(-t, a, fma(t + 1, -2.5, a)), t)  # what rounding took: a - 2.5 - t (a + 2.5)
    inverse = fma(inverse, fma(-inverse, a, fma(inverse, -2.5, 1)), inverse)  # in the same way
    first, *others = POLYNOMIALS["erfc"][dtype]
    rest = polynomial(t, others)
    g = fma(t, rest, first)
    factor, factor_low = two_product(g, inverse)
    factor_low = fma(fma(t, rest, first - g), inverse, factor_low)
    return _scaled(factor + fma(factor, q, factor_low), n).to(dtype)


def erf(x: Scalar) -> Scalar:
    a, near = abs(x), fma(x, table("erf", x * x), x)
    return either(a > 0.5, (near,), lambda: (copysign(1 - _erfc_tail(a), x),))[0]


def erfc(x: Scalar) -> Scalar:
    a, near = abs(x), fma(x, table("erf", x * x), x)

    def far() -> tuple[Scalar, ...]:
        tail = _erfc_tail(a)
        return (where(x < 0, 2 - tail, tail),)

    return either(a > 0.5, (1 - near,), far)[0]


FUNCTIONS: dict[str, Callable[..., Scalar | tuple[Scalar, ...]]] = {
    function.__name__: function
    for function in (
        exp, exp2, expm1, log, log1p, log2, sin_and_cos, tan, asin, acos, atan, atan2,
        sinh, cosh, tanh, asinh, acosh, atanh, pow, cbrt, erf, erfc,
    )
}

OPERATIONS: dict[str, tuple[str, int]] = {
    **{name: (name, 0) for name in FUNCTIONS if name != "sin_and_cos"},
    "sin": ("sin_and_cos", 0),
    "cos": ("sin_and_cos", 1),
}
"""The emitter's name -> the function, and which of its results. Sine and cosine of one angle are one call."""
