"""Makes `jax_cubie/kernel/function_tables.py`: `python tests/tables/polynomials.py > jax_cubie/kernel/function_tables.py`.

Each polynomial interpolates its function at Chebyshev's points, which is within a bit of the best one, in decimal arithmetic
of 60 digits; the coefficients, lowest first, are then rounded. Bits of numbers are those of the same arithmetic.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from decimal import Decimal as D
from decimal import getcontext, localcontext
from fractions import Fraction

import numpy as np

getcontext().prec = 60
getcontext().Emin, getcontext().Emax = -(10**6), 10**6
_TINY = D(10) ** -70

Real = Callable[[D], D]


def series(term: Callable[[int], D], z: D) -> D:
    """The sum of term(k) z^k."""
    total, power, k = D(0), D(1), 0
    while True:
        new = term(k) * power
        total += new
        if abs(new) < _TINY and k > 3:
            return total
        power *= z
        k += 1


def factorial(k: int) -> D:
    return D(math.factorial(k))


def arctangent_of_inverse(n: int) -> D:
    return series(lambda k: D((-1) ** k) / (2 * k + 1), 1 / D(n * n)) / n


PI = 4 * (4 * arctangent_of_inverse(5) - arctangent_of_inverse(239))  # Machin, 1706
LN2 = D(2).ln()


def erf(x: D) -> D:
    return 2 / PI.sqrt() * x * series(lambda k: D((-1) ** k) / factorial(k) / (2 * k + 1), x * x)


def scaled_erfc(x: D) -> D:
    """exp(x^2) erfc(x), by its Taylor series or its continued fraction (DLMF 7.9.1)."""
    if x < 3:
        return (x * x).exp() * (1 - erf(x))
    tail = x
    for k in range(600, 0, -1):
        tail = x + D(k) / 2 / tail
    return 1 / (PI.sqrt() * tail)


ERFC_MIDDLE = D("2.5")


def _scaled_erfc_by(t: D) -> D:
    x = ERFC_MIDDLE * (1 + t) / (1 - t)
    return (x + ERFC_MIDDLE) * scaled_erfc(x)


def _t(x: float) -> D:
    return (D(x) - ERFC_MIDDLE) / (D(x) + ERFC_MIDDLE)


# Name: the function, the ends of its interval, and the degrees for float32 and float64.
FUNCTIONS: dict[str, tuple[Real, D, D, int, int]] = {
    # (exp(r) - 1 - r) / r^2
    "exp": (lambda r: series(lambda k: 1 / factorial(k + 2), r), -D("0.3475"), D("0.3475"), 4, 9),
    # (2 artanh(s) - 2 s) / s^3 by z = s^2; s is at most (sqrt(2) - 1) / (sqrt(2) + 1)
    "log": (lambda z: series(lambda k: D(2) / (2 * k + 3), z), D(0), D("0.02950"), 2, 6),
    # (log(1 + r) - r + r^2 / 2) / r^3
    "log_near_1": (lambda r: series(lambda k: D((-1) ** k) / (k + 3), r), -D("0.00782"), D("0.00782"), 1, 4),
    # The same, for pow
    "log_near_1_long": (lambda r: series(lambda k: D((-1) ** k) / (k + 3), r), -D("0.00782"), D("0.00782"), 2, 6),
    # (sin(r) - r) / r^3 and (cos(r) - 1 + r^2 / 2) / r^4 by z = r^2
    "sin": (lambda z: series(lambda k: D((-1) ** (k + 1)) / factorial(2 * k + 3), z), D(0), D("0.6170"), 2, 5),
    "cos": (lambda z: series(lambda k: D((-1) ** k) / factorial(2 * k + 4), z), D(0), D("0.6170"), 2, 5),
    # (atan(t) - t) / t^3 by z = t^2; t is at most sqrt(2) - 1
    "atan": (lambda z: series(lambda k: D((-1) ** (k + 1)) / (2 * k + 3), z), D(0), D("0.1716"), 4, 10),
    # (asin(t) - t) / t^3 by z = t^2
    "asin": (lambda z: series(lambda k: D(math.comb(2 * k + 2, k + 1)) / D(4) ** (k + 1) / (2 * k + 3), z),
             D(0), D("0.2500001"), 4, 12),
    # erf(x) / x - 1 by z = x^2
    "erf": (lambda z: (erf(z.sqrt()) / z.sqrt() if z else 2 / PI.sqrt()) - 1, D(0), D("0.26"), 4, 9),
    # (x + 2.5) exp(x^2) erfc(x) by t = (x - 2.5) / (x + 2.5)
    "erfc": (_scaled_erfc_by, _t(0.49), _t(28.0), 11, 21),
    # The cube root of m between sqrt(1/2) and sqrt(2), to 17 bits
    "cbrt": (lambda m: ((m.ln() / 3).exp()), D("0.7071"), D("1.41422"), 3, 5),
}


def interpolate(function: Real, low: D, high: D, degree: int) -> list[D]:
    """The coefficients, lowest first, of the polynomial through Chebyshev's points (Newton's form, multiplied out)."""
    count = degree + 1
    angles = [PI * (2 * k + 1) / (2 * count) for k in range(count)]
    cosines = [series(lambda k: D((-1) ** k) / factorial(2 * k), angle * angle) for angle in angles]
    points = [(low + high) / 2 + (high - low) / 2 * c for c in cosines]
    differences = [function(p) for p in points]
    for order in range(1, count):
        for k in range(count - 1, order - 1, -1):
            differences[k] = (differences[k] - differences[k - 1]) / (points[k] - points[k - order])
    coefficients = [differences[-1]]
    for k in range(count - 2, -1, -1):
        shifted = [D(0), *coefficients]
        scaled = [-points[k] * c for c in coefficients] + [D(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
        coefficients[0] += differences[k]
    return coefficients


def rounded(value: D, dtype: str) -> float:
    """To the nearest; float32 by way of a fraction, so that it is rounded once."""
    nearest = float(Fraction(value))
    if dtype == "float64":
        return nearest
    single = float(np.float32(nearest))
    up, down = (float(np.nextafter(np.float32(nearest), np.float32(s * np.inf))) for s in (1, -1))
    return min((single, up, down), key=lambda x: abs(Fraction(x) - Fraction(value)))


# Each as the sum of so many numbers of a dtype: each is the nearest to what those before leave.
CONSTANTS: dict[str, tuple[D, int]] = {
    "ln(2)": (LN2, 2),
    "1/ln(2)": (1 / LN2, 2),
    "pi/2": (PI / 2, 3),
    "pi/4": (PI / 4, 2),
    "pi": (PI, 2),
    "2/pi": (2 / PI, 1),
    "sqrt(2)-1": (D(2).sqrt() - 1, 1),
    "sqrt(2)+1": (D(2).sqrt() + 1, 1),
    "cbrt(2)": ((LN2 / 3).exp(), 1),
    "1/cbrt(2)": ((-LN2 / 3).exp(), 1),
}
BITS_OF_TWO_OVER_PI = 1280


def two_over_pi() -> int:
    """The first bits of 2 / pi, as an integer."""
    with localcontext() as context:
        context.prec = 420
        global _TINY
        kept, _TINY = _TINY, D(10) ** -420
        pi = 4 * (4 * arctangent_of_inverse(5) - arctangent_of_inverse(239))
        _TINY = kept
        return int(2 / pi * 2**BITS_OF_TWO_OVER_PI)


def parts(value: D, count: int, dtype: str) -> tuple[float, ...]:
    found = []
    for _ in range(count):
        found.append(rounded(value, dtype))
        value -= D(found[-1])
    return tuple(found)


def tables() -> tuple[dict, dict]:
    """The polynomials and the constants: by name, then by dtype. For some, float32 means float64 with fewer digits."""
    polynomials: dict = {}
    for name, (function, low, high, *degrees) in FUNCTIONS.items():
        polynomials[name] = {}
        for dtype, degree in zip(("float32", "float64"), degrees, strict=True):
            kept = "float64" if name in ("log_near_1_long", "erfc") else dtype
            polynomials[name][dtype] = tuple(rounded(c, kept) for c in interpolate(function, low, high, degree))
    constants = {name: {dtype: parts(value, count, dtype) for dtype in ("float32", "float64")}
                 for name, (value, count) in CONSTANTS.items()}
    return polynomials, constants


def text() -> str:
    lines = ['"""Coefficients of the elementary functions, made by `tests/tables/polynomials.py`, which says of what."""', ""]
    for title, table in zip(("POLYNOMIALS", "CONSTANTS"), tables(), strict=True):
        lines.append(f"{title}: dict[str, dict[str, tuple[float, ...]]] = {{")
        for name, by_dtype in table.items():
            lines.append(f'    "{name}": {{')
            for dtype, numbers in by_dtype.items():
                words = [repr(x) for x in numbers]
                body = textwrap.fill(", ".join(words) + ",", 116, initial_indent=" " * 12, subsequent_indent=" " * 12)
                lines.append(f'        "{dtype}": (\n{body}\n        ),')
            lines.append("    },")
        lines += ["}", ""]
    digits = textwrap.wrap(f"{two_over_pi():x}", 100)
    lines += [f"BITS_OF_TWO_OVER_PI = {BITS_OF_TWO_OVER_PI}", "TWO_OVER_PI = int("]
    lines += [*(f'    "{line}"' for line in digits[:-1]), f'    "{digits[-1]}",', "    16,", ")"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(text(), end="")
