"""Rosenbrock methods: linearly implicit, one matrix a step. One step for the whole family, driven by a tableau.

With W = 1/(h gamma) - J, J and f_t the derivatives of f by state and time at the step's beginning,

    W u_i = f(t + alpha_i h, y + sum_j a_ij u_j) + sum_j (c_ij / h) u_j + d_i h f_t,    y1 = y + sum_i m_i u_i.

Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.7, equation (7.25). The rows of `stage_store` are u_i;
those of `stage_rhs` are f at the two ends of the step; `cached_auxiliaries` is h f_t.

With a mass matrix, M y' = f, it is W = M/(h gamma) - J and M sum_j (c_ij / h) u_j.

Tangents are those of these equations. With the slope s_i = f_i + d_i h f_t + J u_i, they read u_i / gamma = h s_i + sum_j c_ij
u_j: in it a tangent of u_i has the matrix of u_i, and all else is known once those of lower orders are. With M, they read
M (u_i / gamma - sum_j c_ij u_j) = h s_i.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..buffers import BACKWARD, Buffer
from ..kernel.scalar import Scalar, where
from ..linear import LinearSolver, Mass
from ..loop import Dimensions, Steps
from ..loop.jets import Jet, size_of
from ..operands import primal_name
from ..solution import CODES
from .combine import stage_time
from .field_functions import FieldFunction, along_state, time_derivative
from .implicit_method import ImplicitMethod
from .rosenbrock_tableau import RosenbrockTableau
from .stiffness import measure_jacobian
from .vectors import add_up, copy, directions, fill, multiply

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .step_adjoint import StepAdjoint

_ONE = [Fraction(1)]


@dataclasses.dataclass(frozen=True)
class Rosenbrock(ImplicitMethod):
    """A Rosenbrock method."""

    tableau: RosenbrockTableau
    linear: LinearSolver
    mass: Mass | None = None
    watched: bool = False

    family = "Rosenbrock"
    increments = True

    @property
    def error_rows(self) -> int:
        return int(self.tableau.e is not None)

    def functions(self, field: Callable, jac: Callable | None = None) -> dict[str, FieldFunction]:
        found = {"f": FieldFunction(field), "f_dt": time_derivative(field), **self.linear.functions(field, jac)}
        return found if self.mass is None else {**found, "mass": self.mass.product()}

    def differentiated(self, field: Callable) -> dict[str, FieldFunction]:
        found = {"f": FieldFunction(field), "f_dt": time_derivative(field), "f_jv": along_state(field)}
        return found if self.mass is None else {**found, "mass": self.mass.product()}

    def buffers(self) -> tuple[Buffer, ...]:
        return (
            Buffer("stage_rhs", 0, persistent=True),
            Buffer("stage_store", 0, live=frozenset({"step"})),
            Buffer("stage_accumulator", 0, aliases="error", live=frozenset({"step/stage", "step/output"})),
            Buffer("cached_auxiliaries", 0, live=frozenset({"step/stage"})),
            Buffer("stage_slope", 0, live=frozenset({"step/stage"})),
            Buffer("jacobian_product", 0, live=frozenset({"step/stage"})),
            Buffer("stage_adjoint", 0, live=BACKWARD),
            Buffer("stage_cotangent", 0, live=BACKWARD),
            Buffer("slope_cotangent", 0, live=BACKWARD),
            Buffer("dense_adjoint", 0, live=BACKWARD),
            Buffer("mass_cotangent", 0, live=BACKWARD),
            *Mass.buffers(),
            *self.linear.buffers(),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        states, backward = dimensions.states, dimensions.backward
        tangents = states if dimensions.orders > 1 else 0
        return {
            "stage_rhs": 2 * states,
            "stage_store": self.tableau.stages * states,
            "stage_accumulator": states,
            "cached_auxiliaries": states,
            "stage_slope": states if tangents or backward else 0,
            "jacobian_product": states if tangents or backward else 0,
            "stage_adjoint": self.tableau.stages * states if backward else 0,
            "stage_cotangent": 2 * states if backward else 0,
            "slope_cotangent": 2 * states if backward else 0,
            "dense_adjoint": self.dense_adjoint_rows * states if backward and dimensions.inside else 0,
            "mass_cotangent": states if backward and self.mass is not None else 0,
            **Mass.sizes(self.mass, dimensions),
            **self.linear.sizes(dimensions),
        }

    def counters(self, dimensions: Dimensions) -> tuple[str, ...]:
        return self.linear.counters

    def copies(self, dimensions: Dimensions) -> dict[str, int]:
        stages, deep = self.tableau.stages, dimensions.orders - 1
        counts = {"f": stages + 1, "f_dt": 1, "f_jv": stages * deep, **self.linear.copies(1 if self.mass is None else 3)}
        if dimensions.backward:
            counts |= {"f_vjp": stages + 2 * dimensions.inside, "f_dt_vjp": 1, "f_jv_vjp": stages * (1 + deep)}
            if deep:
                counts |= {name: counts[name] + more for name, more in (("f", stages), ("f_jv", stages), ("f_dt", 1))}
        if self.mass is not None:
            counts["mass_primal" if deep else "mass"] = stages - 1
            if deep:
                counts["mass"] = stages * deep
            if dimensions.backward:
                counts |= {"mass_vjp": stages * (1 + deep)}
        return counts

    def evaluations(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> Any:
        return (self.tableau.stages - 1) * steps + accepted

    def work(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> dict[str, Any]:
        return self.linear.work(counted, steps, steps, self.tableau.stages * steps)

    def steps(self, lane: Lane) -> Steps:
        @lane.emitted()
        def start(b, t):
            b.evaluate(t, b.buf.state, self.start_rhs(b))

        @lane.emitted("int32")
        def step(b, t, h):
            status = self.take(b, t, h)
            if b.buf.error.size:
                add_up(b, b.buf.error, None, self.tableau.e or (), self.rows(b))
            return status.value

        return Steps(start=start, step=step, finish=lane.emitted()(self.finish), carry=lane.emitted()(self.carry))

    def rows(self, b: Body) -> list[View]:
        """The stages' u_i."""
        return [b.row(b.buf.stage_store, number) for number in range(self.tableau.stages)]

    def take(self, b: Body, time: Any, step_size: Any) -> Scalar:
        """One step from `state`: `stage_store` and `proposed_state`. The status."""
        tableau, state, h = self.tableau, b.buf.state, b.scalar(step_size)
        size, inverse, rows, solved = size_of(b, h), 1.0 / h, self.rows(b), b.scalar(0, "int32")
        self.linear.linearise(b, time, state)
        if self.watched:
            measure_jacobian(b, self.linear)
        fine = self.linear.factor(b, inverse * (1.0 / float(tableau.gamma)))
        b.call("f_dt", y=state, out=b.buf.cached_auxiliaries, **b.instant(time))
        multiply(b, b.buf.cached_auxiliaries, size)
        for stage, row in enumerate(rows):
            slope = b.buf.stage_slope if len(b.pieces) > 1 else row
            self.begin_slope(b, stage, time, step_size, slope)
            weights = tableau.c[stage - 1] if stage else ()
            primal = [b.piece(one, 0) for one in rows]
            if self.mass is not None and stage:
                self._mass_of_sum(b, weights, primal)
                weights, primal = _ONE, [b.piece(b.buf.mass_product, 0)]
            add_up(b, b.piece(row, 0), b.piece(slope, 0), weights, primal, inverse)
            status = self.linear.solve(b, b.piece(row, 0))
            solved = where(solved.equals(0), status, solved)
            for _, piece in b.pieces[1:]:
                self._tangent(b, stage, piece.order, time, size)
        add_up(b, b.buf.proposed_state, state, tableau.m, rows)
        return where(fine, solved, CODES["singular_matrix"])

    def _mass_of_sum(self, b: Body, weights: Sequence[Fraction], rows: Sequence[View]) -> None:
        """M times the weighted sum of arrays of the primal state, into `mass_product`."""
        vector, product = b.piece(b.buf.mass_vector, 0), b.piece(b.buf.mass_product, 0)
        add_up(b, vector, None, weights, rows)
        b.call(primal_name("mass") if len(b.pieces) > 1 else "mass", y=vector, out=product, **b.instant(b.real(0)))

    def mass_of_stage(self, b: Body, stage: int) -> View:
        """M (sum_j c_ij u_j - u_i / gamma), whose factor is then in `mass_vector`."""
        rows = self.rows(b)
        weights = [-1 / self.tableau.gamma, *(self.tableau.c[stage - 1] if stage else ())]
        add_up(b, b.buf.mass_vector, None, weights, [rows[stage], *rows[:stage]])
        b.call("mass", y=b.buf.mass_vector, out=b.buf.mass_product, **b.instant(b.real(0)))
        return b.buf.mass_product

    def begin_slope(self, b: Body, stage: int, time: Any, step_size: Any, slope: View) -> None:
        """slope = f_i + d_i h f_t, all of s_i but J u_i."""
        tableau, at = self.tableau, self.tableau.alpha[stage]
        if stage == 0:
            copy(b, slope, self.start_rhs(b))
        else:
            self.stage_state(b, stage)
            b.evaluate(stage_time(b, at, step_size, time), b.buf.stage_accumulator, slope, into=at)
        add_up(b, slope, slope, [tableau.d[stage]], [b.buf.cached_auxiliaries])

    def stage_state(self, b: Body, stage: int) -> View:
        """The state at which f is evaluated."""
        if stage == 0:
            return b.buf.state
        add_up(b, b.buf.stage_accumulator, b.buf.state, self.tableau.a[stage - 1], self.rows(b))
        return b.buf.stage_accumulator

    def _tangent(self, b: Body, stage: int, order: int, time: Any, size: Jet) -> None:
        """The tangent of that order of a stage, where those of lower orders are there."""
        rows = self.rows(b)
        row, product, slope = rows[stage], b.buf.jacobian_product, b.buf.stage_slope
        target, inverse = b.piece(row, order), 1.0 / size.terms[0]
        for _, piece in b.pieces:
            if piece.order >= order:
                fill(b, b.piece(row, piece.order), 0.0)
        b.call("f_jv", y=b.buf.state, v=row, out=product, **b.instant(time))
        if self.mass is None:
            weights, added = (self.tableau.c[stage - 1] if stage else ()), [b.piece(one, order) for one in rows]
        else:
            weights, added = _ONE, [b.piece(self.mass_of_stage(b, stage), order)]
        add_up(b, target, b.piece(slope, order), _ONE, [b.piece(product, order)])
        add_up(b, target, target, weights, added, inverse)
        for moved, value in size.terms.items():
            if moved and order & moved == moved:
                below = [b.piece(view, order & ~moved) for view in (slope, product)]
                add_up(b, target, target, _ONE * 2, below, value * inverse)
        for direction in directions(b, target):
            self.linear.solve(b, direction, tangent=True)

    # --- The ends of a step, and between them

    def slopes(self, b: Body) -> View:
        return b.buf.stage_rhs

    def dense_rows(self, b: Body) -> list[View]:
        return self.rows(b)

    @property
    def step_adjoint(self) -> StepAdjoint:
        from .rosenbrock_adjoint import RosenbrockAdjoint

        return RosenbrockAdjoint(self)
