"""What is saved of a solution, how points between steps are found, and what ends a lane before t1."""

from .events import Steady, SteadyState, steady_state
from .saveat import SaveAt
from .saving import Saving

# Every part that a solve may have, for the sake of its buffers.
PARTS = (Saving, Steady)

__all__ = ["PARTS", "SaveAt", "Saving", "Steady", "SteadyState", "steady_state"]
