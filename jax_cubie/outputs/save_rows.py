"""The device functions that save a solution: the next row is that of the counter "row", and saving one moves it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..loop import Hooks
from ..loop.functions import into_row
from ..solution import CODES

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .saving import Saving


def build_hooks(lane: Lane, saving: Saving) -> Hooks:
    """The places of saving in the loop."""
    rows, method = _Rows(lane, saving), lane.problem.method
    dtype, emitted = lane.problem.dtype, lane.emitted
    save_t0, save_t1, points, stepwise = saving.t0, saving.t1, np.int32(saving.points), saving.steps > 0
    last_row = np.int32(saving.rows)
    successful, invalid_input = np.int32(CODES["successful"]), np.int32(CODES["invalid_input"])
    lane.cell("next_point", dtype)  # the next save time, counted from t0 and running time
    lane.cell("until_row", "int32")  # accepted steps until the next that is saved

    @emitted("bool")
    def begin(b):
        """Nothing is saved so far. Answers whether the first save time is not before t0."""
        b.cell("until_row").set(b.int32(saving.steps))
        if not points:
            b.cell("next_point").set(b.real(float("inf")))
            return b.emitter.constant("bool", 1)
        first = rows.point(b, b.int32(0))
        b.cell("next_point").set(first)
        return b.emitter.compare("ge", dtype, first, b.real(0))

    @emitted("bool")
    def due(b, time):
        """Whether the next save time is no later than `time`."""
        return b.emitter.compare("le", dtype, b.cell("next_point").get(), time)

    @emitted("bool")
    def point_due(b, step):
        return b.emitter.compare("le", dtype, b.cell("next_point").get(), step.end)

    @emitted("bool")
    def next_point(b):
        """One more save time lies behind, and its row is written. Answers whether the following one is no earlier."""
        following = rows.point(b, rows.count_point(b))
        ordered = b.emitter.compare("ge", dtype, following, b.cell("next_point").get())
        b.cell("next_point").set(following)
        return ordered

    @emitted()
    def save_start(b):
        rows.save(b, b.op("t0"), b.buf.state)

    @emitted()
    def save_point_at_start(b):
        rows.save(b, rows.time_of_point(b, b.op("t0")), b.buf.state)

    @emitted()
    def prepare(b, step):
        time = b.emitter.mul(dtype, b.direction, step.start)
        method.prepare_between(b, time, b.emitter.mul(dtype, b.direction, step.size))

    @emitted()
    def save_inside(b, step):
        """The next save time, inside of a step."""
        emitter, point = b.emitter, b.cell("next_point").get()
        time = rows.time_of_point(b, emitter.add(dtype, b.op("t0"), emitter.mul(dtype, b.direction, point)))
        since = emitter.sub(dtype, emitter.sub(dtype, point, step.start), step.residue)
        theta = emitter.div(dtype, since, step.size)
        value_at = method.between(b, theta, emitter.mul(dtype, b.direction, step.size))
        rows.save_values(b, time, value_at)

    @emitted("bool")
    def step_due(b):
        """One more step is accepted. Answers whether it is one that is saved."""
        until = b.emitter.sub("int32", b.cell("until_row").get(), b.int32(1))
        due = b.emitter.compare("eq", "int32", until, b.int32(0))
        b.cell("until_row").set(b.emitter.select(due, b.int32(saving.steps), until))
        return due

    @emitted()
    def save_step(b, step):
        reached = b.emitter.add(dtype, b.op("t0"), b.emitter.mul(dtype, b.direction, step.end))
        rows.save(b, b.emitter.select(step.last, b.op("t1"), reached), b.buf.proposed_state)

    @emitted("int32")
    def points_behind(b):
        return rows.points_behind(b)

    @emitted()
    def save_missing_point(b):
        emitter = b.emitter
        point = rows.point(b, rows.points_behind(b))
        time = emitter.add(dtype, b.op("t0"), emitter.mul(dtype, b.direction, point))
        rows.save_missing(b, rows.time_of_point(b, time))
        rows.count_point(b)

    @emitted("bool")
    def end_has_no_row(b):
        """Whether no saved step has ended at t1."""
        between = b.emitter.compare("ne", "int32", b.cell("until_row").get(), b.int32(saving.steps))
        return b.emitter.logical_or(between, b.emitter.compare("eq", dtype, b.op("span"), b.real(0)))

    def end_time(b: Body) -> Any:
        return b.op("t1" if saving.keeps_times else "span")  # the latter where nobody asks

    @emitted()
    def save_end(b):
        rows.save(b, end_time(b), b.buf.state)

    @emitted()
    def save_missing_end(b):
        rows.save_missing(b, end_time(b))

    @emitted("int32")
    def next_row(b):
        return b.counter("row").get()

    @emitted("int32")
    def save_unused(b, row):
        rows.save_unused(b, row)
        return b.emitter.add("int32", row, b.int32(1))

    zero = np.dtype(dtype).type(0)

    @lane.function
    def start(b):
        code = successful
        if save_t0:
            save_start(b)
        if not begin(b):
            code = invalid_input
        if points:
            while due(b, zero):
                save_point_at_start(b)
                if not next_point(b):
                    code = invalid_input
        return code

    @lane.function
    def accepted(b, step):
        code = successful
        if points:
            if point_due(b, step):
                prepare(b, step)
            while point_due(b, step):
                save_inside(b, step)
                if not next_point(b):
                    code = invalid_input
        if stepwise:
            if step_due(b):
                save_step(b, step)
        return code

    @lane.function
    def end(b, result):
        if points:
            if result == successful and points_behind(b) < points:
                result = invalid_input
            while points_behind(b) < points:
                save_missing_point(b)
        if save_t1:
            if stepwise:
                # A step that was saved may have ended there; and a lane that failed may have used up its rows.
                if result == successful and end_has_no_row(b):
                    save_end(b)
            elif result == successful:
                save_end(b)
            else:
                save_missing_end(b)
        if stepwise:
            row = next_row(b)
            while row < last_row:
                row = save_unused(b, row)
        return result

    return Hooks(start=start, accepted=accepted if points or stepwise else None, end=end)


class _Rows:
    """Writes rows of a lane's results."""

    def __init__(self, lane: Lane, saving: Saving):
        self._lane, self._saving = lane, saving
        # What a row consists of, as (name, elements of a row, dtype).
        results = [result for result in lane.plan.words.results if result.name.startswith("ys")]
        self._pieces = [(result.name, result.size // saving.rows, result.dtype) for result in results]

    def point(self, b: Body, index: Any) -> Any:
        """Save time number `index` (int32), counted from t0 and running time; infinity beyond the last, never reached."""
        emitter = b.emitter
        inside = emitter.compare("lt", "int32", index, b.int32(self._saving.points))
        number = emitter.cast(emitter.select(inside, index, b.int32(0)), "int32", "int64")
        time = emitter.mul(b.dtype, b.direction, b.op("offsets", number))
        return emitter.select(inside, time, b.real(float("inf")))

    def points_behind(self, b: Body) -> Any:
        """How many save times lie behind. Without steps between them, the row tells."""
        if self._saving.steps:
            return b.counter("points").get()
        return b.emitter.sub("int32", b.counter("row").get(), b.int32(self._saving.t0))

    def count_point(self, b: Body) -> Any:
        """One more save time lies behind, and its row is written; answers with the number of the next."""
        return b.counter("points").add() if self._saving.steps else self.points_behind(b)

    def time_of_point(self, b: Body, computed: Any) -> Any:
        """The next save time as it was given; `computed` where nobody asks for the former."""
        if not self._saving.keeps_times:
            return computed
        return b.op("ts", b.emitter.cast(self.points_behind(b), "int32", "int64"))

    def save(self, b: Body, time: Any, state: Any) -> None:
        """The next row, of a state that lies in memory."""
        row = self._take_row(b, time)
        if self._saving.outputs is None:
            self._write(b, row, *self._pieces[0][:2], state.load)
        else:
            sink = into_row(self._lane, [name for name, _, _ in self._pieces], [size for _, size, _ in self._pieces], row)
            b.call("output", t=time, y=state, out=sink)

    def save_values(self, b: Body, time: Any, value_at: Callable[[Any], Any]) -> None:
        """The next row, of a state by its components."""
        if self._saving.outputs is None:
            self._write(b, self._take_row(b, time), *self._pieces[0][:2], value_at)
        else:
            b.each(lambda index: b.buf.output_state.store(index, value_at(index)))
            self.save(b, time, b.buf.output_state)

    def save_missing(self, b: Body, time: Any) -> None:
        """The row of a time that was not reached."""
        self._write_constant(b, self._take_row(b, time), float("nan"), "min")

    def save_unused(self, b: Body, row: Any) -> None:
        """Row `row`, of a step that was not taken."""
        self._write_time(b, row, b.real(float("inf")))
        self._write_constant(b, row, float("inf"), "max")

    def _take_row(self, b: Body, time: Any) -> Any:
        row = b.counter("row").get()
        b.counter("row").add()
        self._write_time(b, row, time)
        return row

    def _write_time(self, b: Body, row: Any, time: Any) -> None:
        if self._saving.steps:
            b.res("times", b.emitter.cast(row, "int32", "int64"), time)

    def _write(self, b: Body, row: Any, name: str, size: int, value_at: Callable[[Any], Any]) -> None:
        emitter = b.emitter
        begin = emitter.mul("int64", emitter.cast(row, "int32", "int64"), emitter.constant("int64", size))

        def body(index: Any) -> None:
            offset = emitter.constant("int64", index) if isinstance(index, int) else index
            b.res(name, emitter.add("int64", begin, offset), value_at(index))

        b.each(body, size)

    def _write_constant(self, b: Body, row: Any, real: float, integer: str) -> None:
        """`real` in each array of a row; in integers the attribute `integer` ("min", "max") of their range."""
        for name, size, kind in self._pieces:
            if kind.startswith("float"):
                value = real
            else:
                value = integer == "max" if kind == "bool" else getattr(np.iinfo(kind), integer)
            constant = b.emitter.constant(kind, value)
            self._write(b, row, name, size, lambda _, constant=constant: constant)
