"""The transpose of a step of a diagonally implicit Runge-Kutta method, and of its values between steps.

A step is y1 = y + h sum(b_i k_i), k_i = f(t + c_i h, Y_i), Y_i = y + h sum(a_ij k_j), j <= i. With the cotangent l of y1, q_i
that of Y_i, and m_i that of the equation of k_i,

    m_i = h (b_i l + sum_(j >= i) a_ji q_j),    q_i = (df/dy(Y_i))^T m_i,

from the last stage to the first: a system for m_i, whose matrix is h a_ii times the transpose of 1/(h a_ii) - J, J at Y_i. The
cotangent of y is l + sum(q_i). With a mass matrix, M^T m_i stands for m_i on the left, and M/(h a_ii) for 1/(h a_ii). Where
there are tangents, the orders of m_i are solved for from the highest on.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..linear import Mass
from ..linear.mass import clear
from ..loop import AdjointSteps
from ..loop.cotangents import into_view_of_input, some_of
from ..operands import MASS
from .combine import combine, stage_time
from .step_adjoint import StepAdjoint
from .transposed import add_to_adjoint, gather_size, pull
from .vectors import add_up, copy, directions, fill

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .dirk import Dirk

_ONE = [Fraction(1)]


class DirkAdjoint(StepAdjoint):
    """Writes it, for one method."""

    method: Dirk

    def __init__(self, method: Dirk):
        self.method, self._tableau = method, method.tableau

    def steps(self, lane: Lane) -> AdjointSteps:
        """The places in the backward loop."""
        method, inside = self.method, lane.problem.dimensions().inside
        lane.cell("points_inside", "bool")

        @lane.emitted()
        def retake(b, t, h):
            method.take(b, t, h)
            if self._evaluates_end(b):
                b.evaluate(b.emitter.add(b.dtype, t, h), b.buf.proposed_state, method.end_rhs(b), into=1)

        @lane.emitted()
        def adjoint(b, t, h):
            if self._evaluates_end(b):
                with b.when(some_of(b, b.get("points_inside"))):
                    end = b.emitter.add(b.dtype, t, h)
                    pull(b, "f", end, 1, self._end_slope_adjoint(b), b.buf.stage_cotangent, y=b.buf.proposed_state)
                    add_to_adjoint(b, b.buf.stage_cotangent)
            pulled: dict[int, View] = {}
            for stage in reversed(range(self._tableau.stages)):
                weights = [self._tableau.b[stage], *(self._tableau.a[later][stage] for later in pulled)]
                if inside or any(weights):
                    own = self.row_adjoints(b)[stage]
                    arrays = [b.buf.adjoint, *pulled.values()]
                    combine(b, own, own if inside else None, h, weights, arrays, transposed=True)
                    self._adjoint_of_stage(b, stage, t, h)
                    pulled[stage] = own
            for order in b.lane.adjoint.orders:
                gather_size(b, order, b.buf.adjoint, self._tableau.b, method.rows(b), b.buf.stage_cotangent)
            sources = [*pulled.values(), *([b.buf.start_adjoint] if inside else [])]
            if inside and self._tableau.dense is None and not self._tableau.explicit_first_stage:
                first = self._start_slope_adjoint(b)
                self._explicit(b, t, first, method.start_rhs(b))
                pull(b, "f", t, 0, b.buf.stage_cotangent, first, y=b.buf.state)
                sources.append(first)
            add_to_adjoint(b, *sources)

        return AdjointSteps(retake, adjoint)

    def start_adjoint(self, b: Body) -> View:
        return b.buf.start_adjoint

    def slope_adjoints(self, b: Body) -> tuple[View, View]:
        return self._start_slope_adjoint(b), self._end_slope_adjoint(b)

    def buffers_inside(self, b: Body) -> tuple[View, ...]:
        return b.buf.stage_adjoint, b.buf.start_adjoint

    def _evaluates_end(self, b: Body) -> bool:
        """Whether f at the end of the step is wanted, and none of the stages."""
        return b.lane.problem.dimensions().inside and self._tableau.dense is None and not self._tableau.stiffly_accurate

    def row_adjoints(self, b: Body) -> list[View]:
        """The cotangents of k_i, then those of Y_i."""
        return [b.row(b.buf.stage_adjoint, number) for number in range(self._tableau.stages)]

    def _start_slope_adjoint(self, b: Body) -> View:
        """That of f at the step's beginning."""
        return b.row(b.buf.stage_adjoint, 0 if self._tableau.explicit_first_stage else self._tableau.stages)

    def _end_slope_adjoint(self, b: Body) -> View:
        """That of f at its end."""
        count = b.buf.stage_adjoint.size // b.states
        return b.row(b.buf.stage_adjoint, self._tableau.stages - 1 if self._tableau.stiffly_accurate else count - 1)

    def _adjoint_of_stage(self, b: Body, stage: int, time: Any, step_size: Any) -> None:
        """From the cotangent of k_i, without that by its own equation, to that of Y_i, in its place."""
        tableau, own, cotangent = self._tableau, self.row_adjoints(b)[stage], b.buf.stage_cotangent
        at, weights = tableau.c[stage], tableau.a[stage][: stage + 1]
        since_t0 = stage_time(b, at, step_size, time)
        state = self.method.stage_state(b, stage, step_size) if any(weights) else b.buf.state
        if weights[stage]:
            self._solve(b, stage, since_t0, step_size, state)
            if self.method.mass is not None:
                self._pull_mass(b, self.method.rows(b)[stage])
        else:
            self._explicit(b, since_t0, own, self.method.rows(b)[stage])
        pull(b, "f", since_t0, at, cotangent, own, y=state)
        for order in b.lane.adjoint.orders:
            gather_size(b, order, own, weights, self.method.rows(b), cotangent)

    def _explicit(self, b: Body, since_t0: Any, own: View, slope: View) -> None:
        """The cotangent of the equation of a slope at the step's beginning, from that of the slope."""
        cotangent, mass = b.buf.stage_cotangent, self.method.mass
        if mass is None:
            copy(b, cotangent, own)
            return
        self.method.factor_mass(b, since_t0)
        fill(b, cotangent, 0.0)
        for _, piece in reversed(b.pieces):
            target = b.piece(own, piece.order)
            self._subtract_mass(b, target, piece.order)
            if mass.separates:  # nothing depends on those
                clear(b, target, mass.algebraic_components)
            for direction in directions(b, target):
                self.method.linear.solve_transposed(b, direction)
            clear(b, target, mass.algebraic_rows)
            copy(b, b.piece(cotangent, piece.order), target)
        self._pull_mass(b, slope)

    @staticmethod
    def _subtract_mass(b: Body, target: View, order: int) -> None:
        """target -= the cotangent of a slope's tangent of that order, by what tangents of M have in equations of higher
        ones, whose cotangents are in `stage_cotangent`."""
        if Mass.moves(b):
            given = {**b.instant(b.real(0)), "y": b.buf.mass_vector, "mass*": b.buf.stage_cotangent}
            b.call("mass_vjp", out=into_view_of_input(b, 0, b.buf.mass_product), **given)
            add_up(b, target, target, [Fraction(-1)], [b.piece(b.buf.mass_product, order)])

    @staticmethod
    def _pull_mass(b: Body, slope: View) -> None:
        """The share of M in the equation M slope = f, whose cotangent is in `stage_cotangent`."""
        if any(name.partition(".")[0] == MASS for name in b.lane.adjoint.wrt):
            add_up(b, b.buf.mass_vector, None, [Fraction(-1)], [slope])
            pull(b, "mass", b.real(0), 0, b.buf.stage_cotangent, b.buf.mass_product, y=b.buf.mass_vector)

    def _solve(self, b: Body, stage: int, since_t0: Any, step_size: Any, state: View) -> None:
        """The cotangent of the equation of k_i, from that of k_i."""
        own, cotangent, product = self.row_adjoints(b)[stage], b.buf.stage_cotangent, b.buf.jacobian_product
        at, diagonal, h = self._tableau.c[stage], self._tableau.a[stage][stage], b.scalar(step_size)
        size = h * float(diagonal)
        self.method.factor(b, since_t0, b.piece(state, 0), size)
        fill(b, cotangent, 0.0)
        orders = [piece.order for _, piece in b.pieces]
        for order in reversed(orders):
            target = b.piece(own, order)
            if order != orders[-1]:
                given = {**b.instant(since_t0, at), "y": state, "f*": cotangent}
                b.call("f_vjp", out=into_view_of_input(b, 0, product), **given)
                add_up(b, target, target, [diagonal], [b.piece(product, order)], h)
                for moved in b.moving:
                    if order & moved == 0 and order | moved in orders:
                        add_up(b, target, target, [diagonal], [b.piece(product, order | moved)], b.get(f"size_{moved}"))
                if self.method.mass is not None:
                    self._subtract_mass(b, target, order)
            for direction in directions(b, target):
                self.method.linear.solve_transposed(b, direction)
            add_up(b, b.piece(cotangent, order), None, _ONE, [target], 1.0 / size)
