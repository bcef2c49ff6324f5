"""Sine, cosine, tangent and the inverse ones, as in `functions.py`.

Remainders are taken as by W. J. Cody and W. Waite (Software manual for the elementary functions, 1980), those of large
angles as by M. H. Payne and R. N. Hanek (SIGNUM Newsletter 18, 1983).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction

from .function_tables import BITS_OF_TWO_OVER_PI, TWO_OVER_PI
from .numbers import (
    constant,
    copysign,
    fma,
    guarded,
    lookup,
    rint,
    sqrt,
    table,
    two_product,
    two_sum,
)
from .scalar import Scalar, where

INF, NAN = float("inf"), float("nan")

_STEP = 16
"""So many exponents share an entry of the table of 2 / pi."""


@functools.cache
def _reduction_table(digits: int, most: int) -> tuple[tuple[float, ...], ...]:
    """Entry g is 2 / pi 2^(16 g) without multiples of 4, as a sum of four numbers: for angles x 2^(16 g), x < 2^(digits + 15).

    For g > 0 such an x is an integer, so that what is left out adds whole turns. `digits`: of the angles; `most`: the largest
    exponent.
    """
    rows = []
    for g in range((most - digits + 1) // _STEP + 1):
        value = Fraction((TWO_OVER_PI << (_STEP * g)) % (4 << BITS_OF_TWO_OVER_PI), 1 << BITS_OF_TWO_OVER_PI)
        row = []
        for _ in range(4):
            row.append(float(value))
            value -= Fraction(row[-1])
        rows.append(tuple(row))
    return tuple(rows)


def _chunks(x: Scalar, digits: int, most: int) -> list[Scalar]:
    """x without the power of two that its entry of the table has, and that entry. x may be anything; it is in float64."""
    first = 1023 + digits - 1
    exponent = (x.bits >> 52) & 0x7FF
    past = where(exponent > first, exponent - first, 0)
    last = past.like(most - digits + 1)
    g = where(past > last, last, past) >> 4
    entry = lookup(f"two_over_pi.{digits}", "float64", _reduction_table(digits, most), g)
    return [(x.bits - (g << 56)).float("float64"), *entry]


def _without_turns(x: Scalar) -> Scalar:
    """x less the nearest multiple of 4, exactly."""
    return fma(rint(0.25 * x), -4, x)


_NEAR = {"float32": 2.0**17, "float64": 2.0**20}
"""Angles below have a remainder to all digits from pi / 2 in three numbers."""


def _remainder(x: Scalar) -> tuple[Scalar, Scalar]:
    """x less the nearest multiple of pi / 2, for x of at least 0 that are near; and integer bits that end in the multiple's."""
    shifted = fma(x, constant("2/pi", x)[0], x.format.magic)
    n = x.format.magic - shifted
    for part in constant("pi/2", x):  # the first product leaves an exact difference
        x = fma(n, part, x)
    return x, shifted.bits


def _far_remainder(x: Scalar) -> tuple[Scalar, Scalar]:
    """The same for any x of at least 0."""
    return _far_remainder_32(x) if x.dtype == "float32" else _far_remainder_64(x)


def _far_remainder_64(x: Scalar) -> tuple[Scalar, Scalar]:
    magic, (first, second, _) = x.format.magic, constant("pi/2", x)
    scaled, c1, c2, c3, c4 = _chunks(x, 53, 1023)
    p1, l1 = two_product(scaled, c1)
    p2, l2 = two_product(scaled, c2)
    p3, l3 = two_product(scaled, c3)
    a, a_low = two_sum(_without_turns(p1), _without_turns(l1))
    a, b_low = two_sum(a, _without_turns(p2))
    k = a + magic
    a = a - (k - magic)
    a, c_low = two_sum(a, l2)
    a, d_low = two_sum(a, p3)
    a, e_low = two_sum(a, a_low + b_low)
    f, f_low = two_sum(a, (c_low + d_low) + (e_low + fma(scaled, c4, l3)))
    high, low = two_product(f, first)
    return where(x < INF, high + (low + fma(f, second, f_low * first)), NAN), k.bits


def _far_remainder_32(x: Scalar) -> tuple[Scalar, Scalar]:
    wide = x.to("float64")
    magic = wide.format.magic
    scaled, c1, c2, *_ = _chunks(wide, 24, 127)
    p1, l1 = two_product(scaled, c1)
    a = _without_turns(p1)
    k = a + magic
    a = (a - (k - magic)) + fma(scaled, c2, l1)
    r = where(wide < INF, a * constant("pi/2", wide)[0], NAN)
    return r.to("float32"), k.bits.to("uint32")


def _sign(x: Scalar) -> Scalar:
    return x.bits & x.format.sign


def _sine(r: Scalar) -> Scalar:
    z = r * r
    return fma(z * r, table("sin", z), r)


def _cosine(r: Scalar) -> Scalar:
    z = r * r
    return fma(z * z, table("cos", z), fma(z, -0.5, 1))


def _sine_after(r: Scalar, n: Scalar) -> Scalar:
    """The sine of r + n pi / 2."""
    found = where((n & 1).equals(0), _sine(r), _cosine(r))
    return (found.bits ^ ((n << r.format.sign.bit_length() - 2) & r.format.sign)).float(r.dtype)


def _sin_of(x: Scalar, r: Scalar, n: Scalar) -> Scalar:
    return (_sine_after(r, n).bits ^ _sign(x)).float(x.dtype)


def _cos_of(_: Scalar, r: Scalar, n: Scalar) -> Scalar:
    return _sine_after(r, n + 1)


def _tan_of(x: Scalar, r: Scalar, n: Scalar) -> Scalar:
    sine, cosine, even = _sine(r), _cosine(r), (n & 1).equals(0)
    return ((where(even, sine, -cosine) / where(even, cosine, sine)).bits ^ _sign(x)).float(x.dtype)


def _of_angle(x: Scalar, **functions: Callable[[Scalar, Scalar, Scalar], Scalar]) -> tuple[Scalar, ...]:
    """Each function(x, r, n), with the remainder of |x|."""
    a = abs(x)
    r, n = _remainder(a)
    return tuple(guarded(name, a, _NEAR[x.dtype], function(x, r, n), lambda x, f=function: f(x, *_far_remainder(abs(x))), x)
                 for name, function in functions.items())


def sin_and_cos(x: Scalar) -> tuple[Scalar, ...]:
    return _of_angle(x, sin=_sin_of, cos=_cos_of)


def tan(x: Scalar) -> Scalar:
    return _of_angle(x, tan=_tan_of)[0]


def _arctangent(v: Scalar, u: Scalar) -> Scalar:
    """The angle of (u, v), both at least 0: of v / u, (v - u) / (v + u) or -u / v, which is at most tan(pi / 8)."""
    (low,), (high,) = constant("sqrt(2)-1", v), constant("sqrt(2)+1", v)
    right, quarter = constant("pi/2", v), constant("pi/4", v)
    middle, steep = v > low * u, v > high * u
    above = where(steep, -u, where(middle, v - u, v))
    below = where(steep, v, where(middle, v + u, u))
    t = above / where(below.equals(0), 1, below)
    z = t * t
    base, base_low = (where(steep, v.like(right[i]), where(middle, v.like(quarter[i]), 0)) for i in (0, 1))
    return base + (t + fma(t * z, table("atan", z), base_low))


def atan(x: Scalar) -> Scalar:
    return copysign(_arctangent(abs(x), x.like(1)), x)


def atan2(y: Scalar, x: Scalar) -> Scalar:
    v, u = abs(y), abs(x)
    both = v.equals(INF) & u.equals(INF)
    v, u = where(both, 1, v), where(both, 1, u)
    huge = 2.0 ** (x.format.bias - 2)
    scale = where((v > huge) | (u > huge), v.like(0.125), 1)  # so that their sum is finite
    angle = _arctangent(v * scale, u * scale)
    half, half_low = constant("pi", x)
    left = x.bits >> (x.format.mantissa + (8 if x.dtype == "float32" else 11))
    angle = where(left.equals(1), half - (angle - half_low), angle)
    return copysign(angle, y)


def _arcsine(x: Scalar) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """|x|; whether it is beyond 1/2; and t and t^3 p with asin(t) = t + t^3 p, t = |x| or sqrt((1 - |x|) / 2) there."""
    a = abs(x)
    beyond = a > 0.5
    z = where(beyond, 0.5 * (1 - a), a * a)
    t = where(beyond, sqrt(z), a)
    return a, beyond, t, t * (z * table("asin", z))


def asin(x: Scalar) -> Scalar:
    _, beyond, t, rest = _arcsine(x)
    right, right_low = constant("pi/2", x)[:2]
    return copysign(where(beyond, right - (2 * (t + rest) - right_low), t + rest), x)


def acos(x: Scalar) -> Scalar:
    _, beyond, t, rest = _arcsine(x)
    right, right_low = constant("pi/2", x)[:2]
    negative = x < 0
    inside = right - (copysign(t, x) + (copysign(rest, x) - right_low))
    outside = 2 * where(negative, right - ((t + rest) - right_low), t + rest)
    return where(beyond, outside, inside)
