"""Points inside a step: a method's own dense output, or cubic Hermite interpolation.

Both are written around the straight line between the ends of the step, so that they give these exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..kernel.emitter import Emitter


def bend_polynomials(weights: Sequence[Sequence[Fraction]], b: Sequence[Fraction]) -> list[list[Fraction]]:
    """The polynomials c_i with b_i(x) = x b_i + x (1 - x) c_i(x), each in ascending powers of x.

    weights: the coefficients of each b_i, ascending from x^1; b: the method's weights, where b_i(1) is b_i (0 beyond them).
    """
    polynomials = []
    for number, coefficients in enumerate(weights):
        end = b[number] if number < len(b) else Fraction(0)
        # (b_i(x) - x b_i) / x, divided by 1 - x: sums of the coefficients so far. The last is 0 but for rounded digits.
        total, quotient = -end, []
        for coefficient in coefficients[:-1]:
            total += coefficient
            quotient.append(total)
        polynomials.append(quotient)
    return polynomials


def emit_dense_weights(
    emitter: Emitter, dtype: str, theta: Any, step_size: Any, polynomials: Sequence[Sequence[Fraction]]
) -> list[Any]:
    """x (1 - x) h c_i(x) for each of `bend_polynomials` at x = theta; None for what is 0 everywhere."""
    one = emitter.constant(dtype, 1)
    scale = emitter.mul(dtype, emitter.mul(dtype, theta, emitter.sub(dtype, one, theta)), step_size)
    values: list[Any] = []
    for coefficients in polynomials:
        if not any(coefficients):
            values.append(None)
            continue
        total = emitter.constant(dtype, float(coefficients[-1]))
        for coefficient in reversed(coefficients[:-1]):
            total = emitter.fma(dtype, total, theta, emitter.constant(dtype, float(coefficient)))
        values.append(emitter.mul(dtype, scale, total))
    return values


def emit_dense(
    emitter: Emitter, theta: Any, weights: Sequence[Any], start: View, end: View, rows: Sequence[View], index: Any
) -> Any:
    """Component `index` at the fraction `theta` of a step: (1 - x) y0 + x y1 + the sum of weight times row."""
    total = _line(emitter, theta, start, end, index)
    for weight, row in zip(weights, rows, strict=True):
        if weight is not None:
            total = emitter.fma(start.dtype, weight, row.load(index), total)
    return total


def emit_hermite(
    emitter: Emitter, theta: Any, step_size: Any, start: View, end: View, start_rhs: View, end_rhs: View, index: Any
) -> Any:
    """Component `index` at the fraction `theta` of a step, of third order.

    Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.6, equation (6.7):
    (1 - x) y0 + x y1 + x (x - 1) ((1 - 2x)(y1 - y0) + (x - 1) h f0 + x h f1).
    """
    dtype = start.dtype
    add, mul, fma = emitter.add, emitter.mul, emitter.fma
    one, two = emitter.constant(dtype, 1), emitter.constant(dtype, 2)
    before = emitter.sub(dtype, theta, one)
    low, high = start.load(index), end.load(index)
    slopes = add(
        dtype,
        mul(dtype, mul(dtype, before, step_size), start_rhs.load(index)),
        mul(dtype, mul(dtype, theta, step_size), end_rhs.load(index)),
    )
    skew = emitter.sub(dtype, one, mul(dtype, two, theta))
    bend = fma(dtype, skew, emitter.sub(dtype, high, low), slopes)
    return fma(dtype, mul(dtype, theta, before), bend, _line(emitter, theta, start, end, index))


def _line(emitter: Emitter, theta: Any, start: View, end: View, index: Any) -> Any:
    dtype = start.dtype
    before = emitter.mul(dtype, emitter.sub(dtype, emitter.constant(dtype, 1), theta), start.load(index))
    return emitter.fma(dtype, theta, end.load(index), before)
