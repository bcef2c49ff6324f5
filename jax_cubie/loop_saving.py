"""The device functions that write a lane's results: each writes LLVM IR for one plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .addressing import Addressing
from .kernel.device import Device, View, each
from .loop_buffers import DENSE, POINT, REJECTED, ROW, STEPS
from .outputs.interpolation import emit_dense, emit_dense_weights, emit_hermite
from .user_function import UserFunction, into_row

if TYPE_CHECKING:
    from .plan import Plan


class SavingParts:
    """The device functions that save a solution: the next row is that of the counter ROW, and saving one moves it on."""

    def __init__(self, plan: Plan, device: Device):
        problem, words = plan.problem, plan.words
        saving, method = problem.saving, problem.method
        memory = Addressing(words)
        dtype, states, unroll = problem.dtype, problem.states, problem.unroll
        emitted = device.emitted
        number_of = {result.name: number for number, result in enumerate(words.results)}
        offsets = words.index("offsets") if saving.points else 0
        ts = words.index("ts") if saving.points and saving.keeps_times else offsets
        # What a row consists of, as (number of the result, elements of a row, dtype).
        results = words.results[bool(saving.steps) :]
        pieces = [(number_of[r.name], r.size // saving.rows, r.dtype) for r in results if r.name.startswith("ys")]
        first = pieces[0][0]
        function = None
        if saving.function is not None:
            inline = plan.inlines_output
            function = UserFunction(plan, saving.function, saving.operands, name="jax_cubie_output", inline=inline)

        def take_row(emitter: Any, counters: View) -> Any:
            row = counters.load(ROW)
            counters.store(ROW, emitter.add("int32", row, _int(emitter, 1)))
            return row

        def behind(emitter: Any, counters: View) -> Any:
            """How many save times lie behind."""
            if saving.steps:
                return counters.load(POINT)
            return emitter.sub("int32", counters.load(ROW), _int(emitter, int(saving.t0)))

        def write_time(emitter: Any, values: Any, bases: Any, row: Any, time: Any) -> None:
            if saving.steps:
                memory.store(emitter, values, bases, number_of["times"], emitter.cast(row, "int32", "int64"), time)

        def write(emitter: Any, values: Any, bases: Any, row: Any, number: int, size: int, value_at: Any) -> None:
            """Row `row` (int32) of result `number`."""
            begin = emitter.mul("int64", emitter.cast(row, "int32", "int64"), emitter.constant("int64", size))

            def body(index):
                offset = emitter.constant("int64", index) if isinstance(index, int) else index
                memory.store(emitter, values, bases, number, emitter.add("int64", begin, offset), value_at(index))

            each(emitter, size, unroll, body)

        def write_point(emitter, values, bases, row, time, state, parameters):
            """What is saved of a state that lies in memory."""
            if function is None:
                write(emitter, values, bases, row, first, states, state.load)
            else:
                sink = into_row(memory, first, [size for _, size, _ in pieces], row)
                function.emit(emitter, values, bases, parameters, time, state, sink)

        def write_constant(emitter, values, bases, row, real, integer):
            """`real` in each array of row `row`; in integers the attribute `integer` ("min", "max") of their range."""
            for number, size, kind in pieces:
                if kind.startswith("float"):
                    value = real
                else:
                    value = integer == "max" if kind == "bool" else getattr(np.iinfo(kind), integer)
                constant = emitter.constant(kind, value)
                write(emitter, values, bases, row, number, size, lambda _, constant=constant: constant)

        @emitted(dtype)
        def load_point(emitter, values, bases, index, direction):
            """Save time number `index`, counted from t0 and running forwards; infinity beyond the last, never to be reached."""
            inside = emitter.compare("lt", "int32", index, _int(emitter, saving.points))
            number = emitter.cast(emitter.select(inside, index, _int(emitter, 0)), "int32", "int64")
            time = memory.load(emitter, values, bases, offsets, number)
            infinity = emitter.constant(dtype, float("inf"))
            return emitter.select(inside, emitter.mul(dtype, direction, time), infinity)

        @emitted(dtype)
        def time_of_point(emitter, values, bases, counters, computed):
            """The next save time as it was given; `computed` where nobody asks for the former."""
            if not saving.keeps_times:
                return computed
            return memory.load(emitter, values, bases, ts, emitter.cast(behind(emitter, counters), "int32", "int64"))

        @emitted("int32")
        def count_point(emitter, counters):
            """One more save time lies behind, and its row is written; answers with the number of the next."""
            if not saving.steps:  # then the row tells
                return emitter.sub("int32", counters.load(ROW), _int(emitter, int(saving.t0)))
            following = emitter.add("int32", counters.load(POINT), _int(emitter, 1))
            counters.store(POINT, following)
            return following

        @emitted("int32")
        def points_behind(emitter, counters):
            return behind(emitter, counters)

        @emitted()
        def count_dense(emitter, counters):
            counters.store(DENSE, emitter.add("int32", counters.load(DENSE), _int(emitter, 1)))

        @emitted()
        def save(emitter, values, bases, counters, time, state, parameters):
            row = take_row(emitter, counters)
            write_time(emitter, values, bases, row, time)
            write_point(emitter, values, bases, row, time, state, parameters)

        dense = method.tableau.dense if problem.dense else None
        terms = dense.terms if dense is not None else ()

        @emitted()
        def save_between(
            emitter, values, bases, counters, time, theta, step_size, state, proposed, stage_rhs, dense_rhs, output, parameters
        ):
            """The point at the fraction `theta` of a step. `output`: room for it, where a function is saved of it."""
            row = take_row(emitter, counters)
            write_time(emitter, values, bases, row, time)
            if problem.dense:
                rows = method.dense_rows(stage_rhs, dense_rhs, states)
                share, weights = emit_dense_weights(emitter, dtype, theta, step_size, terms)

                def value_at(index):
                    return emit_dense(emitter, share, weights, state, proposed, rows, index)
            else:
                begin = stage_rhs.part(0, states)
                end = stage_rhs.part((method.rhs_rows(False) - 1) * states, states)

                def value_at(index):
                    return emit_hermite(emitter, theta, step_size, state, proposed, begin, end, index)

            if function is None:
                write(emitter, values, bases, row, first, states, value_at)
            else:
                each(emitter, states, unroll, lambda index: output.store(index, value_at(index)))
                write_point(emitter, values, bases, row, time, output, parameters)

        @emitted()
        def save_missing(emitter, values, bases, counters, time):
            """The row of a time that was not reached."""
            row = take_row(emitter, counters)
            write_time(emitter, values, bases, row, time)
            write_constant(emitter, values, bases, row, float("nan"), "min")

        @emitted()
        def save_unused(emitter, values, bases, row):
            write_time(emitter, values, bases, row, emitter.constant(dtype, float("inf")))
            write_constant(emitter, values, bases, row, float("inf"), "max")

        @emitted("int32")
        def next_row(emitter, counters):
            return counters.load(ROW)

        @emitted()
        def save_outcome(emitter, values, bases, counters, result):
            steps, rejected = counters.load(STEPS), counters.load(REJECTED)
            outcome = {"accepted": emitter.sub("int32", steps, rejected), "rejected": rejected, "result": result}
            if "dense" in number_of:
                outcome["dense"] = counters.load(DENSE)
            for name, value in outcome.items():
                memory.store(emitter, values, bases, number_of[name], 0, value)

        self.keeps_times = saving.keeps_times
        self.load_point, self.time_of_point = load_point, time_of_point
        self.count_point, self.points_behind = count_point, points_behind
        self.save, self.save_between, self.save_missing, self.save_unused = save, save_between, save_missing, save_unused
        self.count_dense, self.next_row, self.save_outcome = count_dense, next_row, save_outcome


def _int(emitter: Any, value: int) -> Any:
    return emitter.constant("int32", value)
