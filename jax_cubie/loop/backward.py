"""The backward loop: it takes a lane from t1 to t0, over the very steps that it took, and with it its results' cotangents.

Compiled by Numba for one plan, as the loop forwards is. A step is gone back over in three parts: the lane is made what it was
at the step's beginning, from a checkpoint; the step is taken once more, for its stages; and its transpose is applied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel import warp
from ..kernel.scalar import Scalar, least, most, shifted, where
from ..operands import cotangent_name, word_of
from ..solution import CODES
from . import inside
from .adjoint import WRITTEN
from .checkpoints import WINDOW, WINDOW_BITS, checkpoint_name, from_word, power, record_of, slot_of, to_word, turn_of
from .clock import edges_of, end_of, floor_of, until, whole_steps
from .cotangents import cell_of, clear, conclude, declare_cells, gather
from .part import Step
from .progress import begin_buffers, build_progress, raw

if TYPE_CHECKING:
    from .body import Body
    from .lane import Lane


def build_backward_lanes(lane: Lane) -> Callable[..., None]:
    """The device function `(words, lane, thread, base)` that gives one lane's cotangents."""
    problem = lane.problem
    steps, progress, backward = problem.method.steps(lane), build_progress(lane), _Backward(lane)
    start_method, step, finish, carry = steps.start, steps.step, steps.finish, steps.carry
    fresh, leg_time, set_off, corner = progress.fresh, progress.leg_time, progress.set_off, progress.corner
    inspect, restarts = progress.inspect, progress.restarts
    transposed = problem.method.adjoint(lane)
    retake, adjoint_step = transposed.retake, transposed.adjoint
    allocate, locate = lane.allocate(), lane.locate()
    time, size, judge, accepted = progress.time, progress.size, progress.judge, progress.accepted
    end_time, advance, turns_left, next_turn = progress.end_time, progress.advance, progress.turns_left, progress.next_turn
    begin, worth, outer = (lane.emitted(kind)(raw(body)) for kind, body in backward.beginning())
    above, aim, replaying, stretch, again, deeper = (lane.emitted(kind)(raw(body)) for kind, body in backward.replay())
    left, restore, cotangents, moved, back = (lane.emitted(kind)(raw(body)) for kind, body in backward.stepping())
    arrived = lane.emitted("bool")(raw(backward.arrived))
    end = lane.emitted()(raw(backward.end))
    fallible = problem.method.fallible
    status = np.int32(0)

    together, lanes, in_step = lane.emitted("bool")(raw(backward.together)), lane.plan.words.lanes, lane.plan.in_step
    in_warps, one = lane.plan.in_warps, np.int64(1)

    @lane.function
    def go_back(words, lane, thread, base):
        arrays = allocate(thread, base)
        present = not in_warps or lane < words[lanes]
        # Threads without a lane look at the last one, which is of their chunk.
        b = locate(words, lane if present else words[lanes] - one, arrays)
        begin(b, present)
        if worth(b):
            outer(b)
        while together(b):
            if left(b):
                # Each function is called at one place: else it is none of the loop's own code, and arrays are no registers.
                searching = True
                while searching:
                    restore(b)
                    searching = above(b)
                    if searching:
                        aim(b)
                        while replaying(b):
                            if set_off is not None:
                                if fresh(b):
                                    if restarts is None or restarts(b):
                                        start_method(b, leg_time(b))
                                    set_off(b)
                            stretch(b)
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
                                        again(b)
                                        carry(b)
                                next_turn(b)
                            if arrived(b):
                                if corner is not None:
                                    corner(b)
                            else:
                                advance(b)
                        deeper(b)
                retake(b, time(b), size(b))
                cotangents(b)
            if in_step or left(b):
                adjoint_step(b, time(b), size(b))
            if left(b):
                moved(b)
                back(b)
        end(b)

    return go_back


class _Backward:
    """Writes what happens around the steps.

    Cells: at, the accepted step at hand; behind, the next step to go back over; stride, the shift of the slots, and slot_turn,
    the turn of their numbers; depth, the window that has what lies around it, 0 for the slots; shift, its entries are of every
    2^shift-th step; edge, steps that it has, less 1; taken, the accepted steps; sizes, those that have the size dt0; worth,
    fine, present: whether there are cotangents, the lane succeeded, and is one; active: whether it has steps left. implied: how
    many times the step at hand is gone back over once more, since its end depends on the state; implied_value_0 and so on, the
    cotangents of that time and of its tangents; twice: whether that has begun. Of the
    window that is filled: finer, finer_shift, finer_edge, likewise; due, the next step to keep; goal, the last one. Of steps
    of one size: next_place, where the next one is kept, and next_stride, how far behind it the one after that.
    """

    def __init__(self, lane: Lane):
        self._lane, problem = lane, lane.problem
        self._problem, self._adjoint, self._record = problem, lane.adjoint, record_of(problem)
        self._parts = [part.adjoint(lane) for part in problem.parts]
        both = zip(self._parts, problem.parts, strict=True)
        self._dividing = [(adjoint, part.hooks(lane)) for adjoint, part in both if part.divides]
        self._control, self._constraints = problem.controller.control(lane), problem.method.constraints
        declare_cells(lane)
        for name in ("at", "behind", "stride", "slot_turn", "depth", "shift", "edge", "taken", "sizes"):
            lane.cell(name, "int32")
        for name in ("finer", "finer_shift", "finer_edge", "due", "goal"):
            lane.cell(name, "int32")
        for name in ("worth", "fine", "present", "active"):
            lane.cell(name, "bool")
        if problem.moves:
            for order in self._adjoint.orders:
                lane.cell(f"implied_value_{order}", problem.dtype)
            lane.cell("implied", "int32")
            lane.cell("twice", "bool")
        if problem.one_size:
            lane.cell("next_place", "int32")
            lane.cell("next_stride", "int32")

    # --- The beginning

    def beginning(self) -> list[tuple[str, Callable]]:
        return [("void", self.begin), ("bool", self.worth), ("void", self.outer)]

    def begin(self, b: Body, present: Any) -> None:
        begin_buffers(b)
        clear(b)
        behind = self._adjoint.slots * self._record.words[0]
        taken, code = (self._header(b, behind + offset) for offset in (0, 1))
        fine = code.equals(CODES["successful"])
        if self._problem.stops:
            fine = fine | code.equals(CODES["event_occurred"])
        b.put(taken=taken, fine=fine, present=b.scalar(present, "bool"), behind=-1, active=False)
        b.put(worth=self._any_cotangent(b) & b.get("present"))

    def _header(self, b: Body, index: int) -> Scalar:
        return b.scalar(from_word(b, b.op(checkpoint_name(0), index), "int32"), "int32")

    def _any_cotangent(self, b: Body) -> Scalar:
        """Whether one of the results' cotangents is other than 0."""
        found = b.variable(b.emitter.constant("bool", 0), "bool")
        for name in map(cotangent_name, self._adjoint.cotangents):
            operand = b.lane.operand(name)

            def look(index: Any, name: str = name, dtype: str = operand.dtype) -> None:
                other = b.emitter.compare("ne", dtype, b.op(name, index), b.emitter.constant(dtype, 0))
                found.set(b.emitter.logical_or(found.get(), other))

            b.each(look, operand.size)
        return b.scalar(found.get(), "bool")

    def worth(self, b: Body) -> Scalar:
        return b.get("worth") & b.get("fine")

    def outer(self, b: Body) -> None:
        """The cotangent of the state at t1; and how far apart the slots are."""
        b.put(end=end_of(b), floor=floor_of(b), next_size=0, total=0, status=0, result=0, accepted=True, forced=False)
        b.put(failed=False, stuck=False, finished=False, begun=True, last=False)
        b.put(start=0, residue=0, step_size=0, turn=0, repeat=1)
        if self._control.settle is not None:
            self._control.settle(b)
        b.put(behind=b.get("taken") - 1, depth=0, stride=0, at=0)
        if self._problem.moves:
            b.put(implied=0, twice=False, **{f"implied_value_{order}": 0 for order in self._adjoint.orders})
        for piece in self._problem.pieces:  # that of t0, if there is no step
            b.begin_piece(piece)
        if self._problem.one_size:
            size = b.scalar(b.direction) * b.number("dt0")
            b.put(whole=0, sizes=whole_steps(b, size, b.get("floor")))
        if self._control.end is not None:
            b.put(stop=0, step_size=b.scalar(b.direction) * b.number("dt0") if b.lane.has_operand("dt0") else 0.0)
            if self._control.begin is not None:
                self._control.begin(b, b.get("step_size"))
        for order in self._adjoint.orders:
            b.put(**{cell_of("pending", order): 0})
        for name in self._adjoint.wrt:
            if word_of(name) in WRITTEN:
                size, result = b.lane.operand(name).size, cotangent_name(name)
                b.each(lambda index, result=result: b.res(result, index, b.real(0)), size)
        for order in b.moving:
            b.put(**{f"start_{order}": 0, f"size_{order}": 0})
        if self._constraints is not None:
            if self._problem.jumps:
                b.put(**edges_of(b, b.scalar(0.0), b.scalar(float("inf"))))
            self._constraints.find_state(b)

        def more() -> Scalar:
            return (b.scalar(self._adjoint.slots, "int32") << b.get("stride")) < b.get("taken")

        b.repeat_while(more, lambda: b.put(stride=b.get("stride") + 1))
        b.put(slot_turn=turn_of(b, b.get("stride"), self._adjoint.slots))
        self._enter(b, b.get("depth"))
        for part in self._parts:
            if part.begin is not None:
                part.begin(b)

    # --- Steps that are taken again

    def replay(self) -> list[tuple[str, Callable]]:
        return [
            ("bool", self.above),
            ("void", self.aim),
            ("bool", self.replaying),
            ("void", self.stretch),
            ("void", self.again),
            ("void", self.deeper),
        ]

    def _shift(self, b: Body, depth: Scalar) -> Scalar:
        """Entries of a window are beginnings of every 2^shift-th step; in the last of each."""
        shift = b.get("stride") - depth * WINDOW_BITS
        return where(depth.equals(self._adjoint.windows) | (shift < 0), 0, shift)

    def _enter(self, b: Body, depth: Scalar) -> None:
        """From here on that window is at hand. Its shift is in a cell; so is the last step of where it ends, less 1."""
        inside = where(depth > 0, depth, 1)
        edge = where(depth > 0, power(b, self._span(b, inside)) - 1, -1)
        b.put(depth=depth, shift=self._shift(b, depth), edge=edge)

    def _span(self, b: Body, depth: Scalar) -> Scalar:
        """A window has steps of one multiple of 2^span to the next."""
        span = self._shift(b, depth - 1)
        return where(depth.equals(self._adjoint.windows) & (span > WINDOW_BITS), WINDOW_BITS, span)

    def above(self, b: Body) -> Scalar:
        """Whether the next window has to be filled, which has more of the steps around the one at hand."""
        return b.get("shift") > 0

    def aim(self, b: Body) -> None:
        """What the next window is to have: every (finer + 1)-th step from `due` on, up to `goal`."""
        depth, behind = b.get("depth") + 1, b.get("behind")
        shift, edge = self._shift(b, depth), power(b, self._span(b, depth)) - 1
        finer = power(b, shift) - 1
        first = most(behind & ~edge, b.get("at"))
        b.put(finer=finer, finer_shift=shift, finer_edge=edge, due=first, goal=behind & ~finer)

    def replaying(self, b: Body) -> Scalar:
        """Whether not all of it is there. A step whose size may be rejected is kept once it is accepted, others in front."""
        if not self._problem.one_size:
            return b.get("at") <= b.get("goal")
        b.put(at=b.get("whole") + b.get("turn"))
        self._keep(b)
        return b.get("at") < b.get("goal")

    def stretch(self, b: Body) -> None:
        """The turns that are taken without a look in between: of steps of one size, up to the next one to keep."""
        if not self._problem.one_size:
            b.put(turn=0, until=1)
            return
        at, goal = b.get("at"), b.get("goal")
        every = b.get("finer").equals(0) & (at >= (goal & ~b.get("finer_edge")))
        end = where(every, goal, least(b.get("due"), goal))
        b.put(until=least(b.get("turn") + (end - at), b.get("repeat")))
        # The loop keeps each, and does not ask whether it is wanted: if not, there comes another one to its place.
        kept = where(every, at, end)
        place = self._place(b.get("depth") + 1, kept, b.get("finer_shift"), b.get("finer_edge"))
        b.put(next_place=place, next_stride=where(every, b.scalar(sum(self._record.words), "int32"), 0))

    def again(self, b: Body) -> None:
        """An accepted step that was taken again."""
        if self._problem.one_size:
            self._save(b, b.get("next_place"))
            b.put(next_place=b.get("next_place") + b.get("next_stride"))
        else:
            self._keep(b)
            at = b.get("at") + 1
            b.put(at=at)
            b.counter("steps").set(at.value)
        step = self._step(b)
        for part in self._parts:
            if part.repeated is not None:
                part.repeated(b, step)

    def _keep(self, b: Body) -> None:
        """The beginning of the step at hand into the next window, if it is one of those."""
        at = b.get("at")
        with b.when(at >= b.get("due")):
            b.put(due=at + b.get("finer") + 1)
            self._save(b, self._place(b.get("depth") + 1, at, b.get("finer_shift"), b.get("finer_edge")))

    def _save(self, b: Body, place: Scalar) -> None:
        """The lane as it is at the beginning of the step at hand into an entry."""

        def write(part: int, index: Any, word: Any) -> None:
            value = b.emitter.bitcast(word, b.dtype)
            b.buf.checkpoint_window.store(self._element(b, place, part, index), value)

        self._record.save(b, write)

    def _step(self, b: Body) -> Step:
        """The step at hand."""
        named = not self._problem.adaptive and not self._problem.one_size
        reached = b.get("stop") if named else self._start(b) + b.get("step_size")
        end, last = where(b.get("last"), b.get("end"), reached), b.get("last")
        if self._problem.divided:
            last = last & b.get("home")
        clips = [hooks for _, hooks in self._dividing if hooks.clip is not None]
        return Step(self._start(b), b.get("residue"), end, b.get("step_size"), last, until(b, end, clips))

    def _start(self, b: Body) -> Scalar:
        if not self._problem.one_size:
            return b.get("start")
        return b.get("turn").to(b.dtype).fused(b.get("step_size"), b.get("start"))

    def _place(self, depth: Scalar, at: Scalar, shift: Scalar, edge: Scalar) -> Scalar:
        """The first word of an entry."""
        entry = (at & edge) >> shift
        return ((depth - 1) * WINDOW + entry) * sum(self._record.words)

    def _element(self, b: Body, place: Scalar, part: int, index: Any) -> Any:
        begin = b.emitter.cast(place.value, "int32", "int64")
        offset = shifted(b.emitter, index, sum(self._record.words[:part]))
        offset = b.emitter.place(offset)
        return b.emitter.add("int64", begin, offset)

    def arrived(self, b: Body) -> Scalar:
        """Whether that step was the last of its leg."""
        return b.get("accepted") & b.get("last") if self._problem.divided else b.scalar(False, "bool")

    def deeper(self, b: Body) -> None:
        self._enter(b, b.get("depth") + 1)

    # --- Steps that are gone back over

    def stepping(self) -> list[tuple[str, Callable]]:
        return [
            ("bool", self.left),
            ("void", self.restore),
            ("void", self.cotangents),
            ("void", self.moved),
            ("void", self.back),
        ]

    def together(self, b: Body) -> Scalar:
        """Whether the lane has steps left, or, where a warp goes back over steps together, one of its lanes."""
        active = self.left(b)
        b.put(active=active)
        return b.scalar(warp.some(b.emitter, active.value), "bool") if b.lane.plan.in_step else active

    def left(self, b: Body) -> Scalar:
        return b.get("behind") >= 0

    def restore(self, b: Body) -> None:
        """The lane as it was at the beginning of the last step that is kept, before or at the one to go back over."""
        depth, behind = b.get("depth"), b.get("behind")
        shift = b.get("shift")
        at = behind & ~(power(b, shift) - 1)
        b.put(at=at)
        b.counter("steps").set(at.value)
        with b.emitter.builder.if_else(depth.equals(0).value) as (slots, window):
            with slots:
                slot = slot_of(b, behind >> shift, b.get("slot_turn"), self._adjoint.slots).to("int64")

                def read_slot(part: int, index: Any) -> Any:
                    begin = b.emitter.mul("int64", slot.value, b.emitter.constant("int64", self._record.words[part]))
                    index = b.emitter.place(index)
                    return b.op(checkpoint_name(part), b.emitter.add("int64", begin, index))

                self._record.restore(b, read_slot)
            with window:
                place = self._place(depth, at, shift, b.get("edge"))

                def read(part: int, index: Any) -> Any:
                    value = b.buf.checkpoint_window.load(self._element(b, place, part, index))
                    return to_word(b, value, b.dtype)

                self._record.restore(b, read)
        if self._problem.one_size:
            self._resume(b, at)
        if self._problem.divided:
            self._resume_leg(b)
        for part in self._parts:
            if part.restored is not None:
                part.restored(b)

    def _resume(self, b: Body, at: Scalar) -> None:
        """The times of step number `at`, where all but the last have one size."""
        size, count = b.scalar(b.direction) * b.number("dt0"), b.get("sizes")
        last, begun = at >= count, count.to(b.dtype).fused(size, 0.0)
        b.put(start=where(last, begun, 0.0), step_size=where(last, b.get("end") - begun, size), last=last)
        b.put(turn=where(last, 0, at), repeat=where(last, 1, count), whole=where(last, count, 0))

    def _resume_leg(self, b: Body) -> None:
        """What is known of the leg at hand, of a step that may be the first or the last of it."""
        end, floor = b.get("end"), floor_of(b)
        home = ~(end < end_of(b))
        b.put(home=home, floor=where(home, floor, floor_of(b, end)), fresh=False, cut=False, exact=False)
        for order in () if self._problem.cuts else b.moving:
            for part, hooks in self._dividing:
                if hooks.clip_tangent is None:
                    continue
                goal = where(home, b.tangent("span", order), hooks.clip_tangent(b, order))
                b.put(**{f"leg_{order}": part.leg_tangent(b, order), f"goal_{order}": goal})
        for _, hooks in self._dividing:
            if hooks.restarts is not None:
                b.put(restarts=hooks.restarts(b))

    def cotangents(self, b: Body) -> None:
        """Those of what was saved in the step at hand."""
        for order in self._adjoint.orders:
            b.put(**{cell_of("size", order): 0, cell_of("start", order): 0})
        step = self._step(b)
        inside.next_step(b)
        if self._problem.dimensions().inside:
            self._problem.method.clear_between(b)
        if not self._problem.moves:
            self._cotangents_of_step(b, step)
            return
        with b.emitter.builder.if_else((b.get("implied") > 0).value) as (again, first):
            with again:
                values = {order: b.get(f"implied_value_{order}") for order in self._adjoint.orders}
                for part in self._parts:
                    if part.imply is not None:
                        part.imply(b, step, self._level(b), values)
            with first:
                self._cotangents_of_step(b, step)

    def _cotangents_of_step(self, b: Body, step: Step) -> None:
        for part, _ in reversed(self._dividing):
            with b.when(b.get("last") & ~b.get("home")):
                part.corner(b, step)
        for part in self._parts:
            if part.step is not None:
                part.step(b, step)

    def _level(self, b: Body) -> Scalar:
        """The level of tangents of its end for which the step at hand is gone back over once more."""
        return b.get("implied") - 1

    def moved(self, b: Body) -> None:
        """The cotangents of the step's start and size, as those of t0, t1 and dt0."""
        last = b.get("last")
        for order in self._adjoint.orders:
            size, start = b.get(cell_of("size", order)), b.get(cell_of("start", order))
            if self._problem.divided:
                self._moved_in_leg(b, order, size, start)
                continue
            if self._problem.adaptive:
                gather(b, **{f"span_{order}": where(last, size, 0.0)})
                continue
            if self._control.end_cotangent is not None:
                stop = size + b.get(cell_of("pending", order))
                gather(b, **{f"span_{order}": where(last, stop, 0.0)})
                self._control.end_cotangent(b, b.get("at") + 1, order, where(last, 0.0, stop))
                b.put(**{cell_of("pending", order): start - size})  # of where the step before ends
                continue
            whole = (b.get("whole") + b.get("turn")).to(b.dtype)
            gather(b, **{f"span_{order}": where(last, size, 0.0)})
            gather(b, **{f"dt0_{order}": where(last, -1.0 * whole * size, size) + whole * start})
        if self._problem.moves:
            more = where(last & self._implies(b), self._problem.depth + 1, b.scalar(0, "int32"))
            b.put(implied=where(b.get("implied") > 0, b.get("implied") - 1, more))

    def _moved_in_leg(self, b: Body, order: int, size: Scalar, start: Scalar) -> None:
        """pending: the cotangent of the beginning of the leg that the step is behind or in."""
        last, home, pending = b.get("last"), b.get("home"), b.get(cell_of("pending", order))
        goal, named, chosen = size + pending, last, where(last, 0.0, size)
        begun = start - where(last, size, 0.0)
        kept = where(last, 0.0, pending)
        if self._problem.cuts:
            # One that ends the leg just as it would have ended if it had not: where it ends moves with its beginning.
            free = self._ends_as_chosen(b)
            named, chosen, begun = last & ~free, where(free, goal, chosen), begun + where(free, goal, 0.0)
        if self._problem.moves:
            # The step that ended at an event is gone back over several times: as one whose end is what it is, and then for its
            # end, whose tangents depend on those of lower levels.
            again, value = b.get("implied") > 0, b.get(f"implied_value_{order}")
            named = named & ~self._implies(b)
            kept = where(again, pending, kept)
            lower = where(self._level(b) > order.bit_count(), value + size, value)
            b.put(**{f"implied_value_{order}": where(again, lower, goal)})
        gather(b, **{f"span_{order}": where(named & home, goal, 0.0)})
        for part, _ in self._dividing:
            if part.clip_cotangent is not None:
                with b.when(named & ~home):
                    part.clip_cotangent(b, order, goal)
        b.put(**{cell_of("pending", order): begun + kept})
        if not self._problem.adaptive:
            gather(b, **{f"dt0_{order}": b.get("paces").to(b.dtype) * begun + chosen})

    def _ends_as_chosen(self, b: Body) -> Scalar:
        """Whether the step at hand ends a leg at a time that nobody has named, and that does not depend on the state."""
        found = b.get("last") & ~b.get("home") & ~self._implies(b)
        for _, hooks in self._dividing:
            if hooks.clip is not None:
                found = found & (b.get("end") < hooks.clip(b))
        return found

    def _implies(self, b: Body) -> Scalar:
        found = b.scalar(False, "bool")
        for part in self._parts:
            if part.implies is not None:
                found = found | part.implies(b)
        return found

    def back(self, b: Body) -> None:
        """To the step before; windows that end there are left."""
        if not self._problem.moves:
            self._begun(b)
            return
        adjoint, kept = b.buf.adjoint, b.buf.event_adjoint
        with b.emitter.builder.if_else((b.get("implied") > 0).value) as (again, otherwise):
            with again:

                def keep(index: Any) -> None:
                    before = where(b.get("twice"), b.scalar(kept.load(index)), 0.0)
                    kept.store(index, (b.scalar(adjoint.load(index)) + before).value)

                b.each(keep)
                b.put(twice=True)
            with otherwise:
                with b.when(b.get("twice")):

                    def add(index: Any) -> None:
                        adjoint.store(index, b.emitter.add(b.dtype, adjoint.load(index), kept.load(index)))

                    b.each(add)
                b.put(twice=False)
                self._begun(b)

    def _begun(self, b: Body) -> None:
        """All of the step at hand is gone back over."""
        for part in self._parts:
            if part.begun is not None:
                part.begun(b)
        behind = b.get("behind")
        b.put(behind=behind - 1)

        def over() -> Scalar:
            return (behind & b.get("edge")).equals(0) & (b.get("depth") > 0)

        b.repeat_while(over, lambda: self._enter(b, b.get("depth") - 1))

    # --- The end

    def end(self, b: Body) -> None:
        with b.when(self.worth(b)):
            for part in reversed(self._parts):  # what happened first at t0 is gone back over last
                if part.end is not None:
                    part.end(b)
        if self._constraints is not None:
            b.put(active=self.worth(b))
            with contextlib.nullcontext() if b.lane.plan.in_step else b.when(self.worth(b)):
                self._constraints.adjoint_of_state(b)
        conclude(b, b.get("worth"), b.get("fine"), b.get("present"))
