"""What is saved of a solution, how points between steps are found, what ends a lane before t1, and summaries of it."""

from .events import Steady, SteadyState, steady_state
from .integrals import Integrals
from .saveat import SaveAt
from .saving import Saving
from .summaries import Summaries
from .summary import Extrema, Summary

# Every part that a solve may have, for the sake of its buffers.
PARTS = (Saving, Steady, Summaries, Integrals)

__all__ = [
    "PARTS", "Extrema", "Integrals", "SaveAt", "Saving", "Steady", "SteadyState", "Summaries", "Summary", "steady_state"
]  # fmt: skip
