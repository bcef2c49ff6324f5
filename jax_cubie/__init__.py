"""Solves batches of ODEs: a JAX function becomes one fused kernel, for the GPU and for the CPU."""

from .kernel.call import kernel_call
from .kernel.custom_call import register as _register
from .kernel.target import BuildError
from .methods import ButcherTableau, ContinuousExtension
from .outputs import SaveAt
from .solution import RESULTS, Solution, check_successful
from .solve import methods, solve, solve_ivp
from .solver import Solver

# An executable that another process built finds its handlers, and the loader for its image, through this import.
_register()

__all__ = [
    "RESULTS",
    "BuildError",
    "ButcherTableau",
    "ContinuousExtension",
    "SaveAt",
    "Solution",
    "Solver",
    "check_successful",
    "kernel_call",
    "methods",
    "solve",
    "solve_ivp",
]
