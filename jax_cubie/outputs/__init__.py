"""What is saved of a solution, how points between steps are found, and what ends a lane before t1."""

from .dense import Dense
from .events import Steady, SteadyState, steady_state
from .saveat import SaveAt, SubSaveAt
from .saving import Saving

# Every part that a solve may have, for the sake of its buffers.
PARTS = (Saving, Dense, Steady)

__all__ = ["PARTS", "Dense", "SaveAt", "Saving", "Steady", "SteadyState", "SubSaveAt", "steady_state"]
