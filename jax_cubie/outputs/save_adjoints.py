"""The cotangents of a solution's rows, on the way from t1 to t0."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..kernel.device import View
from ..kernel.scalar import Scalar, where
from ..loop import AdjointHooks, Step
from ..loop.cotangents import gather, into_adjoints
from ..loop.inside import prepare_between
from ..loop.jets import fraction_of, pull_fraction, size_of
from ..operands import cotangent_name, primal_of, tangent_name
from .save_rows import Edge, between, edge_of, moved_offset

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .saving import Saving


def build_adjoint(lane: Lane, saving: Saving) -> AdjointHooks:
    """The places of saving in the backward loop."""
    rows = _Rows(lane, saving)
    lane.cell(saving.named("row_behind"), "int32")
    lane.cell(saving.named("point_behind"), "int32")
    return AdjointHooks(begin=rows.begin, repeated=rows.repeated, restored=rows.restored, step=rows.step, end=rows.end)


@dataclasses.dataclass(frozen=True)
class _Moment:
    """The time of a row. tangent(order) -> Scalar; give(cotangents by order): hands its cotangents on. since_t0: counted from
    there, where functions of the user's want to know it, and then tangents and cotangents are those of that."""

    time: Scalar
    tangent: Callable[[int], Scalar]
    give: Callable[[dict[int, Scalar]], None]
    since_t0: Scalar | None = None


def _moment_of(b: Body, name: str) -> _Moment:
    """That of t0 or t1."""
    known = b.lane.has_operand(name)  # where nobody asks for times, there is none
    time, since_t0 = b.number(name if known else "span"), None
    if b.lane.problem.counts_from_t0:
        if name == "t0":
            return _Moment(time, lambda order: b.scalar(0.0), lambda cotangents: None, b.scalar(0.0))
        name, since_t0 = "span", b.number("span")

    def give(cotangents: dict[int, Scalar]) -> None:
        gather(b, **{f"{name}_{order}": value for order, value in cotangents.items()})

    return _Moment(time, lambda order: b.tangent(name, order), give, since_t0)


class _Rows:
    """Adds the cotangents of rows to those of the states that they were saved of."""

    def __init__(self, lane: Lane, saving: Saving):
        self._lane, self._saving = lane, saving
        # What a row consists of, as (name, elements of a row, whether there is a cotangent): the state where that is saved
        # itself, and what functions give of which some has one.
        self._state = self._pieces_of(saving.own)
        pieces = {function: self._pieces_of(saving.outputs_of(function)) for function in saving.functions}
        self._functions = {name: given for name, given in pieces.items() if any(has for _, _, has in given)}
        self._has_cotangents = bool(self._functions) or any(has for _, _, has in self._state)
        self._written = {result.name for result in lane.plan.words.results}
        # The row whose cotangent comes next, and the save time.
        self._row, self._behind = saving.named("row_behind"), saving.named("point_behind")
        self._point_cell, self._until = saving.named("saving_point"), saving.named("saving_until")
        self._ts, self._offsets = saving.named("ts"), saving.named("offsets")

    def _pieces_of(self, names: Sequence[str]) -> list[tuple[str, int, bool]]:
        """Those of some results and of their tangents."""
        results = [one for one in self._lane.problem.forward_results if primal_of(one.name) in names and one.differentiable]
        given = self._lane.adjoint.cotangents
        return [(one.name, one.size // self._saving.rows, one.name in given) for one in results]

    # --- The places in the loop

    def begin(self, b: Body) -> None:
        """The row of t1, of a state that nobody has to know."""
        saving = self._saving
        b.put(**{self._behind: saving.points - 1, self._row: self._last(b)})
        if not self._functions:
            self._end(b, b.buf.state, _moment_of(b, "t1"))

    def _last(self, b: Body) -> Scalar:
        """The last row before that of t1, or the last step's if that is the row of t1, too."""
        saving = self._saving
        row = b.scalar(int(saving.t0) + saving.points - 1, "int32")
        if saving.steps:
            row = row + b.scalar(b.emitter.div("int32", b.get("taken").value, b.int32(saving.steps)), "int32")
        return row

    def _end(self, b: Body, state: View, moment: _Moment) -> None:
        saving = self._saving
        if not saving.t1:
            return
        if saving.steps:
            rest = b.scalar(b.emitter.apply("rem", "int32", b.get("taken").value, b.int32(saving.steps)), "int32")
            with b.when(~rest.equals(0) | b.get("taken").equals(0)):
                self._add(b, self._last(b) + 1, moment, state)
        else:
            self._add(b, self._last(b) + 1, moment, state)

    def repeated(self, b: Body, step: Step) -> None:
        saving = self._saving
        if saving.points:

            def count() -> None:
                b.counter(saving.named("row")).add()
                if saving.steps:
                    b.counter(saving.named("points")).add()
                b.put(**{self._point_cell: self._point(b)})

            b.repeat_while(lambda: b.get(self._point_cell) <= saving.until(step), count)
        if saving.steps:
            b.put(**{self._until: b.get(self._until) - 1})
            with b.when(b.get(self._until).equals(0)):
                b.counter(saving.named("row")).add()
                b.put(**{self._until: saving.steps})

    def restored(self, b: Body) -> None:
        if self._saving.points:
            b.put(**{self._point_cell: self._point(b)})

    def _before(self, b: Body) -> Scalar:
        """Save times before the step at hand."""
        if self._saving.steps:
            return b.scalar(b.counter(self._saving.named("points")).get(), "int32")
        return b.scalar(b.counter(self._saving.named("row")).get(), "int32") - int(self._saving.t0)

    def _point(self, b: Body) -> Scalar:
        """The save time that is next forwards."""
        number = self._before(b)
        inside = number < self._saving.points
        time = b.number(self._offsets, where(inside, number, 0).to("int64").value)
        return where(inside, b.scalar(b.direction) * time, float("inf"))

    def step(self, b: Body, step: Step) -> None:
        saving, stops = self._saving, b.lane.problem.stops
        last = b.get("behind").equals(b.get("taken") - 1) if stops else step.last
        if stops:
            with b.when(last):
                self._pass_missing(b, step)
        if self._functions:
            with b.when(last):
                self._end(b, b.buf.proposed_state, self._moment_of_end(b, step) if stops else _moment_of(b, "t1"))
        if saving.steps:
            with b.when(b.get(self._until).equals(1)):
                self._add(b, b.get(self._row), self._moment_of_end(b, step), b.buf.proposed_state)
                b.put(**{self._row: b.get(self._row) - 1})
        if saving.points:
            self._step_of_points(b, step)

    def _pass_missing(self, b: Body, step: Step) -> None:
        """Passes over the save times that the last step did not reach."""

        def missing() -> Scalar:
            number = b.get(self._behind)
            time = b.number(self._offsets, where(number >= 0, number, 0).to("int64").value)
            return (number >= 0) & (b.scalar(b.direction) * time > self._saving.until(step))

        if self._saving.points:
            b.repeat_while(missing, lambda: b.put(**{self._behind: b.get(self._behind) - 1, self._row: b.get(self._row) - 1}))

    def _step_of_points(self, b: Body, step: Step) -> None:
        method, signed = self._lane.problem.method, b.scalar(b.direction) * step.size
        first = self._before(b)
        if not self._has_cotangents:
            passed = where(b.get(self._behind) >= first, b.get(self._behind) - first + 1, 0)
            b.put(**{self._behind: b.get(self._behind) - passed, self._row: b.get(self._row) - passed})
            return
        with b.when(b.get(self._behind) >= first):
            b.put(points_inside=True)
            prepare_between(b, step)

        def add() -> None:
            number = b.get(self._behind)
            point = b.scalar(b.direction) * b.number(self._offsets, number.to("int64").value)
            ratio, size = (point - step.start - step.residue) / step.size, size_of(b, signed)
            edge = edge_of(b, step, point) if self._saving.clings else None
            ratio = ratio if edge is None else edge.fraction(ratio)
            theta = fraction_of(b, ratio, size, moved_offset(b, self._offsets, number, edge))
            moment, own = self._moment_of_point(b, edge), {}
            if b.lane.problem.counts_from_t0:  # then both are cotangents of one operand
                moment = dataclasses.replace(moment, give=own.update)
            self._cotangent(b, ratio, signed, moment, edge)
            of_theta, of_size = method.between_adjoint(b, theta, size, b.buf.output_adjoint)
            of_time, also_of_size = pull_fraction(of_theta, theta, size)
            for order in self._lane.adjoint.orders:
                time = of_time.get(order, b.scalar(0.0))
                self._give_point(b, self._offsets, order, time + own[order] if order in own else time, edge)
                gather(b, **{f"start_{order}": -time})
                for share in (of_size, also_of_size):
                    if order in share:
                        gather(b, **{f"size_{order}": share[order]})
            b.put(**{self._behind: number - 1, self._row: b.get(self._row) - 1})

        b.repeat_while(lambda: b.get(self._behind) >= first, add)

    def _moment_of_end(self, b: Body, step: Step) -> _Moment:
        start, end = _moment_of(b, "t0"), _moment_of(b, "t1")

        def tangent(order: int) -> Scalar:
            inside = start.tangent(order) + b.get(f"start_{order}") + b.get(f"size_{order}")
            return where(step.last, end.tangent(order), inside)

        def give(cotangents: dict[int, Scalar]) -> None:
            inside = {order: where(step.last, 0.0, value) for order, value in cotangents.items()}
            end.give({order: where(step.last, value, 0.0) for order, value in cotangents.items()})
            start.give(inside)
            for order, value in inside.items():
                gather(b, **{f"start_{order}": value, f"size_{order}": value})

        reached = start.time + b.scalar(b.direction) * step.end
        since_t0 = b.scalar(b.direction) * step.end if b.lane.problem.counts_from_t0 else None
        return _Moment(where(step.last, end.time, reached), tangent, give, since_t0)

    def _moment_of_point(self, b: Body, edge: Edge | None = None) -> _Moment:
        index = b.get(self._behind).to("int64").value
        name = self._offsets if b.lane.problem.counts_from_t0 else self._ts

        def give(cotangents: dict[int, Scalar]) -> None:
            for order, value in cotangents.items():
                self._give_point(b, name, order, value, edge)

        def tangent(order: int) -> Scalar:
            given = b.tangent(name, order, index)
            if edge is None:
                return given
            return edge.tangent(b, order, given, b.scalar(0.0) if name == self._offsets else b.tangent("t0", order))

        time = b.number(self._ts if self._saving.keeps_times else self._offsets, index)  # the latter where nobody asks
        since_t0 = b.number(self._offsets, index) if b.lane.problem.counts_from_t0 else None
        return _Moment(time, tangent, give, since_t0)

    def _give_point(self, b: Body, name: str, order: int, value: Scalar, edge: Edge | None) -> None:
        """Hands on the cotangent of a save time, as that operand has it."""
        if edge is None:
            self._write_point(b, name, order, value)
            return
        self._write_point(b, name, order, where(edge.clings, 0.0, value))
        moved = where(edge.clings, value, 0.0)
        if name != self._offsets:
            gather(b, **{f"t0_{order}": moved})
        gather(b, **{f"start_{order}": moved, f"size_{order}": where(edge.ends, value, 0.0)})

    def _write_point(self, b: Body, name: str, order: int, value: Scalar) -> None:
        name = cotangent_name(tangent_name(name, order))
        if name in self._written:
            b.res(name, b.get(self._behind).to("int64").value, value.value)

    def end(self, b: Body) -> None:
        """Save times at t0, and the row of t0."""
        saving = self._saving
        if self._functions:
            with b.when(b.get("taken").equals(0)):
                self._end(b, b.buf.state, _moment_of(b, "t1"))

        def add() -> None:
            self._add(b, b.get(self._row), self._moment_of_point(b), b.buf.state)
            b.put(**{self._behind: b.get(self._behind) - 1, self._row: b.get(self._row) - 1})

        if saving.points:
            b.repeat_while(lambda: b.get(self._behind) >= 0, add)
        if saving.t0:
            self._add(b, b.scalar(0, "int32"), _moment_of(b, "t0"), b.buf.state)

    # --- Rows

    def _add(self, b: Body, row: Scalar, moment: _Moment, state: View) -> None:
        """Adds the cotangent of a row to that of its state, and of its time."""
        self._pull_all(b, row, moment, state, b.buf.adjoint, add=True)

        def body(index: Any, value: Any, part: View) -> None:
            part.store(index, b.emitter.add(b.dtype, part.load(index), value))

        self._each(b, row, b.buf.adjoint, body)

    def _each(self, b: Body, row: Scalar, view: View, body: Callable[[Any, Any, View], None]) -> None:
        """`body(index, cotangent, part)` for all components of a row of the state, pieces that have none left out."""
        begin = 0
        for (name, size, has), piece in zip(self._state, self._lane.problem.pieces, strict=False):
            part = view.part(begin, piece.size)
            if has:
                b.each(lambda i, name=name, size=size, part=part: body(i, self._element(b, name, row, size, i), part), size)
            begin += piece.size

    def _cotangent(self, b: Body, theta: Scalar, signed: Scalar, moment: _Moment, edge: Edge | None) -> None:
        """The cotangent of a row that was saved inside of a step, by the components of the state, in `output_adjoint`."""
        view, row = b.buf.output_adjoint, b.get(self._row)
        if self._saving.outputs is None:
            b.each(lambda index: view.store(index, b.real(0)))
            self._each(b, row, view, lambda index, value, part: part.store(index, value))
        if not self._functions:
            return
        number = b.get(self._behind)
        tangent = moved_offset(b, self._offsets, number, edge)
        values = between(b, theta, signed, lambda size: fraction_of(b, theta, size, tangent))
        if values is not b.buf.output_state:
            b.each(lambda index: b.buf.output_state.store(index, values(index)))
        self._pull_all(b, row, moment, b.buf.output_state, view, add=self._saving.outputs is None)

    def _element(self, b: Body, name: str, row: Scalar, size: int, index: Any) -> Any:
        place = (row.to("int64") * size).value
        index = b.emitter.place(index)
        return b.op(cotangent_name(name), b.emitter.add("int64", place, index))

    def _pull_all(self, b: Body, row: Scalar, moment: _Moment, state: View, into: View, *, add: bool) -> None:
        """Through all functions of rows."""
        orders, total = self._lane.adjoint.orders, {}
        for number, function in enumerate(self._functions):
            self._pull(b, function, row, moment, state, into, add=add or number > 0)
            for place, order in enumerate(orders):
                value = b.scalar(b.buf.time_adjoint.load(place))
                total[order] = total[order] + value if order in total else value
        if total:
            moment.give(total)

    def _pull(self, b: Body, function: str, row: Scalar, moment: _Moment, state: View, into: View, *, add: bool) -> None:
        """Through one of them; the cotangents of the time are in `time_adjoint` then."""
        since_t0 = None if moment.since_t0 is None else moment.since_t0.value
        begin, given = 0, {**b.given_time(moment.time.value, since_t0), **b.by_pieces("y", state)}
        given |= {tangent_name("t", order): moment.tangent(order).value for order in b.moving}
        for name, size, has in self._functions[function]:
            part = b.buf.output_cotangent.part(begin, size)

            def body(index: Any, name: str = name, size: int = size, has: bool = has, part: View = part) -> None:
                part.store(index, self._element(b, name, row, size, index) if has else b.real(0))

            b.each(body, size)
            given[cotangent_name(name)] = part
            begin += size
        b.call_pieces(f"{function}_vjp", given, into_adjoints(b, f"{function}_vjp", into, add=add))
