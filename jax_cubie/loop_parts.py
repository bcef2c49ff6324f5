"""The device functions that the loop is made of: each writes LLVM IR for one plan."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .addressing import Addressing
from .controllers.first_step import emit_explicit_guess, emit_first_step
from .controllers.pid import PID
from .kernel.device import Device, View, each
from .kernel.memory import make_tuple, opaque, quick
from .loop_buffers import COUNTERS, REJECTED, STEPS
from .settings import Range
from .user_function import UserFunction, into_view

if TYPE_CHECKING:
    from .plan import Plan

# A step ends at t1 if it would come this close, in units in the last place of t1 - t0: an adaptive one as diffrax 0.7.2 has
# it; fixed ones are all of one size, so the last may be longer by no more than what is rounded in their sum.
_CLIP_ULPS = {True: 100, False: 4}


class LoopParts:
    """The device functions that the loop is made of: each writes LLVM IR for this plan."""

    def __init__(self, plan: Plan, device: Device):
        problem, words = plan.problem, plan.words
        memory = Addressing(words)
        dtype, states, unroll = problem.dtype, problem.states, problem.unroll
        method = problem.method
        rows = method.rhs_rows(problem.dense)
        field = UserFunction(
            plan, problem.program, problem.field_operands, name="jax_cubie_field", inline=plan.inlines_field
        )
        numbers = {operand.name: number for number, operand in enumerate(words.operands)}
        emitted = device.emitted

        def real(emitter: Any, value: float) -> Any:
            return emitter.constant(dtype, value)

        def setting(emitter: Any, values: Any, bases: Any, name: str, index: Any = 0) -> Any:
            """A number that the user gave: one for all components, or one for each."""
            number = numbers[name]
            return memory.load(emitter, values, bases, number, index if words.operands[number].shape else 0)

        def row(stage_rhs: View, number: int) -> View:
            return stage_rhs.part(number * states, states)

        def evaluator(emitter: Any, values: Any, bases: Any, parameters: View) -> Any:
            """A function `(t - t0, state, right-hand side)` that writes one evaluation of f."""

            def evaluate(since_t0: Any, state: View, rhs: View) -> None:
                time = emitter.add(dtype, setting(emitter, values, bases, "t0"), since_t0)
                field.emit(emitter, values, bases, parameters, time, state, into_view(rhs))

            return evaluate

        # -- what a lane reads ----------------------------------------------------------------------------------------

        @emitted(("int64", words.lanes))
        def begin(emitter, values, lane, state, parameters, counters):
            """The addresses of the lane's operands and results; its arrays as they are before the first step."""
            bases = memory.bases(emitter, values, lane)
            each(
                emitter,
                states,
                unroll,
                lambda index: state.store(index, memory.load(emitter, values, bases, numbers["y0"], index)),
            )
            for number, offset in plan.parameter_offsets.items():
                for index in range(words.operands[number].size):
                    parameters.store(offset + index, memory.load(emitter, values, bases, number, index))
            for slot in COUNTERS:
                counters.store(slot, _int(emitter, 0))
            return bases

        def load(name):
            number = numbers[name]

            @emitted(words.operands[number].dtype)
            def load_scalar(emitter, values, bases):
                return memory.load(emitter, values, bases, number, 0)

            return load_scalar

        @emitted((dtype, max(len(problem.coefficients), 1)))
        def coefficients(emitter, values, bases):
            loaded = [setting(emitter, values, bases, name) for name in problem.coefficients]
            return make_tuple(dtype, loaded or [real(emitter, 0)], emitter)

        @emitted("bool")
        def valid_settings(emitter, values, bases):
            """Each number of the controller is in its range, no component has two tolerances of 0, there is a step to take."""
            valid = emitter.compare("ge", "int32", setting(emitter, values, bases, "max_steps"), _int(emitter, 1))
            if not problem.adaptive:
                return valid

            def inside(valid: Any, value: Any, allowed: Range) -> Any:
                # NaN fails either comparison; a second one with an infinite end that is allowed would tell nothing.
                above = emitter.compare("ge" if allowed.low_allowed else "gt", dtype, value, real(emitter, allowed.low))
                valid = emitter.logical_and(valid, above)
                if allowed.high == math.inf and allowed.high_allowed:
                    return valid
                below = emitter.compare("le" if allowed.high_allowed else "lt", dtype, value, real(emitter, allowed.high))
                return emitter.logical_and(valid, below)

            numbers_of = {name: setting(emitter, values, bases, name) for name in problem.coefficients}
            for name, value in numbers_of.items():
                valid = inside(valid, value, PID.RANGES[name])
            if "dtmin" in numbers_of:
                ordered = emitter.compare("le", dtype, numbers_of["dtmin"], numbers_of["dtmax"])
                valid = emitter.logical_and(valid, ordered)
            count = max(words.operands[numbers[name]].size for name in ("rtol", "atol"))
            held = _Cell(emitter, "bool", valid)

            def body(index):
                rtol, atol = (setting(emitter, values, bases, name, index) for name in ("rtol", "atol"))
                valid = inside(inside(held.get(), rtol, PID.TOLERANCE), atol, PID.TOLERANCE)
                some = emitter.compare("gt", dtype, emitter.add(dtype, rtol, atol), real(emitter, 0))
                held.set(emitter.logical_and(valid, some))

            each(emitter, count, unroll, body)
            return held.get()

        # -- one step -------------------------------------------------------------------------------------------------

        def combine(emitter, target, base, step_size, weights, terms):
            """target = base + step_size * sum(weight * term)."""
            # Scaled weights cost a product each, a scaled sum one for each component; and only a weight that is a constant
            # is part of its instruction, which spares the register file a read.
            scale_weights = len(weights) <= states
            constants = [real(emitter, weight) for weight in weights]
            if scale_weights:
                constants = [emitter.mul(dtype, constant, step_size) for constant in constants]

            def body(index):
                if scale_weights:
                    total = None if base is None else base.load(index)
                else:
                    total = None
                for constant, term in zip(constants, terms, strict=True):
                    value = term.load(index)
                    if total is None:
                        total = emitter.mul(dtype, constant, value)
                    else:
                        total = emitter.fma(dtype, constant, value, total)
                if not scale_weights:
                    if base is None:
                        total = emitter.mul(dtype, step_size, total)
                    else:
                        total = emitter.fma(dtype, step_size, total, base.load(index))
                target.store(index, total)

            each(emitter, states, unroll, body)

        @emitted()
        def step(emitter, values, bases, time, step_size, state, proposed, error, stage_rhs, accumulator, parameters):
            method.emit_step(
                emitter,
                time=time,
                step_size=step_size,
                field=evaluator(emitter, values, bases, parameters),
                combine=lambda *arguments: combine(emitter, *arguments),
                state=state,
                proposed_state=proposed,
                error=error,
                stage_rhs=stage_rhs,
                stage_accumulator=accumulator,
            )

        @emitted()
        def dense_stages(emitter, values, bases, time, step_size, state, stage_rhs, dense_rhs, accumulator, parameters):
            method.emit_dense_stages(
                emitter,
                time=time,
                step_size=step_size,
                field=evaluator(emitter, values, bases, parameters),
                combine=lambda *arguments: combine(emitter, *arguments),
                state=state,
                stage_rhs=stage_rhs,
                dense_rhs=dense_rhs,
                stage_accumulator=accumulator,
            )

        def evaluate_row(number):
            @emitted()
            def evaluate(emitter, values, bases, time, state, stage_rhs, parameters):
                evaluator(emitter, values, bases, parameters)(time, state, row(stage_rhs, number))

            return evaluate

        evaluate_first, evaluate_last = evaluate_row(0), evaluate_row(rows - 1)

        # -- norms ----------------------------------------------------------------------------------------------------

        def sum_of_squares(emitter, body):
            """The sum over the components of `body(index)` squared."""
            total = _Cell(emitter, dtype, real(emitter, 0))

            def add(index):
                value = body(index)
                total.set(emitter.fma(dtype, value, value, total.get()))

            each(emitter, states, unroll, add)
            return total.get()

        def tolerance(emitter, values, bases, magnitude, index):
            rtol, atol = (setting(emitter, values, bases, name, index) for name in ("rtol", "atol"))
            return emitter.fma(dtype, rtol, magnitude, atol)

        @emitted(dtype)
        def scaled_square(emitter, values, bases, error, state, proposed):
            """The sum of the squares of the scaled error.

            A NaN in the proposed state does not count for the scale: the step goes by the error, which is NaN, too.
            """

            def square(estimate):
                def body(index):
                    old = emitter.abs(dtype, state.load(index))
                    new = emitter.abs(dtype, proposed.load(index))
                    scale = tolerance(emitter, values, bases, quick(emitter, "max", dtype, new, old), index)
                    return quick(emitter, "div", dtype, estimate.load(index), scale)

                return sum_of_squares(emitter, body)

            squares = [square(error.part(number * states, states)) for number in range(method.error_rows)]
            return squares[0] if len(squares) == 1 else damped(emitter, *squares)

        def damped(emitter, square, low):
            """The sum of squares of an error estimate that one of lower order holds in check.

            Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.10, equation (10.17): with the
            sums s5 and s3 of the two estimates, s5^2 / (s5 + 0.01 s3).
            """
            both = emitter.fma(dtype, real(emitter, 0.01), low, square)
            exact = emitter.compare("eq", dtype, both, real(emitter, 0))
            divisor = emitter.select(exact, real(emitter, 1), both)
            return emitter.mul(dtype, square, quick(emitter, "div", dtype, square, divisor))

        def scaled(emitter, values, bases, state, value_at):
            """`value_at(index)` over the tolerance at the state, by index."""

            def body(index):
                scale = tolerance(emitter, values, bases, emitter.abs(dtype, state.load(index)), index)
                return quick(emitter, "div", dtype, value_at(index), scale)

            return body

        @emitted(dtype)
        def first_step(emitter, values, bases, direction, state, proposed, stage_rhs, parameters):
            """The first step's size; `proposed` and the last row of `stage_rhs` are used as scratch."""
            first, last = row(stage_rhs, 0), row(stage_rhs, rows - 1)

            def norm(value_at):
                squares = sum_of_squares(emitter, scaled(emitter, values, bases, state, value_at))
                mean = emitter.mul(dtype, squares, real(emitter, 1 / states))
                return quick(emitter, "sqrt", dtype, mean)

            state_norm, rhs_norm = norm(state.load), norm(first.load)
            guess = emit_explicit_guess(emitter, dtype, state_norm, rhs_norm)
            signed = emitter.mul(dtype, direction, guess)

            def euler(index):
                proposed.store(index, emitter.fma(dtype, signed, first.load(index), state.load(index)))

            each(emitter, states, unroll, euler)
            evaluator(emitter, values, bases, parameters)(signed, proposed, last)
            change = norm(lambda index: emitter.sub(dtype, last.load(index), first.load(index)))
            return emit_first_step(emitter, dtype, method.error_order, guess, rhs_norm, change)

        @emitted(dtype)
        def first_step_of_large(emitter, values, bases, state, stage_rhs):
            """A first step where the squares that the other one takes are beyond the dtype's range: h0 alone, from the
            largest scaled components in place of the root mean squares."""

            def norm(value_at):
                largest, value = _Cell(emitter, dtype, real(emitter, 0)), scaled(emitter, values, bases, state, value_at)

                def body(index):
                    largest.set(emitter.max(dtype, largest.get(), emitter.abs(dtype, value(index))))

                each(emitter, states, unroll, body)
                return largest.get()

            rhs_norm = norm(row(stage_rhs, 0).load)
            guess = emit_explicit_guess(emitter, dtype, norm(state.load), rhs_norm)
            return emitter.select(emitter.is_finite(dtype, rhs_norm), guess, real(emitter, 0))

        @emitted()
        def advance(emitter, state, proposed, stage_rhs):
            """What is at the end of an accepted step is at the beginning of the next, the right-hand side too."""
            first, last = row(stage_rhs, 0), row(stage_rhs, rows - 1)
            each(emitter, states, unroll, lambda index: state.store(index, proposed.load(index)))
            each(emitter, states, unroll, lambda index: first.store(index, last.load(index)))

        # -- counting -------------------------------------------------------------------------------------------------

        @emitted()
        def count_steps(emitter, counters, repeat, accepted):
            counters.store(STEPS, emitter.add("int32", counters.load(STEPS), repeat))
            # Only the controller rejects, and it looks at one step at a time.
            rejected = emitter.cast(emitter.logical_not(accepted), "bool", "int32") if problem.adaptive else _int(emitter, 0)
            counters.store(REJECTED, emitter.add("int32", counters.load(REJECTED), rejected))

        @emitted("int32")
        def steps_taken(emitter, counters):
            return counters.load(STEPS)

        # -- small things ---------------------------------------------------------------------------------------------

        @emitted("bool")
        def all_finite(emitter, state):
            held = _Cell(emitter, "bool", emitter.constant("bool", 1))

            def body(index):
                held.set(emitter.logical_and(held.get(), emitter.is_finite(dtype, state.load(index))))

            each(emitter, states, unroll, body)
            return held.get()

        @emitted("int32")
        def increment(emitter, value):
            return emitter.add("int32", value, _int(emitter, 1))

        @emitted("int32")
        def decrement(emitter, value):
            return emitter.sub("int32", value, _int(emitter, 1))

        @emitted(dtype)
        def fused(emitter, a, b, c):
            return emitter.fma(dtype, a, b, c)

        @emitted(dtype)
        def times_count(emitter, count):
            return emitter.cast(count, "int32", dtype)

        @emitted("int32")
        def whole_steps(emitter, start, floor, step_size, max_steps):
            """How many steps end no later than `floor`: the step after those ends at t1. At most max_steps."""
            span = emitter.sub(dtype, floor, start)
            count = emitter.apply("floor", dtype, emitter.div(dtype, span, step_size))

            def ends_in_time(number):
                return emitter.compare("le", dtype, emitter.fma(dtype, number, step_size, start), floor)

            # The quotient is rounded, so it may be one off either way.
            less = emitter.sub(dtype, count, real(emitter, 1))
            count = emitter.select(ends_in_time(count), count, less)
            more = emitter.add(dtype, count, real(emitter, 1))
            count = emitter.select(ends_in_time(more), more, count)
            # As integers, of which a float does not hold all.
            whole = emitter.cast(count, dtype, "int64")
            limit, zero = emitter.cast(max_steps, "int32", "int64"), emitter.constant("int64", 0)
            whole = emitter.select(emitter.compare("gt", "int64", whole, zero), whole, zero)
            whole = emitter.select(emitter.compare("lt", "int64", whole, limit), whole, limit)
            return emitter.cast(whole, "int64", "int32")

        @emitted(dtype)
        def clip_floor(emitter, end, t1):
            """`end`, which is not negative, less some units in the last place: a step that would end later ends at `end`."""
            integer = "int32" if dtype == "float32" else "int64"
            ulps = emitter.constant(integer, _CLIP_ULPS[problem.adaptive])

            def less(time):
                bits = emitter.bitcast(time, integer)
                enough = emitter.compare("gt", integer, bits, ulps)
                return emitter.bitcast(emitter.select(enough, emitter.sub(integer, bits, ulps), bits), dtype)

            floor = less(end)
            if not problem.adaptive:
                return floor
            if dtype == "float64":
                # diffrax counts in units of t1, and so do those who have t1 as t0 + n * dt0. In float32 these may be seconds.
                time = emitter.abs(dtype, t1)
                lower = emitter.sub(dtype, end, emitter.sub(dtype, time, less(time)))
                floor = emitter.select(emitter.compare("lt", dtype, lower, floor), lower, floor)
            # Inside of the loop it would be computed again in every step.
            return opaque(emitter, dtype, floor)

        self.begin, self.load, self.coefficients, self.valid_settings = begin, load, coefficients, valid_settings
        self.step, self.dense_stages, self.scaled_square = step, dense_stages, scaled_square
        self.first_step, self.first_step_of_large = first_step, first_step_of_large
        self.evaluate_first, self.evaluate_last = evaluate_first, evaluate_last
        self.advance, self.all_finite = advance, all_finite
        self.increment, self.decrement, self.fused, self.times_count = increment, decrement, fused, times_count
        self.whole_steps, self.clip_floor = whole_steps, clip_floor
        self.count_steps, self.steps_taken = count_steps, steps_taken


class _Cell:
    """A scalar that an emitter's body changes, also inside a loop that it emits."""

    def __init__(self, emitter: Any, dtype: str, value: Any):
        self._emitter, self._dtype = emitter, dtype
        self._pointer = emitter.alloca(dtype, 1)
        self.set(value)

    def get(self) -> Any:
        return self._emitter.load(self._pointer, 0, self._dtype)

    def set(self, value: Any) -> None:
        self._emitter.store(self._pointer, 0, value, self._dtype)


def _int(emitter: Any, value: int) -> Any:
    return emitter.constant("int32", value)
