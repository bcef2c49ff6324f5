"""Solves batches of ODEs: a JAX function becomes one fused kernel, for the GPU and for the CPU."""

from . import methods
from .front_doors import solve
from .kernel.call import kernel_call
from .kernel.custom_call import register as _register
from .kernel.target import BuildError
from .methods import ButcherTableau, ContinuousExtension, ImplicitTableau, RosenbrockTableau
from .outputs import SaveAt, SubSaveAt, steady_state
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
    "ImplicitTableau",
    "RosenbrockTableau",
    "SaveAt",
    "Solution",
    "Solver",
    "SubSaveAt",
    "__version__",
    "check_successful",
    "kernel_call",
    "methods",
    "solve",
    "solve_ivp",
    "steady_state",
]
