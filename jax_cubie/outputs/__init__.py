"""What is saved of a solution, how points between steps are found, what ends a lane before t1, and summaries of it."""

from .dense import Dense
from .event import Event, EventRecord
from .events import Events, Kind
from .integrals import Integrals
from .saveat import SaveAt, SubSaveAt
from .saving import ROWS, Saving
from .steadiness import Steady, SteadyState, steady_state
from .summaries import Summaries
from .summary import Extrema, Summary

__all__ = [
    "ROWS", "Dense", "Event", "EventRecord", "Events", "Extrema", "Integrals", "Kind", "SaveAt", "Saving", "Steady",
    "SteadyState", "SubSaveAt", "Summaries", "Summary", "steady_state",
]  # fmt: skip
