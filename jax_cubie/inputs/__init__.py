"""What acts on a trajectory from outside, at times that are known."""

from .dose_tables import DoseTable, read_dose_table
from .doses import AnyDoses, Doses, Resets, read_doses, schedule_of
from .jumps import Jumps, Schedule, read_jumps

__all__ = [
    "AnyDoses",
    "DoseTable",
    "Doses",
    "Jumps",
    "Resets",
    "Schedule",
    "read_dose_table",
    "read_doses",
    "read_jumps",
    "schedule_of",
]
