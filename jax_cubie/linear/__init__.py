"""Linear algebra of Jacobians: their sparsity, their values, and the factors of the matrices made of them."""

from .colouring import colours
from .jacobian import jacobian_function
from .pattern import Pattern, jacobian_pattern, without_custom_vjp
from .symbolic import SparseLU, dense_cost, sparse_cost, sparse_if_better

__all__ = [
    "Pattern",
    "SparseLU",
    "colours",
    "dense_cost",
    "jacobian_function",
    "jacobian_pattern",
    "sparse_cost",
    "sparse_if_better",
    "without_custom_vjp",
]
