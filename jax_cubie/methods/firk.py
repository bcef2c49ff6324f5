"""Fully implicit Runge-Kutta methods: one step for the whole family, driven by a tableau.

The stages' increments z_i = Y_i - y, rows of `stage_state`, solve h^-1 sum_j w_ij z_j = f(t + c_i h, y + z_i), w = A^-1, by
simplified Newton iterations: with J, the derivative of f by the state at the step's beginning, and a basis T in which A^-1 is
diagonal but for blocks of two, they take a real system for each real eigenvalue of A^-1, and a complex one for each pair
(Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8; RADAU5). They begin on the polynomial of the step
before, which is kept in `stage_prediction`. The step ends at y + sum_i d_i z_i, d = A^-T b: of stiffly accurate methods the
last stage's state.

With a mass matrix, M y' = f, the sum on the left is multiplied by M.

Tangents are those of these equations where they are solved, with J at each stage's state: in it tangents of all stages are
unknown together, and all else is known once those of lower orders are. So they take one matrix of all stages.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import comb
from typing import TYPE_CHECKING, Any

from ..buffers import BACKWARD, Buffer
from ..kernel.scalar import Scalar, shifted, where
from ..linear import DenseMatrix, LinearSolver, Mass, pivot_words
from ..linear.numbers import Complex
from ..loop import Dimensions, Steps
from ..loop.jets import size_of
from ..nonlinear import Newton
from ..operands import primal_name
from ..solution import CODES
from .combine import stage_time
from .field_functions import FieldFunction
from .implicit_method import NewtonMethod
from .implicit_tableau import ImplicitTableau
from .rows import Row, near
from .stage_transformation import StageTransformation, inverse_of
from .vectors import add_up, copy, fill, multiply

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..linear import Pattern
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .step_adjoint import StepAdjoint

_ONE = [Fraction(1)]


@dataclasses.dataclass(frozen=True)
class Firk(NewtonMethod):
    """A fully implicit Runge-Kutta method. shows_ends: whether parts look at f at the ends of its steps."""

    tableau: ImplicitTableau
    transformation: StageTransformation
    linear: LinearSolver
    newton: Newton
    mass: Mass | None = None
    watched: bool = False
    shows_ends: bool = False

    family = "FIRK"
    increments = True

    @classmethod
    def of(cls, tableau: ImplicitTableau, transformation: StageTransformation, linear: LinearSolver, newton: Newton) -> Firk:
        """That method; the linear solver is one that solves its systems."""
        linear = linear.holding(transformation.matrices)
        return cls(tableau, transformation, linear.keeping() if newton.reuse else linear, newton)

    @property
    def embedded_order(self) -> int | None:
        return self.tableau.embedded_order if self.transformation.error is None else self.tableau.stages

    @property
    def error_rows(self) -> int:
        return int(self.transformation.error is not None or self.tableau.b_embedded is not None)

    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> Firk:
        if mass is not None and not self.tableau.stiffly_accurate:
            raise ValueError(
                f"method {self.name!r} can't have a mass matrix, since its solution is not its last stage's state: take one "
                "that is stiffly accurate, as 'radau_iia_5', or a Rosenbrock method, as 'rodas5p'"
            )
        return super().fitted(field, mass, sparsity)

    def looked_at(self) -> Firk:
        return dataclasses.replace(self, shows_ends=True)

    def functions(self, field: Callable, jac: Callable | None = None) -> dict[str, FieldFunction]:
        found = {"f": FieldFunction(field), **self.linear.functions(field, jac)}
        return found if self.mass is None else {**found, "mass": self.mass.product()}

    # --- Numbers, of increments in the place of slopes: k = A^-1 z / h

    def _of_increments(self, weights: Row) -> Row:
        """The weights of z_i, from those of h k_i."""
        columns = zip(*self.inverse, strict=True)
        return tuple(sum((w * x for w, x in zip(weights, column, strict=True)), Fraction(0)) for column in columns)

    @functools.cached_property
    def inverse(self) -> tuple[Row, ...]:
        """A^-1."""
        return inverse_of(self.tableau.a)

    @functools.cached_property
    def end_weights(self) -> Row:
        """d: of z_i in the step."""
        if self.tableau.stiffly_accurate:
            return (*[Fraction(0)] * (self.tableau.stages - 1), Fraction(1))
        return tuple(Fraction(0) if near(weight, 0, 1) else weight for weight in self._of_increments(self.tableau.b))

    @functools.cached_property
    def _error_weights(self) -> Row:
        """Of z_i in the error estimate; of Hairer's before it is multiplied by a matrix."""
        if self.transformation.error is not None:
            return self.transformation.error
        return self._of_increments(self.tableau.error_weights or (Fraction(0),) * self.tableau.stages)

    @functools.cached_property
    def dense_terms(self) -> tuple[Row, ...]:
        """Of z_i in values between steps, as `ContinuousExtension.terms` are of h k_i."""
        assert self.tableau.dense is not None
        terms = zip(*self.tableau.dense.terms, strict=True)
        return tuple(zip(*map(self._of_increments, terms), strict=True))

    @functools.cached_property
    def _prediction(self) -> tuple[Row, ...]:
        """The polynomial through a step, in fractions of it beyond its end, less the end: for each power from 1 on the weights
        of z_i."""
        if self.tableau.dense is None:
            return ()
        powers = [self._of_increments(column) for column in zip(*self.tableau.dense.weights, strict=True)]
        numbers = range(1, len(powers) + 1)

        def weight(k: int, j: int) -> Fraction:
            return sum((comb(m, k) * powers[m - 1][j] for m in numbers if m >= k), Fraction(0))

        return tuple(tuple(weight(k, j) for j in range(self.tableau.stages)) for k in numbers)

    # --- Buffers

    @property
    def _keeps_ends(self) -> bool:
        """Whether f at the ends of a step is wanted: for the error estimate and the first step, for Hermite's cubic, or by
        parts."""
        return self.error_rows > 0 or self.tableau.dense is None or self.shows_ends

    def buffers(self) -> tuple[Buffer, ...]:
        tangents = frozenset({"step/stage/tangents", "backward"})
        return (
            Buffer("stage_rhs", 0, persistent=True),
            Buffer("stage_prediction", 0, persistent=True),
            Buffer("stage_state", 0, live=frozenset({"step", "backward"})),
            Buffer("stage_driver_stack", 0, live=frozenset({"step/stage", "step/error", "backward"})),
            *self.newton.buffers(),
            Buffer("stage_accumulator", 0, aliases="error", live=tangents),
            Buffer("stage_slope", 0, aliases="newton_delta", live=tangents),
            Buffer("block_factors", 0, live=tangents),
            Buffer("block_pivots", 0, dtype="int32", live=tangents),
            Buffer("stage_adjoint", 0, live=BACKWARD),
            Buffer("stage_cotangent", 0, live=BACKWARD),
            Buffer("dense_adjoint", 0, live=BACKWARD),
            *Mass.buffers(),
            *self.linear.buffers(),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        states, backward, stages = dimensions.states, dimensions.backward, self.tableau.stages
        tangents, block = dimensions.orders > 1 or backward, stages * dimensions.primal
        return {
            "stage_rhs": 2 * states if self._keeps_ends else 0,
            "stage_prediction": len(self._prediction) * dimensions.primal,
            "stage_state": stages * states,
            "stage_driver_stack": stages * states if tangents else block,
            "stage_accumulator": states if tangents else 0,
            "stage_slope": states if tangents else 0,
            "block_factors": block * block if tangents else 0,
            "block_pivots": pivot_words(block) if tangents else 0,
            "stage_adjoint": stages * states if backward else 0,
            "stage_cotangent": 2 * states if backward else 0,
            "dense_adjoint": self.dense_adjoint_rows * states if backward and dimensions.inside else 0,
            **Mass.sizes(self.mass, dimensions),
            **self.newton.sizes(dimensions, stages),
            **self.linear.sizes(dimensions),
        }

    def counters(self, dimensions: Dimensions) -> tuple[str, ...]:
        estimates = ("second_estimates",) if dimensions.adaptive and self.transformation.error is not None else ()
        return ("newton_iterations", *self.reuse.counters, *estimates, *self.linear.counters)

    def copies(self, dimensions: Dimensions) -> dict[str, int]:
        stages, orders, ends = self.tableau.stages, dimensions.orders, 2 * self._keeps_ends
        solved = stages + (self.transformation.error is not None)
        times = 2 if dimensions.backward else 1  # steps are taken at two places
        counts, linearised = {"f": ends + stages * (orders - 1)}, 1
        if orders == 1:
            counts["f"] += solved
        else:
            counts[primal_name("f")] = solved
            linearised += stages
        counts = {name: times * count for name, count in counts.items()}
        counts |= self.linear.copies(times * linearised + stages * dimensions.backward)
        if dimensions.backward:
            counts["f"] += stages
            counts["f_vjp"] = stages * orders + dimensions.inside * ends
        if self.mass is not None:
            counts["f_jac"] += 2
            counts |= {"mass": stages * (orders - 1), primal_name("mass"): stages + 1, "mass_vjp": stages * orders}
        return counts

    def evaluations(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> Any:
        total = self.tableau.stages * counted["newton_iterations"] + counted.get("second_estimates", 0)
        return total + accepted if self._keeps_ends else total - (steps > 0)  # nor is there one at t0

    def work(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> dict[str, Any]:
        matrices, iterations = len(self.transformation.matrices), counted["newton_iterations"]
        solves = matrices * iterations
        if "second_estimates" in counted:
            solves = solves + steps + counted["second_estimates"]
        done = self.linear.work(counted, counted.get("jacobians", steps), matrices * steps, solves)
        return {"num_newton_iterations": iterations, **done}

    # --- Places in the loop

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        """past_size: of the step whose polynomial is kept. doubtful: whether the step is the first, or follows a rejected
        one."""
        sized = (("past_size", "float"),) if self._prediction else ()
        return (*sized, ("doubtful", "bool")) if self.transformation.error is not None else sized

    def steps(self, lane: Lane) -> Steps:
        self.reuse.declare(lane)
        for name, kind in self.remembered:
            lane.cell(name, lane.problem.dtype if kind == "float" else kind)

        def renew(b: Body) -> None:
            if self._prediction:
                fill(b, b.buf.stage_prediction, 0.0)
                b.put(past_size=1)
            self.reuse.start(b)
            if self.transformation.error is not None:
                b.put(doubtful=True)

        @lane.emitted()
        def start(b, t):
            if self._keeps_ends:
                b.evaluate(t, b.buf.state, self.start_rhs(b))
            renew(b)

        @lane.emitted("int32")
        def step(b, t, h):
            status = self.take(b, t, h)
            if b.buf.error.size and self.transformation.error is not None:
                self._estimate(b, t, b.scalar(h))
            elif b.buf.error.size:
                add_up(b, b.buf.error, None, self._error_weights, self.primal_rows(b))
            return status.value

        @lane.emitted()
        def carry(b):
            if self._prediction:
                self._keep_polynomial(b)
            if self.transformation.error is not None:
                b.put(doubtful=False)
            self.reuse.carry(b)
            copy(b, b.buf.state, b.buf.proposed_state)
            if self._keeps_ends:
                copy(b, self.start_rhs(b), self.end_rhs(b))

        end = lane.emitted()(self.finish) if self._keeps_ends else None
        return Steps(start=start, step=step, finish=end, carry=carry, forget=lane.emitted()(renew))

    def rows(self, b: Body) -> list[View]:
        """The stages' z_i."""
        return [b.row(b.buf.stage_state, number) for number in range(self.tableau.stages)]

    def take(self, b: Body, time: Any, step_size: Any) -> Scalar:
        """One step from `state`: `stage_state` and `proposed_state`. The status."""
        h = b.scalar(step_size)
        self.reuse.linearise(b, time)
        regular = b.scalar(True, "bool")
        for number, shift in enumerate(self._shifts(h)):
            regular = regular & self.linear.factor(b, shift, number)
        iteration = self.newton.begin(b, regular)
        self._predict(b, h)
        iteration.solve(lambda: self._correct(b, time, h), lambda index: abs(b.scalar(b.buf.state.load(index))).value)
        b.counter("newton_iterations").add(iteration.count.value)
        self.reuse.settle(b, iteration)
        if len(b.pieces) > 1:
            self.factor_block(b, time, step_size)
            for _, piece in b.pieces[1:]:
                self._add_tangents(b, piece.order, time, step_size)
        add_up(b, b.buf.proposed_state, b.buf.state, self.end_weights, self.rows(b))
        return where(regular, iteration.status, CODES["singular_matrix"])

    # --- Newton's iteration

    def _shifts(self, h: Scalar) -> list[Scalar | Complex]:
        """The eigenvalues of A^-1, over h."""
        inverse, found = 1.0 / h, []
        if self.transformation.gamma is not None:
            found.append(inverse * float(self.transformation.gamma))
        found += [Complex(inverse * float(alpha), inverse * float(beta)) for alpha, beta in self.transformation.pairs]
        return found

    def _predict(self, b: Body, h: Scalar) -> None:
        """The stages on the polynomial of the step before."""
        rows = self.primal_rows(b)
        if not self._prediction:
            for row in rows:
                fill(b, row, 0.0)
            return
        ratio, powers = h / b.get("past_size"), self._polynomial(b)
        fractions = [ratio * float(c) for c in self.tableau.c]

        def place(index: Any) -> None:
            first, *others = [b.scalar(power.load(index)) for power in reversed(powers)]
            for row, x in zip(rows, fractions, strict=True):
                total = first
                for coefficient in others:
                    total = total.fused(x, coefficient)
                row.store(index, (total * x).value)

        b.each(place, b.primal)

    def _polynomial(self, b: Body) -> list[View]:
        return [b.buf.stage_prediction.part(number * b.primal, b.primal) for number in range(len(self._prediction))]

    def _keep_polynomial(self, b: Body) -> None:
        """That of the step at hand."""
        b.put(past_size=b.scalar(b.direction) * b.get("step_size"))
        for power, weights in zip(self._polynomial(b), self._prediction, strict=True):
            add_up(b, power, None, weights, self.primal_rows(b))

    def _correct(self, b: Body, time: Any, h: Scalar) -> Scalar:
        """One iteration: the increments of z_i, which it adds, in `newton_delta`. The status of its linear systems."""
        rows, state, at, stages = self.primal_rows(b), b.piece(b.buf.state, 0), b.buf.newton_stage_base_bt, self.tableau.stages
        stack = [b.buf.stage_driver_stack.part(number * b.primal, b.primal) for number in range(stages)]
        increments = [b.buf.newton_delta.part(number * b.primal, b.primal) for number in range(stages)]
        basis, inverse = self.transformation, 1.0 / h
        for stage, c in enumerate(self.tableau.c):
            add_up(b, at, state, _ONE, [rows[stage]])
            self.evaluate_primal(b, stage_time(b, c, h.value, time), at, stack[stage])

        def transform(index: Any) -> None:
            slopes = [b.scalar(one.load(index)) for one in stack]
            z = [b.scalar(row.load(index)) for row in rows]
            for target, weights, scaled in zip(stack, basis.inverse, basis.scaled_inverse, strict=True):
                right = _sum(weights, slopes)
                if self.mass is None:
                    right = _sum(scaled, z) * (-inverse) + right
                target.store(index, right.value)

        def transform_back(index: Any) -> None:
            solved = [b.scalar(one.load(index)) for one in stack]
            for row, increment, weights in zip(rows, increments, basis.t, strict=True):
                delta = _sum(weights, solved)
                increment.store(index, delta.value)
                row.store(index, (b.scalar(row.load(index)) + delta).value)

        b.each(transform, b.primal)
        if self.mass is not None:
            for target, scaled in zip(stack, basis.scaled_inverse, strict=True):
                add_up(b, target, target, [Fraction(-1)], [self._mass_of_sum(b, scaled)], inverse)
        waiting, solved = iter(stack), b.scalar(0, "int32")
        for number, kind in enumerate(basis.matrices):
            vector = next(waiting) if kind == "real" else (next(waiting), next(waiting))
            status = self.linear.solve(b, vector, number)
            solved = where(solved.equals(0), status, solved)
        b.each(transform_back, b.primal)
        return solved

    def _mass_of_sum(self, b: Body, weights: Sequence[Fraction]) -> View:
        """M times a weighted sum of the primal z_i."""
        vector, product = b.piece(b.buf.mass_vector, 0), b.piece(b.buf.mass_product, 0)
        add_up(b, vector, None, weights, self.primal_rows(b))
        b.call(primal_name("mass") if len(b.pieces) > 1 else "mass", y=vector, out=product, **b.instant(b.real(0)))
        return product

    # --- The error

    def _estimate(self, b: Body, time: Any, h: Scalar) -> None:
        """Hairer's error estimate, equations (8.19) and, where a step that is the first or follows a rejected one would be
        rejected, (8.20) of section IV.8."""
        from ..controllers.norms import scaled_error  # it imports Numba

        error, inverse = b.buf.error, 1.0 / h
        weights, rows = self._error_weights, self.primal_rows(b)
        if self.mass is not None:
            weights, rows = _ONE, [self._mass_of_sum(b, weights)]
        add_up(b, error, b.piece(self.start_rhs(b), 0), weights, rows, inverse)
        self.linear.solve(b, error)
        with b.when(b.get("doubtful") & (b.scalar(scaled_error(b)) >= float(b.primal))):
            state = b.buf.stage_driver_stack.part(0, b.primal)
            add_up(b, state, b.piece(b.buf.state, 0), _ONE, [error])
            self.evaluate_primal(b, time, state, error)
            add_up(b, error, error, weights, rows, inverse)
            self.linear.solve(b, error)
            b.counter("second_estimates").add()
        b.put(doubtful=True)

    # --- Tangents

    def stage_state(self, b: Body, stage: int) -> View:
        """The state at which f is evaluated."""
        add_up(b, b.buf.stage_accumulator, b.buf.state, _ONE, [self.rows(b)[stage]])
        return b.buf.stage_accumulator

    def block(self, b: Body) -> DenseMatrix:
        """w_ij M - h J_i, the matrix of all stages' tangents."""
        return DenseMatrix(b, self.tableau.stages * b.primal, b.buf.block_factors, b.buf.block_pivots)

    def factor_block(self, b: Body, time: Any, step_size: Any) -> None:
        """Makes ready to solve with it."""
        block, n, h = self.block(b), b.primal, b.scalar(step_size)
        fill(b, b.buf.block_factors, 0.0)
        for i, weights in enumerate(self.inverse):
            for j, weight in enumerate(weights):

                def put(row: Any, column: Any, value: Scalar, i: int = i, j: int = j, weight: Fraction = weight) -> None:
                    row, column = shifted(b.emitter, row, i * n), shifted(b.emitter, column, j * n)
                    block.element(row, column).set(value * float(weight))

                if self.mass is None:
                    b.each(lambda index, put=put: put(index, index, b.scalar(1.0)), n)
                else:
                    self.mass.each(b, put)
        for stage, c in enumerate(self.tableau.c):
            self.linear.linearise(b, stage_time(b, c, step_size, time), b.piece(self.stage_state(b, stage), 0))

            def subtract(row: Any, column: Any, value: Scalar, begin: int = stage * n) -> None:
                block.element(*(shifted(b.emitter, one, begin) for one in (row, column))).subtract(h, value)

            self.linear.each_entry(b, subtract)
        block.factor()

    def _add_tangents(self, b: Body, order: int, time: Any, step_size: Any) -> None:
        """Those of that order of all stages, once those of lower orders are there."""
        rows, slope = self.rows(b), b.buf.stage_slope
        for row in rows:
            fill(b, b.piece(row, order), 0.0)
        for stage, c in enumerate(self.tableau.c):
            b.evaluate(stage_time(b, c, step_size, time), self.stage_state(b, stage), slope, into=c)
            multiply(b, slope, size_of(b, b.scalar(step_size)))
            if self.mass is not None and Mass.moves(b):
                target, mass = b.piece(slope, order), b.piece(self.mass_of_stage(b, stage), order)
                add_up(b, target, target, _ONE, [mass])
            for part, target in self.places(b, b.piece(slope, order), stage):
                copy(b, target, part)
        self.solve_block(b, order, self.block(b).solve)
        for stage, row in enumerate(rows):
            for part, source in self.places(b, b.piece(row, order), stage):
                copy(b, part, source)

    def mass_of_stage(self, b: Body, stage: int) -> View:
        """- M sum_j w_ij z_j with its tangents, whose factor is then in `mass_vector`."""
        add_up(b, b.buf.mass_vector, None, [-weight for weight in self.inverse[stage]], self.rows(b))
        b.call("mass", y=b.buf.mass_vector, out=b.buf.mass_product, **b.instant(b.real(0)))
        return b.buf.mass_product

    def places(self, b: Body, piece: View, stage: int) -> Iterator[tuple[View, View]]:
        """Each direction of a stage's piece, and its place in `stage_driver_stack`."""
        n, stages = b.primal, self.tableau.stages
        for number in range(piece.size // n):
            yield piece.part(number * n, n), b.buf.stage_driver_stack.part((number * stages + stage) * n, n)

    def solve_block(self, b: Body, order: int, solve: Callable[[View], None]) -> None:
        """`solve` for each direction of that order, of all stages one behind the other."""
        size = self.tableau.stages * b.primal
        for number in range(b.piece(b.buf.state, order).size // b.primal):
            solve(b.buf.stage_driver_stack.part(number * size, size))

    # --- The ends of a step, and between them

    def slopes(self, b: Body) -> View:
        return b.buf.stage_rhs

    @property
    def carried_rows(self) -> int:
        return int(self._keeps_ends)

    @property
    def carried_primal_rows(self) -> int:
        return len(self._prediction)

    def carried(self, b: Body) -> Sequence[View]:
        return (*((self.start_rhs(b),) if self._keeps_ends else ()), *self._polynomial(b))

    @property
    def step_adjoint(self) -> StepAdjoint:
        from .firk_adjoint import FirkAdjoint

        return FirkAdjoint(self)


def _sum(weights: Sequence[Fraction], values: Sequence[Scalar]) -> Scalar:
    """The sum of weight * value; one weight at least is not 0."""
    total = None
    for weight, value in zip(weights, values, strict=True):
        if weight:
            total = value * float(weight) if total is None else value.fused(float(weight), total)
    assert total is not None
    return total
