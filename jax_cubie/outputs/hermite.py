"""Cubic Hermite interpolation inside a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..kernel.emitter import Emitter


def emit_hermite(
    emitter: Emitter, theta: Any, step_size: Any, start: View, end: View, start_rhs: View, end_rhs: View, index: Any
) -> Any:
    """Component `index` at the fraction `theta` of a step, of third order.

    Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.6, equation (6.7):
    (1 - x) y0 + x y1 + x (x - 1) ((1 - 2x)(y1 - y0) + (x - 1) h f0 + x h f1). At the ends it gives y0 and y1 exactly.
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
    line = fma(dtype, theta, high, mul(dtype, emitter.sub(dtype, one, theta), low))
    return fma(dtype, mul(dtype, theta, before), bend, line)
