"""Norms over the tolerances rtol and atol: what makes a step's error, or a rate, large or small."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel.memory import quick

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..kernel.scalar import Scalar
    from ..loop.body import Body


def tolerance(b: Body, magnitude: Any, index: Any) -> Any:
    """atol + rtol * magnitude, of component `index`."""
    return b.emitter.fma(b.dtype, b.op("rtol", index), magnitude, b.op("atol", index))


def sum_of_squares(b: Body, value_at: Callable[[Any], Any]) -> Any:
    """The sum over the components of `value_at(index)` squared."""
    total = b.variable(b.real(0))

    def add(index: Any) -> None:
        value = value_at(index)
        total.set(b.emitter.fma(b.dtype, value, value, total.get()))

    b.each(add, b.primal)
    return total.get()


def squares_over_own(
    b: Body, prefix: str, value_at: Callable[[Any], Scalar], state: View, times: float | None = None
) -> Scalar:
    """The sum of the squares of `value_at(index)` over the tolerance at that state, by the operands of `own_tolerances`; where
    it has none, the solve's are taken, or so many times as much."""

    def number(name: str, index: Any) -> Scalar:
        own = f"{prefix}_{name}"
        if b.lane.has_operand(own):
            return b.number(own, index)
        return b.number(name, index) if times is None else times * b.number(name, index)

    def over_tolerance(index: Any) -> Any:
        rtol = number("rtol", index)
        scale = rtol.fused(abs(b.scalar(state.load(index))), number("atol", index))
        return (value_at(index) / scale).value

    return b.scalar(sum_of_squares(b, over_tolerance))


def largest(b: Body, value_at: Callable[[Any], Any]) -> Any:
    """The largest magnitude among the components; NaN where one is."""
    found = b.variable(b.real(0))

    def body(index: Any) -> None:
        found.set(b.emitter.max(b.dtype, found.get(), b.emitter.abs(b.dtype, value_at(index))))

    b.each(body, b.primal)
    return found.get()


def root_mean_square(b: Body, value_at: Callable[[Any], Any]) -> Any:
    """Over the components."""
    mean = b.emitter.mul(b.dtype, sum_of_squares(b, value_at), b.real(1 / b.primal))
    return quick(b.emitter, "sqrt", b.dtype, mean)


def scaled(b: Body, value_at: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`value_at(index)` over the tolerance at the state, by index."""

    def body(index: Any) -> Any:
        scale = tolerance(b, b.emitter.abs(b.dtype, b.buf.state.load(index)), index)
        return quick(b.emitter, "div", b.dtype, value_at(index), scale)

    return body


def scaled_error(b: Body) -> Any:
    """The sum of the squares of the scaled error.

    A NaN in the proposed state does not count for the scale: the step goes by the error, which is NaN, too.
    """
    emitter, dtype, state, proposed = b.emitter, b.dtype, b.buf.state, b.buf.proposed_state

    def square(number: int) -> Any:
        estimate = b.buf.error.part(number * b.primal, b.primal)

        def body(index: Any) -> Any:
            old, new = emitter.abs(dtype, state.load(index)), emitter.abs(dtype, proposed.load(index))
            scale = tolerance(b, quick(emitter, "max", dtype, new, old), index)
            return quick(emitter, "div", dtype, estimate.load(index), scale)

        return sum_of_squares(b, body)

    squares = [square(number) for number in range(b.buf.error.size // b.primal)]
    return squares[0] if len(squares) == 1 else _damped(b, *squares)


def _damped(b: Body, square: Any, low: Any) -> Any:
    """The sum of squares of an error estimate that one of lower order holds in check.

    Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.10, equation (10.17): with the
    sums s5 and s3 of the two estimates, s5^2 / (s5 + 0.01 s3).
    """
    emitter, dtype = b.emitter, b.dtype
    both = emitter.fma(dtype, b.real(0.01), low, square)
    divisor = emitter.select(emitter.compare("eq", dtype, both, b.real(0)), b.real(1), both)
    return emitter.mul(dtype, square, quick(emitter, "div", dtype, square, divisor))
