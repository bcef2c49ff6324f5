"""The loop by itself: a method of one evaluation, a controller that follows a script, parts that write down what they see."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cubie import SaveAt, Solver
from jax_cubie.buffers import Buffer, BufferRegistry
from jax_cubie.controllers import Controller
from jax_cubie.kernel.scalar import where
from jax_cubie.loop import Control, Dimensions, Hooks, Part, Steps
from jax_cubie.loop.buffers import BUFFERS
from jax_cubie.methods import Method
from jax_cubie.operands import FieldFunction, Result
from jax_cubie.primitive import run
from jax_cubie.problem import PARTS, make_request
from jax_cubie.solution import CODES, make_solution


@dataclasses.dataclass(frozen=True)
class Euler(Method):
    """y + h f; its step fails with `code` where h is larger than `largest`."""

    largest: float = np.inf
    code: int = 0

    name, family, fallible, order, error_order, error_rows = "scripted", "test", True, 1, 1, 1

    def fitted(self, field: Any, mass: Any = None, sparsity: Any = None) -> Method:
        return self

    def functions(self, field: Callable, jac: Any = None) -> dict[str, FieldFunction]:
        return {"f": FieldFunction(field)}

    differentiated = functions

    def buffers(self) -> tuple[Buffer, ...]:
        return (Buffer("slope", 0),)

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        return {"slope": dimensions.states}

    def counters(self, dimensions: Dimensions) -> tuple[str, ...]:
        return ("tried",)

    def copies(self, dimensions: Dimensions) -> dict[str, int]:
        return {"f": 1}

    def evaluations(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> Any:
        return 100 * counted["tried"]

    def work(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def steps(self, lane: Any) -> Steps:
        @lane.emitted("int32")
        def step(b, t, h):
            b.counter("tried").add()
            b.evaluate(t, b.buf.state, b.buf.slope)
            rate, state = b.buf.slope, b.buf.state
            b.each(lambda i: b.buf.proposed_state.store(i, b.emitter.fma(b.dtype, h, rate.load(i), state.load(i))))
            small = b.emitter.compare("le", b.dtype, b.emitter.abs(b.dtype, h), b.real(self.largest))
            return b.emitter.select(small, b.int32(0), b.int32(self.code))

        @lane.emitted()
        def carry(b):
            b.each(lambda i: b.buf.state.store(i, b.buf.proposed_state.load(i)))

        @lane.emitted()
        def start(b, t):
            return None

        return Steps(start=start, step=step, carry=carry)

    def transposed(self, field: Any) -> Any:
        return {}

    carried_rows = carried_primal_rows = 0
    remembered = primal_too = ()

    def carried(self, b: Any) -> Any:
        return ()

    def adjoint(self, lane: Any) -> Any:
        raise NotImplementedError

    add_between_moved = between_adjoint = clear_between = adjoint

    def start_rhs(self, b: Any) -> Any:
        return b.buf.slope

    def end_rhs(self, b: Any) -> Any:
        raise NotImplementedError

    def spare_rhs(self, b: Any) -> Any:
        return b.buf.slope

    @property
    def between_degree(self) -> int:
        return 1

    def prepare_between(self, b: Any, time: Any, step_size: Any) -> None:
        return None

    def between(self, b: Any, theta: Any, step_size: Any) -> Any:
        start, end = b.buf.state, b.buf.proposed_state
        rest = b.emitter.sub(b.dtype, b.real(1), theta)
        return lambda i: b.emitter.fma(
            b.dtype, theta, end.load(i), b.emitter.mul(b.dtype, rest, start.load(i))
        )


@dataclasses.dataclass(frozen=True)
class Script(Controller):
    """Attempt n is accepted where `script[n]` is positive; the next step is the last one times its magnitude."""

    script: tuple[float, ...]
    adaptive, names_ends, coefficients, first_step, remembered = True, False, (), "either", (("attempt", "int32"),)

    def control(self, lane: Any) -> Control:
        lane.cell("attempt", "int32")

        def begin(b, step_size):
            b.put(attempt=0)
            return step_size

        def decide(b, total):
            factor = b.scalar(1.0)
            for number, entry in enumerate(self.script):
                factor = where(b.get("attempt").equals(number), entry, factor)
            fine = total < float("inf")
            b.put(accepted=fine & (factor > 0.0), attempt=b.get("attempt") + 1)
            b.put(next_size=b.get("step_size") * where(fine, abs(factor), 0.5))

        return Control(begin=begin, error=lambda b: b.scalar(0.0), decide=decide)


@dataclasses.dataclass(frozen=True)
class Fixed(Controller):
    adaptive, names_ends, coefficients, first_step, remembered = False, False, (), "given", ()

    def control(self, lane: Any) -> Control:
        return Control()


@dataclasses.dataclass(frozen=True)
class Diary(Part):
    """Counts what it is told, and ends the lane with `code` at accepted step number `last` (0: never)."""

    name: str = "diary"
    last: int = 0
    code: int = CODES["invalid_input"]

    def adjoint(self, lane: Any) -> Any:
        raise NotImplementedError

    @property
    def stops(self) -> bool:
        return self.last > 0

    @property
    def counters(self) -> tuple[str, ...]:
        return (f"{self.name}_accepted", f"{self.name}_rejected")

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        return (Result(f"{self.name}_seen", (4,), "int32"), Result(f"{self.name}_end", (), dtype))

    def hooks(self, lane: Any) -> Hooks:
        reached = f"{self.name}_reached"
        lane.cell(reached, lane.problem.dtype)

        def start(b):
            b.put(**{reached: -1.0})

        def accepted(b, step):
            b.put(**{reached: step.end})
            count = b.scalar(b.counter(self.counters[0]).add(), "int32")
            return where(count.equals(self.last), b.scalar(self.code, "int32"), 0)

        def rejected(b):
            b.counter(self.counters[1]).add()

        def end(b, result):
            seen = (*(b.counter(name).get() for name in self.counters), result.value, b.int32(7))
            for index, value in enumerate(seen):
                b.res(f"{self.name}_seen", index, value)
            b.res(f"{self.name}_end", 0, b.get(reached).value)
            return result

        return Hooks(start=start, accepted=accepted, rejected=rejected, end=end)


def go(method, controller, *, parts=(), dt0=0.3, t1=1.0, saveat=SaveAt(steps=True), max_steps=20):  # noqa: B008
    """The solution of y' = 1 from 0, and the results of the kernel by name."""
    solver = Solver("euler", max_steps=max_steps)
    request = make_request(solver, lambda t, y, args: jnp.ones_like(y), 0.0, t1, jnp.zeros(2), None, saveat, dt0)
    owners = [*PARTS, *parts]
    registry = BufferRegistry((*BUFFERS, *(b for part in owners for b in part.buffers()), *method.buffers()))
    problem = dataclasses.replace(
        request.problem, method=method, controller=controller, parts=(*request.problem.parts, *parts), registry=registry
    )
    request = dataclasses.replace(request, problem=problem)
    results = jax.jit(lambda *arrays: run(problem, arrays))(*request.arrays)
    found = dict(zip((result.name for result in problem.results), map(np.asarray, results), strict=True))
    return make_solution(request, results), found


def sizes(solution):
    """The sizes of the accepted steps."""
    times = np.asarray(solution.ts)
    return np.diff(times[np.isfinite(times)], prepend=0.0)


def test_steps_grow_and_the_last_is_cut_to_land_on_t1():
    solution, found = go(Euler(), Script((2.0, 1.0)), dt0=0.2)
    np.testing.assert_allclose(sizes(solution), [0.2, 0.4, 0.4], rtol=1e-6)
    assert float(solution.ts[2]) == 1.0 and float(solution.ys[2, 0]) == pytest.approx(1.0, rel=1e-6)
    assert int(found["accepted"]) == 3 and int(found["rejected"]) == 0


def test_a_rejected_step_is_taken_again_from_where_it_began():
    solution, found = go(Euler(), Script((1.0, -0.5, -0.5, 4.0)), dt0=0.4)
    # 0.4; then 0.4 and 0.2 are rejected and 0.1 accepted, after which it is 0.4 again, and the rest.
    np.testing.assert_allclose(sizes(solution), [0.4, 0.1, 0.4, 0.1], rtol=1e-5)
    assert int(found["accepted"]) == 4 and int(found["rejected"]) == 2
    assert int(solution.stats["num_steps"]) == 6 and int(solution.stats["nfev"]) == 601
    np.testing.assert_allclose(solution.ys[:4, 0], solution.ts[:4], rtol=1e-6)


def test_a_smaller_step_that_would_pass_t1_halves_what_is_left():
    # The rest of 0.1 is rejected, and what is next is smaller by no more than rounding: half of it is taken.
    solution, _ = go(Euler(), Script((1.0, 1.0, 1.0, -0.9999999, 1.0, 1.0)), dt0=0.3)
    np.testing.assert_allclose(sizes(solution), [0.3, 0.3, 0.3, 0.05, 0.05], rtol=1e-4)


def test_a_step_that_fails_is_taken_again_smaller_and_keeps_its_reason():
    code = CODES["not_finite"]
    solution, found = go(Euler(largest=0.3, code=code), Script(()), dt0=1.0)
    np.testing.assert_allclose(sizes(solution), [0.25] * 4, rtol=1e-6)  # 1 and 0.5 fail
    assert int(found["result"]) == 0 and int(found["rejected"]) == 2 and int(found["tried"]) == 6
    _, found = go(Euler(largest=0.0, code=code), Script(()), dt0=1.0, max_steps=10_000, saveat=SaveAt(t1=True))
    assert int(found["result"]) == code and int(found["accepted"]) == 0


def test_a_fixed_step_that_fails_ends_the_lane_with_its_reason():
    code = CODES["step_size_underflow"]
    solution, found = go(Euler(largest=0.2, code=code), Fixed(), dt0=0.25)
    assert int(found["result"]) == code and int(found["tried"]) == 1 and not np.isfinite(solution.ys).any()


@pytest.mark.parametrize("controller", [Script(()), Fixed()], ids=["adaptive", "fixed"])
def test_a_part_ends_the_lane_in_the_middle(controller):
    diary = Diary(last=3)
    solution, found = go(Euler(), controller, parts=(diary,), dt0=0.125)
    assert list(found["diary_seen"]) == [3, 0, diary.code, 7] and float(found["diary_end"]) == 0.375
    assert int(found["result"]) == diary.code and int(found["accepted"]) == 3
    np.testing.assert_allclose(sizes(solution), [0.125] * 3)


def test_parts_are_told_in_their_order_and_one_of_them_is_enough_to_stop():
    one, other = Diary("one"), Diary("other", last=2, code=CODES["max_steps_reached"])
    _, found = go(Euler(), Script((1.0, -0.5, 1.0)), parts=(one, other), dt0=0.25)
    assert list(found["one_seen"]) == [2, 1, other.code, 7] and list(found["other_seen"]) == [2, 1, other.code, 7]
    assert float(found["one_end"]) == float(found["other_end"]) == 0.375


def test_points_are_saved_from_the_method_s_values_between_steps():
    ts = jnp.array([0.0, 0.1, 0.25, 0.7, 1.0])
    solution, _ = go(Euler(), Fixed(), dt0=0.25, saveat=SaveAt(ts=ts))
    np.testing.assert_allclose(solution.ys[:, 1], ts, rtol=1e-6)
