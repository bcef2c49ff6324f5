"""The integration loop. It takes trajectories, lanes, from t0 to t1 with their own step sizes.

It is compiled by Numba for one plan; what a plan does not need is a constant condition, and vanishes. What happens in between
is written by `progress`, and by those whose places `part` names: the loop knows no method, controller or part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..kernel.lanes import compile_lanes
from ..kernel.queue import Queue
from ..kernel.target import Image
from .lane import Lane
from .progress import build_progress
from .staging import build_staging

if TYPE_CHECKING:
    from ..plan import Plan


def build_image(plan: Plan, dump: Callable[[str, str], None]) -> Image:
    """Compiles the plan's kernel."""
    lane = Lane(plan)
    build = build_lanes
    if plan.problem.adjoint is not None:
        from .backward import build_backward_lanes as build  # its import would be a hundredth of any first build
    elif plan.in_step:
        from .in_step import build_lanes_in_step as build
    return compile_lanes(
        build(lane),
        lane.device,
        words=plan.words.count,
        lanes=plan.words.lanes,
        block=plan.block,
        shared_bytes=lane.memory.window_bytes,
        queued=plan.words.queued,
        whole=plan.in_warps,
        prepare=build_staging(lane),
        dump=dump,
    )


def build_lanes(lane: Lane) -> Callable[..., None]:
    """The device function `(words, lane, thread, base)` that integrates one lane, or with a queue one after the other."""
    plan = lane.plan
    steps, progress = plan.problem.method.steps(lane), build_progress(lane)
    start_method, step, finish, carry = steps.start, steps.step, steps.finish, steps.carry
    begin, begun, first_step = progress.begin, progress.begun, progress.first_step
    look, going, turn_up, turns_left = progress.look, progress.going, progress.turn_up, progress.turns_left
    time, size, judge, accepted = progress.time, progress.size, progress.judge, progress.accepted
    end_time, tell_parts, next_turn = progress.end_time, progress.tell_parts, progress.next_turn
    landed, land, advance, halted = progress.landed, progress.land, progress.advance, progress.halted
    done, conclude, steps_taken = progress.done, progress.conclude, progress.steps_taken
    fresh, leg_time, restarts, set_off = progress.fresh, progress.leg_time, progress.restarts, progress.set_off
    inspect, corner, home = progress.inspect, progress.corner, progress.home
    allocate, locate = lane.allocate(), lane.locate()
    queue = Queue(lane.device, lanes=plan.words.lanes, counter=plan.words.counter, block=plan.block)
    queued, idle, empty = queue.queued, queue.idle, queue.empty
    together, take, earn, wait = queue.together, queue.take, queue.earn, queue.wait
    fallible = plan.problem.method.fallible
    zero, none, status = np.dtype(plan.problem.dtype).type(0), np.int32(0), np.int32(0)

    @lane.function
    def integrate(words, lane, thread, base):
        arrays = allocate(thread, base)
        held, patience = idle, none
        while together(held):  # once, without a queue
            before = held
            held = take(words, held, lane, patience)
            if not queued or held > before:
                b = locate(words, held, arrays)
                begin(b)
                if set_off is None:
                    if begun(b):
                        start_method(b, zero)
                        first_step(b)
            if not queued or held >= 0:
                # Found again at each look: kept over it, addresses would take registers of the loop's.
                b = locate(words, held, arrays)
                look(b)
                while going(b):
                    if set_off is not None:
                        if fresh(b):
                            if restarts is None or restarts(b):
                                start_method(b, leg_time(b))
                            set_off(b)
                    # A loop of its own, in which the step size is a constant: compilers move all that depends on it out.
                    turn_up(b)
                    while turns_left(b):
                        if fallible:
                            judge(b, step(b, time(b), size(b)))
                        else:
                            step(b, time(b), size(b))
                            judge(b, status)
                        if accepted(b):
                            if finish is not None:
                                finish(b, end_time(b))
                            if inspect is not None:
                                inspect(b)
                            if inspect is None or accepted(b):
                                tell_parts(b)
                                carry(b)
                        next_turn(b)
                    if landed(b):
                        if corner is not None:
                            corner(b)
                        if home(b):
                            land(b)
                            break
                    else:
                        advance(b)
                    if halted(b):
                        break
                if not queued or done(b):
                    conclude(b)
                    held, patience = empty, earn(steps_taken(b))
            else:
                patience = wait(patience)

    return integrate
