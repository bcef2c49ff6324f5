"""What methods of a tableau have in common: their numbers, the ends of a step, and values between these."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..loop.jets import Jet
from ..outputs.interpolation import dense_weights, emit_dense, emit_dense_weights, emit_hermite, emit_twice_dense
from .between import HERMITE_DEGREE, add_between_moved, between_adjoint, hermite_weights
from .method import Method
from .rows import Row
from .tableau import Tableau
from .vectors import copy, fill

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..kernel.scalar import Scalar
    from ..loop import AdjointSteps
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .step_adjoint import StepAdjoint


class TableauMethod(Method):
    """A method of a tableau.

    f at the beginning of a step is the first row of a buffer, `slopes`, and f at its end the last one; the first outlives the
    step. Values between are the method's own, sums of the `dense_rows`, or Hermite's cubic through the ends and their slopes.
    increments: whether those rows are increments of the state, rather than slopes.
    """

    tableau: Tableau

    increments: ClassVar[bool]

    @property
    def name(self) -> str:
        return self.tableau.name

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def embedded_order(self) -> int | None:
        """Of what its solution is compared with for the error estimate."""
        return self.tableau.embedded_order

    @property
    def error_order(self) -> int:
        embedded = self.embedded_order
        return self.order if embedded is None else min(self.order, embedded) + 1

    # --- The ends of a step

    @abc.abstractmethod
    def slopes(self, b: Body) -> View:
        """The buffer that has f at the ends of a step."""

    def start_rhs(self, b: Body) -> View:
        return b.row(self.slopes(b), 0)

    def end_rhs(self, b: Body) -> View:
        slopes = self.slopes(b)
        return b.row(slopes, slopes.size // b.states - 1)

    def spare_rhs(self, b: Body) -> View:
        return self.end_rhs(b)

    def finish(self, b: Body, t: Any) -> None:
        """At the end of an accepted step: f there."""
        b.evaluate(t, b.buf.proposed_state, self.end_rhs(b), into=1)

    def carry(self, b: Body) -> None:
        """Behind it: its end is the beginning of the next one."""
        copy(b, b.buf.state, b.buf.proposed_state)
        copy(b, self.start_rhs(b), self.end_rhs(b))

    @property
    def carried_rows(self) -> int:
        return 1

    @property
    def carried_primal_rows(self) -> int:
        return 0

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        return ()

    def carried(self, b: Body) -> Sequence[View]:
        return (self.start_rhs(b),)

    # --- Between them

    @abc.abstractmethod
    def dense_rows(self, b: Body) -> list[View]:
        """What its own values between are sums of, besides the ends of the step: in the order of `dense_terms`."""

    @property
    def dense_terms(self) -> tuple[Row, ...]:
        """Their weights, as `ContinuousExtension.terms`."""
        assert self.tableau.dense is not None
        return self.tableau.dense.terms

    @property
    @abc.abstractmethod
    def step_adjoint(self) -> StepAdjoint:
        """Who writes its transpose."""

    @property
    def between_degree(self) -> int:
        return HERMITE_DEGREE if self.tableau.dense is None else self.tableau.dense.degree

    @property
    def between_needs_slopes(self) -> bool:
        return self.increments and self.tableau.dense is None

    def prepare_between(self, b: Body, time: Any, step_size: Any) -> None:
        return None

    def between(self, b: Body, theta: Any, step_size: Any) -> Callable[[Any], Any]:
        state, proposed = b.buf.state, b.buf.proposed_state
        if self.tableau.dense is None:
            first, last = self.start_rhs(b), self.end_rhs(b)
            return lambda index: emit_hermite(b.emitter, theta, step_size, state, proposed, first, last, index)
        scale, rows = b.real(1) if self.increments else step_size, self.dense_rows(b)
        share, weights = emit_dense_weights(b.emitter, b.dtype, theta, scale, self.dense_terms)
        return lambda index: emit_dense(b.emitter, share, weights, state, proposed, rows, index)

    def twice_between(self, b: Body, theta: float, step_size: Any) -> Callable[[Any], Any]:
        if self.tableau.dense is None:
            return super().twice_between(b, theta, step_size)
        scale, rows = b.real(1) if self.increments else step_size, self.dense_rows(b)
        return emit_twice_dense(b.emitter, theta, scale, self.dense_terms, b.buf.state, b.buf.proposed_state, rows)

    def between_weights(self, b: Body, theta: Jet, size: Jet) -> list[tuple[View, Jet]]:
        """What values between are sums of: arrays as long as the state, with the weight of each."""
        if self.tableau.dense is None:
            return hermite_weights(b, theta, size, self.start_rhs(b), self.end_rhs(b))
        scale = Jet({0: theta.terms[0].like(1.0)}) if self.increments else size
        share, weights = dense_weights(theta, scale, self.dense_terms)
        rows = [(row, weight) for row, weight in zip(self.dense_rows(b), weights, strict=True) if weight is not None]
        return [(b.buf.state, 1.0 - share), (b.buf.proposed_state, share), *rows]

    def add_between_moved(self, b: Body, theta: Jet, size: Jet, values: View) -> None:
        add_between_moved(b, self.between_weights(b, theta, size), values)

    def clear_between(self, b: Body) -> None:
        b.put(points_inside=False)
        for view in self.step_adjoint.buffers_inside(b):
            fill(b, view, 0.0)

    def between_adjoint(self, b: Body, theta: Jet, size: Jet, cotangent: View) -> tuple[dict[int, Scalar], dict[int, Scalar]]:
        return between_adjoint(b, self.between_weights, self.step_adjoint.between_adjoints(b), theta, size, cotangent)

    def adjoint(self, lane: Lane) -> AdjointSteps:
        return self.step_adjoint.steps(lane)
