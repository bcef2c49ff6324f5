"""The cotangents of a solution's rows, on the way from t1 to t0."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel.device import View
from ..kernel.scalar import Scalar, where
from ..loop import AdjointHooks, Step
from ..loop.cotangents import gather, into_adjoints
from ..loop.jets import fraction_of, pull_fraction, size_of
from ..operands import ROWS, cotangent_name, tangent_name
from .save_rows import between

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .saving import Saving

# The row whose cotangent comes next, and the save time.
_ROW, _BEHIND = "row_behind", "point_behind"


def build_adjoint(lane: Lane, saving: Saving) -> AdjointHooks:
    """The places of saving in the backward loop."""
    rows = _Rows(lane, saving)
    lane.cell(_ROW, "int32")
    lane.cell(_BEHIND, "int32")
    if not rows.wanted:  # others ask for values inside of steps, too
        return AdjointHooks(_nothing, rows.repeated, rows.restored, rows.clear, _nothing)
    return AdjointHooks(begin=rows.begin, repeated=rows.repeated, restored=rows.restored, step=rows.step, end=rows.end)


def _nothing(*_: Any) -> None:
    return None


@dataclasses.dataclass(frozen=True)
class _Moment:
    """The time of a row. tangent(order) -> Scalar; give(cotangents by order): hands its cotangents on."""

    time: Scalar
    tangent: Callable[[int], Scalar]
    give: Callable[[dict[int, Scalar]], None]


def _moment_of(b: Body, name: str) -> _Moment:
    """An operand."""

    def give(cotangents: dict[int, Scalar]) -> None:
        gather(b, **{f"{name}_{order}": value for order, value in cotangents.items()})

    known = b.lane.has_operand(name)  # where nobody asks for times, there is none
    return _Moment(b.number(name if known else "span"), lambda order: b.tangent(name, order), give)


class _Rows:
    """Adds the cotangents of rows to those of the states that they were saved of."""

    def __init__(self, lane: Lane, saving: Saving):
        self._lane, self._saving, problem = lane, saving, lane.problem
        given = lane.adjoint.cotangents
        results = [result for result in problem.forward_results if result.differentiable]
        # The results that a row consists of, with the elements of a row, and whether there is a cotangent, by the function that
        # gives them; and those functions that have one.
        self._pieces = {
            function: [(one.name, one.size // saving.rows, one.name in given) for one in results if one.is_of(function)]
            for function in ROWS
        }
        self._functions = [name for name in saving.functions if any(has for _, _, has in self._pieces[name])]
        self.wanted = any(has for pieces in self._pieces.values() for _, _, has in pieces)
        self._written = {result.name for result in lane.plan.words.results}

    # --- The places in the loop

    def begin(self, b: Body) -> None:
        """The row of t1, of a state that nobody has to know."""
        saving = self._saving
        b.put(**{_BEHIND: saving.points - 1, _ROW: self._last(b)})
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
                b.counter("row").add()
                if saving.steps:
                    b.counter("points").add()
                b.put(saving_point=self._point(b))

            b.repeat_while(lambda: b.get("saving_point") <= step.end, count)
        if saving.steps:
            b.put(saving_until=b.get("saving_until") - 1)
            with b.when(b.get("saving_until").equals(0)):
                b.counter("row").add()
                b.put(saving_until=saving.steps)

    def restored(self, b: Body) -> None:
        if self._saving.points:
            b.put(saving_point=self._point(b))

    def _before(self, b: Body) -> Scalar:
        """Save times before the step at hand."""
        if self._saving.steps:
            return b.scalar(b.counter("points").get(), "int32")
        return b.scalar(b.counter("row").get(), "int32") - int(self._saving.t0)

    def _point(self, b: Body) -> Scalar:
        """The save time that is next forwards."""
        number = self._before(b)
        inside = number < self._saving.points
        time = b.number("offsets", where(inside, number, 0).to("int64").value)
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
            with b.when(b.get("saving_until").equals(1)):
                self._add(b, b.get(_ROW), self._moment_of_end(b, step), b.buf.proposed_state)
                b.put(**{_ROW: b.get(_ROW) - 1})
        if saving.points:
            self._step_of_points(b, step)

    def _pass_missing(self, b: Body, step: Step) -> None:
        """Passes over the save times that the last step did not reach."""

        def missing() -> Scalar:
            number = b.get(_BEHIND)
            time = b.number("offsets", where(number >= 0, number, 0).to("int64").value)
            return (number >= 0) & (b.scalar(b.direction) * time > step.end)

        if self._saving.points:
            b.repeat_while(missing, lambda: b.put(**{_BEHIND: b.get(_BEHIND) - 1, _ROW: b.get(_ROW) - 1}))

    def clear(self, b: Body, step: Step) -> None:
        """Nothing of a step that is gone back over has a cotangent of rows."""
        if self._saving.points:
            self._lane.problem.method.clear_between(b)

    def _step_of_points(self, b: Body, step: Step) -> None:
        method, signed = self._lane.problem.method, b.scalar(b.direction) * step.size
        first = self._before(b)
        method.clear_between(b)
        with b.when(b.get(_BEHIND) >= first):
            b.put(points_inside=True)
            method.prepare_between(b, (b.scalar(b.direction) * step.start).value, signed.value)

        def add() -> None:
            number = b.get(_BEHIND)
            point = b.scalar(b.direction) * b.number("offsets", number.to("int64").value)
            ratio, size = (point - step.start - step.residue) / step.size, size_of(b, signed)
            theta = fraction_of(b, ratio, size, number)
            moment = self._moment_of_point(b)
            self._cotangent(b, ratio, signed, moment)
            of_theta, of_size = method.between_adjoint(b, theta, size, b.buf.output_adjoint)
            of_time, also_of_size = pull_fraction(b, of_theta, theta, size)
            for order in self._lane.adjoint.orders:
                time = of_time.get(order, b.scalar(0.0))
                self._write_point(b, "offsets", order, time)
                gather(b, **{f"start_{order}": -time})
                for share in (of_size, also_of_size):
                    if order in share:
                        gather(b, **{f"size_{order}": share[order]})
            b.put(**{_BEHIND: number - 1, _ROW: b.get(_ROW) - 1})

        b.repeat_while(lambda: b.get(_BEHIND) >= first, add)

    def _moment_of_end(self, b: Body, step: Step) -> _Moment:
        def tangent(order: int) -> Scalar:
            inside = b.tangent("t0", order) + b.get(f"start_{order}") + b.get(f"size_{order}")
            return where(step.last, b.tangent("t1", order), inside)

        def give(cotangents: dict[int, Scalar]) -> None:
            for order, value in cotangents.items():
                inside = where(step.last, 0.0, value)
                gather(b, **{f"t1_{order}": where(step.last, value, 0.0), f"t0_{order}": inside})
                gather(b, **{f"start_{order}": inside, f"size_{order}": inside})

        reached = b.number("t0") + b.scalar(b.direction) * step.end
        return _Moment(where(step.last, b.number("t1"), reached), tangent, give)

    def _moment_of_point(self, b: Body) -> _Moment:
        index = b.get(_BEHIND).to("int64").value

        def give(cotangents: dict[int, Scalar]) -> None:
            for order, value in cotangents.items():
                self._write_point(b, "ts", order, value)

        time = b.number("ts", index) if self._saving.keeps_times else b.number("offsets", index)
        return _Moment(time, lambda order: b.tangent("ts", order, index), give)

    def _write_point(self, b: Body, name: str, order: int, value: Scalar) -> None:
        name = cotangent_name(tangent_name(name, order))
        if name in self._written:
            b.res(name, b.get(_BEHIND).to("int64").value, value.value)

    def end(self, b: Body) -> None:
        """Save times at t0, and the row of t0."""
        saving = self._saving
        if self._functions:
            with b.when(b.get("taken").equals(0)):
                self._end(b, b.buf.state, _moment_of(b, "t1"))

        def add() -> None:
            self._add(b, b.get(_ROW), self._moment_of_point(b), b.buf.state)
            b.put(**{_BEHIND: b.get(_BEHIND) - 1, _ROW: b.get(_ROW) - 1})

        if saving.points:
            b.repeat_while(lambda: b.get(_BEHIND) >= 0, add)
        if saving.t0:
            self._add(b, b.scalar(0, "int32"), _moment_of(b, "t0"), b.buf.state)

    # --- Rows

    def _add(self, b: Body, row: Scalar, moment: _Moment, state: View) -> None:
        """Adds the cotangent of a row to that of its state, and of its time."""
        self._pull_all(b, row, moment, state, b.buf.adjoint, add=True)

        def body(index: Any, value: Any, part: View) -> None:
            part.store(index, b.emitter.add(b.dtype, part.load(index), value))

        if self._saving.outputs is None:
            self._each(b, row, b.buf.adjoint, body)

    def _each(self, b: Body, row: Scalar, view: View, body: Callable[[Any, Any, View], None]) -> None:
        """`body(index, cotangent, part)` for all components of a row of the state, pieces that have none left out."""
        begin = 0
        for (name, size, has), piece in zip(self._pieces["output"], self._lane.problem.pieces, strict=True):
            part = view.part(begin, piece.size)
            if has:
                b.each(lambda i, name=name, size=size, part=part: body(i, self._element(b, name, row, size, i), part), size)
            begin += piece.size

    def _cotangent(self, b: Body, theta: Scalar, signed: Scalar, moment: _Moment) -> None:
        """The cotangent of a row that was saved inside of a step, by the components of the state, in `output_adjoint`."""
        view, row = b.buf.output_adjoint, b.get(_ROW)
        if self._saving.outputs is None:
            b.each(lambda index: view.store(index, b.real(0)))
            self._each(b, row, view, lambda index, value, part: part.store(index, value))
        if not self._functions:
            return
        values = between(b, theta, signed, b.get(_BEHIND))
        if values is not b.buf.output_state:
            b.each(lambda index: b.buf.output_state.store(index, values(index)))
        self._pull_all(b, row, moment, b.buf.output_state, view, add=self._saving.outputs is None)

    def _element(self, b: Body, name: str, row: Scalar, size: int, index: Any) -> Any:
        place = (row.to("int64") * size).value
        index = b.emitter.constant("int64", index) if isinstance(index, int) else index
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
        begin, given = 0, {"t": moment.time.value, "y": state}
        given |= {tangent_name("t", order): moment.tangent(order).value for order in b.moving}
        for name, size, has in self._pieces[function]:
            part = b.buf.output_cotangent.part(begin, size)

            def body(index: Any, name: str = name, size: int = size, has: bool = has, part: View = part) -> None:
                part.store(index, self._element(b, name, row, size, index) if has else b.real(0))

            b.each(body, size)
            given[cotangent_name(name)] = part
            begin += size
        b.call(f"{function}_vjp", out=into_adjoints(b, f"{function}_vjp", into, add=add), **given)
