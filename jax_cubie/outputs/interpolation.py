"""Points inside a step: a method's own dense output, or cubic Hermite interpolation.

Both begin with a mean of the two ends of the step, so that they give these exactly.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..kernel.emitter import Emitter
    from ..loop.jets import Jet


def emit_dense_weights(
    emitter: Emitter, dtype: str, theta: Any, step_size: Any, terms: Sequence[Sequence[Fraction]]
) -> tuple[Any, list[Any]]:
    """x^n for x = theta, and for each stage h times the sum over k < n of terms[k - 1] x^k (1 - x)^(n - k); None for what is 0
    everywhere.

    terms: those of a `ContinuousExtension`, of degree n. The term k = n is left out: over all stages, the step itself. Where
    theta is a constant, all but h is.
    """
    from llvmlite import ir  # not for solvers whose images are there

    if isinstance(theta, ir.Constant):
        return _constant_weights(emitter, dtype, float(theta.constant), step_size, terms)
    mul = emitter.mul
    rest = emitter.sub(dtype, emitter.constant(dtype, 1), theta)
    degree = len(terms[0])
    powers, rests = [theta], [rest]
    for _ in range(degree - 1):
        powers.append(mul(dtype, powers[-1], theta))
        rests.append(mul(dtype, rests[-1], rest))
    basis = [mul(dtype, step_size, mul(dtype, powers[k], rests[degree - 2 - k])) for k in range(degree - 1)]
    weights: list[Any] = []
    for row in terms:
        total = None
        for coefficient, value in zip(row[:-1], basis, strict=True):
            if coefficient:
                constant = emitter.constant(dtype, float(coefficient))
                total = mul(dtype, constant, value) if total is None else emitter.fma(dtype, constant, value, total)
        weights.append(total)
    return powers[-1], weights


def _constant_weights(
    emitter: Emitter, dtype: str, theta: float, step_size: Any, terms: Sequence[Sequence[Fraction]]
) -> tuple[Any, list[Any]]:
    """The same for a theta that is known."""
    degree, weights = len(terms[0]), []
    for row in terms:
        total = sum(float(one) * theta**k * (1 - theta) ** (degree - k) for k, one in enumerate(row[:-1], start=1))
        weights.append(emitter.mul(dtype, step_size, emitter.constant(dtype, total)) if any(row[:-1]) else None)
    return emitter.constant(dtype, theta**degree), weights


def dense_shares(terms: Sequence[Sequence[Fraction]]) -> list[bool]:
    """Whether each stage has a share in values between, other than in the step itself."""
    return [any(row[:-1]) for row in terms]


def dense_weights(theta: Jet, size: Jet, terms: Sequence[Sequence[Fraction]]) -> tuple[Jet, list[Jet | None]]:
    """As `emit_dense_weights`, with the tangents of both."""
    rest, degree = 1.0 - theta, len(terms[0])
    powers, rests = [theta], [rest]
    for _ in range(degree - 1):
        powers.append(powers[-1] * theta)
        rests.append(rests[-1] * rest)
    basis = [size * (powers[k] * rests[degree - 2 - k]) for k in range(degree - 1)]
    weights: list[Jet | None] = []
    for row in terms:
        used = [float(coefficient) * value for coefficient, value in zip(row[:-1], basis, strict=True) if coefficient]
        weights.append(functools.reduce(operator.add, used) if used else None)
    return powers[-1], weights


def emit_dense(
    emitter: Emitter, share: Any, weights: Sequence[Any], start: View, end: View, rows: Sequence[View], index: Any
) -> Any:
    """Component `index` of (1 - x^n) y0 + x^n y1 + the sum of weight times row; `share`: x^n."""
    total = _between(emitter, share, start, end, index)
    for weight, row in zip(weights, rows, strict=True):
        if weight is not None:
            total = emitter.fma(start.dtype, weight, row.load(index), total)
    return total


def emit_twice_dense(
    emitter: Emitter,
    theta: float,
    step_size: Any,
    terms: Sequence[Sequence[Fraction]],
    start: View,
    end: View,
    rows: Sequence[View],
) -> Callable[[Any], Any]:
    """Twice the value at x = theta, of a component: y0 + y1 + 2 h times a sum of rows, the least that there is to compute.

    So the step itself, that the term k = n is over all stages, is taken by half.
    """
    dtype, degree, weights = start.dtype, len(terms[0]), []
    for row in terms:
        inside = sum(float(one) * theta**k * (1 - theta) ** (degree - k) for k, one in enumerate(row, start=1))
        weights.append(inside - 0.5 * float(row[-1]))
    used = [(emitter.constant(dtype, weight), row) for weight, row in zip(weights, rows, strict=True) if weight]
    twice = emitter.mul(dtype, emitter.constant(dtype, 2), step_size)

    def value_at(index: Any) -> Any:
        total = emitter.constant(dtype, 0)
        for number, (weight, row) in enumerate(used):
            rate = row.load(index)
            total = emitter.fma(dtype, weight, rate, total) if number else emitter.mul(dtype, weight, rate)
        return emitter.fma(dtype, twice, total, emitter.add(dtype, start.load(index), end.load(index)))

    return value_at


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
    return fma(dtype, mul(dtype, theta, before), bend, _between(emitter, theta, start, end, index))


def _between(emitter: Emitter, share: Any, start: View, end: View, index: Any) -> Any:
    """(1 - share) y0 + share y1, which is one of them exactly where share is 0 or 1."""
    dtype = start.dtype
    before = emitter.mul(dtype, emitter.sub(dtype, emitter.constant(dtype, 1), share), start.load(index))
    return emitter.fma(dtype, share, end.load(index), before)
