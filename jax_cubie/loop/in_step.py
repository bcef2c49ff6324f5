"""The integration loop where the lanes of a CUDA warp take their steps together, since they evaluate f together.

The places are those of `loop`, and so are the results. A lane that is done, or waits for others, goes along: what it computes
is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..kernel import warp
from ..kernel.scalar import where
from ..solution import CODES
from .progress import build_progress, raw

if TYPE_CHECKING:
    from .body import Body
    from .lane import Lane


def build_lanes_in_step(lane: Lane) -> Callable[..., None]:
    """The device function `(words, lane, thread, base)` that integrates one lane. All threads of a block call it; those beyond
    the last lane take that one, too, and write what it writes."""
    lane.cell("own_result", "int32")
    steps, progress = lane.problem.method.steps(lane), build_progress(lane)
    start_method, step, finish, carry = steps.start, steps.step, steps.finish, steps.carry
    begin, first_step = progress.begin, progress.first_step
    look, going, turn_up, turns_left = progress.look, progress.going, progress.turn_up, progress.turns_left
    time, size, judge, accepted = progress.time, progress.size, progress.judge, progress.accepted
    end_time, tell_parts, next_turn = progress.end_time, progress.tell_parts, progress.next_turn
    landed, land, advance, halted, conclude = (
        progress.landed, progress.land, progress.advance, progress.halted, progress.conclude
    )  # fmt: skip
    allocate, locate = lane.allocate(), lane.locate()
    remember, recall = lane.emitted()(raw(_remember)), lane.emitted()(raw(_recall))
    lanes, one = lane.plan.words.lanes, np.int64(1)
    zero, status = np.dtype(lane.problem.dtype).type(0), np.int32(0)

    @lane.device.emitted("bool")
    def some(emitter, condition):
        return warp.some(emitter, condition)

    @lane.function
    def integrate(words, lane, thread, base):
        arrays = allocate(thread, base)
        b = locate(words, min(lane, words[lanes] - one), arrays)
        begin(b)
        remember(b)
        start_method(b, zero)
        first_step(b)
        recall(b)
        look(b)
        there, running = True, going(b)
        while some(there):
            if running:
                turn_up(b)
            taking = running and turns_left(b)
            while some(taking):
                step(b, time(b), size(b))
                if taking:
                    judge(b, status)
                if finish is not None:
                    if some(taking and accepted(b)):
                        finish(b, end_time(b))
                if taking:
                    if accepted(b):
                        tell_parts(b)
                        carry(b)
                    next_turn(b)
                    taking = turns_left(b)
            if running:
                if landed(b):
                    land(b)
                    running = False
                else:
                    advance(b)
                    running = not halted(b) and going(b)
            if there and not running:
                conclude(b)
                there = False

    return integrate


def _remember(b: Body) -> None:
    b.put(own_result=b.get("result"))


def _recall(b: Body) -> None:
    """The first step was found of lanes, too, that do not begin."""
    begins = b.get("begun") & b.get("own_result").equals(CODES["successful"])
    b.put(result=where(begins, b.get("result"), b.get("own_result")))
