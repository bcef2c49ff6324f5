"""Explicit Runge-Kutta methods: one step for the whole family, driven by a tableau.

The rows of `stage_rhs` are the stages' right-hand sides. Row 0 is f at the beginning of the step; it stays there, so
that a rejected step evaluates nothing twice. The last row is f at the end of an accepted step: the step's own last
stage where the tableau has that property (FSAL), else it is evaluated then. The stages that only the dense output needs
have rows of their own, in `dense_rhs`; they are evaluated in a step that a point falls into.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..buffers import Buffer
from ..loop import Dimensions, Steps
from ..outputs.interpolation import emit_dense, emit_dense_weights, emit_hermite
from .method import Method
from .tableau import ButcherTableau

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane


@dataclasses.dataclass(frozen=True)
class ExplicitRungeKutta(Method):
    """An explicit Runge-Kutta method."""

    tableau: ButcherTableau

    family = "explicit Runge-Kutta"
    fallible = False

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
        if self.tableau.b_embedded is None:
            return 0
        return 1 + (self.tableau.error_weights_low is not None)

    def rhs_rows(self, dimensions: Dimensions) -> int:
        """Rows of `stage_rhs`: one a stage, and never less than the two ends of a step. Its own dense output wants every
        stage, and the end's row is one more."""
        own = dimensions.inside and self.tableau.dense is not None and not self.tableau.fsal
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

    def functions(self, field: Callable) -> dict[str, Callable]:
        return {"f": field}

    def buffers(self) -> tuple[Buffer, ...]:
        return (
            Buffer("stage_rhs", 0, persistent=True),
            Buffer("stage_accumulator", 0, aliases="error", live=frozenset({"step/stage", "step/output"})),
            Buffer("dense_rhs", 0, live=frozenset({"step/output"})),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        states = dimensions.states
        return {
            "stage_rhs": self.rhs_rows(dimensions) * states,
            "stage_accumulator": states if self.tableau.stages > 1 else 0,
            "dense_rhs": len(self.dense_stages) * states if dimensions.inside else 0,
        }

    def counters(self, dimensions: Dimensions) -> tuple[str, ...]:
        return ("dense",) if dimensions.inside and self.dense_stages else ()

    def copies(self, dimensions: Dimensions) -> dict[str, int]:
        dense = len(self.dense_stages) if dimensions.inside else 0
        return {"f": self.tableau.stages + dense + (not self.tableau.fsal)}

    def steps(self, lane: Lane) -> Steps:
        @lane.emitted()
        def start(b, t):
            b.evaluate(t, b.buf.state, self.start_rhs(b))

        @lane.emitted()
        def finish(b, t):
            b.evaluate(t, b.buf.proposed_state, self._end_rhs(b))

        @lane.emitted()
        def carry(b):
            first, last = self.start_rhs(b), self._end_rhs(b)
            b.each(lambda index: b.buf.state.store(index, b.buf.proposed_state.load(index)))
            b.each(lambda index: first.store(index, last.load(index)))

        return Steps(
            start=start,
            step=lane.emitted()(self._step),
            finish=None if self.tableau.fsal else finish,
            carry=carry,
        )

    def _step(self, b: Body, time: Any, step_size: Any) -> None:
        """One step from `state`: `proposed_state`, the rows of `stage_rhs` after the first, and `error`."""
        tableau, state, proposed = self.tableau, b.buf.state, b.buf.proposed_state
        rows = [b.row(b.buf.stage_rhs, number) for number in range(tableau.stages)]
        for stage, (weights, fraction) in enumerate(zip(tableau.a, tableau.c[1:], strict=True), start=1):
            last_of_fsal = tableau.fsal and stage == tableau.stages - 1
            stage_state = proposed if last_of_fsal else b.buf.stage_accumulator
            combine(b, stage_state, state, step_size, weights, rows)
            b.evaluate(_stage_time(b, fraction, step_size, time), stage_state, rows[stage])
        if not tableau.fsal:
            combine(b, proposed, state, step_size, tableau.b, rows)
        if b.buf.error.size:
            for number, errors in enumerate((tableau.error_weights, tableau.error_weights_low)[: self.error_rows]):
                combine(b, b.row(b.buf.error, number), None, step_size, errors or (), rows)

    def start_rhs(self, b: Body) -> View:
        return b.row(b.buf.stage_rhs, 0)

    def spare_rhs(self, b: Body) -> View:
        return self._end_rhs(b)

    def _end_rhs(self, b: Body) -> View:
        return b.row(b.buf.stage_rhs, b.buf.stage_rhs.size // b.states - 1)

    def _dense_rows(self, b: Body) -> list[View]:
        """The right-hand sides that the dense output is made of, in the order of its weights."""
        tableau, own = self.tableau, self.dense_stages
        rows = [b.row(b.buf.stage_rhs, number) for number in range(tableau.stages)]
        for stage in range(tableau.stages, tableau.stages + len(tableau.dense.a if tableau.dense else ())):
            rows.append(b.row(b.buf.dense_rhs, own.index(stage)) if stage in own else self._end_rhs(b))
        return rows

    def prepare_between(self, b: Body, time: Any, step_size: Any) -> None:
        """The stages that only the dense output needs."""
        if not self.dense_stages:
            return
        dense, accumulator, rows = self.tableau.dense, b.buf.stage_accumulator, self._dense_rows(b)
        assert dense is not None
        for stage in self.dense_stages:
            number = stage - self.tableau.stages
            combine(b, accumulator, b.buf.state, step_size, dense.a[number], rows)
            b.evaluate(_stage_time(b, dense.c[number], step_size, time), accumulator, rows[stage])
        b.counter("dense").add()

    def between(self, b: Body, theta: Any, step_size: Any) -> Callable[[Any], Any]:
        """The method's own dense output, or Hermite's cubic through the ends of the step."""
        state, proposed, dense = b.buf.state, b.buf.proposed_state, self.tableau.dense
        if dense is None:
            first, last = self.start_rhs(b), self._end_rhs(b)
            return lambda index: emit_hermite(b.emitter, theta, step_size, state, proposed, first, last, index)
        rows = self._dense_rows(b)
        share, weights = emit_dense_weights(b.emitter, b.dtype, theta, step_size, dense.terms)
        return lambda index: emit_dense(b.emitter, share, weights, state, proposed, rows, index)


def combine(
    b: Body, target: View, base: View | None, step_size: Any, weights: Sequence[Fraction], rows: Sequence[View]
) -> None:
    """target = base + step_size * sum(weight * row)."""
    emitter, dtype = b.emitter, b.dtype
    used = [(b.real(float(weight)), row) for weight, row in zip(weights, rows, strict=False) if weight != 0]
    # Scaled weights cost a product each, a scaled sum one for each component; and only a weight that is a constant is part
    # of its instruction, which spares the register file a read.
    scale_weights = len(used) <= b.states
    if scale_weights:
        used = [(emitter.mul(dtype, constant, step_size), row) for constant, row in used]

    def body(index: Any) -> None:
        total = base.load(index) if scale_weights and base is not None else None
        for constant, row in used:
            value = row.load(index)
            total = emitter.mul(dtype, constant, value) if total is None else emitter.fma(dtype, constant, value, total)
        if not scale_weights:
            if base is None:
                total = emitter.mul(dtype, step_size, total)
            else:
                total = emitter.fma(dtype, step_size, total, base.load(index))
        target.store(index, total)

    b.each(body)


def _stage_time(b: Body, fraction: Fraction, step_size: Any, time: Any) -> Any:
    return b.emitter.fma(b.dtype, b.real(float(fraction)), step_size, time)
