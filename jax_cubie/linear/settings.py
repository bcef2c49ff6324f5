"""Which linear solver a method uses."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from ..settings import Component, check_choice
from .dense import DenseLU
from .linear_solver import LinearSolver

LINEAR_SOLVERS: dict[str, LinearSolver] = {"dense": DenseLU()}


class LinearSettings(Component):
    """linear_solver: how implicit steps solve their linear systems: "dense", by the LU factors of the full matrix."""

    linear_solver: str = eqx.field(static=True, default="dense")

    def __check_init__(self) -> None:
        check_choice("linear_solver", self.linear_solver, LINEAR_SOLVERS)

    def operands(self, state: Any) -> dict[str, Any]:
        return {}

    @property
    def static(self) -> LinearSolver:
        """What machine code depends on."""
        return LINEAR_SOLVERS[self.linear_solver]
