"""The loop's own buffers: names, live ranges and sizes. Apart from the loop, so that no solver imports Numba."""

from __future__ import annotations

from .buffers import BufferRegistry

# The slots of `counters`: steps taken and rejected, the row of the solution that is written next, the save times behind,
# and the steps whose dense output took stages of its own.
COUNTERS = STEPS, REJECTED, ROW, POINT, DENSE = range(5)


def register(registry: BufferRegistry) -> BufferRegistry:
    """Adds the loop's buffers; their sizes wait for a problem."""
    return (
        registry.register("state", 0)
        .register("proposed_state", 0, live={"stage", "error", "accept", "output"})
        .register("parameters", 0)
        .register("error", 0, live={"error", "accept"})
        .register("output_state", 0, aliases="error", live={"output"})
        .register("counters", 0, dtype="int32")
    )


def sizes(states: int, parameters: int, *, errors: int, output: bool) -> dict[str, int]:
    """Words of each of the loop's buffers.

    parameters: the words of the batched arguments that are kept in that buffer. errors: the error estimates of a step, 0
    where no controller asks for them. output: whether a function is saved of states inside of steps.
    """
    return {
        "state": states,
        "proposed_state": states,
        "parameters": parameters,
        "error": states * errors,
        "output_state": states if output else 0,
        "counters": len(COUNTERS),
    }
