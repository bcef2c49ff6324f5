"""Linear algebra in a lane: the systems of implicit steps."""

from .dense import DenseLU
from .linear_solver import LinearSolver
from .settings import LinearSettings

__all__ = ["DenseLU", "LinearSettings", "LinearSolver"]
