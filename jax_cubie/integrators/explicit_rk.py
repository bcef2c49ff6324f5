"""Explicit Runge-Kutta methods: one step for the whole family, driven by a tableau.

The rows of `stage_rhs` are the stages' right-hand sides. Row 0 is f at the beginning of the step; the loop puts it there,
so that a rejected step evaluates nothing twice. The last row is f at the end of an accepted step: the step's own last
stage where the tableau has that property (FSAL), else the loop evaluates it. The stages that only the dense output needs
have rows of their own, in `dense_rhs`; they are evaluated in a step that a point falls into.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..buffers import BufferRegistry
from .tableau import ButcherTableau

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..kernel.emitter import Emitter

EvaluateField = Callable[[Any, "View", "View"], None]  # (time, state, right-hand side)


@dataclasses.dataclass(frozen=True)
class ExplicitRungeKutta:
    """An explicit Runge-Kutta method."""

    tableau: ButcherTableau

    family = "explicit Runge-Kutta"

    @property
    def adaptive(self) -> bool:
        """Whether there is an error estimate to adapt the step size by."""
        return self.tableau.b_embedded is not None

    @property
    def error_order(self) -> int:
        """The order that step size control divides its exponents by."""
        return self.tableau.order

    def rhs_rows(self, dense: bool) -> int:
        """Rows of `stage_rhs`: one a stage, and never less than the two ends of a step. `dense`: whether points inside of
        steps are wanted. A method's own dense output then wants every stage, and the end's row is one more."""
        own = dense and self.tableau.dense is not None and not self.tableau.fsal
        return self.tableau.stages + 1 if own else max(self.tableau.stages, 2)

    @property
    def dense_stages(self) -> tuple[int, ...]:
        """The stages, counted on from those of a step, that only the dense output needs: all of its own but the end of the
        step, whose row there is anyway."""
        tableau = self.tableau
        extra = 0 if tableau.dense is None else len(tableau.dense.a)
        return tuple(stage for stage in range(tableau.stages, tableau.stages + extra) if stage != tableau.end_stage)

    def evaluations(self, steps: Any, accepted: Any) -> Any:
        """Evaluations of f in `steps` steps, `accepted` of them accepted, beyond the one at t0."""
        if self.tableau.fsal:
            return (self.tableau.stages - 1) * steps
        return (self.tableau.stages - 1) * steps + accepted

    def register(self, registry: BufferRegistry) -> BufferRegistry:
        """Adds the family's buffers; their sizes wait for a problem."""
        registry = registry.register("stage_rhs", 0, persistent=True)
        registry = registry.register("stage_accumulator", 0, aliases="error", live={"stage", "output"})
        return registry.register("dense_rhs", 0, live={"output"})

    def buffer_sizes(self, states: int, dense: bool) -> dict[str, int]:
        """Words of each of the family's buffers for a system of `states` components."""
        return {
            "stage_rhs": self.rhs_rows(dense) * states,
            "stage_accumulator": states if self.tableau.stages > 1 else 0,
            "dense_rhs": len(self.dense_stages) * states if dense else 0,
        }

    @property
    def error_rows(self) -> int:
        """Error estimates of a step."""
        return 1 + (self.tableau.error_weights_low is not None)

    def emit_step(
        self,
        emitter: Emitter,
        *,
        time: Any,
        step_size: Any,
        field: EvaluateField,
        combine: Callable[..., None],
        state: View,
        proposed_state: View,
        error: View,
        stage_rhs: View,
        stage_accumulator: View,
    ) -> None:
        """Writes one step from `time` and `state`: `proposed_state`, the rows of `stage_rhs` after the first, and `error`.

        `combine(target, base, step_size, weights, rows)` writes base + step_size * sum(weight * row).
        """
        tableau, states = self.tableau, state.size
        rows = [stage_rhs.part(number * states, states) for number in range(tableau.stages)]
        for stage, (weights, fraction) in enumerate(zip(tableau.a, tableau.c[1:], strict=True), start=1):
            last_of_fsal = tableau.fsal and stage == tableau.stages - 1
            stage_state = proposed_state if last_of_fsal else stage_accumulator
            combine(stage_state, state, step_size, *_nonzero(weights, rows))
            stage_time = emitter.fma(state.dtype, emitter.constant(state.dtype, float(fraction)), step_size, time)
            field(stage_time, stage_state, rows[stage])
        if not tableau.fsal:
            combine(proposed_state, state, step_size, *_nonzero(tableau.b, rows))
        if error.size:
            for number, errors in enumerate((tableau.error_weights, tableau.error_weights_low)[: self.error_rows]):
                combine(error.part(number * states, states), None, step_size, *_nonzero(errors or (), rows))

    def emit_dense_stages(
        self,
        emitter: Emitter,
        *,
        time: Any,
        step_size: Any,
        field: EvaluateField,
        combine: Callable[..., None],
        state: View,
        stage_rhs: View,
        dense_rhs: View,
        stage_accumulator: View,
    ) -> None:
        """Writes the stages that only the dense output of an accepted step needs."""
        dense = self.tableau.dense
        assert dense is not None
        rows = self.dense_rows(stage_rhs, dense_rhs, state.size)
        for stage in self.dense_stages:
            number = stage - self.tableau.stages
            combine(stage_accumulator, state, step_size, *_nonzero(dense.a[number], rows))
            fraction = dense.c[number]
            stage_time = emitter.fma(state.dtype, emitter.constant(state.dtype, float(fraction)), step_size, time)
            field(stage_time, stage_accumulator, rows[stage])

    def dense_rows(self, stage_rhs: View, dense_rhs: View, states: int) -> list[View]:
        """The right-hand sides that the dense output is made of, in the order of its weights."""
        tableau, own = self.tableau, self.dense_stages
        rows = [stage_rhs.part(number * states, states) for number in range(tableau.stages)]
        for stage in range(tableau.stages, tableau.stages + len(tableau.dense.a if tableau.dense else ())):
            if stage in own:
                rows.append(dense_rhs.part(own.index(stage) * states, states))
            else:
                rows.append(stage_rhs.part((self.rhs_rows(True) - 1) * states, states))
        return rows


def _nonzero(weights: tuple[Fraction, ...], rows: list[View]) -> tuple[list[float], list[View]]:
    kept = [(float(weight), row) for weight, row in zip(weights, rows, strict=False) if weight != 0]
    return [weight for weight, _ in kept], [row for _, row in kept]
