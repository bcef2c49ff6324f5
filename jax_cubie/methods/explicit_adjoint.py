"""The transpose of a step of an explicit Runge-Kutta method, and of its values between steps.

A step is y1 = y0 + h sum(b_i k_i), k_i = f(t + c_i h, y0 + h sum(a_ij k_j)). With the cotangent l of y1, and m_i that of
stage i's state, the cotangent of k_i is h (b_i l + sum(a_ji m_j)), from which f's transpose makes m_i, from the last stage to
the first; that of y0 is l + sum(m_i). Hager, Runge-Kutta methods in optimal control and the transformed adjoint system, Numer.
Math. 87 (2000), section 2.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..loop import AdjointSteps
from ..loop.cotangents import some_of, unless_done
from .combine import combine, stage_time
from .step_adjoint import StepAdjoint
from .transposed import gather_size, pull

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .explicit_rk import ExplicitRungeKutta


class ExplicitAdjoint(StepAdjoint):
    """Writes them, for one method."""

    method: ExplicitRungeKutta

    def __init__(self, method: ExplicitRungeKutta):
        self.method = method

    def _adjoint_rows(self, b: Body) -> list[View]:
        """The cotangents of the stages' right-hand sides and of the dense output's, then that of the end of the step."""
        return [b.row(b.buf.stage_adjoint, number) for number in range(b.buf.stage_adjoint.size // b.states)]

    def _end_adjoint(self, adjoints: list[View]) -> View:
        """That of f at the end of the step."""
        return adjoints[self.method.tableau.stages - 1] if self.method.tableau.fsal else adjoints[-1]

    def start_adjoint(self, b: Body) -> View:
        return b.buf.start_adjoint

    def slope_adjoints(self, b: Body) -> tuple[View, View]:
        rows = self._adjoint_rows(b)
        return rows[0], self._end_adjoint(rows)

    def row_adjoints(self, b: Body) -> list[View]:
        rows, own, count = self._adjoint_rows(b), self.method.dense_stages, self.method.tableau.stages
        end = self._end_adjoint(rows)
        return [*rows[:count], *(rows[count + own.index(s)] if s in own else end for s in self._extra_stages)]

    def buffers_inside(self, b: Body) -> tuple[View, ...]:
        return b.buf.stage_adjoint, b.buf.start_adjoint

    @property
    def _extra_stages(self) -> range:
        count = self.method.tableau.stages
        return range(count, count + len(self.method.tableau.dense.a if self.method.tableau.dense else ()))

    def steps(self, lane: Lane) -> AdjointSteps:
        """The places in the backward loop."""
        tableau, inside = self.method.tableau, lane.problem.dimensions().inside
        count = tableau.stages
        last = count - 1 if tableau.fsal else count  # stages but for the one at the end, which no weight is given
        # Right-hand sides that nobody reads are not evaluated again.
        transposed = any(f"{name}_vjp" in lane.functions for name in lane.problem.output_functions)
        end_wanted = inside or transposed or lane.problem.cuts
        wanted = count if end_wanted or lane.adjoint.orders else last - 1  # the end of the step is made of all
        lane.cell("points_inside", "bool")

        @lane.emitted()
        def retake(b, t, h):
            rows = [b.row(b.buf.stage_rhs, number) for number in range(count)]
            states = self._states(b)
            for stage in range(1, last):
                combine(b, states[stage], b.buf.state, h, tableau.a[stage - 1], rows)
                if stage < wanted:
                    time = stage_time(b, tableau.c[stage], h, t)
                    b.evaluate(time, states[stage], rows[stage], into=tableau.c[stage])
            if end_wanted:
                combine(b, b.buf.proposed_state, b.buf.state, h, tableau.b, rows)
            if inside:
                end = self.method.end_rhs(b)
                b.evaluate(b.emitter.add(b.dtype, t, h), b.buf.proposed_state, end, into=1)

        @lane.emitted()
        def adjoint(b, t, h):
            rows, adjoints = [b.row(b.buf.stage_rhs, number) for number in range(count)], self._adjoint_rows(b)
            end, states = b.buf.adjoint, self._states(b)
            if inside:
                with b.when(some_of(b, b.get("points_inside"))):
                    self._adjoint_of_dense(b, t, h, adjoints)
            pulled: dict[int, View] = {}
            for stage in reversed(range(last)):
                weights = [tableau.b[stage], *(tableau.a[later - 1][stage] for later in pulled)]
                if not inside and not any(weights):
                    continue
                base = adjoints[stage] if inside else None
                combine(b, b.buf.stage_cotangent, base, h, weights, [end, *pulled.values()], transposed=True)
                self._pull_at(b, stage_time(b, tableau.c[stage], h, t), states[stage], tableau.c[stage], adjoints[stage])
                for order in b.lane.adjoint.orders:
                    gather_size(b, order, adjoints[stage], tableau.a[stage - 1] if stage else (), rows, b.buf.stage_cotangent)
                pulled[stage] = adjoints[stage]
            for order in b.lane.adjoint.orders:
                gather_size(b, order, end, tableau.b, rows, b.buf.stage_cotangent)
            sources = [*pulled.values(), *([b.buf.start_adjoint] if inside else [])]

            def add(index: Any) -> None:
                total = end.load(index)
                for source in sources:
                    total = b.emitter.add(b.dtype, total, source.load(index))
                end.store(index, unless_done(b, total, end.load(index)))

            b.each(add)

        return AdjointSteps(retake, adjoint)

    def _states(self, b: Body) -> list[View]:
        """The states of the stages before the end."""
        count = b.buf.stage_state.size // b.states
        return [b.buf.state, *(b.row(b.buf.stage_state, number) for number in range(count))]

    def _pull_at(self, b: Body, since_t0: Any, state: View, fraction: Fraction | int, into: View) -> None:
        pull(b, "f", since_t0, fraction, b.buf.stage_cotangent, into, y=state)

    def _adjoint_of_dense(self, b: Body, time: Any, step_size: Any, adjoints: list[View]) -> None:
        """What only the dense output needs: f at the end of the step, and stages of its own."""
        tableau, count, rows = self.method.tableau, self.method.tableau.stages, self.method.dense_rows(b)
        dense, own = tableau.dense, self.method.dense_stages
        pulled: dict[int, View] = {}
        for stage in reversed(own):
            assert dense is not None
            row = adjoints[count + own.index(stage)]
            later = [dense.a[one - count] for one in pulled]
            weights = [weight[stage] if stage < len(weight) else Fraction(0) for weight in later]
            combine(b, b.buf.stage_cotangent, row, step_size, weights, list(pulled.values()), transposed=True)
            number = stage - count
            state = b.buf.stage_accumulator
            combine(b, state, b.buf.state, step_size, dense.a[number], rows)
            self._pull_at(b, stage_time(b, dense.c[number], step_size, time), state, dense.c[number], row)
            for order in b.lane.adjoint.orders:
                gather_size(b, order, row, dense.a[number], rows, b.buf.stage_cotangent)
            pulled[stage] = row
        # Their states are the step's beginning and right-hand sides of its stages.
        end = self._end_adjoint(adjoints)
        places = [*adjoints[:count], *(end if stage not in own else None for stage in self._extra_stages)]
        for stage, row in pulled.items():
            assert dense is not None
            for earlier, weight in enumerate(dense.a[stage - count]):
                place = places[earlier] if earlier < len(places) else None
                if weight and place is not None:
                    combine(b, place, place, step_size, [weight], [row], transposed=True)
            b.each(
                lambda index, row=row: b.buf.start_adjoint.store(
                    index, b.emitter.add(b.dtype, b.buf.start_adjoint.load(index), row.load(index))
                )
            )
        b.each(lambda index: b.buf.stage_cotangent.store(index, end.load(index)))
        self._pull_at(b, b.emitter.add(b.dtype, time, step_size), b.buf.proposed_state, 1, end)
        target = b.buf.adjoint

        def add(index: Any) -> None:
            before = target.load(index)
            target.store(index, unless_done(b, b.emitter.add(b.dtype, before, end.load(index)), before))

        b.each(add)
