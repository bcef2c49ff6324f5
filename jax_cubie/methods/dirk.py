"""Diagonally implicit Runge-Kutta methods: one step for the whole family, driven by a tableau.

A slope k_i, a row of `stage_increment`, solves k_i = f(t + c_i h, Y_i), Y_i = y + h sum(a_ij k_j), j <= i, by simplified Newton
iterations: with J, the derivative of f by the state at the beginning of the step, and W = 1/(h a_ii) - J, the increment of Y_i
is W^-1 (f(Y_i) - k_i), and that of k_i the same over h a_ii. (Hairer, Wanner, Solving Ordinary Differential Equations II,
section IV.8.)

With a mass matrix, M y' = f, slopes are those of the state all the same: M k_i = f(t + c_i h, Y_i), and W = M/(h a_ii) - J.
Where equations are algebraic, slopes of algebraic components follow from Y_i, on whose own earlier slopes have no effect; at t0
they are those of the differentiated equations.

The rows are f at the beginning of the step, which is the first stage of methods that have an explicit one; the stages; and f
at the end of the step, which is the last stage of stiffly accurate methods.

Tangents are those of the stages' equations where these are solved: with J at Y_i, a tangent of k_i solves a linear system of
the same kind, in which all else is known once tangents of lower orders and those of the stages before are.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..buffers import BACKWARD, Buffer
from ..kernel.scalar import Scalar, where
from ..linear import LinearSolver, Mass
from ..linear.mass import clear
from ..loop import Dimensions, Steps
from ..nonlinear import Newton
from ..operands import primal_name
from ..solution import CODES
from .combine import combine, stage_time
from .field_functions import FieldFunction, time_derivative
from .implicit_method import NewtonMethod
from .implicit_tableau import ImplicitTableau
from .vectors import add_up, copy, directions, fill

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..linear import Pattern
    from ..loop.body import Body
    from ..loop.lane import Lane
    from ..nonlinear.iteration import Iteration
    from .step_adjoint import StepAdjoint


@dataclasses.dataclass(frozen=True)
class Dirk(NewtonMethod):
    """A diagonally implicit Runge-Kutta method."""

    tableau: ImplicitTableau
    linear: LinearSolver
    newton: Newton
    mass: Mass | None = None
    watched: bool = False

    family = "DIRK"
    increments = False

    @classmethod
    def of(cls, tableau: ImplicitTableau, linear: LinearSolver, newton: Newton) -> Dirk:
        """That method; the linear solver is one that keeps J where that serves for several matrices.

        Raises ValueError where a Jacobian is to be kept, and none is made; and where no stage has an equation to solve.
        """
        if not any(row[stage] for stage, row in enumerate(tableau.a)):
            raise ValueError(f"tableau {tableau.name!r}: none of its stages is implicit: make it a jax_cubie.ButcherTableau")
        if newton.reuse and not linear.makes_jacobian:
            raise ValueError(
                "jacobian_reuse=True keeps Jacobians, and this linear_solver makes none: leave it out, or take "
                "linear_solver='dense' or 'sparse'"
            )
        method = cls(tableau, linear, newton)
        several = newton.reuse or method._matrices > 1
        return dataclasses.replace(method, linear=linear.keeping()) if several else method

    @property
    def error_rows(self) -> int:
        return int(self.tableau.b_embedded is not None)

    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> Dirk:
        if mass is not None and (self._evaluated or not self.tableau.stiffly_accurate):
            raise ValueError(
                f"method {self.name!r} can't have a mass matrix, since its solution is not its last stage's state: take one "
                "that is stiffly accurate, as 'kvaerno5' or 'l_stable_sdirk4', or a Rosenbrock method, as 'rodas5p'"
            )
        return super().fitted(field, mass, sparsity)

    def functions(self, field: Callable, jac: Callable | None = None) -> dict[str, FieldFunction]:
        found = {"f": FieldFunction(field), **self.linear.functions(field, jac)}
        return found if self.mass is None else {**found, "mass": self.mass.product(), "f_dt": time_derivative(field)}

    # --- The stages

    @property
    def _implicit(self) -> tuple[int, ...]:
        """The stages that have an equation to solve."""
        return tuple(stage for stage in range(self.tableau.stages) if self.tableau.a[stage][stage])

    @property
    def _evaluated(self) -> tuple[int, ...]:
        """Those that are one evaluation of f, in each step anew."""
        explicit = (stage for stage in range(self.tableau.stages) if not self.tableau.a[stage][stage])
        return tuple(stage for stage in explicit if stage > 0 or not self.tableau.explicit_first_stage)

    @property
    def _matrices(self) -> int:
        """Factorisations in a step: one where all implicit stages have the same diagonal element."""
        diagonal = [self.tableau.a[stage][stage] for stage in self._implicit]
        return sum(1 for _ in itertools.groupby(diagonal))

    @property
    def _first_row(self) -> int:
        """The row of the first stage."""
        return int(not self.tableau.explicit_first_stage)

    @property
    def _end_rows(self) -> int:
        """Rows of f at the ends of a step, which are no stages."""
        return self._first_row + (not self.tableau.stiffly_accurate)

    @property
    def _row_count(self) -> int:
        return self.tableau.stages + self._end_rows

    def rows(self, b: Body) -> list[View]:
        """The stages' k_i."""
        return [b.row(b.buf.stage_increment, self._first_row + number) for number in range(self.tableau.stages)]

    # --- Buffers

    def buffers(self) -> tuple[Buffer, ...]:
        return (
            Buffer("stage_increment", 0, persistent=True),
            Buffer("accumulator", 0, aliases="error", live=frozenset({"step/stage/tangents", "backward"})),
            Buffer("stage_base", 0, aliases="accumulator", live=frozenset({"step/stage/newton"})),
            Buffer("stage_adjoint", 0, live=BACKWARD),
            Buffer("stage_cotangent", 0, live=BACKWARD),
            Buffer("jacobian_product", 0, live=BACKWARD),
            Buffer("start_adjoint", 0, live=BACKWARD),
            *Mass.buffers(),
            *self.newton.buffers(),
            *self.linear.buffers(),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        states, several, backward = dimensions.states, dimensions.orders > 1, dimensions.backward
        adjoints = self.tableau.stages + (self._end_rows if dimensions.inside and self.tableau.dense is None else 0)
        return {
            "stage_increment": self._row_count * states,
            "accumulator": states if several or backward else 0,
            "stage_base": dimensions.primal,
            "stage_adjoint": adjoints * states if backward else 0,
            "stage_cotangent": states if backward else 0,
            "jacobian_product": states if backward and several else 0,
            "start_adjoint": states if backward and dimensions.inside else 0,
            **Mass.sizes(self.mass, dimensions),
            **self.newton.sizes(dimensions),
            **self.linear.sizes(dimensions),
        }

    def counters(self, dimensions: Dimensions) -> tuple[str, ...]:
        return ("newton_iterations", *self.reuse.counters, *self.linear.counters)

    def copies(self, dimensions: Dimensions) -> dict[str, int]:
        implicit, evaluated, orders = len(self._implicit), len(self._evaluated), dimensions.orders
        times = 2 if dimensions.backward else 1  # steps are taken at two places
        counts, linearised = {"f": evaluated + 2 - self.tableau.stiffly_accurate + implicit * (orders - 1)}, 1
        if orders == 1:
            counts["f"] += implicit
        else:
            counts[primal_name("f")] = implicit + evaluated
            linearised += implicit
        counts = {name: times * count for name, count in counts.items()}
        counts |= self.linear.copies(times * linearised + implicit * dimensions.backward)
        if dimensions.backward:
            counts["f_vjp"] = implicit * orders + self.tableau.stages - implicit + dimensions.inside * self._end_rows
        if self.mass is not None:
            counts["f"] += 1
            counts["f_jac"] += 3
            counts |= {"mass": implicit * orders, primal_name("mass"): implicit, "mass_vjp": (implicit + 1) * orders, "f_dt": 1}
        return counts

    def evaluations(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> Any:
        total = counted["newton_iterations"] + len(self._evaluated) * steps
        return total if self.tableau.stiffly_accurate else total + accepted

    def work(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> dict[str, Any]:
        iterations = counted["newton_iterations"]
        done = self.linear.work(counted, counted.get("jacobians", steps), self._matrices * steps, iterations)
        return {"num_newton_iterations": iterations, **done}

    # --- Places in the loop

    def first_slope(self, b: Body) -> tuple[View, Callable[[View], None] | None]:
        if self.mass is None:
            return self.start_rhs(b), None
        return self.start_rhs(b), self.equations_at_t0.first_slope(b, self.start_rhs(b))[1]

    def steps(self, lane: Lane) -> Steps:
        problem = lane.problem
        hermite = problem.dimensions().inside and self.tableau.dense is None
        if hermite and self.mass is not None and self.mass.algebraic_rows and (len(problem.pieces) > 1 or problem.adjoint):
            raise NotImplementedError(
                f"values between the steps of method {self.name!r} have no derivative where rows of the mass matrix are 0: "
                "save at t0, t1 or the ends of steps, without events or summaries that look between these, or take a "
                "Rosenbrock method, as 'rodas5p'"
            )
        self.reuse.declare(lane)

        @lane.emitted()
        def start(b, t):
            if self.mass is None:
                b.evaluate(t, b.buf.state, self.start_rhs(b))
            else:
                fine = self._start_slope(b, t, self.mass)
                with b.when(~fine):
                    fill(b, self.start_rhs(b), 0.0)
                if self.tableau.explicit_first_stage or hermite:  # else it is a first guess alone
                    b.put(result=where(fine, b.get("result"), CODES["singular_matrix"]))
            self.reuse.start(b)

        @lane.emitted("int32")
        def step(b, t, h):
            status = self.take(b, t, h)
            if b.buf.error.size:
                combine(b, b.buf.error, None, h, self.tableau.error_weights or (), self.rows(b))
            return status.value

        @lane.emitted()
        def carry(b):
            self.carry(b)
            self.reuse.carry(b)

        end = None if self.tableau.stiffly_accurate else lane.emitted()(self.finish)
        return Steps(start=start, step=step, finish=end, carry=carry, forget=lane.emitted()(self.reuse.start))

    def _start_slope(self, b: Body, time: Any, mass: Mass) -> Scalar:
        """The slope of the state at t0, with its tangents; whether there is one. Those of algebraic components have no
        tangents: no state at the end of a step depends on them."""
        rhs, product, slope = b.buf.mass_vector, b.buf.mass_product, self.start_rhs(b)
        b.evaluate(time, b.buf.state, rhs)
        if mass.algebraic_rows:
            b.call("f_dt", y=b.piece(b.buf.state, 0), out=b.piece(product, 0), **b.instant(time))
            for index in mass.algebraic_rows:
                rhs.store(index, product.load(index))
        fine = self.factor_mass(b, time)
        fill(b, slope, 0.0)
        for _, piece in b.pieces:
            target, known = b.piece(slope, piece.order), b.piece(rhs, piece.order)
            if piece.order:
                self._subtract_mass(b, known, slope, piece.order)
                clear(b, known, mass.algebraic_rows)
            copy(b, target, known)
            for direction in directions(b, target):
                self.linear.solve(b, direction)
        return fine

    def factor_mass(self, b: Body, since_t0: Any) -> Scalar:
        """Makes ready to solve for slopes at that time and the step's beginning; whether it can be."""
        return self.equations_at_t0.factor(b, since_t0, b.piece(b.buf.state, 0))

    @staticmethod
    def _subtract_mass(b: Body, target: View, slope: View, order: int) -> None:
        """target -= what tangents of M have in that order of M times a slope, whose own is 0."""
        if Mass.moves(b):
            b.call("mass", y=slope, out=b.buf.mass_product, **b.instant(b.real(0)))
            add_up(b, target, target, [Fraction(-1)], [b.piece(b.buf.mass_product, order)])

    def take(self, b: Body, time: Any, step_size: Any) -> Scalar:
        """One step from `state`: the stages and `proposed_state`. The status."""
        status = self._solve_stages(b, time, step_size)
        if len(b.pieces) > 1:
            for stage in range(self.tableau.stages):
                self._add_tangents(b, stage, time, step_size)
        combine(b, b.buf.proposed_state, b.buf.state, step_size, self.tableau.b, self.rows(b))
        return status

    def _solve_stages(self, b: Body, time: Any, step_size: Any) -> Scalar:
        """The primal components of all stages. The status."""
        tableau, h = self.tableau, b.scalar(step_size)
        iteration, factored, regular = None, None, b.scalar(True, "bool")
        self.reuse.linearise(b, time)
        for stage in range(tableau.stages):
            diagonal = tableau.a[stage][stage]
            if stage in self._implicit:
                if diagonal != factored:
                    regular = regular & self.linear.factor(b, 1.0 / (h * float(diagonal)))
                    factored = diagonal
                    if iteration is None:
                        iteration = self.newton.begin(b, regular)
                    else:
                        iteration.stop_unless(regular)
                assert iteration is not None
                self._iterate(b, iteration, stage, time, h)
            elif stage in self._evaluated:
                self._evaluate(b, stage, time, step_size)
        assert iteration is not None
        b.counter("newton_iterations").add(iteration.count.value)
        self.reuse.settle(b, iteration)
        return where(regular, iteration.status, CODES["singular_matrix"])

    def factor(self, b: Body, since_t0: Any, state: View, size: Scalar) -> Scalar:
        """Makes ready to solve with 1/size - J, J at that time and state; whether it can be."""
        self.linear.linearise(b, since_t0, state)
        return self.linear.factor(b, 1.0 / size)

    def _iterate(self, b: Body, iteration: Iteration, stage: int, time: Any, h: Scalar) -> None:
        """Solves for a stage."""
        tableau, state = self.tableau, b.piece(b.buf.state, 0)
        rows, base, at, delta = self.primal_rows(b), b.buf.stage_base, b.buf.newton_stage_base_bt, b.buf.newton_delta
        row, size, instant = rows[stage], h * float(tableau.a[stage][stage]), tableau.c[stage]
        inverse = 1.0 / size
        combine(b, base, state, h.value, tableau.a[stage][:stage], rows)
        combine(b, row, None, b.real(1), *self._predictor(b, stage, rows))

        def place(index: Any) -> None:
            at.store(index, size.fused(b.scalar(row.load(index)), b.scalar(base.load(index))).value)

        slope = row if self.mass is None else b.piece(b.buf.mass_product, 0)

        def subtract(index: Any) -> None:
            delta.store(index, (b.scalar(delta.load(index)) - b.scalar(slope.load(index))).value)

        def add(index: Any) -> None:
            row.store(index, inverse.fused(b.scalar(delta.load(index)), b.scalar(row.load(index))).value)
            place(index)

        def magnitude(index: Any) -> Any:
            return abs(b.scalar(state.load(index))).value

        from ..nonlinear.iteration import tolerance  # it imports Numba

        def correct() -> Scalar:
            self.evaluate_primal(b, stage_time(b, instant, h.value, time), at, delta)
            if self.mass is not None:
                name = primal_name("mass") if len(b.pieces) > 1 else "mass"
                b.call(name, y=row, out=slope, **b.instant(b.real(0)))
            b.each(subtract, b.primal)
            solved = self.linear.solve(b, delta, within=lambda index: tolerance(b, index, magnitude(index)))
            b.each(add, b.primal)
            return solved

        b.each(place, b.primal)
        iteration.solve(correct, magnitude)

    def _predictor(self, b: Body, stage: int, rows: list[View]) -> tuple[Sequence[Fraction], list[View]]:
        """Where a stage begins: weights, and rows of which it is the sum."""
        if stage == 0:
            return (Fraction(1),), [b.piece(self.start_rhs(b), 0)]
        if self.tableau.predictor is None:
            return (Fraction(1),), [rows[stage - 1]]
        return self.tableau.predictor[stage - 1], rows

    def _evaluate(self, b: Body, stage: int, time: Any, step_size: Any) -> None:
        """A stage that is f at a known state, of the primal components."""
        rows, at = self.primal_rows(b), b.buf.newton_stage_base_bt
        combine(b, at, b.piece(b.buf.state, 0), step_size, self.tableau.a[stage][:stage], rows)
        self.evaluate_primal(b, stage_time(b, self.tableau.c[stage], step_size, time), at, rows[stage])

    # --- Tangents

    def stage_state(self, b: Body, stage: int, step_size: Any) -> View:
        """The state at which f is evaluated."""
        combine(b, b.buf.accumulator, b.buf.state, step_size, self.tableau.a[stage][: stage + 1], self.rows(b))
        return b.buf.accumulator

    def _add_tangents(self, b: Body, stage: int, time: Any, step_size: Any) -> None:
        """Those of a stage that is solved."""
        from ..loop.functions import into_output  # it imports Numba

        row, at = self.rows(b)[stage], self.tableau.c[stage]
        since_t0 = stage_time(b, at, step_size, time)
        if stage in self._evaluated:
            b.evaluate(since_t0, self.stage_state(b, stage, step_size), row, into=at)
        if stage not in self._implicit:
            return
        size = b.scalar(step_size) * float(self.tableau.a[stage][stage])
        inverse = 1.0 / size
        for _, piece in b.pieces[1:]:
            fill(b, b.piece(row, piece.order), 0.0)
        state = self.stage_state(b, stage, step_size)
        self.factor(b, since_t0, b.piece(state, 0), size)
        for number, (_, piece) in enumerate(b.pieces[1:], start=1):
            target = b.piece(row, piece.order)
            if number > 1:
                self.stage_state(b, stage, step_size)
            if self.mass is not None and Mass.moves(b):
                b.call("mass", y=row, out=b.buf.mass_product, **b.instant(b.real(0)))
            b.call("f", y=state, out=into_output(target, number), **b.instant(since_t0, at))
            if self.mass is not None and Mass.moves(b):
                add_up(b, target, target, [Fraction(-1)], [b.piece(b.buf.mass_product, piece.order)])

            def scale(index: Any, target: View = target) -> None:
                target.store(index, (inverse * b.scalar(target.load(index))).value)

            b.each(scale, target.size)
            for direction in directions(b, target):
                self.linear.solve(b, direction, tangent=True)

    # --- The ends of a step, and between them

    def slopes(self, b: Body) -> View:
        return b.buf.stage_increment

    @property
    def step_adjoint(self) -> StepAdjoint:
        from .dirk_adjoint import DirkAdjoint

        return DirkAdjoint(self)
