"""The device functions of the PID controller."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel.memory import make_tuple, quick
from ..loop.part import Control
from ..settings import Range
from .first_step import build_first_step
from .norms import scaled_error
from .tolerances import Tolerances

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .pid import PIDControl


def build_control(lane: Lane, control: PIDControl, ranges: Mapping[str, Range]) -> Control:
    """The controller's places in the loop. ranges: what each coefficient may be."""
    start, decide = _decisions(lane, control)
    return Control(
        valid=lane.emitted("bool")(lambda b: _valid(b, control, ranges)),
        first_step=None if lane.problem.first_step_given else build_first_step(lane),
        start=start,
        error=lane.emitted(lane.problem.dtype)(scaled_error),
        decide=decide,
    )


def _valid(b: Body, control: PIDControl, ranges: Mapping[str, Range]) -> Any:
    """Each number is in its range, and no component has two tolerances of 0."""
    emitter, dtype = b.emitter, b.dtype
    valid = emitter.constant("bool", 1)
    for name in control.coefficients:
        valid = emitter.logical_and(valid, _inside(b, b.op(name), ranges[name]))
    if control.has_limits:
        valid = emitter.logical_and(valid, emitter.compare("le", dtype, b.op("dtmin"), b.op("dtmax")))
    held = b.new_cell("bool", valid)

    def body(index: Any) -> None:
        rtol, atol = b.op("rtol", index), b.op("atol", index)
        valid = held.get()
        for value in (rtol, atol):
            valid = emitter.logical_and(valid, _inside(b, value, Tolerances.RANGE))
        some = emitter.compare("gt", dtype, emitter.add(dtype, rtol, atol), b.real(0))
        held.set(emitter.logical_and(valid, some))

    b.each(body, max(b.lane.operand(name).size for name in ("rtol", "atol")))
    return held.get()


def _decisions(lane: Lane, control: PIDControl) -> tuple[Callable, Callable]:
    """`start` and `decide` of a `Control`. The memory: the logarithms (base 2) of the inverse scaled errors of the last
    two accepted steps, 0 at first, and whether the step is at dtmin."""
    dtype, states, order = lane.problem.dtype, lane.problem.states, lane.problem.method.error_order
    force_dtmin, has_history, has_limits = control.force_dtmin, control.has_history, control.has_limits
    emitted = lane.device.emitted
    real = np.dtype(dtype).type
    one, zero, infinity, count = real(1), real(0), real(np.inf), real(states)
    minus_half, half_log = real(-0.5), real(0.5 * math.log2(states))

    # factor = safety * (1 / e)^beta1 with e^2 = total / states, as a power of two: 2^(offset + slope * log2(total)).
    @lane.emitted((dtype, 9))
    def settings_of(b):
        """slope, offset, beta2, beta3; safety, factormin, factormax, dtmin, dtmax."""
        emitter = b.emitter
        add, mul = emitter.add, emitter.mul
        pcoeff, dcoeff = (b.op(name) if has_history else b.real(0) for name in ("pcoeff", "dcoeff"))
        by_order = b.real(1 / order)
        beta1 = mul(dtype, add(dtype, add(dtype, pcoeff, b.op("icoeff")), dcoeff), by_order)
        beta2 = mul(dtype, emitter.sub(dtype, mul(dtype, b.real(-2), dcoeff), pcoeff), by_order)
        beta3 = mul(dtype, dcoeff, by_order)
        scale = b.real(0.5 * math.log2(states))
        offset = emitter.fma(dtype, scale, beta1, quick(emitter, "log2", dtype, b.op("safety")))
        exponents = [mul(dtype, b.real(-0.5), beta1), offset, beta2, beta3]
        factors = [b.op(name) for name in ("safety", "factormin", "factormax")]
        limits = [b.op(name) if has_limits else b.real(0) for name in ("dtmin", "dtmax")]
        return make_tuple(dtype, [*exponents, *factors, *limits], emitter)

    @emitted(dtype)
    def logarithm(emitter, total):
        return quick(emitter, "log2", dtype, total)

    @emitted(dtype)
    def linear(emitter, slope, value, offset):
        return emitter.fma(dtype, slope, value, offset)

    @emitted(dtype)
    def power_of_two(emitter, exponent):
        return quick(emitter, "exp2", dtype, exponent)

    @emitted(dtype)
    def held(emitter, value, least, most):
        """`value` in the range; `least` where it is NaN, as it is where the error is."""
        value = quick(emitter, "max", dtype, value, least)
        return emitter.select(emitter.compare("lt", dtype, value, most), value, most)

    @lane.function
    def start(b, step_size):
        settings = settings_of(b)
        if has_limits:
            step_size = max(min(step_size, settings[8]), settings[7])
        return step_size, settings, (zero, zero, zero)

    @lane.function
    def decide(total, step_size, settings, memory):
        last, before, at_dtmin = memory[0], memory[1], False
        if has_limits:
            at_dtmin = memory[2] > zero
        accepted = total < count or (force_dtmin and at_dtmin)
        logarithm_of_total = logarithm(total)
        exponent = linear(settings[0], logarithm_of_total, settings[1])
        if has_history:
            exponent = exponent + (settings[2] * last + settings[3] * before)
        factor = power_of_two(exponent)
        if accepted:
            factor = held(factor, one, settings[6])
        else:
            factor = held(factor, settings[5], settings[4])
        step_size = step_size * factor
        failed = False
        if has_limits:
            dtmin = settings[7]
            step_size = min(step_size, settings[8])
            if not force_dtmin:
                failed = step_size < dtmin
            if at_dtmin and factor == one:
                step_size = dtmin
            at_dtmin = step_size <= dtmin
            step_size = max(step_size, dtmin)
        if has_history and accepted:
            before = last
            current = linear(minus_half, logarithm_of_total, half_log)
            # After an exact or a hopeless step the history says nothing.
            last = current if abs(current) < infinity else zero
        return accepted, step_size, (last, before, one if at_dtmin else zero), at_dtmin, failed

    return start, decide


def _inside(b: Body, value: Any, allowed: Range) -> Any:
    # NaN fails either comparison; a second one with an infinite end that is allowed would tell nothing.
    within = b.emitter.compare("ge" if allowed.low_allowed else "gt", b.dtype, value, b.real(allowed.low))
    if allowed.high == math.inf and allowed.high_allowed:
        return within
    below = b.emitter.compare("le" if allowed.high_allowed else "lt", b.dtype, value, b.real(allowed.high))
    return b.emitter.logical_and(within, below)
