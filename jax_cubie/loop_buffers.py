"""The loop's own buffers: names, live ranges and sizes. Apart from the loop, so that no solver imports Numba."""

from __future__ import annotations

from .buffers import BufferRegistry


def register(registry: BufferRegistry) -> BufferRegistry:
    """Adds the loop's buffers; their sizes wait for a problem."""
    return (
        registry.register("state", 0)
        .register("proposed_state", 0, live={"stage", "error", "accept", "output"})
        .register("parameters", 0)
        .register("error", 0, live={"error", "accept"})
        .register("counters", 0, dtype="int32")
    )


def sizes(states: int, parameters: int, adaptive: bool) -> dict[str, int]:
    """Words of each of the loop's buffers. `parameters`: the words of f's arguments that are kept in that buffer."""
    return {
        "state": states,
        "proposed_state": states,
        "parameters": parameters,
        "error": states if adaptive else 0,
        "counters": 3,
    }
