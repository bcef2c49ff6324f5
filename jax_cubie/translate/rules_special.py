"""Special functions, written in JAX for one scalar; they are traced and walked in turn.

The series and fractions are those of the Digital Library of Mathematical Functions (dlmf.nist.gov), whose numbers stand
in the docstrings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .arrays import Array, Registers
from .builder import Scalar
from .context import equations_of
from .program import dtype_name
from .rules_elementwise import apply_elementwise

if TYPE_CHECKING:
    from .context import Context

_MOST_TERMS = 5000
"""Where a series or a fraction ends that has not come to rest: some thousand times what small parameters need."""


def _horner(coefficients: tuple[float, ...], x: Any) -> Any:
    total = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        total = total * x + c
    return total


def _erf_inv(x: Any) -> Any:
    """Giles' approximation for float32; for float64 Halley steps (on erfc in the tails) follow it."""
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
    """Reflection below 1/2 (5.5.4), recurrence up to 10, then the asymptotic series (5.11.2)."""
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
    # cot(pi x) with the argument near 0, where tan keeps its digits.
    fraction = x - lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)
    value = jnp.where(reflected, value - math.pi / lax.tan(math.pi * fraction), value)
    return jnp.where(x == 0, -jnp.inf, jnp.where((x < 0) & (x == lax.floor(x)), jnp.nan, value))


def _zeta(s: Any, a: Any) -> Any:
    """Hurwitz' zeta function: some terms, then Euler and Maclaurin's formula (25.11.28). NaN for a < -1000."""
    start = (a, jnp.zeros_like(a))
    far = a < -1000
    limit = 10 + jnp.minimum(s / 2, 200)  # from where the formula's terms fall fast
    n, total = lax.while_loop(lambda state: (state[0] < limit) & ~far,
                              lambda state: (state[0] + 1, state[1] + lax.pow(state[0], -s)), start)
    power = lax.pow(n, -s)
    total = total + power * (n / (s - 1) + 0.5)
    factor, inverse = s * power / n, 1 / (n * n)
    for k in range(1, 13):
        total = total + float(_bernoulli(2 * k) / math.factorial(2 * k)) * factor
        factor = factor * (s + (2 * k - 1)) * (s + 2 * k) * inverse
    pole = (a <= 0) & (a == lax.floor(a))
    wrong = (s < 1) | far | pole | ((a <= 0) & (s != lax.floor(s))) | (s == jnp.inf) | (a == jnp.inf)
    infinite = (s == 1) | (pole & (s % 2 == 0))  # elsewhere its two sides differ
    return jnp.where((s != s) | (a != a), jnp.nan, jnp.where(infinite, jnp.inf, jnp.where(wrong, jnp.nan, total)))


def _bernoulli(n: int) -> Fraction:
    """The n-th Bernoulli number, by Akiyama and Tanigawa."""
    row = []
    for m in range(n + 1):
        row.append(Fraction(1, m + 1))
        for j in range(m, 0, -1):
            row[j - 1] = j * (row[j - 1] - row[j])
    return row[0]


def _polygamma(n: Any, x: Any) -> Any:
    """By 25.11.12; the 0-th is digamma."""
    sign = jnp.where(n % 2 == 0, -1, 1).astype(x.dtype)
    higher = sign * lax.exp(lax.lgamma(n + 1)) * _zeta(n + 1, x)
    value = jnp.where(n == 0, _digamma(x), higher)
    return jnp.where((n < 0) | (n != lax.floor(n)), jnp.nan, value)


def _bessel_e(order: int, x: Any) -> Any:
    """exp(-x) I_order(x) for x >= 0: the power series (10.25.2) and, from where it is exact, the asymptotic (10.40.1)."""
    # Both bounds leave an error below the rounding's.
    limit, terms, far_terms = (10, 26, 12) if x.dtype == jnp.float32 else (20, 46, 30)
    near = jnp.minimum(x, limit)
    q = near * near / 4
    total = jnp.ones_like(x)
    for k in range(terms, 0, -1):
        total = total * (q * (1 / (k * (k + order)))) + 1
    total = total * lax.exp(-near) * (near / 2 if order else 1)
    far = 1 / (8 * jnp.maximum(x, limit))
    tail = jnp.ones_like(x)
    for k in range(far_terms, 0, -1):
        tail = 1 - tail * (far * ((4 * order * order - (2 * k - 1) ** 2) / k))
    return jnp.where(x < limit, total, tail * lax.sqrt(far * (4 / math.pi)))


def _bessel_i0e(x: Any) -> Any:
    return _bessel_e(0, abs(x))


def _bessel_i1e(x: Any) -> Any:
    return jnp.copysign(_bessel_e(1, abs(x)), x)


def _gamma_series(a: Any, x: Any) -> Any:
    """The lower incomplete gamma function without its factor (8.7.1)."""
    def add(state: Any) -> Any:
        n, term, total = state
        term = term * (x / (a + n))
        return n + 1, term, total + term

    start = (jnp.ones_like(x), jnp.ones_like(x), jnp.ones_like(x))
    eps = jnp.finfo(x.dtype).eps
    return lax.while_loop(lambda state: (state[1] > eps * state[2]) & (state[0] < _MOST_TERMS), add, start)[2]


def _continued_fraction(first: Any, term: Callable[[Any], tuple[Any, Any]]) -> Any:
    """first + a1 / (b1 + a2 / (b2 + ...)) with (a, b) = term(n), by Lentz' method as Thompson and Barnett mend it."""
    tiny, eps = jnp.finfo(first.dtype).tiny * 1e8, jnp.finfo(first.dtype).eps

    def away_from_zero(x: Any) -> Any:
        return jnp.where(abs(x) < tiny, tiny, x)

    def extend(state: Any) -> Any:
        n, value, c, d, _ = state
        a, b = term(n)
        d = 1 / away_from_zero(b + a * d)
        c = away_from_zero(b + a / c)
        return n + 1, value * c * d, c, d, abs(c * d - 1)

    first = away_from_zero(first)
    start = (jnp.ones_like(first), first, first, jnp.zeros_like(first), jnp.ones_like(first))
    return lax.while_loop(lambda state: (state[4] > eps) & (state[0] < _MOST_TERMS), extend, start)[1]


def _gamma_parts(a: Any, x: Any) -> tuple[Any, Any]:
    """The regularised lower and upper incomplete gamma function, of which the smaller is computed (8.7.1, 8.9.2)."""
    factor = lax.exp(a * lax.log(x) - x - lax.lgamma(a + 1))

    def lower() -> tuple[Any, Any]:
        value = factor * _gamma_series(a, x)
        return value, 1 - value

    def upper() -> tuple[Any, Any]:
        value = factor * a / _continued_fraction(x + 1 - a, lambda n: (n * (a - n), x + (2 * n + 1) - a))
        return 1 - value, value

    low, high = lax.cond((x < 1) | (x < a), lower, upper)
    wrong = ~(a >= 0) | ~(x >= 0) | ((a == 0) & (x == 0)) | ((a == jnp.inf) & (x == jnp.inf))
    nothing, all_of_it = (x == 0) | (a == jnp.inf), (a == 0) | (x == jnp.inf)
    low = jnp.where(nothing, 0, jnp.where(all_of_it, 1, low))
    high = jnp.where(nothing, 1, jnp.where(all_of_it, 0, high))
    return jnp.where(wrong, jnp.nan, low), jnp.where(wrong, jnp.nan, high)


def _igamma(a: Any, x: Any) -> Any:
    return _gamma_parts(a, x)[0]


def _igammac(a: Any, x: Any) -> Any:
    return _gamma_parts(a, x)[1]


def _igamma_grad_a(a: Any, x: Any) -> Any:
    """The derivative of igamma by its first argument, of the series (8.7.1) term by term: the error is that of a number of
    about 1 + |log x|."""
    def add(state: Any) -> Any:
        n, term, inverses, total, slope = state
        term, inverses = term * (x / (a + n)), inverses + 1 / (a + n)
        return n + 1, term, inverses, total + term, slope + term * inverses

    def goes_on(state: Any) -> Any:
        n, term, inverses, total, slope = state
        return ((term > eps * total) | (term * inverses > eps * slope)) & (n < _MOST_TERMS)

    one, zero, eps = jnp.ones_like(x), jnp.zeros_like(x), jnp.finfo(x.dtype).eps
    _, _, _, total, slope = lax.while_loop(goes_on, add, (one, one, zero, one, zero))
    factor = lax.exp(a * lax.log(x) - x - lax.lgamma(a + 1))
    derivative = factor * (total * (lax.log(x) - _digamma(a + 1)) - slope)
    flat = (x == 0) | (x > 2 * a + 1000) | (a == jnp.inf)  # there igamma is 0 or 1 whatever a is
    return jnp.where(~(a > 0) | ~(x >= 0), jnp.nan, jnp.where(flat, 0, derivative))


def _betainc(a: Any, b: Any, x: Any) -> Any:
    """The regularised incomplete beta function by its continued fraction (8.17.22), mirrored where that is slow (8.17.4)."""
    mirrored = x > (a + 1) / (a + b + 2)
    p, q, z = jnp.where(mirrored, b, a), jnp.where(mirrored, a, b), jnp.where(mirrored, 1 - x, x)

    def term(n: Any) -> tuple[Any, Any]:
        m = lax.floor(n / 2)
        even = m * (q - m) * z / ((p + 2 * m - 1) * (p + 2 * m))
        odd = -(p + m) * (p + q + m) * z / ((p + 2 * m) * (p + 2 * m + 1))
        return jnp.where(n == 2 * m, even, odd), jnp.ones_like(n)

    logarithm = p * lax.log(z) + q * lax.log1p(-z) + lax.lgamma(p + q) - lax.lgamma(p) - lax.lgamma(q)
    value = lax.exp(logarithm) / (p * _continued_fraction(jnp.ones_like(z), term))
    value = jnp.where(mirrored, 1 - value, value)
    value = jnp.where((a == 0) | (b == jnp.inf), 1, jnp.where((b == 0) | (a == jnp.inf), 0, value))
    value = jnp.where((x == 0) | (x == 1), abs(x), value)
    wrong = ~(a >= 0) | ~(b >= 0) | ~((x >= 0) & (x <= 1)) | ((a == b) & ((a == 0) | (a == jnp.inf)))
    return jnp.where(wrong, jnp.nan, value)


COMPOSITES: dict[str, Callable[..., Any]] = {
    "erf_inv": _erf_inv,
    "digamma": _digamma,
    "zeta": _zeta,
    "polygamma": _polygamma,
    "bessel_i0e": _bessel_i0e,
    "bessel_i1e": _bessel_i1e,
    "igamma": _igamma,
    "igammac": _igammac,
    "igamma_grad_a": _igamma_grad_a,
    "regularized_incomplete_beta": _betainc,
}
"""Primitive name -> JAX function of scalars."""


def _composite(fn: Callable[..., Any]) -> Callable[..., Array]:
    def rule(context: Context, eqn: Any, *args: Array) -> Array:
        closed = jax.make_jaxpr(fn)(*[jax.ShapeDtypeStruct((), a.aval.dtype) for a in eqn.invars])

        def element(*scalars: Scalar) -> Scalar:
            (result,) = context.call(closed, *[Registers((), x.dtype, np.array(s)) for x, s in zip(args, scalars, strict=True)])
            return context.in_registers(result).at(context.b, ())

        work, _ = equations_of(closed.jaxpr)
        return apply_elementwise(context, element, dtype_name(eqn.outvars[0].aval.dtype), *args, work=work)

    return rule


SPECIAL: dict[str, Callable[..., Array]] = {name: _composite(fn) for name, fn in COMPOSITES.items()}
"""Primitive name -> rule."""
