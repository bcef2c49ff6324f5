"""Linear algebra of Jacobians: their sparsity, their values, and the systems of implicit steps."""

from .bicgstab import BiCGStab
from .colouring import colours
from .dense import DenseLU, DenseMatrix, pivot_words
from .gmres import Gmres
from .jacobian import along_state, jacobian_function
from .linear_solver import LinearSolver
from .mass import Mass
from .pattern import Pattern, jacobian_pattern, without_custom_vjp
from .settings import LinearSettings
from .symbolic import SparseLU, dense_cost, sparse_cost, sparse_if_better

__all__ = [
    "BiCGStab",
    "DenseLU",
    "DenseMatrix",
    "Gmres",
    "LinearSettings",
    "LinearSolver",
    "Mass",
    "Pattern",
    "SparseLU",
    "along_state",
    "colours",
    "dense_cost",
    "jacobian_function",
    "jacobian_pattern",
    "pivot_words",
    "sparse_cost",
    "sparse_if_better",
    "without_custom_vjp",
]
