"""Rosenbrock methods: linearly implicit, one matrix a step. One step for the whole family, driven by a tableau.

With W = 1/(h gamma) - J, J and f_t the derivatives of f by state and time at the step's beginning,

    W u_i = f(t + alpha_i h, y + sum_j a_ij u_j) + sum_j (c_ij / h) u_j + h d_i f_t,    y1 = y + sum_i m_i u_i.

Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.7, equation (7.25). The rows of `stage_store` are u_i;
those of `stage_rhs` are f at the two ends of the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..buffers import Buffer
from ..kernel.scalar import Scalar, where
from ..linear import LinearSolver
from ..loop import AdjointSteps, Dimensions, Steps
from ..loop.jets import Jet
from ..outputs.interpolation import emit_hermite
from ..solution import CODES
from .combine import stage_time
from .field_functions import FieldFunction, along_state, time_derivative
from .method import Method
from .rosenbrock_tableau import RosenbrockTableau

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane


@dataclasses.dataclass(frozen=True)
class Rosenbrock(Method):
    """A Rosenbrock method."""

    tableau: RosenbrockTableau
    linear: LinearSolver

    family = "Rosenbrock"
    fallible = True

    @property
    def name(self) -> str:
        return self.tableau.name

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def error_order(self) -> int:
        return self.tableau.order

    @property
    def error_rows(self) -> int:
        return int(self.tableau.error_weights is not None)

    def functions(self, field: Callable) -> dict[str, FieldFunction]:
        return {"f": FieldFunction(field), "f_dt": time_derivative(field), "f_jac": self.linear.jacobian(field)}

    def differentiated(self, field: Callable) -> dict[str, FieldFunction]:
        return {"f": FieldFunction(field), "f_dt": time_derivative(field), "f_jv": along_state(field)}

    def fitted(self, field: ClosedJaxpr) -> Rosenbrock:
        return dataclasses.replace(self, linear=self.linear.fitted(field))

    def buffers(self) -> tuple[Buffer, ...]:
        return (
            Buffer("stage_rhs", 0, persistent=True),
            Buffer("stage_store", 0, live=frozenset({"step"})),
            Buffer("stage_accumulator", 0, aliases="error", live=frozenset({"step/stage", "step/output"})),
            Buffer("cached_auxiliaries", 0, live=frozenset({"step/stage"})),
            *self.linear.buffers(),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        states = dimensions.states
        return {
            "stage_rhs": 2 * states,
            "stage_store": self.tableau.stages * states,
            "stage_accumulator": states,
            "cached_auxiliaries": states,
            **self.linear.sizes(dimensions),
        }

    def counters(self, dimensions: Dimensions) -> tuple[str, ...]:
        return ()

    def copies(self, dimensions: Dimensions) -> dict[str, int]:
        return {"f": self.tableau.stages + 1, "f_dt": 1, "f_jac": 1}

    def evaluations(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> Any:
        return (self.tableau.stages - 1) * steps + accepted

    def work(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> dict[str, Any]:
        return {"num_jacobians": steps, "num_factorisations": steps, "num_linear_solves": self.tableau.stages * steps}

    def steps(self, lane: Lane) -> Steps:
        @lane.emitted()
        def start(b, t):
            b.evaluate(t, b.buf.state, self.start_rhs(b))

        @lane.emitted()
        def finish(b, t):
            b.evaluate(t, b.buf.proposed_state, self.end_rhs(b), into=1)

        @lane.emitted()
        def carry(b):
            first, last = self.start_rhs(b), self.end_rhs(b)
            b.each(lambda index: b.buf.state.store(index, b.buf.proposed_state.load(index)))
            b.each(lambda index: first.store(index, last.load(index)))

        return Steps(start=start, step=lane.emitted("int32")(self._step), finish=finish, carry=carry)

    def _step(self, b: Body, time: Any, step_size: Any) -> Any:
        """One step from `state`: `proposed_state`, `stage_store` and `error`."""
        tableau, state, h = self.tableau, b.buf.state, b.scalar(step_size)
        self.linear.linearise(b, time, state)
        inverse = 1.0 / h
        fine = self.linear.factor(b, inverse * (1.0 / float(tableau.gamma)))
        b.call("f_dt", y=state, out=b.buf.cached_auxiliaries, **b.instant(time))
        rows = [b.row(b.buf.stage_store, number) for number in range(tableau.stages)]
        for stage, row in enumerate(rows):
            if stage == 0:
                _copy(b, row, self.start_rhs(b))
            else:
                _combine(b, b.buf.stage_accumulator, state, tableau.a[stage - 1], rows)
                at = tableau.alpha[stage]
                b.evaluate(stage_time(b, at, step_size, time), b.buf.stage_accumulator, row, into=at)
                _combine(b, row, row, tableau.c[stage - 1], rows, inverse)
            _combine(b, row, row, [tableau.d[stage]], [b.buf.cached_auxiliaries], h)
            self.linear.solve(b, row)
        _combine(b, b.buf.proposed_state, state, tableau.m, rows)
        if b.buf.error.size:
            _combine(b, b.buf.error, None, tableau.error_weights, rows)
        return where(fine, b.scalar(0, "int32"), CODES["singular_matrix"]).value

    def start_rhs(self, b: Body) -> View:
        return b.row(b.buf.stage_rhs, 0)

    def spare_rhs(self, b: Body) -> View:
        return self.end_rhs(b)

    def end_rhs(self, b: Body) -> View:
        return b.row(b.buf.stage_rhs, 1)

    @property
    def carried_rows(self) -> int:
        return 1

    def carried(self, b: Body) -> Sequence[View]:
        return (self.start_rhs(b),)

    def prepare_between(self, b: Body, time: Any, step_size: Any) -> None:
        return None

    def between(self, b: Body, theta: Any, step_size: Any) -> Callable[[Any], Any]:
        first, last = self.start_rhs(b), self.end_rhs(b)
        return lambda index: emit_hermite(
            b.emitter, theta, step_size, b.buf.state, b.buf.proposed_state, first, last, index
        )

    def adjoint(self, lane: Lane) -> AdjointSteps:
        raise NotImplementedError

    def between_weights(self, b: Body, theta: Jet, size: Jet) -> list[tuple[View, Jet]]:
        raise NotImplementedError

    def clear_between(self, b: Body) -> None:
        raise NotImplementedError

    def between_adjoint(self, b: Body, theta: Jet, size: Jet, cotangent: View) -> tuple[dict[int, Scalar], dict[int, Scalar]]:
        raise NotImplementedError


def _copy(b: Body, target: View, source: View) -> None:
    b.each(lambda index: target.store(index, source.load(index)))


def _combine(
    b: Body, target: View, base: View | None, weights: Sequence[Fraction], rows: Sequence[View], scale: Scalar | None = None
) -> None:
    """target = base + scale * sum(weight * row), of as many components as the target has."""
    used = [(b.scalar(float(weight)), row) for weight, row in zip(weights, rows, strict=False) if weight != 0]
    if scale is not None:
        used = [(weight * scale, row) for weight, row in used]

    def body(index: Any) -> None:
        total = None if base is None else b.scalar(base.load(index))
        for weight, row in used:
            value = b.scalar(row.load(index))
            total = weight * value if total is None else weight.fused(value, total)
        target.store(index, (b.scalar(0.0) if total is None else total).value)

    b.each(body, target.size)
