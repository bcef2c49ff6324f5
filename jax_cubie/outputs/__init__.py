"""What is saved of a solution, how points between steps are found, and what ends a lane before t1."""

from .event import Event, EventRecord
from .events import Events, Kind
from .saveat import SaveAt
from .saving import Saving
from .steady_state import Steady, SteadyState, steady_state

# Every part that a solve may have, for the sake of its buffers.
PARTS = (Saving, Steady, Events)

__all__ = [
    "PARTS", "Event", "EventRecord", "Events", "Kind", "SaveAt", "Saving", "Steady", "SteadyState", "steady_state",
]  # fmt: skip
