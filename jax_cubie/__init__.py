"""Solves batches of ODEs: a JAX function becomes one fused kernel, for the GPU and for the CPU."""

from . import methods
from .front_doors import solve
from .inputs import Doses, DoseTable, Driver, Resets, SteadyDoses, read_dose_table
from .kernel.call import kernel_call
from .kernel.custom_call import register as _register
from .kernel.target import BuildError
from .methods import ButcherTableau, ContinuousExtension, ImplicitTableau, RosenbrockTableau
from .outputs import Event, EventRecord, SaveAt, SubSaveAt, Summary, steady_state
from .scipy_spelling import solve_ivp
from .solution import RESULTS, Solution, check_successful
from .solver import Solver

# An executable that another process built finds its handlers, and the loader for its image, through this import.
_register()

__version__ = "0.1.0"

__all__ = [
    "RESULTS",
    "BuildError",
    "ButcherTableau",
    "ContinuousExtension",
    "DoseTable",
    "Doses",
    "Driver",
    "Event",
    "EventRecord",
    "ImplicitTableau",
    "Resets",
    "RosenbrockTableau",
    "SaveAt",
    "Solution",
    "Solver",
    "SteadyDoses",
    "SubSaveAt",
    "Summary",
    "__version__",
    "check_successful",
    "kernel_call",
    "methods",
    "read_dose_table",
    "solve",
    "solve_ivp",
    "steady_state",
]
