"""The loop's own buffers: names, live ranges and sizes. Apart from the loop, so that no solver imports Numba."""

from __future__ import annotations

from ..buffers import BACKWARD, Buffer
from .part import Dimensions

# The slots of `counters` that the loop keeps: steps taken, and those of them that were rejected.
COUNTERS = ("steps", "rejected")

BUFFERS = (
    Buffer("state", 0),
    Buffer("proposed_state", 0, live=frozenset({"step"})),
    Buffer("parameters", 0),
    Buffer("error", 0, live=frozenset({"step/error", "step/accept"})),
    Buffer("counters", 0, dtype="int32"),
    Buffer("adjoint", 0, live=BACKWARD),
    Buffer("operand_adjoint", 0, live=BACKWARD),
    Buffer("time_adjoint", 0, live=BACKWARD),
    Buffer("checkpoint_window", 0, live=BACKWARD),
)


def sizes(
    dimensions: Dimensions, *, errors: int, counters: int, operands: int = 0, times: int = 0, window: int = 0
) -> dict[str, int]:
    """Words of each of the loop's buffers. errors: the error estimates of a step. operands, times: of which a backward pass
    gives cotangents. window: words of all checkpoints between slots."""
    states = dimensions.states
    return {
        "state": states,
        "proposed_state": states,
        "parameters": dimensions.parameters,
        "error": dimensions.primal * errors if dimensions.adaptive else 0,
        "counters": counters,
        "adjoint": states if dimensions.backward else 0,
        "operand_adjoint": operands,
        "time_adjoint": times,
        "checkpoint_window": window,
    }
