"""What comes to a trajectory from outside: at times that are known, or as functions of time."""

from .dose_tables import DoseTable, read_dose_table
from .doses import AnyDoses, Doses, Resets, read_doses, schedule_of
from .drivers import Driver
from .jumps import Jumps, Schedule, read_jumps
from .tables import Tables, read_drivers

__all__ = [
    "AnyDoses",
    "DoseTable",
    "Doses",
    "Driver",
    "Jumps",
    "Resets",
    "Schedule",
    "Tables",
    "read_dose_table",
    "read_doses",
    "read_drivers",
    "read_jumps",
    "schedule_of",
]
