"""Which linear solver a method uses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import equinox as eqx

from ..settings import Component, check_choice
from .dense import DenseLU
from .linear_solver import LinearSolver
from .mass import Mass, constraints_of, joined
from .pattern import Pattern, jacobian_pattern
from .sparse import SparseFactors
from .symbolic import sparse_if_better

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr


@dataclasses.dataclass(frozen=True)
class Automatic(LinearSolver):
    """The dense one, or the sparse one where that halves the work; known once there is a field."""

    matrices: tuple[str, ...] = ("real",)
    keeps: bool = False

    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> LinearSolver:
        entries = jacobian_pattern(field) if sparsity is None else sparsity
        plan = sparse_if_better(joined(entries, mass))
        if plan is None or (mass is not None and not plan.eliminates(constraints_of(entries, mass))):
            return DenseLU(entries, self.matrices, self.keeps, mass)
        return SparseFactors(plan, entries, self.matrices, self.keeps, mass)

    def _unfitted(self, *_: Any) -> Any:
        raise TypeError("which linear solver it is depends on the field, to which it is not fitted yet")

    jacobian = words = linearise = each_entry = _unfitted  # pyright: ignore[reportAssignmentType]
    factor = solve = solve_transposed = _unfitted  # pyright: ignore[reportAssignmentType]


LINEAR_SOLVERS: dict[str, LinearSolver] = {"auto": Automatic(), "dense": DenseLU(), "sparse": SparseFactors()}


class LinearSettings(Component):
    """linear_solver: how implicit steps solve their linear systems: "dense", by the factors of the full matrix, with pivoting;
    "sparse", by those that are not zero, without; "auto", the latter where it is less than half of the work."""

    linear_solver: str = eqx.field(static=True, default="auto")

    def __check_init__(self) -> None:
        check_choice("linear_solver", self.linear_solver, LINEAR_SOLVERS)

    def operands(self, state: Any) -> dict[str, Any]:
        return {}

    @property
    def static(self) -> LinearSolver:
        """What machine code depends on."""
        return LINEAR_SOLVERS[self.linear_solver]
