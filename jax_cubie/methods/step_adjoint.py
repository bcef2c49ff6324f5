"""What the transposes of steps have in common."""

from __future__ import annotations

import abc
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..outputs.interpolation import dense_shares
from .transposed import add_to_adjoint, pull
from .vectors import add_up

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop import AdjointSteps
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .tableau_method import TableauMethod


class StepAdjoint(abc.ABC):
    """Writes the transpose of a method's step, and the cotangents of what its values between steps are made of."""

    method: TableauMethod

    @abc.abstractmethod
    def steps(self, lane: Lane) -> AdjointSteps:
        """The places in the backward loop."""

    @abc.abstractmethod
    def start_adjoint(self, b: Body) -> View:
        """What values between add to the cotangent of the step's beginning."""

    @abc.abstractmethod
    def slope_adjoints(self, b: Body) -> tuple[View, View]:
        """The cotangents of f at the ends of the step, where values between are Hermite's."""

    @abc.abstractmethod
    def row_adjoints(self, b: Body) -> list[View]:
        """Those of the method's `dense_rows`, where they are not."""

    @abc.abstractmethod
    def buffers_inside(self, b: Body) -> tuple[View, ...]:
        """The buffers that all of these are in."""

    def between_adjoints(self, b: Body) -> list[View]:
        """The cotangents of the arrays of the method's `between_weights`."""
        ends = [self.start_adjoint(b), b.buf.adjoint]
        if self.method.tableau.dense is None:
            return [*ends, *self.slope_adjoints(b)]
        shares = dense_shares(self.method.dense_terms)
        return [*ends, *(row for row, used in zip(self.row_adjoints(b), shares, strict=True) if used)]


class IncrementsAdjoint(StepAdjoint):
    """Of a method whose rows are increments, in the first rows of `stage_adjoint`; `dense_adjoint` has those of the ends."""

    def start_adjoint(self, b: Body) -> View:
        return b.row(b.buf.dense_adjoint, 0)

    def slope_adjoints(self, b: Body) -> tuple[View, View]:
        return b.row(b.buf.dense_adjoint, 1), b.row(b.buf.dense_adjoint, 2)

    def row_adjoints(self, b: Body) -> list[View]:
        """The cotangents of the rows, and, once their equations are transposed, those of the equations."""
        return [b.row(b.buf.stage_adjoint, number) for number in range(self.method.tableau.stages)]

    def buffers_inside(self, b: Body) -> tuple[View, ...]:
        return b.buf.stage_adjoint, b.buf.dense_adjoint

    def adjoint_of_ends(self, b: Body, time: Any, step_size: Any) -> None:
        """f at the ends of the step, which only Hermite's cubic needs."""
        if self.method.tableau.dense is not None:
            return
        first, last = self.slope_adjoints(b)
        end, result = b.emitter.add(b.dtype, time, step_size), b.row(b.buf.stage_cotangent, 0)
        pull(b, "f", end, 1, last, result, y=b.buf.proposed_state)
        add_to_adjoint(b, result)
        pull(b, "f", time, 0, first, result, y=b.buf.state)
        add_up(b, self.start_adjoint(b), self.start_adjoint(b), [Fraction(1)], [result])
