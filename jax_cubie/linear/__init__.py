"""Linear algebra of Jacobians: their sparsity, their values, and the factors of the matrices made of them."""

from .colouring import colours
from .jacobian import jacobian_function
from .pattern import Pattern, jacobian_pattern

__all__ = ["Pattern", "colours", "jacobian_function", "jacobian_pattern"]
