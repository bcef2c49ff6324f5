"""What the transposes of steps have in common."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from ..outputs.interpolation import dense_shares

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
