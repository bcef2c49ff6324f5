"""A Jacobian that serves for several steps of an implicit method, as long as iterations with it converge fast."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..linear import LinearSolver
from ..nonlinear import SERVES, Newton
from .stiffness import measure_jacobian

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from ..nonlinear.iteration import Iteration

_CELLS = ("jacobian_serves", "jacobian_here", "converges_fast")


@dataclasses.dataclass(frozen=True)
class JacobianReuse:
    """What a method does about it at its places in the loop.

    Cells: jacobian_serves: for the next step; jacobian_here: the Jacobian is that of the beginning of the step at hand;
    converges_fast: so did the step before. watched: whether each Jacobian is measured.
    """

    linear: LinearSolver
    newton: Newton
    watched: bool

    @property
    def counters(self) -> tuple[str, ...]:
        """Those of Jacobians, where there are not as many as steps."""
        return ("jacobians",) if self.newton.reuse else ()

    def happens(self, lane: Lane) -> bool:
        """Whether a Jacobian may serve for several steps: not where a step is taken again, or where tangents need others."""
        problem = lane.problem
        return self.newton.reuse and len(problem.pieces) == 1 and problem.checkpoints is None and problem.adjoint is None

    def declare(self, lane: Lane) -> None:
        """The cells."""
        for name in _CELLS if self.happens(lane) else ():
            lane.cell(name, "bool")

    def start(self, b: Body) -> None:
        """Before the first step."""
        if self.happens(b.lane):
            b.put(jacobian_serves=False, jacobian_here=False)

    def linearise(self, b: Body, time: Any) -> None:
        """J at the step's beginning, unless the one at hand serves."""
        if not self.happens(b.lane):
            self._linearise(b, time)
            if self.newton.reuse:
                b.counter("jacobians").add()
            return
        with b.when(~b.get("jacobian_serves")):
            self._linearise(b, time)
            b.counter("jacobians").add()
            b.put(jacobian_here=True)

    def _linearise(self, b: Body, time: Any) -> None:
        self.linear.linearise(b, time, b.piece(b.buf.state, 0))
        if self.watched:
            measure_jacobian(b, self.linear)

    def settle(self, b: Body, iteration: Iteration) -> None:
        """Behind the iterations of a step."""
        if self.happens(b.lane):
            # Until the step is accepted: one that is taken again goes by the Jacobian of its own beginning.
            b.put(jacobian_serves=b.get("jacobian_here"), converges_fast=iteration.rate <= SERVES)

    def carry(self, b: Body) -> None:
        """Behind an accepted step."""
        if self.happens(b.lane):
            b.put(jacobian_serves=b.get("converges_fast"), jacobian_here=False)
