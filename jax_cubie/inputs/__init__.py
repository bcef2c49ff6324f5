"""What acts on a trajectory from outside: drivers, functions of time that were measured or designed; doses; jumps at times
that are known; and what algebraic equations ask for behind jumps."""

from .consistency import Consistency
from .dose_tables import DoseTable, read_dose_table
from .doses import AnyDoses, Doses, Resets, apart, component_of, read_doses, schedule_of, steady_among
from .drivers import Driver
from .jumps import Jumps, Schedule, read_jumps
from .reading import NO_DRIVERS, Drivers, read_drivers
from .steady_doses import SteadyDoses
from .tables import Tables, make_tables

__all__ = [
    "NO_DRIVERS",
    "AnyDoses",
    "Consistency",
    "DoseTable",
    "Doses",
    "Driver",
    "Drivers",
    "Jumps",
    "Resets",
    "Schedule",
    "SteadyDoses",
    "Tables",
    "apart",
    "component_of",
    "make_tables",
    "read_dose_table",
    "read_doses",
    "read_drivers",
    "read_jumps",
    "schedule_of",
    "steady_among",
]
