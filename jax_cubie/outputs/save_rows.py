"""How a solution is saved: the next row is that of the counter "row", and saving one moves it on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel.scalar import Scalar, shifted, where
from ..loop import Hooks, Step
from ..loop.functions import into_row
from ..loop.inside import prepare_between
from ..loop.jets import Jet, fraction_of, size_of
from ..operands import primal_of, tangent_name
from ..solution import CODES

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from ..problem import Problem
    from .saving import Saving

# In units in the last place of the time, how near to an end of a leg a save time is that clings to it.
_CLOSE = 4.0


def build_hooks(lane: Lane, saving: Saving) -> Hooks:
    """The places of saving in the loop."""
    rows = _Rows(lane, saving)
    lane.cell(saving.named("saving_point"), lane.problem.dtype)
    lane.cell(saving.named("saving_until"), "int32")
    works = saving.points > 0 or saving.steps > 0
    return Hooks(start=rows.start, accepted=rows.accepted if works else None, end=rows.end)


class _Rows:
    """Writes rows of a lane's results."""

    def __init__(self, lane: Lane, saving: Saving):
        self._lane, self._saving = lane, saving
        # What a row consists of, as (name, elements of a row, dtype): what functions give, and the state where that is saved
        # itself; and where each piece of it begins.
        self._state = self._pieces_of(saving.own)
        self._functions = {function: self._pieces_of(saving.outputs_of(function)) for function in saving.functions}
        sizes = [piece.size for piece in lane.problem.pieces]
        self._begins = list(itertools.accumulate(sizes, initial=0))[:-1]
        # The next save time, counted from t0 and running forwards; accepted steps until the next that is saved.
        self._point_cell, self._until = saving.named("saving_point"), saving.named("saving_until")
        self._row, self._points = saving.named("row"), saving.named("points")
        self._ts, self._offsets = saving.named("ts"), saving.named("offsets")
        self._wait = points_wait(lane.problem)

    def _pieces_of(self, names: Sequence[str]) -> list[tuple[str, int, str]]:
        """Those of some results and of their tangents."""
        results = [result for result in self._lane.plan.words.results if primal_of(result.name) in names]
        return [(result.name, result.size // self._saving.rows, result.dtype) for result in results]

    # --- The places in the loop

    def start(self, b: Body) -> Scalar | None:
        """What is saved of the state at t0."""
        saving = self._saving
        if saving.t0:
            self._save(b, b.op("t0"), b.real(0), b.buf.state, lambda order: _moved_start(b, order))
        b.put(**{self._until: saving.steps})
        if not saving.points:
            return None
        first = self._point(b, b.int32(0))
        ordered = b.variable((first >= 0.0).value, "bool")
        b.put(**{self._point_cell: first})

        if not self._wait:
            self._save_start(b, ordered)
        return _invalid_unless(b, ordered)

    def _save_start(self, b: Body, ordered: Any) -> None:
        """The points at t0."""

        def save() -> None:
            time, point = self._time_of_point(b, b.number("t0")), b.scalar(b.direction) * b.get(self._point_cell)
            self._save(b, time, point.value, b.buf.state, self._moved_point(b))
            self._go_on(b, ordered)

        b.repeat_while(lambda: b.get(self._point_cell) <= 0.0, save)

    def accepted(self, b: Body, step: Step) -> Scalar | None:
        """What is saved inside of a step, and at its end."""
        ordered = b.variable(b.emitter.constant("bool", 1), "bool")
        if self._saving.points:
            signed, until = b.scalar(b.direction) * step.size, self._saving.until(step)
            with b.when(b.get(self._point_cell) <= until):
                prepare_between(b, step)

            def save() -> None:
                point = b.get(self._point_cell)
                theta = (point - step.start - step.residue) / step.size
                theta = where(point > step.end, 1.0, theta) if b.lane.problem.cuts else theta
                since_t0 = b.scalar(b.direction) * point
                time = self._time_of_point(b, b.number("t0") + since_t0)
                edge = edge_of(b, step, point) if self._saving.clings else None
                if edge is not None:
                    theta = edge.fraction(theta)
                    row = b.emitter.cast(b.counter(self._row).get(), "int32", "int64")
                    with b.when(edge.clings):
                        b.res(self._saving.named("clung"), row, b.emitter.constant("bool", 1))
                values = between(b, theta, signed, self._fraction(b, theta, self._points_behind(b), edge))
                self._save_values(b, time, since_t0.value, values, edge)
                self._go_on(b, ordered)

            b.repeat_while(lambda: b.get(self._point_cell) <= until, save)
        if self._saving.steps:
            b.put(**{self._until: b.get(self._until) - 1})
            with b.when(b.get(self._until).equals(0)):
                t0, since_t0 = b.number("t0"), b.scalar(b.direction) * step.end
                time = where(step.last, b.number("t1"), t0 + since_t0)
                self._save(b, time.value, since_t0.value, b.buf.proposed_state, lambda order: _moved_end(b, step, order))
                b.put(**{self._until: self._saving.steps})
        return _invalid_unless(b, ordered) if self._saving.points else None

    def end(self, b: Body, result: Scalar) -> Scalar:
        """The points that were not reached, and t1."""
        saving, successful = self._saving, CODES["successful"]
        if saving.points and self._wait:  # no step was accepted
            self._save_start(b, b.variable(b.emitter.constant("bool", 1), "bool"))
        if saving.points:
            missing = self._points_behind(b) < saving.points
            result = where(result.equals(successful) & missing, CODES["invalid_input"], result)

            def save_missing() -> None:
                point = self._point(b, self._points_behind(b).value)
                self._save_missing(b, self._time_of_point(b, b.number("t0") + b.scalar(b.direction) * point))
                self._count_point(b)

            b.repeat_while(lambda: self._points_behind(b) < saving.points, save_missing)
        if saving.t1:
            time, since_t0, moved = self._end(b)
            reached = result.equals(successful)
            if b.lane.problem.stops:
                reached = reached | result.equals(CODES["event_occurred"])
            if saving.steps:
                # A step that was saved may have ended there; and a lane that failed may have used up its rows.
                with b.when(reached & (~b.get(self._until).equals(saving.steps) | b.number("span").equals(0.0))):
                    self._save(b, time, since_t0, b.buf.state, moved)
            else:
                with b.emitter.builder.if_else(reached.value) as (then, otherwise):
                    with then:
                        self._save(b, time, since_t0, b.buf.state, moved)
                    with otherwise:
                        self._save_missing(b, time)
        return result

    def _end(self, b: Body) -> tuple[Any, Any, Callable[[int], Scalar]]:
        """The time of the row of t1, as it is and counted from t0, and its tangents by their order."""
        time, span = b.number("t1" if self._saving.keeps_times else "span"), b.number("span")  # the latter where nobody asks
        if not b.lane.problem.stops:
            return time.value, span.value, lambda order: b.tangent(_name_of_end(b), order)
        early, since_t0 = ~b.get("at_end"), b.scalar(b.direction) * b.get("reached")

        def moved(order: int) -> Scalar:
            return where(early, _moved_inside(b, order), b.tangent(_name_of_end(b), order))

        time = where(early, b.number("t0") + since_t0, time)
        return time.value, where(early, since_t0, span).value, moved

    # --- Save times

    def _point(self, b: Body, index: Any) -> Scalar:
        """Save time number `index` (int32), counted from t0 and running forwards; infinity beyond the last, never reached."""
        number = b.scalar(index, "int32")
        inside = number < self._saving.points
        time = b.number(self._offsets, where(inside, number, 0).to("int64").value)
        return where(inside, b.scalar(b.direction) * time, float("inf"))

    def _points_behind(self, b: Body) -> Scalar:
        """How many save times lie behind. Without steps between them, the row tells."""
        if self._saving.steps:
            return b.scalar(b.counter(self._points).get(), "int32")
        return b.scalar(b.counter(self._row).get(), "int32") - int(self._saving.t0)

    def _count_point(self, b: Body) -> Scalar:
        """One more save time lies behind, and its row is written; answers with the number of the next."""
        return b.scalar(b.counter(self._points).add(), "int32") if self._saving.steps else self._points_behind(b)

    def _go_on(self, b: Body, ordered: Any) -> None:
        """To the next save time, which has to be no earlier."""
        following = self._point(b, self._count_point(b).value)
        ordered.set(b.emitter.logical_and(ordered.get(), (following >= b.get(self._point_cell)).value))
        b.put(**{self._point_cell: following})

    def _time_of_point(self, b: Body, computed: Scalar) -> Any:
        """The next save time as it was given; `computed` where nobody asks for the former."""
        if not self._saving.keeps_times:
            return computed.value
        return b.op(self._ts, self._points_behind(b).to("int64").value)

    def _fraction(self, b: Body, theta: Scalar, number: Scalar, edge: Edge | None) -> Callable[[Jet], Jet]:
        """Of the step at hand, at which save time `number` lies."""
        return lambda size: fraction_of(b, theta, size, moved_offset(b, self._offsets, number, edge))

    # --- Rows

    def _moved_point(self, b: Body, edge: Edge | None = None) -> Callable[[int], Scalar]:
        """The tangents of the next save time."""
        name = self._offsets if b.lane.problem.counts_from_t0 else self._ts

        def moved(order: int) -> Scalar:
            given = b.tangent(name, order, self._points_behind(b).to("int64").value)
            return given if edge is None else edge.tangent(b, order, given, _moved_start(b, order))

        return moved

    def _save(self, b: Body, time: Any, since_t0: Any, state: Any, moved: Callable[[int], Scalar]) -> None:
        """The next row, of a state that lies in memory; moved: the tangents of the time, by their order, of that since t0 where
        functions count from there."""
        tangents = {order: moved(order).value for order in b.lane.problem.moving} if self._functions else {}
        row = self._take_row(b, time)
        if self._state:
            self._write_state(b, row, state.load)
        given = b.given_time(time, since_t0) | {tangent_name("t", order): value for order, value in tangents.items()}
        for function, pieces in self._functions.items():
            sink = into_row(self._lane, [name for name, _, _ in pieces], [size for _, size, _ in pieces], row)
            b.call(function, out=sink, y=state, **given)

    def _write_state(self, b: Body, row: Any, value_at: Callable[[Any], Any]) -> None:
        for (name, size, _), begin in zip(self._state, self._begins, strict=True):

            self._write(b, row, name, size, lambda index, begin=begin: value_at(shifted(b.emitter, index, begin)))

    def _save_values(self, b: Body, time: Any, since_t0: Any, value_at: Callable[[Any], Any], edge: Edge | None) -> None:
        """The next row, of a state by its components."""
        if not self._functions:
            self._write_state(b, self._take_row(b, time), value_at)
        else:
            b.each(lambda index: b.buf.output_state.store(index, value_at(index)))
            self._save(b, time, since_t0, b.buf.output_state, self._moved_point(b, edge))

    def _save_missing(self, b: Body, time: Any) -> None:
        """The row of a time that was not reached: NaN, in integers the lowest of their range."""
        row = self._take_row(b, time)
        for name, size, kind in itertools.chain(self._state, *self._functions.values()):
            lowest = False if kind == "bool" else float("nan") if kind.startswith("float") else np.iinfo(kind).min
            constant = b.emitter.constant(kind, lowest)
            self._write(b, row, name, size, lambda _, constant=constant: constant)

    def _take_row(self, b: Body, time: Any) -> Any:
        row = b.counter(self._row).get()
        b.counter(self._row).add()
        self._write_time(b, row, time)
        return row

    def _write_time(self, b: Body, row: Any, time: Any) -> None:
        if self._saving.steps:
            b.res(self._saving.named("times"), b.emitter.cast(row, "int32", "int64"), time)

    def _write(self, b: Body, row: Any, name: str, size: int, value_at: Callable[[Any], Any]) -> None:
        emitter = b.emitter
        begin = emitter.mul("int64", emitter.cast(row, "int32", "int64"), emitter.constant("int64", size))

        def body(index: Any) -> None:
            offset = emitter.place(index)
            b.res(name, emitter.add("int64", begin, offset), value_at(index))

        b.each(body, size)


@dataclasses.dataclass(frozen=True)
class Edge:
    """Whether a save time is the beginning of the leg at hand, or its end, with which it moves."""

    begins: Scalar
    ends: Scalar

    @property
    def clings(self) -> Scalar:
        return self.begins | self.ends

    def fraction(self, theta: Scalar) -> Scalar:
        """That of the step at which the save time is, from what it would be but for rounding."""
        return where(self.ends, 1.0, where(self.begins, 0.0, theta))

    def tangent(self, b: Body, order: int, given: Scalar, start: Scalar) -> Scalar:
        """The tangent of the save time: as `given`, or of what it clings to. start: that of t0, 0 if it is counted from t0."""
        if order not in b.moving:
            return given
        begin = start + b.get(f"start_{order}")
        return where(self.ends, begin + b.get(f"size_{order}"), where(self.begins, begin, given))


def points_wait(problem: Problem) -> bool:
    """Whether points at t0 are rows of the first step, as they are in derivatives: they move along the solution, however t0
    does. Not where the state may be changed at t0, since they are in front of that."""
    differentiated = bool(problem.moving) or problem.checkpoints is not None or problem.adjoint is not None
    return differentiated and not any(part.changes_start for part in problem.parts)


def edge_of(b: Body, step: Step, point: Scalar) -> Edge:
    """Of a save time inside of a step."""
    close = _CLOSE * float(np.finfo(b.dtype).eps) * (abs(b.number("t0")) + step.end)
    behind, ahead = abs(point - step.start), abs(point - step.end)
    begins = step.start.equals(b.get("leg")) & (behind <= close) & (behind < ahead)
    return Edge(begins, b.get("last") & (ahead <= close) & ~begins)


def moved_offset(b: Body, offsets: str, number: Scalar, edge: Edge | None) -> Callable[[int], Scalar]:
    """The tangents of save time `number` (int32) of an operand, counted from t0."""

    def moved(order: int) -> Scalar:
        given = b.tangent(offsets, order, number.to("int64").value)
        return given if edge is None else edge.tangent(b, order, given, b.scalar(0.0))

    return moved


def between(b: Body, theta: Scalar, signed: Scalar, fraction: Callable[[Jet], Jet]) -> Callable[[Any], Any]:
    """The values at a fraction of the step at hand, by component; where times move, in `output_state`.

    signed: the step's size. fraction: makes of that size, with its tangents, theta with its own.
    """
    method = b.lane.problem.method
    value_at = method.between(b, theta.value, signed.value)
    if points_wait(b.lane.problem):
        value_at = _or_start(b, theta.equals(0.0), value_at)
    if not b.moving:
        return value_at
    size = size_of(b, signed)
    b.each(lambda index: b.buf.output_state.store(index, value_at(index)))
    method.add_between_moved(b, fraction(size), size, b.buf.output_state)
    return b.buf.output_state.load


def _or_start(b: Body, at_start: Scalar, value_at: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Those values, but where the step begins the state to the bit."""
    return lambda index: where(at_start, b.scalar(b.buf.state.load(index)), b.scalar(value_at(index))).value


# The tangents of times as functions of the user's are given them.


def _name_of_end(b: Body) -> str:
    return "span" if b.lane.problem.counts_from_t0 else "t1"


def _moved_start(b: Body, order: int) -> Scalar:
    return b.scalar(0.0) if b.lane.problem.counts_from_t0 else b.tangent("t0", order)


def _moved_end(b: Body, step: Step, order: int) -> Scalar:
    """That of the end of a step."""
    return where(step.last, b.tangent(_name_of_end(b), order), _moved_inside(b, order))


def _moved_inside(b: Body, order: int) -> Scalar:
    """The same where that is not t1."""
    return _moved_start(b, order) + b.get(f"start_{order}") + b.get(f"size_{order}")


def _invalid_unless(b: Body, ordered: Any) -> Scalar:
    return where(b.scalar(ordered.get(), "bool"), b.scalar(CODES["successful"], "int32"), CODES["invalid_input"])
