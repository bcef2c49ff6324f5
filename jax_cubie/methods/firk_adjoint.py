"""The transpose of a step of a fully implicit Runge-Kutta method, and of its values between steps.

A step is y1 = y + sum(d_i z_i), sum_j(w_ij z_j) = h f(t + c_i h, y + z_i), w = A^-1. With the cotangent l of y1, and m_i that
of the i-th of these equations,

    sum_j(w_ji m_j) - h J_i^T m_i = d_i l,    J_i = df/dy(y + z_i),

a system for all m_i at once; with a mass matrix, M^T m_j stands in the first sum. The cotangent of y is l + sum_i(h J_i^T m_i).
Where there are tangents, h has some, too, and the orders of m_i are solved for from the highest on.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..linear import Mass
from ..loop import AdjointSteps
from ..loop.cotangents import into_view_of_input, some_of
from ..loop.jets import size_of
from ..operands import MASS
from .combine import stage_time
from .step_adjoint import IncrementsAdjoint
from .transposed import add_to_adjoint, gather_size, pull
from .vectors import add_up, copy, fill, multiply

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .firk import Firk

_ONE = [Fraction(1)]


class FirkAdjoint(IncrementsAdjoint):
    """Writes it, for one method."""

    method: Firk

    def __init__(self, method: Firk):
        self.method, self._tableau = method, method.tableau

    def steps(self, lane: Lane) -> AdjointSteps:
        """The places in the backward loop."""
        method, inside = self.method, lane.problem.dimensions().inside
        lane.cell("points_inside", "bool")

        @lane.emitted()
        def retake(b, t, h):
            method.take(b, t, h)
            if len(b.pieces) == 1:  # else it is there
                method.factor_block(b, t, h)
            if inside and self._tableau.dense is None:
                b.evaluate(b.emitter.add(b.dtype, t, h), b.buf.proposed_state, method.end_rhs(b), into=1)

        @lane.emitted()
        def adjoint(b, t, h):
            if inside and self._tableau.dense is None:
                with b.when(some_of(b, b.get("points_inside"))):
                    self.adjoint_of_ends(b, t, h)
            for row, weight in zip(self.row_adjoints(b), method.end_weights, strict=True):
                add_up(b, row, row if inside else None, [weight], [b.buf.adjoint])
            orders = [piece.order for _, piece in b.pieces]
            for number, order in reversed(list(enumerate(orders))):
                self._solve(b, order, orders[number + 1 :], t, h)
            for stage in range(self._tableau.stages):
                self._adjoint_of_stage(b, stage, t, h)
            if inside:
                add_to_adjoint(b, b.row(b.buf.dense_adjoint, 0))

        return AdjointSteps(retake, adjoint)

    def _solve(self, b: Body, order: int, solved: list[int], time: Any, step_size: Any) -> None:
        """The cotangents of that order of all stages' equations, from those of z_i, once those of the orders `solved` are
        there."""
        method, adjoints = self.method, self.row_adjoints(b)
        cotangent, product = (b.row(b.buf.stage_cotangent, number) for number in (0, 1))
        for stage, own in enumerate(adjoints):
            target = b.piece(own, order)
            if solved:
                fill(b, cotangent, 0.0)
                for other in solved:
                    copy(b, b.piece(cotangent, other), b.piece(own, other))
                multiply(b, cotangent, size_of(b, b.scalar(step_size)), transposed=True)
                at = self._tableau.c[stage]
                given = {**b.instant(stage_time(b, at, step_size, time), at), "y": method.stage_state(b, stage)}
                b.call("f_vjp", out=into_view_of_input(b, 0, product), **given, **{"f*": cotangent})
                add_up(b, target, target, _ONE, [b.piece(product, order)])
                if method.mass is not None and Mass.moves(b):
                    add_up(b, target, target, _ONE, [b.piece(self._mass_of_solved(b, stage, solved), order)])
            for part, place in method.places(b, target, stage):
                copy(b, place, part)
        method.solve_block(b, order, method.block(b).solve_transposed)
        for stage, own in enumerate(adjoints):
            for part, place in method.places(b, b.piece(own, order), stage):
                copy(b, part, place)

    def _mass_of_solved(self, b: Body, stage: int, solved: list[int]) -> View:
        """What tangents of M have in the cotangent of z_i: - sum_j w_ji M^T m_j, of the orders `solved` of m_j."""
        cotangent, weights = b.buf.mass_vector, [-row[stage] for row in self.method.inverse]
        fill(b, cotangent, 0.0)
        for other in solved:
            rows = [b.piece(own, other) for own in self.row_adjoints(b)]
            add_up(b, b.piece(cotangent, other), None, weights, rows)
        given = {**b.instant(b.real(0)), "y": b.buf.state, "mass*": cotangent}
        b.call("mass_vjp", out=into_view_of_input(b, 0, b.buf.mass_product), **given)
        return b.buf.mass_product

    def _adjoint_of_stage(self, b: Body, stage: int, time: Any, step_size: Any) -> None:
        """What f has in those of the state, of operands and of times."""
        method, own, at = self.method, self.row_adjoints(b)[stage], self._tableau.c[stage]
        cotangent, result = (b.row(b.buf.stage_cotangent, number) for number in (0, 1))
        since_t0, state = stage_time(b, at, step_size, time), method.stage_state(b, stage)
        if b.lane.adjoint.orders:
            b.evaluate(since_t0, state, b.buf.stage_slope, into=at)
            for order in b.lane.adjoint.orders:
                gather_size(b, order, own, _ONE, [b.buf.stage_slope], result)
        copy(b, cotangent, own)
        multiply(b, cotangent, size_of(b, b.scalar(step_size)), transposed=True)
        pull(b, "f", since_t0, at, cotangent, result, y=state)
        add_to_adjoint(b, result)
        if any(name.partition(".")[0] == MASS for name in b.lane.adjoint.wrt):
            method.mass_of_stage(b, stage)
            pull(b, "mass", b.real(0), 0, own, b.buf.mass_product, y=b.buf.mass_vector)
