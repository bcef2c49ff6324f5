"""The integration loop: the only one. It takes one trajectory, a lane, from t0 to t1 with its own step sizes.

Everything here is compiled by Numba for one plan; what a plan does not need is a constant condition, and vanishes.
Time is counted from t0 and runs forwards inside: a solve with t1 < t0 is integrated in t0 - t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .buffers.memory import LaneMemory
from .controllers.pid import build_pid
from .kernel.device import Device
from .kernel.lanes import compile_lanes
from .kernel.target import Image
from .loop_parts import LoopParts
from .loop_saving import SavingParts
from .solution import CODES

if TYPE_CHECKING:
    from .plan import Plan


def build_image(plan: Plan, dump: Callable[[str, str], None]) -> Image:
    """Compiles the plan's kernel."""
    device = Device(plan.target)
    memory = LaneMemory(device, plan.layout, plan.problem.dtype, plan.block)
    return compile_lanes(
        build_lane(plan, device, memory),
        device,
        words=plan.words.count,
        lanes=plan.words.lanes,
        block=plan.block,
        shared_bytes=memory.window_bytes,
        dump=dump,
    )


def build_lane(plan: Plan, device: Device, memory: LaneMemory) -> Callable[..., None]:
    """The device function `(words, lane, thread, base)` that integrates one lane."""
    problem = plan.problem
    parts, saving = LoopParts(plan, device), SavingParts(plan, device)
    adaptive, fsal = problem.adaptive, problem.method.tableau.fsal
    first_step_given = problem.first_step_given
    save_t0, save_t1, stepwise = problem.saving.t0, problem.saving.t1, problem.saving.steps > 0
    points, every, rows = (np.int32(n) for n in (problem.saving.points, problem.saving.steps, problem.saving.rows))
    own_stages = problem.dense and len(problem.method.dense_stages) > 0

    real = np.dtype(problem.dtype).type
    zero, one, half, infinity = real(0), real(1), real(0.5), real(np.inf)
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

    begin, load_t0, load_span, load_max_steps = parts.begin, parts.load("t0"), parts.load("span"), parts.load("max_steps")
    load_dt0 = parts.load("dt0") if first_step_given else None
    load_t1 = parts.load("t1") if saving.keeps_times else load_span
    coefficients_of, valid_settings = parts.coefficients, parts.valid_settings
    evaluate_first, evaluate_last = parts.evaluate_first, parts.evaluate_last
    first_step, first_step_of_large = parts.first_step, parts.first_step_of_large
    step, dense_stages, scaled_square = parts.step, parts.dense_stages, parts.scaled_square
    advance, all_finite = parts.advance, parts.all_finite
    count_steps, steps_taken = parts.count_steps, parts.steps_taken
    increment, decrement, fused, times_count = parts.increment, parts.decrement, parts.fused, parts.times_count
    whole_steps, clip_floor = parts.whole_steps, parts.clip_floor
    load_point, time_of_point = saving.load_point, saving.time_of_point
    count_point, points_behind = saving.count_point, saving.points_behind
    save, save_between, save_missing, save_unused = (
        saving.save,
        saving.save_between,
        saving.save_missing,
        saving.save_unused,
    )
    count_dense, next_row, save_outcome = saving.count_dense, saving.next_row, saving.save_outcome
    start_control, decide = None, None
    if adaptive:
        start_control, decide = build_pid(
            device, problem.dtype, problem.states, problem.method.error_order, problem.controller
        )

    make_primary, make_fallback = memory.make_window(fallback=False), memory.make_window(fallback=True)
    make_persistent = memory.make_local(plan.layout.persistent_words, "float")

    def allocator(name: str) -> Callable:
        return plan.layout.allocator(name, memory)

    make_state, make_proposed = allocator("state"), allocator("proposed_state")
    make_parameters, make_counters = allocator("parameters"), allocator("counters")
    make_error, make_output = allocator("error"), allocator("output_state")
    make_rhs, make_accumulator, make_dense = allocator("stage_rhs"), allocator("stage_accumulator"), allocator("dense_rhs")

    @device.function
    def integrate(words, lane, thread, base):
        primary, fallback, persistent = make_primary(base, thread), make_fallback(base, thread), make_persistent()
        state = make_state(primary, persistent, fallback)
        proposed_state = make_proposed(primary, persistent, fallback)
        parameters = make_parameters(primary, persistent, fallback)
        error = make_error(primary, persistent, fallback)
        output_state = make_output(primary, persistent, fallback)
        counters = make_counters(primary, persistent, fallback)
        stage_rhs = make_rhs(primary, persistent, fallback)
        stage_accumulator = make_accumulator(primary, persistent, fallback)
        dense_rhs = make_dense(primary, persistent, fallback)

        bases = begin(words, lane, state, parameters, counters)
        t0, span, max_steps = load_t0(words, bases), load_span(words, bases), load_max_steps(words, bases)
        direction = one if span >= zero else -one
        start, end = zero, direction * span
        low = zero  # what `start` has lost to rounding
        floor = clip_floor(end, t0 + span)
        result = successful
        if not (abs(t0) < infinity and end < infinity and valid_settings(words, bases)):
            result = invalid_input

        if save_t0:
            save(words, bases, counters, t0, state, parameters)
        point = infinity
        if points:
            point = load_point(words, bases, none, direction)
            if not point >= start:
                result = invalid_input
            while point <= start:
                save(words, bases, counters, time_of_point(words, bases, counters, t0), state, parameters)
                following = load_point(words, bases, count_point(counters), direction)
                if not following >= point:
                    result = invalid_input
                point = following
        until = every  # accepted steps until the next that is saved

        if result == successful and start < end:
            step_size = zero
            if first_step_given:
                step_size = direction * load_dt0(words, bases)
                if not (step_size > zero and step_size < infinity):
                    result = invalid_input
            if result == successful:
                evaluate_first(words, bases, zero, state, stage_rhs, parameters)
            if not first_step_given:
                step_size = first_step(words, bases, direction, state, proposed_state, stage_rhs, parameters)
                if not step_size > zero:
                    step_size = first_step_of_large(words, bases, state, stage_rhs)
                    if not (step_size > zero and step_size < infinity):
                        result = not_finite

            # What is wrong with the step that the loop ended on is found out behind it: inside, it costs every step.
            finished, accepted, failed, last = False, True, False, False
            stuck = False
            total, next_size = zero, step_size
            if adaptive:
                coefficients = coefficients_of(words, bases)
                last_log, before_log, at_dtmin = zero, zero, False
                step_size, exponents = start_control(step_size, coefficients)
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
                    now = start if adaptive else fused(times_count(turn), step_size, start)
                    signed = direction * step_size
                    step(
                        words,
                        bases,
                        direction * now,
                        signed,
                        state,
                        proposed_state,
                        error,
                        stage_rhs,
                        stage_accumulator,
                        parameters,
                    )
                    if adaptive:
                        total = scaled_square(words, bases, error, state, proposed_state)
                        accepted, next_size, last_log, before_log, at_dtmin, failed = decide(
                            total, step_size, exponents, last_log, before_log, at_dtmin, coefficients
                        )
                    if accepted:
                        after = end if last else now + step_size
                        if not fsal:
                            evaluate_last(words, bases, direction * after, proposed_state, stage_rhs, parameters)
                        if points:
                            if own_stages:
                                if point <= after:
                                    dense_stages(
                                        words,
                                        bases,
                                        direction * now,
                                        signed,
                                        state,
                                        stage_rhs,
                                        dense_rhs,
                                        stage_accumulator,
                                        parameters,
                                    )
                                    count_dense(counters)
                            while point <= after:
                                save_between(
                                    words,
                                    bases,
                                    counters,
                                    time_of_point(words, bases, counters, t0 + direction * point),
                                    ((point - now) - low) / step_size,
                                    signed,
                                    state,
                                    proposed_state,
                                    stage_rhs,
                                    dense_rhs,
                                    output_state,
                                    parameters,
                                )
                                following = load_point(words, bases, count_point(counters), direction)
                                if not following >= point:
                                    result = invalid_input
                                point = following
                        if stepwise:
                            until = decrement(until)
                            if until == none:
                                time = load_t1(words, bases) if last else t0 + direction * after
                                save(words, bases, counters, time, proposed_state, parameters)
                                until = every
                        advance(state, proposed_state, stage_rhs)
                    turn = increment(turn)
                count_steps(counters, repeat, accepted)

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
                        # It would be rejected for ever where it is no smaller, or where all its stages are at one time.
                        smaller = at_dtmin or next_size < step_size
                        stuck = not (smaller and fused(next_size, resolution, start) > start)
                    step_size, last = next_size, False
                    if start + next_size > floor:
                        rest = (end - start) - low
                        if accepted:
                            step_size, last = rest, True
                        else:  # half of what is left, but always less than the step that was rejected
                            step_size = half * (next_size if next_size < rest else rest)
                else:
                    start = fused(times_count(repeat), step_size, start)
                    step_size, repeat, last = end - start, single, True
                if failed or stuck or steps_taken(counters) >= max_steps:
                    break

            if result == successful and not finished:
                if failed:
                    result = dt_min_reached
                elif stuck:
                    result = step_underflow if total == total and all_finite(proposed_state) else not_finite
                else:
                    result = max_steps_reached

        if result == successful and not all_finite(state):
            result = not_finite
        if points:
            if result == successful and points_behind(counters) < points:
                result = invalid_input
            while points_behind(counters) < points:
                point = load_point(words, bases, points_behind(counters), direction)
                save_missing(words, bases, counters, time_of_point(words, bases, counters, t0 + direction * point))
                count_point(counters)
        if save_t1:
            if stepwise:
                # A step that was saved may have ended there; and a lane that failed may have used up its rows.
                if result == successful and (until != every or start == end):
                    save(words, bases, counters, load_t1(words, bases), state, parameters)
            elif result == successful:
                save(words, bases, counters, load_t1(words, bases), state, parameters)
            else:
                save_missing(words, bases, counters, load_t1(words, bases))
        if stepwise:
            row = next_row(counters)
            while row < rows:
                save_unused(words, bases, row)
                row = increment(row)
        save_outcome(words, bases, counters, result)

    return integrate
