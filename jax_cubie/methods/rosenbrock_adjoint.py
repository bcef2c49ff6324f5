"""The transpose of a Rosenbrock step.

The equations of a step are u_i / gamma = h s_i + sum_j c_ij u_j, s_i = f(Y_i) + d_i h f_t + J u_i, Y_i = y + sum_j a_ij u_j,
and y1 = y + sum_i m_i u_i. With the cotangent v_i of the i-th of them, and p_i = h v_i that of s_i,

    W^T p_i = m_i l + sum_(j > i) (a_ji q_j + c_ji v_j),    q_i = (df/dy(Y_i))^T p_i,

from the last stage to the first, l the cotangent of y1; that of y is l + sum_i (q_i + (d(J u_i)/dy)^T p_i) and what f_t adds.
With a mass matrix the equations are M (u_i / gamma - sum_j c_ij u_j) = h s_i, and M^T v_j stands for v_j above.
Where there are tangents, J and h have some, too: then the orders of v_i are solved for from the highest on.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..linear import Mass
from ..loop import AdjointSteps
from ..loop.cotangents import gather, into_view_of_input, some_of
from ..loop.jets import Jet, size_of
from .between import dot
from .combine import stage_time
from .step_adjoint import IncrementsAdjoint
from .transposed import add_to_adjoint, pull
from .vectors import add_up, copy, directions, fill, multiply

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .rosenbrock import Rosenbrock

_ONE = [Fraction(1)]


class RosenbrockAdjoint(IncrementsAdjoint):
    """Writes it, for one method."""

    method: Rosenbrock

    def __init__(self, method: Rosenbrock):
        self.method = method

    def steps(self, lane: Lane) -> AdjointSteps:
        """The places in the backward loop."""
        method, inside = self.method, lane.problem.dimensions().inside
        lane.cell("points_inside", "bool")

        @lane.emitted()
        def retake(b, t, h):
            method.take(b, t, h)
            if inside and method.tableau.dense is None:
                b.evaluate(b.emitter.add(b.dtype, t, h), b.buf.proposed_state, method.end_rhs(b), into=1)

        @lane.emitted()
        def adjoint(b, t, h):
            if inside:
                with b.when(some_of(b, b.get("points_inside"))):
                    self.adjoint_of_ends(b, t, h)
            adjoints = self.row_adjoints(b)
            for row, weight in zip(adjoints, method.tableau.m, strict=True):
                add_up(b, row, row if inside else None, [weight], [b.buf.adjoint])
            fill(b, self._auxiliary_cotangent(b), 0.0)
            for stage in reversed(range(method.tableau.stages)):
                self._adjoint_of_stage(b, stage, t, h)
            self._adjoint_of_auxiliaries(b, t, h)
            if inside:
                add_to_adjoint(b, b.row(b.buf.dense_adjoint, 0))

        return AdjointSteps(retake, adjoint)

    @staticmethod
    def _auxiliary_cotangent(b: Body) -> View:
        """The cotangent of h f_t."""
        return b.row(b.buf.slope_cotangent, 1)

    def _adjoint_of_stage(self, b: Body, stage: int, time: Any, step_size: Any) -> None:
        tableau, adjoints = self.method.tableau, self.row_adjoints(b)
        own, slope, result = adjoints[stage], b.row(b.buf.slope_cotangent, 0), b.row(b.buf.stage_cotangent, 0)
        row, size = self.method.rows(b)[stage], size_of(b, b.scalar(step_size))
        massive = self.method.mass is not None
        self._solve(b, own, slope, row, time, size)
        of_auxiliaries = self._auxiliary_cotangent(b)
        add_up(b, of_auxiliaries, of_auxiliaries, [tableau.d[stage]], [slope])
        if b.lane.adjoint.orders:
            self._gather_size_of_slope(b, stage, time, step_size)
        at = tableau.alpha[stage]
        state = self.method.stage_state(b, stage)
        pull(b, "f", stage_time(b, at, step_size, time), at, slope, result, y=state)
        add_to_adjoint(b, result)
        for earlier in range(stage):
            weights = [tableau.a[stage - 1][earlier], *([] if massive else [tableau.c[stage - 1][earlier]])]
            add_up(b, adjoints[earlier], adjoints[earlier], weights, [result, own])
        if massive:
            self.method.mass_of_stage(b, stage)
            pull(b, "mass", b.real(0), 0, own, result, y=b.buf.mass_vector)
            for earlier in range(stage):
                add_up(b, adjoints[earlier], adjoints[earlier], [tableau.c[stage - 1][earlier]], [result])
        pull(b, "f_jv", time, 0, slope, b.buf.stage_cotangent, y=b.buf.state, v=row)
        add_to_adjoint(b, result)

    def _solve(self, b: Body, own: View, slope: View, row: View, time: Any, size: Jet) -> None:
        """From the cotangent `own` of u_i, without that by its own equation, to that of its equation, and that of its slope."""
        fill(b, slope, 0.0)
        # The cotangents of the equations whose orders are solved for, where M has tangents.
        masses = b.buf.mass_cotangent if self.method.mass is not None and Mass.moves(b) else None
        if masses is not None:
            fill(b, masses, 0.0)
        step_size, product = size.terms[0], b.buf.jacobian_product
        orders = [piece.order for _, piece in b.pieces]
        for order in reversed(orders):
            target, known = b.piece(own, order), b.piece(slope, order)
            higher = [other for other in orders if other != order and other & order == order]
            for other in higher:
                if other & ~order in size.terms:
                    add_up(b, known, known, _ONE, [b.piece(own, other)], size.terms[other & ~order])
            if higher:
                given = {**b.instant(time), "y": b.buf.state, "v": row, "f_jv*": slope}
                b.call("f_jv_vjp", out=into_view_of_input(b, 1, product), **given)
                add_up(b, target, target, _ONE, [b.piece(product, order)])
                if masses is not None:
                    given = {**b.instant(b.real(0)), "y": b.buf.mass_vector, "mass*": masses}
                    b.call("mass_vjp", out=into_view_of_input(b, 0, b.buf.mass_product), **given)
                    weights = [-1 / self.method.tableau.gamma]
                    add_up(b, target, target, weights, [b.piece(b.buf.mass_product, order)])
            for direction in directions(b, target):
                self.method.linear.solve_transposed(b, direction)
            add_up(b, known, known, _ONE, [target])
            add_up(b, target, None, _ONE, [target], 1.0 / step_size)
            if masses is not None:
                copy(b, b.piece(masses, order), target)

    def _adjoint_of_auxiliaries(self, b: Body, time: Any, step_size: Any) -> None:
        cotangent, result = self._auxiliary_cotangent(b), b.row(b.buf.stage_cotangent, 0)
        size = size_of(b, b.scalar(step_size))
        if b.lane.adjoint.orders:
            auxiliaries = b.buf.stage_slope
            if len(b.pieces) > 1:
                b.call("f_dt", y=b.buf.state, out=auxiliaries, **b.instant(time))
            else:
                add_up(b, auxiliaries, None, _ONE, [b.buf.cached_auxiliaries], 1.0 / b.scalar(step_size))
            self._gather_size(b, cotangent, auxiliaries)
        multiply(b, cotangent, size, transposed=True)
        pull(b, "f_dt", time, 0, cotangent, result, y=b.buf.state)
        add_to_adjoint(b, result)

    def _gather_size_of_slope(self, b: Body, stage: int, time: Any, step_size: Any) -> None:
        """The share of the step's size in h s_i. That the stages tell; but the tangents of s_i are less than the rounding of
        its tangents where a step of almost no size moves."""
        method, slope, product, inverse = self.method, b.buf.stage_slope, b.buf.jacobian_product, 1.0 / b.scalar(step_size)
        tableau, rows = method.tableau, method.rows(b)
        if len(b.pieces) > 1:
            method.begin_slope(b, stage, time, step_size, slope)
            b.call("f_jv", y=b.buf.state, v=rows[stage], out=product, **b.instant(time))
            add_up(b, slope, slope, _ONE, [product])
        elif method.mass is None:
            weights = [-weight for weight in (tableau.c[stage - 1] if stage else ())]
            add_up(b, slope, None, [1 / tableau.gamma, *weights], [rows[stage], *rows[:stage]], inverse)
        else:
            add_up(b, slope, None, [Fraction(-1)], [method.mass_of_stage(b, stage)], inverse)
        self._gather_size(b, self.row_adjoints(b)[stage], slope)

    @staticmethod
    def _gather_size(b: Body, cotangent: View, factor: View) -> None:
        """Adds what the size of a step has in the cotangent of size * factor."""
        for order in b.lane.adjoint.orders:
            total = None
            for piece in b.lane.problem.pieces:
                if piece.order & order == order:
                    part = dot(b, b.piece(cotangent, piece.order), b.piece(factor, piece.order & ~order))
                    total = part if total is None else total + part
            gather(b, **{f"size_{order}": total})
