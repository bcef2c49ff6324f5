"""The integration loop: the only one. It takes one trajectory, a lane, from t0 to t1 with its own step sizes.

Everything here is compiled by Numba for one plan; what a plan does not need is a constant condition, and vanishes. The loop
knows the places that `part` names, and no method, controller or part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel.device import make_struct
from ..kernel.lanes import compile_lanes
from ..kernel.numba_types import Struct, numba_type
from ..kernel.target import Image
from ..solution import CODES
from .clock import build_clock
from .lane import Lane
from .part import Hooks

if TYPE_CHECKING:
    from ..plan import Plan


def build_image(plan: Plan, dump: Callable[[str, str], None]) -> Image:
    """Compiles the plan's kernel."""
    lane = Lane(plan)
    return compile_lanes(
        build_lane(lane),
        lane.device,
        words=plan.words.count,
        lanes=plan.words.lanes,
        block=plan.block,
        shared_bytes=lane.memory.window_bytes,
        dump=dump,
    )


def build_lane(lane: Lane) -> Callable[..., None]:
    """The device function `(words, lane, thread, base)` that integrates one lane."""
    problem = lane.problem
    steps, control, clock = problem.method.steps(lane), problem.controller.control(lane), build_clock(lane)
    parts = _together(lane, [part.hooks(lane) for part in problem.parts])
    adaptive, first_step_given, fallible = problem.adaptive, problem.first_step_given, steps.fallible

    real = np.dtype(problem.dtype).type
    zero, half, infinity = real(0), real(0.5), real(np.inf)
    none, single = np.int32(0), np.int32(1)
    # How much smaller than a unit in the last place of the time since t0 a step may become: their sum is compensated.
    resolution = real(4096)
    successful, max_steps_reached, dt_min_reached, step_underflow, not_finite, invalid_input = (
        np.int32(CODES[name])
        for name in (
            "successful",
            "max_steps_reached",
            "dt_min_reached",
            "step_size_underflow",
            "not_finite",
            "invalid_input",
        )
    )

    begin, times, whole_steps, fused = lane.begin(), clock.times, clock.whole_steps, clock.fused
    load_max_steps, load_dt0 = _load(lane, "max_steps"), _load(lane, "dt0") if first_step_given else None
    start_method, step, finish, carry = steps.start, steps.step, steps.finish, steps.carry
    valid, first_step, start_control = control.valid, control.first_step, control.start
    error, decide = control.error, control.decide
    start_parts, accepted_by_parts, rejected_by_parts, end_parts = parts.start, parts.accepted, parts.rejected, parts.end
    stops, increment, make_step = parts.stops, _increment(lane), _make_step(lane)
    count_steps, steps_taken, write_outcome = _count_steps(lane), _steps_taken(lane), _write_outcome(lane)
    state_is_finite, proposed_is_finite = _finite(lane, "state"), _finite(lane, "proposed_state")

    @lane.function
    def integrate(words, lane, thread, base):
        b = begin(words, lane, thread, base)
        t0, direction, end, floor = times(b)
        max_steps = load_max_steps(b)
        start = zero
        low = zero  # what `start` has lost to rounding
        result = successful
        if not (abs(t0) < infinity and end < infinity and max_steps >= single):
            result = invalid_input
        if adaptive:
            if not valid(b):
                result = invalid_input
        if start_parts is not None:
            code = start_parts(b)
            if code != successful:
                result = code

        if result == successful and start < end:
            step_size = zero
            if first_step_given:
                step_size = direction * load_dt0(b)
                if not (step_size > zero and step_size < infinity):
                    result = invalid_input
            if result == successful:
                start_method(b, zero)
            if not first_step_given:
                step_size = first_step(b)
                if not step_size > zero:
                    result = not_finite

            # What is wrong with the step that the loop ended on is found out behind it: inside, it costs every step.
            finished, accepted, failed, last = False, True, False, False
            stuck, status = False, successful
            total, next_size = zero, step_size
            if adaptive:
                step_size, settings, memory = start_control(b, step_size)
                forced = False
                repeat, last = single, step_size > floor
                if last:
                    step_size = end - start
            else:
                # All steps but the last have one size; how many those are is known, so nothing is decided in between.
                repeat = whole_steps(start, floor, step_size, max_steps)

            while result == successful:
                # A loop of its own, in which the step size is a constant: compilers move all that depends on it out.
                turn = none
                while turn < repeat:
                    now = start if adaptive else fused(turn, step_size, start)
                    signed = direction * step_size
                    if fallible:
                        status = step(b, direction * now, signed)
                    else:
                        step(b, direction * now, signed)
                    if adaptive:
                        total = error(b)
                        if fallible and status != successful:
                            total = infinity
                        accepted, next_size, memory, forced, failed = decide(total, step_size, settings, memory)
                    if fallible:
                        accepted = accepted and status == successful
                    if accepted:
                        after = end if last else now + step_size
                        if finish is not None:
                            finish(b, direction * after)
                        if accepted_by_parts is not None:
                            code = accepted_by_parts(b, make_step(now, low, after, step_size, last))
                            if code != successful:
                                result = code
                        carry(b)
                    turn = increment(turn)
                    if (stops and result != successful) or (fallible and not accepted):
                        break
                count_steps(b, turn, accepted)

                finished = accepted and last
                if finished:
                    break
                if adaptive:
                    if accepted:
                        # `start + low` is the time, to almost twice the precision of its dtype (Dekker's fast sum; it is
                        # exact once the time is larger than the step).
                        added = step_size + low
                        moved = start + added
                        low = added - (moved - start)
                        start = moved
                    if not accepted:
                        if rejected_by_parts is not None:
                            rejected_by_parts(b)
                        # It would be rejected for ever where it is no smaller, or where all its stages are at one time.
                        smaller = forced or next_size < step_size
                        stuck = not (smaller and fused(next_size, resolution, start) > start)
                    step_size, last = next_size, False
                    if start + next_size > floor:
                        rest = (end - start) - low
                        if accepted:
                            step_size, last = rest, True
                        else:  # half of what is left, but always less than the step that was rejected
                            step_size = half * (next_size if next_size < rest else rest)
                else:
                    start = fused(repeat, step_size, start)
                    step_size, repeat, last = end - start, single, True
                    stuck = not accepted
                if failed or stuck or steps_taken(b) >= max_steps:
                    break

            if result == successful and not finished:
                if failed:
                    result = dt_min_reached
                elif stuck:
                    result = step_underflow if total == total and proposed_is_finite(b) else not_finite
                    if fallible and status != successful:
                        result = status
                else:
                    result = max_steps_reached

        if result == successful and not state_is_finite(b):
            result = not_finite
        if end_parts is not None:
            result = end_parts(b, result)
        write_outcome(b, result)

    return integrate


def _together(lane: Lane, hooks: list[Hooks]) -> Hooks:
    """The hooks of all parts as those of one: each place in the order of the parts."""

    def both(first: Callable | None, second: Callable | None, combine: Callable) -> Callable | None:
        return second if first is None else first if second is None else lane.function(combine(first, second))

    def either(first: Callable, second: Callable) -> Callable:
        def run(b, *arguments):
            code, other = first(b, *arguments), second(b, *arguments)
            return code if code != 0 else other

        return run

    def after(first: Callable, second: Callable) -> Callable:
        return lambda b, result: second(b, first(b, result))

    def each(first: Callable, second: Callable) -> Callable:
        def run(b):
            first(b)
            second(b)

        return run

    joined = Hooks()
    for one in hooks:
        joined = Hooks(
            start=both(joined.start, one.start, either),
            accepted=both(joined.accepted, one.accepted, either),
            rejected=both(joined.rejected, one.rejected, each),
            end=both(joined.end, one.end, after),
            stops=joined.stops or one.stops,
        )
    return joined


def _load(lane: Lane, name: str) -> Callable:
    @lane.emitted(lane.operand(name).dtype)
    def load(b):
        return b.op(name)

    return load


def _increment(lane: Lane) -> Callable:
    @lane.device.emitted("int32")
    def increment(emitter, value):
        return emitter.add("int32", value, emitter.constant("int32", 1))

    return increment


def _make_step(lane: Lane) -> Callable:
    kinds = dict.fromkeys(("start", "residue", "end", "size"), lane.problem.dtype) | {"last": "bool"}
    step = Struct({name: numba_type(kind) for name, kind in kinds.items()})

    @lane.device.emitted(step)
    def make_step(emitter, *values):
        return make_struct(emitter, step, dict(zip(kinds, values, strict=True)))

    return make_step


def _count_steps(lane: Lane) -> Callable:
    @lane.emitted()
    def count_steps(b, taken, accepted):
        b.counter("steps").add(taken)
        if lane.problem.adaptive:  # else nothing is rejected
            b.counter("rejected").add(b.emitter.cast(b.emitter.logical_not(accepted), "bool", "int32"))

    return count_steps


def _steps_taken(lane: Lane) -> Callable:
    @lane.emitted("int32")
    def steps_taken(b):
        return b.counter("steps").get()

    return steps_taken


def _finite(lane: Lane, name: str) -> Callable:
    @lane.emitted("bool")
    def all_finite(b):
        state, held = getattr(b.buf, name), b.new_cell("bool", b.emitter.constant("bool", 1))

        def body(index: Any) -> None:
            held.set(b.emitter.logical_and(held.get(), b.emitter.is_finite(b.dtype, state.load(index))))

        b.each(body)
        return held.get()

    return all_finite


def _write_outcome(lane: Lane) -> Callable:
    @lane.emitted()
    def write_outcome(b, result):
        steps, rejected = b.counter("steps").get(), b.counter("rejected").get()
        b.res("accepted", 0, b.emitter.sub("int32", steps, rejected))
        b.res("rejected", 0, rejected)
        b.res("result", 0, result)
        for name in lane.plan.method_counters:
            b.res(name, 0, b.counter(name).get())

    return write_outcome
