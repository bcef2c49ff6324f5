"""Simplified Newton iterations: one matrix for all of them, which end as soon as their rate of convergence allows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..buffers import Buffer
from ..kernel.scalar import Scalar
from ..loop import Dimensions

if TYPE_CHECKING:
    from ..loop.body import Body
    from .iteration import Iteration

# The error that may be left over, in units of the tolerance: that of diffrax 0.7.2's VeryChord.
KAPPA = 1e-2
# A Jacobian serves for the next step, too, where no rate of convergence was above this: the default of RADAU5 by Hairer and
# Wanner.
SERVES = 1e-3


@dataclasses.dataclass(frozen=True)
class Newton:
    """The static side of `NewtonSettings`. reuse: whether a Jacobian may serve for several steps."""

    reuse: bool

    def buffers(self) -> tuple[Buffer, ...]:
        live = frozenset({"step/stage/newton"})
        return (Buffer("newton_delta", 0, live=live), Buffer("newton_stage_base_bt", 0, live=live))

    def sizes(self, dimensions: Dimensions, stages: int = 1) -> dict[str, int]:
        """Words of each of its buffers. stages: how many are solved for at once.

        newton_delta: an increment, of all of them. newton_stage_base_bt: the state at which an iteration evaluates f.
        """
        return {"newton_delta": stages * dimensions.primal, "newton_stage_base_bt": dimensions.primal}

    def begin(self, b: Body, fine: Scalar) -> Iteration:
        """At the beginning of a step. fine: whether there is a matrix to solve with."""
        from .iteration import Iteration

        return Iteration(b, fine)
