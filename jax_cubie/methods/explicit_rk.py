"""Explicit Runge-Kutta methods: one step for the whole family, driven by a tableau.

The rows of `stage_rhs` are the stages' right-hand sides. Row 0 is f at the beginning of the step; it stays there, so
that a rejected step evaluates nothing twice. The last row is f at the end of an accepted step: the step's own last
stage where the tableau has that property (FSAL), else it is evaluated then. The stages that only the dense output needs
have rows of their own, in `dense_rhs`; they are evaluated in a step that a point falls into.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..buffers import BACKWARD, Buffer
from ..loop import Dimensions, Steps
from .combine import combine, stage_time
from .field_functions import FieldFunction
from .tableau import ButcherTableau
from .tableau_method import TableauMethod

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..linear import Mass, Pattern
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .step_adjoint import StepAdjoint


@dataclasses.dataclass(frozen=True)
class ExplicitRungeKutta(TableauMethod):
    """An explicit Runge-Kutta method."""

    tableau: ButcherTableau

    family = "explicit Runge-Kutta"
    fallible = False
    increments = False

    @property
    def error_order(self) -> int:
        return self.tableau.order

    @property
    def error_rows(self) -> int:
        if self.tableau.b_embedded is None:
            return 0
        return 1 + (self.tableau.error_weights_low is not None)

    def in_step(self, dimensions: Dimensions) -> bool:
        return not (dimensions.inside and self.dense_stages)

    def rhs_rows(self, dimensions: Dimensions) -> int:
        """Rows of `stage_rhs`: one a stage, and never less than the two ends of a step. Its own dense output wants every
        stage, as a transposed step does, and the end's row is one more."""
        own = dimensions.inside and (self.tableau.dense is not None or dimensions.backward) and not self.tableau.fsal
        return self.tableau.stages + 1 if own else max(self.tableau.stages, 2)

    @property
    def dense_stages(self) -> tuple[int, ...]:
        """The stages, counted on from those of a step, that only the dense output needs: all of its own but the end of the
        step, whose row there is anyway."""
        tableau = self.tableau
        extra = 0 if tableau.dense is None else len(tableau.dense.a)
        return tuple(stage for stage in range(tableau.stages, tableau.stages + extra) if stage != tableau.end_stage)

    def evaluations(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> Any:
        total = (self.tableau.stages - 1) * steps
        if not self.tableau.fsal:
            total = total + accepted
        if "dense" in counted:
            total = total + counted["dense"] * len(self.dense_stages)
        return total

    def functions(self, field: Callable, jac: Callable | None = None) -> dict[str, FieldFunction]:
        return {"f": FieldFunction(field)}

    def differentiated(self, field: Callable) -> dict[str, FieldFunction]:
        return {"f": FieldFunction(field)}

    def fitted(
        self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None
    ) -> ExplicitRungeKutta:
        return self

    def transposed(self, field: Callable) -> dict[str, FieldFunction]:
        return {}

    def buffers(self) -> tuple[Buffer, ...]:
        return (
            Buffer("stage_rhs", 0, persistent=True),
            Buffer("stage_accumulator", 0, aliases="error", live=frozenset({"step/stage", "step/output"})),
            Buffer("dense_rhs", 0, live=frozenset({"step/output"})),
            Buffer("stage_state", 0, live=BACKWARD),
            Buffer("stage_adjoint", 0, live=BACKWARD),
            Buffer("stage_cotangent", 0, live=BACKWARD),
            Buffer("start_adjoint", 0, live=BACKWARD),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        states = dimensions.states
        return {
            "stage_rhs": self.rhs_rows(dimensions) * states,
            "stage_accumulator": states if self.tableau.stages > 1 else 0,
            "dense_rhs": len(self.dense_stages) * states if dimensions.inside else 0,
            "stage_state": max(self.tableau.stages - 1 - self.tableau.fsal, 0) * states if dimensions.backward else 0,
            "stage_adjoint": self._adjoint_count(dimensions) * states if dimensions.backward else 0,
            "stage_cotangent": states if dimensions.backward else 0,
            "start_adjoint": states if dimensions.backward and dimensions.inside else 0,
        }

    def _adjoint_count(self, dimensions: Dimensions) -> int:
        """Arrays of cotangents: of each stage, each stage of the dense output, and the end of the step."""
        return self.tableau.stages + (len(self.dense_stages) + (not self.tableau.fsal) if dimensions.inside else 0)

    def counters(self, dimensions: Dimensions) -> tuple[str, ...]:
        return ("dense",) if dimensions.inside and self.dense_stages else ()

    def copies(self, dimensions: Dimensions) -> dict[str, int]:
        dense = len(self.dense_stages) if dimensions.inside else 0
        stages = self.tableau.stages + dense + (not self.tableau.fsal)
        if not dimensions.backward:
            return {"f": stages}
        return {"f": 2 * stages, "f_vjp": stages + dimensions.inside}

    def work(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def steps(self, lane: Lane) -> Steps:
        @lane.emitted()
        def start(b, t):
            b.evaluate(t, b.buf.state, self.start_rhs(b))

        return Steps(
            start=start,
            step=lane.emitted()(self._step),
            finish=None if self.tableau.fsal else lane.emitted()(self.finish),
            carry=lane.emitted()(self.carry),
        )

    def _step(self, b: Body, time: Any, step_size: Any) -> None:
        """One step from `state`: `proposed_state`, the rows of `stage_rhs` after the first, and `error`."""
        tableau, state, proposed = self.tableau, b.buf.state, b.buf.proposed_state
        rows = [b.row(b.buf.stage_rhs, number) for number in range(tableau.stages)]
        for stage, (weights, fraction) in enumerate(zip(tableau.a, tableau.c[1:], strict=True), start=1):
            last_of_fsal = tableau.fsal and stage == tableau.stages - 1
            stage_state = proposed if last_of_fsal else b.buf.stage_accumulator
            combine(b, stage_state, state, step_size, weights, rows)
            b.evaluate(stage_time(b, fraction, step_size, time), stage_state, rows[stage], into=fraction)
        if not tableau.fsal:
            combine(b, proposed, state, step_size, tableau.b, rows)
        if b.buf.error.size:
            for number, errors in enumerate((tableau.error_weights, tableau.error_weights_low)[: self.error_rows]):
                estimate = b.buf.error.part(number * b.primal, b.primal)
                combine(b, estimate, None, step_size, errors or (), rows)

    def slopes(self, b: Body) -> View:
        return b.buf.stage_rhs

    def dense_rows(self, b: Body) -> list[View]:
        """The right-hand sides that the dense output is made of, in the order of its weights."""
        tableau, own = self.tableau, self.dense_stages
        rows = [b.row(b.buf.stage_rhs, number) for number in range(tableau.stages)]
        for stage in range(tableau.stages, tableau.stages + len(tableau.dense.a if tableau.dense else ())):
            rows.append(b.row(b.buf.dense_rhs, own.index(stage)) if stage in own else self.end_rhs(b))
        return rows

    def prepare_between(self, b: Body, time: Any, step_size: Any) -> None:
        """The stages that only the dense output needs."""
        if not self.dense_stages:
            return
        dense, accumulator, rows = self.tableau.dense, b.buf.stage_accumulator, self.dense_rows(b)
        assert dense is not None
        for stage in self.dense_stages:
            number = stage - self.tableau.stages
            combine(b, accumulator, b.buf.state, step_size, dense.a[number], rows)
            b.evaluate(stage_time(b, dense.c[number], step_size, time), accumulator, rows[stage], into=dense.c[number])
        b.counter("dense").add()

    @property
    def step_adjoint(self) -> StepAdjoint:
        from .explicit_adjoint import ExplicitAdjoint

        return ExplicitAdjoint(self)
