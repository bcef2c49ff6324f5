"""The size of the first step where the user gives none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..kernel.emitter import Emitter
from ..kernel.memory import quick
from ..kernel.scalar import Scalar, where
from .norms import largest, root_mean_square, scaled

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body


def first_step(b: Body) -> Scalar:
    """The size of the first step, 0 where there is none. f at t0 has been evaluated; `proposed_state` and the method's spare
    evaluation are used as scratch. All slopes are those of the state, which with a mass matrix f is not."""
    emitter, dtype, method = b.emitter, b.dtype, b.lane.problem.method
    state, proposed, last = b.buf.state, b.buf.proposed_state, method.spare_rhs(b)
    first, to_slope = method.first_slope(b)
    state_norm = root_mean_square(b, scaled(b, state.load))
    rhs_norm = root_mean_square(b, scaled(b, first.load))
    guess = emit_explicit_guess(emitter, dtype, state_norm, rhs_norm)
    signed = emitter.mul(dtype, b.direction, guess)
    b.each(lambda index: proposed.store(index, emitter.fma(dtype, signed, first.load(index), state.load(index))))
    b.evaluate(signed, proposed, last)
    if to_slope is not None:
        to_slope(last)
    change = root_mean_square(b, scaled(b, lambda index: emitter.sub(dtype, last.load(index), first.load(index))))
    step_size = b.variable(emit_first_step(emitter, dtype, method.error_order, guess, rhs_norm, change))
    with b.when(~(b.scalar(step_size.get()) > 0)):
        step_size.set(_first_step_of_large(b, first).value)
    return b.scalar(step_size.get())


def _first_step_of_large(b: Body, slope: View) -> Scalar:
    """A first step where the squares that the other one takes are beyond the dtype's range: h0 alone, from the largest scaled
    components in place of the root mean squares."""
    rhs_norm = b.scalar(largest(b, scaled(b, slope.load)))
    state_norm = largest(b, scaled(b, b.buf.state.load))
    guess = b.scalar(emit_explicit_guess(b.emitter, b.dtype, state_norm, rhs_norm.value))
    return where(rhs_norm.is_finite & (guess < float("inf")), guess, 0.0)


def emit_explicit_guess(emitter: Emitter, dtype: str, state_norm: Any, rhs_norm: Any) -> Any:
    """h0 of Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.4, from the root mean squares
    of the scaled state and right-hand side; `rhs_norm` counts as 1 where h0 is the fallback, as in diffrax 0.7.2."""
    small = emitter.constant(dtype, 1e-5)
    tiny = emitter.logical_or(
        emitter.compare("lt", dtype, state_norm, small), emitter.compare("lt", dtype, rhs_norm, small)
    )
    divisor = emitter.select(tiny, emitter.constant(dtype, 1), rhs_norm)
    guess = emitter.mul(dtype, emitter.constant(dtype, 0.01), quick(emitter, "div", dtype, state_norm, divisor))
    return emitter.select(tiny, emitter.constant(dtype, 1e-6), guess)


def emit_first_step(emitter: Emitter, dtype: str, order: int, guess: Any, rhs_norm: Any, change_norm: Any) -> Any:
    """The first step from h0, the norm of the right-hand side, and the norm of its change over a step of h0.

    `order` divides the exponent. The same section; 0.01 to the power 1/order as in diffrax 0.7.2.
    """
    constant, select = emitter.constant, emitter.select
    second = quick(emitter, "div", dtype, change_norm, guess)
    largest = select(emitter.compare("gt", dtype, rhs_norm, second), rhs_norm, second)
    flat = emitter.compare("le", dtype, largest, constant(dtype, 1e-15))
    scaled = emitter.mul(dtype, guess, constant(dtype, 1e-3))
    least = constant(dtype, 1e-6)
    cautious = select(emitter.compare("gt", dtype, scaled, least), scaled, least)
    if dtype == "float64":
        ratio = quick(emitter, "div", dtype, constant(dtype, 0.01), largest)
        power = emitter.apply("pow", dtype, ratio, constant(dtype, 1 / order))
    else:
        exponent = emitter.mul(dtype, quick(emitter, "log2", dtype, largest), constant(dtype, -1 / order))
        power = quick(emitter, "exp2", dtype, emitter.add(dtype, exponent, constant(dtype, math.log2(0.01) / order)))
    step = select(flat, cautious, power)
    limit = emitter.mul(dtype, constant(dtype, 100), guess)
    return select(emitter.compare("lt", dtype, limit, step), limit, step)
