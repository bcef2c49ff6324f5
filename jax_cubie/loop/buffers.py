"""The loop's own buffers: names, live ranges and sizes. Apart from the loop, so that no solver imports Numba."""

from __future__ import annotations

from ..buffers import Buffer
from .part import Dimensions

# The slots of `counters` that the loop keeps: steps taken, and those of them that were rejected.
COUNTERS = ("steps", "rejected")

BUFFERS = (
    Buffer("state", 0),
    Buffer("proposed_state", 0, live=frozenset({"step"})),
    Buffer("parameters", 0),
    Buffer("error", 0, live=frozenset({"step/error", "step/accept"})),
    Buffer("counters", 0, dtype="int32"),
)


def sizes(dimensions: Dimensions, *, errors: int, counters: int) -> dict[str, int]:
    """Words of each of the loop's buffers. errors: the error estimates of a step."""
    states = dimensions.states
    return {
        "state": states,
        "proposed_state": states,
        "parameters": dimensions.parameters,
        "error": states * errors if dimensions.adaptive else 0,
        "counters": counters,
    }
