"""What acts on a trajectory from outside, at times that are known."""

from .dose_tables import DoseTable, read_dose_table
from .doses import Doses, Jumps as DoseJumps, Resets, jumps_of, read_schedules
from .jumps import Jumps, Schedule, read_jumps

__all__ = ["DoseTable", "Doses", "Jumps", "Resets", "Schedule", "read_dose_table", "read_jumps"]
