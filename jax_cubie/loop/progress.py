"""How a lane goes on: what the loop does around the steps of its method.

A lane's progress is kept in cells, scalars that end up in registers:

- start, residue: the time that is reached, and what it has lost to rounding (Dekker's fast sum); end, floor: see `clock`
- step_size, next_size; turn, repeat: which of how many steps of that size is next, one where they are chosen; first, until: the
  turns that are taken without a look in between
- total: the sum of the squares of the scaled error; status: of the method's step, 0 or a code
- stop: where the step ends, of controllers that say so
- result: a code; limit: the steps in all at which the loop pauses
- reached, at_end: where parts may end a lane, and once it is done, the end of the last accepted step, and whether that is t1
- whole: of steps of one size, where their number is asked for, those behind that are no turns of the loop at hand
- start_k, size_k: the tangents of order k of the step's start and size; of legs leg_k and goal_k, those of both ends
- begun, accepted, forced, failed, stuck, last, finished: whether it can be integrated, the step was accepted, the next step is
  accepted whatever its error, the controller gave up, no smaller step helps, the step ends at `end`, and the lane is at t1

Where parts divide the way, it is gone in legs; `end` and `floor` are those of the one at hand, and in cells are, too:

- leg: where it began; paces: its accepted steps so far; resume: the size of the steps as the controller wants it, whatever is
  left of the leg
- fresh, home: whether the next leg is to begin, this one ends at t1
- cut, cut_at: whether the step that was taken is to be taken once more, and up to which time; exact: it is, whatever its error
- restarts: whether the method starts again behind this leg, where it may go on
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel.queue import pause
from ..kernel.scalar import Scalar, least, most, where
from ..operands import tangent_name
from ..solution import CODES
from . import inside
from .checkpoints import Recording
from .clock import edges_of, end_of, floor_of, until, whole_steps
from .legs import edges
from .part import Step

if TYPE_CHECKING:
    from .body import Body
    from .lane import Lane

_FLOATS = ("start", "residue", "end", "floor", "step_size", "next_size", "total")
_INTEGERS = ("turn", "repeat", "first", "until", "status", "result", "limit")
_FLAGS = ("begun", "accepted", "forced", "failed", "stuck", "last", "finished")
# How much smaller than a unit in the last place of the time since t0 a step may become: their sum is compensated.
_RESOLUTION = 4096.0
_SUCCESSFUL = CODES["successful"]
# Of a way in legs, with their dtypes; "float": the solve's.
_LEGS = {
    **dict.fromkeys(("leg", "resume", "cut_at"), "float"), "paces": "int32",
    **dict.fromkeys(("fresh", "home", "cut", "exact"), "bool"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Progress:
    """The device functions of a lane b, but for those that take or give what is said.

    begin: of a new lane. begun -> whether it can be integrated; first_step: chooses it, once the method has started. look:
    at the beginning, and after each pause. going -> whether there are steps to take. turn_up, turns_left, next_turn: the loop
    over steps of one size. time, size -> the method's next step. judge(b, status): whether it is accepted. accepted; end_time
    -> its end. tell_parts: of it. landed -> whether that was at t1; land: it was. advance: the time, and the next step's size.
    halted -> whether no step follows now. done -> whether the lane is; conclude: it. steps_taken -> int32.

    Of a way in legs, else None: fresh -> whether one begins, at leg_time; restarts -> whether the method starts there (None: it
    does); set_off: on it. inspect: whether the accepted step is to be taken once more, and shorter. corner: at the end of a
    leg. home -> whether that was t1.
    """

    begin: Callable
    begun: Callable
    first_step: Callable
    look: Callable
    going: Callable
    turn_up: Callable
    turns_left: Callable
    next_turn: Callable
    time: Callable
    size: Callable
    judge: Callable
    accepted: Callable
    end_time: Callable
    tell_parts: Callable
    landed: Callable
    land: Callable
    advance: Callable
    halted: Callable
    done: Callable
    conclude: Callable
    steps_taken: Callable
    fresh: Callable | None
    leg_time: Callable | None
    restarts: Callable | None
    set_off: Callable | None
    inspect: Callable | None
    corner: Callable | None
    home: Callable


def build_progress(lane: Lane) -> Progress:
    """Those of one plan."""
    kinds = {**dict.fromkeys(_FLOATS, lane.problem.dtype), **dict.fromkeys(_INTEGERS, "int32"), **dict.fromkeys(_FLAGS, "bool")}
    for name, dtype in kinds.items():
        lane.cell(name, dtype)
    if lane.problem.divided:
        for name, dtype in _LEGS.items():
            lane.cell(name, lane.problem.dtype if dtype == "float" else dtype)
    if lane.problem.goes_on:
        lane.cell("restarts", "bool")
    for pair in edges(lane.problem):
        for name in pair:
            lane.cell(name, lane.problem.dtype)
    for order in lane.problem.moving:
        for name in ("start", "size", *(("leg", "goal") if lane.problem.divided else ())):
            lane.cell(f"{name}_{order}", lane.problem.dtype)
    if _counts_whole(lane):
        lane.cell("whole", "int32")
    if lane.problem.checkpoints is not None or lane.problem.adjoint is not None:
        for name, kind in lane.problem.remembered:
            lane.cell(f"{name}_before", lane.problem.dtype if kind == "float" else kind)
    if lane.problem.checkpoints is not None:
        for name in ("recorded", "thinned", "due"):
            lane.cell(name, "int32")
    inside.declare_cells(lane)
    writer, dtype = _Writer(lane), lane.problem.dtype
    flags = ("begun", "going", "turns_left", "accepted", "landed", "halted", "done", "fresh", "restarts", "home")
    results = dict.fromkeys(flags, "bool")
    results |= dict(time=dtype, size=dtype, end_time=dtype, leg_time=dtype, steps_taken="int32")
    problem = lane.problem
    left_out = () if problem.divided else ("fresh", "leg_time", "set_off", "corner")
    left_out += () if problem.goes_on else ("restarts",)
    left_out += () if problem.cuts else ("inspect",)
    names = [field.name for field in dataclasses.fields(Progress) if field.name not in left_out]
    made: dict[str, Any] = dict.fromkeys(left_out)
    made |= {name: lane.emitted(results.get(name, "void"))(raw(getattr(writer, name))) for name in names}
    return Progress(**made)


def _counts_whole(lane: Lane) -> bool:
    """Whether it is told how many steps of one size lie behind."""
    problem = lane.problem
    return problem.one_size and bool(problem.moving or problem.checkpoints is not None or problem.adjoint is not None)


def begin_buffers(b: Body) -> None:
    """At the beginning of a lane: its parameters into their buffer, and all counters at 0."""
    for name, offset in b.lane.plan.parameter_offsets.items():
        for index in range(b.lane.operand(name).size):
            b.buf.parameters.store(offset + index, b.op(name, index))
    for slot in range(len(b.lane.plan.counters)):
        b.buf.counters.store(slot, b.int32(0))


def raw(write: Callable) -> Callable:
    """What `write` answers with as an llvmlite value."""

    def body(b: Body, *arguments: Any) -> Any:
        answer = write(b, *arguments)
        return answer.value if isinstance(answer, Scalar) else answer

    body.__name__ = write.__name__
    return body


class _Writer:
    """Writes them, at the place of a lane."""

    def __init__(self, lane: Lane):
        problem = lane.problem
        self._adaptive, self._dt0_given = problem.adaptive, problem.first_step_given
        self._control = problem.controller.control(lane)
        self._one_size, self._divided, self._jumps = problem.one_size, problem.divided, problem.jumps
        self._names_ends, self._goes_on = not self._adaptive and not self._one_size, problem.goes_on
        if self._names_ends:
            lane.cell("stop", problem.dtype)
        self._parts = [part.hooks(lane) for part in problem.parts]
        self._backward, self._cuts = problem.adjoint is not None, problem.cuts
        self._clips = [part for part in self._parts if part.clip is not None]
        self._stops = problem.stops
        if self._stops:
            lane.cell("reached", problem.dtype)
            lane.cell("at_end", "bool")
        self._fallible = problem.method.fallible
        self._queued = lane.plan.queued
        self._outcome = lane.plan.method_counters
        self._counts_whole = _counts_whole(lane)
        recorded = problem.checkpoints is not None
        self._recording = Recording(problem, problem.checkpoints) if problem.checkpoints is not None else None
        self._before = [name for name, _ in problem.remembered] if recorded or problem.adjoint is not None else []

    # --- The beginning

    def begin(self, b: Body) -> None:
        self._initial(b)
        if self._jumps:
            b.put(**edges_of(b, b.scalar(0.0), b.scalar(float("inf"))))
        begin_buffers(b)
        b.put(start=0, residue=0, step_size=0, turn=0, repeat=1, forced=False, last=False)
        if self._divided:
            b.put(leg=0, resume=0, cut_at=0, paces=0, fresh=True, home=False, cut=False, exact=False)
        if self._goes_on:
            b.put(restarts=True)
        end = end_of(b)
        valid = b.number("t0").is_finite & (end < float("inf")) & (b.number("max_steps") >= 1)
        if self._control.valid is not None:
            valid = valid & self._control.valid(b)
        b.put(result=_code(b, valid))
        constraints = b.lane.problem.method.constraints
        if constraints is not None:
            found = constraints.find_state(b) | ~b.get("result").equals(_SUCCESSFUL)
            b.put(result=where(found, b.get("result"), CODES["inconsistent_initial_state"]))
        self._ask(b, "start")
        b.put(begun=b.get("result").equals(_SUCCESSFUL) & (b.scalar(0.0) < end))
        if self._dt0_given:
            size = b.scalar(b.direction) * b.number("dt0")
            wrong = b.get("begun") & ~((size > 0.0) & (size < float("inf")))
            b.put(step_size=size, result=where(wrong, CODES["invalid_input"], b.get("result")))

    def _initial(self, b: Body) -> None:
        for piece in b.lane.problem.pieces:
            b.begin_piece(piece)
        for order in b.moving:
            b.put(**{f"start_{order}": 0, f"size_{order}": 0})
            if self._divided:
                b.put(**{f"leg_{order}": 0, f"goal_{order}": 0})
        if self._counts_whole:
            b.put(whole=0)
        if self._recording is not None:
            self._recording.begin(b)

    def begun(self, b: Body) -> Scalar:
        return b.get("begun") & b.get("result").equals(_SUCCESSFUL)

    def first_step(self, b: Body) -> None:
        end, floor = end_of(b), floor_of(b)
        if self._control.first_step is not None and not self._dt0_given:
            size = self._control.first_step(b)
            b.put(step_size=size, result=where(size > 0.0, b.get("result"), CODES["not_finite"]))
        if self._names_ends:
            if self._control.begin is not None:
                self._control.begin(b, b.get("step_size"))
            self._aim(b, b.scalar(0.0), end, floor)
        elif self._adaptive:
            size = self._control.begin(b, b.get("step_size"))
            last = size > floor
            b.put(step_size=where(last, end, size), last=last)
        else:
            # All steps but the last have one size; how many those are is known, so nothing is decided in between.
            b.put(repeat=whole_steps(b, b.get("step_size"), floor))

    def _aim(self, b: Body, start: Scalar, end: Scalar, floor: Scalar) -> None:
        """The step from `start` to where its controller says."""
        if self._control.end is not None:
            stop = self._control.end(b, self.steps_taken(b) + 1)
        else:
            size = b.scalar(b.direction) * b.number("dt0")
            stop = (b.get("paces") + 1).to(b.dtype).fused(size, b.get("leg"))
        last = stop > floor
        stop = where(last, end, stop)
        b.put(stop=stop, step_size=stop - start, last=last)

    # --- Legs

    def fresh(self, b: Body) -> Scalar:
        return b.get("fresh")

    def leg_time(self, b: Body) -> Scalar:
        return b.scalar(b.direction) * b.get("start")

    def restarts(self, b: Body) -> Scalar:
        return b.get("restarts")

    def set_off(self, b: Body) -> None:
        """The end of the leg, and its first step."""
        start, end, home = b.get("start"), end_of(b), b.scalar(True, "bool")
        last_floor = floor_of(b)
        b.put(leg=start, paces=0, fresh=False, exact=False)
        for part in self._clips:
            stop = part.clip(b)
            home = ~(stop < last_floor)
            end = where(home, end, stop)
        if self._jumps:
            # Of a leg that an event has ended, this is of the whole one.
            found = edges_of(b, start, end, home)
            b.put(**{last: found[last] for _, last in edges(b.lane.problem)})
        floor = where(home, last_floor, floor_of(b, end))
        b.put(end=end, home=home, floor=floor)
        for order in b.moving:
            goal = b.tangent("span", order)
            for part in self._clips:
                goal = where(home, goal, part.clip_tangent(b, order))
            b.put(**{f"goal_{order}": goal})
        for part in self._parts:
            if part.set_off is not None:
                part.set_off(b)
        begins = b.when(b.get("restarts")) if self._goes_on else contextlib.nullcontext()
        if not self._adaptive:
            self._ends_how(b)
            self._aim(b, start, end, floor)
            return
        with contextlib.nullcontext() if self._backward else b.when(b.get("resume").equals(0.0)):
            size = b.get("resume" if self._backward else "step_size")
            if not self._backward and self._control.first_step is not None and not self._dt0_given:
                size = self._control.first_step(b)
                b.put(result=where(size > 0.0, b.get("result"), CODES["not_finite"]))
            b.put(resume=size)
        with begins:
            b.put(resume=self._control.begin(b, b.get("resume")))
        size = b.get("resume")
        last = start + size > floor
        b.put(step_size=where(last, end - start, size), last=last)
        self._ends_how(b)

    def _ends_how(self, b: Body) -> None:
        """Whether the method starts again behind the leg at hand."""
        for part in self._clips:
            if part.restarts is not None:
                b.put(restarts=part.restarts(b))

    def inspect(self, b: Body) -> None:
        for part in self._parts:
            if part.locate is None:
                continue
            cut = part.locate(b, self._step(b))
            b.put(cut=cut, accepted=~cut)

    def corner(self, b: Body) -> None:
        time, tried, wanted = b.get("end"), b.get("step_size"), b.get("next_size")
        b.put(start=time, residue=0, fresh=True)
        if self._jumps:
            # f is to be what it is behind the jump once the method starts.
            found, jumped = edges_of(b, time, b.scalar(float("inf"))), ~b.get("exact")
            for part in self._clips:  # an event may be where the leg had ended anyway
                jumped = jumped | (part.clip(b) <= time)
            for first, last in edges(b.lane.problem):
                b.put(**{first: where(jumped, found[first], b.get(first)), last: found[last]})
        resume = b.get("resume")
        if self._goes_on:
            # What an event has cut is a leg of its own.
            b.put(restarts=b.get("restarts") | b.get("exact"))
            resume = where(b.get("restarts"), resume, most(resume, wanted))
        if self._adaptive:
            b.put(resume=where(wanted < tried, wanted, resume))
        for order in b.moving:
            moved = b.get(f"goal_{order}")
            b.put(**{f"leg_{order}": moved, f"start_{order}": moved, f"size_{order}": 0})
        with b.when(~b.get("home")):
            self._ask(b, "corner", time)

    def home(self, b: Body) -> Scalar:
        return b.get("home") if self._divided else b.scalar(True, "bool")

    def _cut(self, b: Body) -> None:
        """To the step that was taken, up to where it is to end."""
        start, time = b.get("start"), b.get("cut_at")
        home = ~(time < end_of(b))
        # One that is taken again, to end a little elsewhere or for the sake of tangents, counts for nothing.
        again = b.get("exact").to("int32").value
        for name in ("steps", "rejected"):
            b.counter(name).set(b.emitter.sub("int32", b.counter(name).get(), again))
        b.put(step_size=time - start - b.get("residue"), end=time, floor=time, home=home, last=True, cut=False, exact=True)
        if self._names_ends:
            b.put(stop=time)

    # --- Steps

    def look(self, b: Body) -> None:
        ends = {} if self._divided else {"end": end_of(b), "floor": floor_of(b)}
        b.put(**ends, limit=self._pause(b), next_size=b.get("step_size"), total=0, status=0)
        if self._control.settle is not None:
            self._control.settle(b)
        # What is wrong with the step that the loop ended on is found out behind it: inside, it costs every step.
        b.put(finished=False, accepted=True, failed=False, stuck=False)

    def _pause(self, b: Body) -> Scalar:
        steps, most = self.steps_taken(b), b.number("max_steps")
        return b.scalar(pause(b.emitter, steps.value, most.value), "int32") if self._queued else most

    def going(self, b: Body) -> Scalar:
        return b.get("begun") & b.get("result").equals(_SUCCESSFUL)

    def turn_up(self, b: Body) -> None:
        if not self._one_size:
            b.put(turn=0, first=0, until=1)
            return
        until = b.get("repeat")
        if self._queued:
            pause = b.get("turn") + (b.get("limit") - self.steps_taken(b))
            until = least(pause, until)
        if self._recording is not None:
            self._recording.keep(b)
            until = least(b.get("turn") + self._recording.ahead(b), until)
        b.put(first=b.get("turn"), until=until)

    def turns_left(self, b: Body) -> Scalar:
        left = b.get("turn") < b.get("until")
        if self._stops and self._one_size:
            left = left & b.get("result").equals(_SUCCESSFUL)
        if self._fallible:
            left = left & (b.get("turn").equals(0) | b.get("accepted"))
        return left

    def next_turn(self, b: Body) -> None:
        b.put(turn=b.get("turn") + 1)

    def _now(self, b: Body) -> Scalar:
        return b.get("start") if not self._one_size else b.get("turn").to(b.dtype).fused(b.get("step_size"), b.get("start"))

    def time(self, b: Body) -> Scalar:
        return b.scalar(b.direction) * self._now(b)

    def size(self, b: Body) -> Scalar:
        self._move(b)
        for name in self._before:
            b.put(**{f"{name}_before": b.get(name)})
        return b.scalar(b.direction) * b.get("step_size")

    def _move(self, b: Body) -> None:
        """The tangents of the step's start and size. Sizes that are chosen do not move, but the last step ends at t1."""
        for order in b.moving:
            span = b.tangent("span", order)
            if self._divided:
                self._move_in_leg(b, order)
                continue
            if self._adaptive:
                b.put(**{f"size_{order}": where(b.get("last"), span, 0.0)})
                continue
            if not self._one_size:
                number = self.steps_taken(b) + 1
                before = where(number.equals(1), 0.0, self._control.end_tangent(b, number - 1, order))
                stop = where(b.get("last"), span, self._control.end_tangent(b, number, order))
                b.put(**{f"start_{order}": before, f"size_{order}": stop - before})
                continue
            size = b.tangent("dt0", order)
            start = (b.get("whole") + b.get("turn")).to(b.dtype) * size
            b.put(**{f"start_{order}": start, f"size_{order}": where(b.get("last"), span - start, size)})

    def _move_in_leg(self, b: Body, order: int) -> None:
        start, goal = b.get(f"leg_{order}"), b.get(f"goal_{order}")
        size = b.scalar(0.0)
        if not self._adaptive:
            size = b.tangent("dt0", order)
            start = start + b.get("paces").to(b.dtype) * size
        b.put(**{f"start_{order}": start, f"size_{order}": where(b.get("last"), goal - start, size)})

    def judge(self, b: Body, status: Any) -> None:
        if self._fallible:
            b.put(status=b.scalar(status, "int32"), accepted=b.scalar(status, "int32").equals(0))
        elif self._cuts:
            b.put(accepted=True)
        if not self._adaptive:
            return
        total = self._control.error(b)
        if self._fallible:
            total = where(b.get("status").equals(0), total, float("inf"))
        b.put(total=total)
        self._control.decide(b, total)
        if self._divided:
            b.put(accepted=b.get("accepted") | b.get("exact"))
        if self._fallible:
            b.put(accepted=b.get("accepted") & b.get("status").equals(0))

    def accepted(self, b: Body) -> Scalar:
        return b.get("accepted")

    def _reached(self, b: Body) -> Scalar:
        if self._names_ends:
            return b.get("stop")
        return where(b.get("last"), b.get("end"), self._now(b) + b.get("step_size"))

    def end_time(self, b: Body) -> Scalar:
        return b.scalar(b.direction) * self._reached(b)

    def tell_parts(self, b: Body) -> None:
        if self._recording is not None and not self._one_size:
            self._recording.accepted(b)
        step = self._step(b)
        inside.next_step(b)
        self._ask(b, "accepted", step)

    def _step(self, b: Body) -> Step:
        """The step at hand."""
        last = b.get("last") & b.get("home") if self._divided else b.get("last")
        end = self._reached(b)
        return Step(self._now(b), b.get("residue"), end, b.get("step_size"), last, until(b, end, self._clips))

    def _ask(self, b: Body, place: str, *arguments: Any) -> None:
        """The parts: the first code that is not 0 is the lane's, unless it has one."""
        for part in self._parts:
            hook = getattr(part, place)
            code = None if hook is None else hook(b, *arguments)
            if code is not None:
                b.put(result=where(b.get("result").equals(_SUCCESSFUL), code, b.get("result")))

    def landed(self, b: Body) -> Scalar:
        b.counter("steps").add((b.get("turn") - b.get("first")).value)
        if self._recording is not None and self._one_size:
            self._recording.passed(b, b.get("turn") - b.get("first"))
        if self._adaptive or self._fallible or self._cuts:
            b.counter("rejected").add((~b.get("accepted")).to("int32").value)
        finished = b.get("accepted") & b.get("last")
        if self._one_size:
            finished = finished & b.get("turn").equals(b.get("repeat"))
        return finished

    def land(self, b: Body) -> None:
        b.put(finished=True)

    def advance(self, b: Body) -> None:
        if not self._cuts:
            self._go_on(b)
            return
        # A step that is cut is not accepted: those that are need not ask.
        with b.emitter.builder.if_else(b.get("accepted").value) as (accepted, otherwise):
            with accepted:
                self._go_on(b)
            with otherwise, b.emitter.builder.if_else(b.get("cut").value) as (cut, rejected):
                with cut:
                    b.put(resume=where(b.get("exact"), b.get("resume"), b.get("next_size")))
                    self._cut(b)
                with rejected:
                    self._go_on(b)

    def _go_on(self, b: Body) -> None:
        if self._cuts and self._fallible:  # else a step that is exact is accepted, and a leg ends there
            b.put(exact=False)
        if self._names_ends:
            self._advance_named(b)
        elif self._adaptive:
            self._advance_adaptive(b)
        else:
            self._advance_fixed(b)

    def halted(self, b: Body) -> Scalar:
        return b.get("failed") | b.get("stuck") | (self.steps_taken(b) >= b.get("limit"))

    def _advance_adaptive(self, b: Body) -> None:
        accepted, size, following = b.get("accepted"), b.get("step_size"), b.get("next_size")
        with b.emitter.builder.if_else(accepted.value) as (then, otherwise):
            with then:
                # `start + residue` is the time, to almost twice the precision of its dtype; it is exact once the time is larger
                # than the step.
                added = size + b.get("residue")
                moved = b.get("start") + added
                b.put(residue=added - (moved - b.get("start")), start=moved)
            with otherwise:
                for part in self._parts:
                    if part.rejected is not None:
                        part.rejected(b)
                # It would be rejected for ever where it is no smaller, or where all its stages are at one time.
                forced = b.get("forced") & b.get("status").equals(0) if self._fallible else b.get("forced")
                smaller = forced | (following < size)
                later = following.fused(b.scalar(_RESOLUTION), b.get("start")) > b.get("start")
                b.put(stuck=~(smaller & later))
        b.put(step_size=following, last=False)
        if self._divided:
            b.put(resume=following)
        with b.when(b.get("start") + following > b.get("floor")):
            rest = b.get("end") - b.get("start") - b.get("residue")
            with b.emitter.builder.if_else(accepted.value) as (then, otherwise):
                with then:
                    b.put(step_size=rest, last=True)
                with otherwise:  # half of what is left, but always less than the step that was rejected
                    b.put(step_size=0.5 * where(following < rest, following, rest))

    def _advance_named(self, b: Body) -> None:
        if self._fallible:
            b.put(stuck=~b.get("accepted"))
        start = b.get("stop")
        b.put(start=start)
        if self._divided:
            b.put(paces=b.get("paces") + 1)
        self._aim(b, start, b.get("end"), b.get("floor"))

    def _advance_fixed(self, b: Body) -> None:
        whole = b.get("turn").equals(b.get("repeat"))
        if self._fallible:
            b.put(stuck=~b.get("accepted"))
            whole = whole & b.get("accepted")
        with b.when(whole):
            start = b.get("repeat").to(b.dtype).fused(b.get("step_size"), b.get("start"))
            if self._counts_whole:
                b.put(whole=b.get("whole") + b.get("repeat"))
            b.put(start=start, step_size=b.get("end") - start, turn=0, repeat=1, last=True)

    # --- The end

    def done(self, b: Body) -> Scalar:
        over = b.get("finished") | b.get("failed") | b.get("stuck") | ~b.get("result").equals(_SUCCESSFUL) | ~b.get("begun")
        return over | (self.steps_taken(b) >= b.number("max_steps"))

    def conclude(self, b: Body) -> None:
        with b.when(b.get("begun") & b.get("result").equals(_SUCCESSFUL) & ~b.get("finished")):
            total = b.get("total")
            smooth = total.equals(total) & self._is_finite(b, "proposed_state")
            stuck = where(smooth, b.scalar(CODES["step_size_underflow"], "int32"), CODES["not_finite"])
            if self._fallible:
                stuck = where(b.get("status").equals(0), stuck, b.get("status"))
            result = where(b.get("stuck"), stuck, CODES["max_steps_reached"])
            b.put(result=where(b.get("failed"), CODES["dt_min_reached"], result))
        with b.when(b.get("result").equals(_SUCCESSFUL) & ~self._is_finite(b, "state")):
            b.put(result=CODES["not_finite"])
        if self._stops:
            finished = b.get("finished")
            b.put(reached=where(finished, b.get("end"), self._now(b)), at_end=finished | ~b.get("begun"))
        for part in self._parts:
            if part.end is not None:
                b.put(result=part.end(b, b.get("result")))
        if self._recording is not None:
            self._recording.end(b)
        steps, rejected = b.counter("steps").get(), b.counter("rejected").get()
        b.res("accepted", 0, b.emitter.sub("int32", steps, rejected))
        b.res("rejected", 0, rejected)
        b.res("result", 0, b.get("result").value)
        if self._stops:
            b.res("reached", 0, (b.scalar(b.direction) * b.get("reached")).value)
            for order in b.moving if b.lane.problem.moves else ():
                b.res(tangent_name("reached", order), 0, b.get(f"leg_{order}").value)
        for name in self._outcome:
            b.res(name, 0, b.counter(name).get())

    def steps_taken(self, b: Body) -> Scalar:
        return b.scalar(b.counter("steps").get(), "int32")

    @staticmethod
    def _is_finite(b: Body, name: str) -> Scalar:
        """Whether each component of a state is; a tangent that is not makes no lane fail, as in reverse."""
        state, held = getattr(b.buf, name), b.variable(b.emitter.constant("bool", 1), "bool")

        def body(index: Any) -> None:
            held.set(b.emitter.logical_and(held.get(), b.emitter.is_finite(b.dtype, state.load(index))))

        b.each(body, b.primal)
        return b.scalar(held.get(), "bool")


def _code(b: Body, valid: Scalar) -> Scalar:
    return where(valid, b.scalar(_SUCCESSFUL, "int32"), CODES["invalid_input"])
