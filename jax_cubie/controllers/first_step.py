"""The size of the first step where the user gives none."""

from __future__ import annotations

import math
from typing import Any

from ..kernel.emitter import Emitter
from ..kernel.memory import quick


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

