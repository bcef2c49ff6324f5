"""Linear algebra of Jacobians: their sparsity, their values, and the systems of implicit steps."""

from .colouring import colours
from .dense import DenseLU
from .jacobian import jacobian_function
from .linear_solver import LinearSolver
from .mass import Mass
from .pattern import Pattern, jacobian_pattern
from .settings import LinearSettings
from .symbolic import SparseLU, dense_cost, is_worth_it, sparse_cost

__all__ = [
    "DenseLU",
    "LinearSettings",
    "LinearSolver",
    "Mass",
    "Pattern",
    "SparseLU",
    "colours",
    "dense_cost",
    "is_worth_it",
    "jacobian_function",
    "jacobian_pattern",
    "sparse_cost",
]
