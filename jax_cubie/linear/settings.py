"""Which linear solver a method uses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import equinox as eqx
from jaxtyping import Array, Float, Int

from ..settings import Component, Range, as_python, check_choice, check_count, check_most_steps
from ..times import count, scalar
from .bicgstab import BiCGStab
from .dense import DenseLU
from .gmres import Gmres
from .krylov import PRECONDITIONERS, KrylovSolver
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

    functions = transposed = copies = words = _unfitted  # pyright: ignore[reportAssignmentType]
    linearise = each_entry = factor = solve = solve_transposed = _unfitted  # pyright: ignore[reportAssignmentType]

    @property
    def counters(self) -> tuple[str, ...]:
        return ()


LINEAR_SOLVERS: dict[str, LinearSolver] = {
    "auto": Automatic(),
    "dense": DenseLU(),
    "sparse": SparseFactors(),
    "gmres": Gmres(),
    "bicgstab": BiCGStab(),
}
_KRYLOV = tuple(name for name, solver in LINEAR_SOLVERS.items() if isinstance(solver, KrylovSolver))
# The settings that belong to some linear solvers, or to a preconditioner.
_OWNERS = {
    "preconditioner": ("linear_solver", _KRYLOV),
    "krylov_dimension": ("linear_solver", ("gmres",)),
    "krylov_rtol": ("linear_solver", _KRYLOV),
    "krylov_max_steps": ("linear_solver", _KRYLOV),
    "neumann_degree": ("preconditioner", ("neumann",)),
}
_DIMENSION, _MAX_STEPS, _DEGREE = 30, 300, 2
_RTOL = Range(0, 1)


class LinearSettings(Component):
    """linear_solver: how implicit steps solve their linear systems. By factors: "dense", those of the full matrix, with
    pivoting; "sparse", those that are not zero, without; "auto", the latter where it is less than half of the work. Or without
    a matrix, by iterations that take products of J by vectors: "gmres", which starts again after `krylov_dimension` of them
    (None: 30); "bicgstab", which keeps four vectors, and takes two products a step.

    Those two have: krylov_rtol: where an iteration ends. Of Newton's increments it is the error that may be left, in units of
    the tolerances of that iteration (None: 1e-3), taken to be the residual times h gamma, which holds where f is dissipative.
    Of Rosenbrock methods, whose order is that of exact solutions, it is the residual relative to the right side (None: 100
    units in the last place). The systems of derivatives always end so (at one unit with "bicgstab"); a derivative whose systems
    are not solved is NaN.
    krylov_max_steps: the most steps for a system (None: 300); one that needs more makes its step fail.
    preconditioner: "none" (so does None); "jacobi", the diagonal of the matrix; "neumann", the series of its inverse in
    h gamma J up to the power `neumann_degree` (None: 2), of use where h gamma J is small.
    """

    linear_solver: str = eqx.field(static=True, default="auto")
    preconditioner: str | None = eqx.field(static=True, default=None)
    krylov_dimension: int | None = eqx.field(static=True, default=None, converter=as_python)
    neumann_degree: int | None = eqx.field(static=True, default=None, converter=as_python)
    krylov_rtol: Float[Array, ""] | float | None = None
    krylov_max_steps: Int[Array, ""] | int | None = None

    def __check_init__(self) -> None:
        check_choice("linear_solver", self.linear_solver, LINEAR_SOLVERS)
        for name, (owner, values) in _OWNERS.items():
            own = getattr(self, owner)
            if getattr(self, name) is not None and own not in values:
                raise ValueError(
                    f"{name} is a setting of {owner}={' or '.join(map(repr, values))}, and this solver's is {own!r}: leave it "
                    f"out, or take {owner}={values[0]!r}"
                )
        if self.preconditioner is not None:
            check_choice("preconditioner", self.preconditioner, PRECONDITIONERS)
        for name in ("krylov_dimension", "neumann_degree"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 1)
        if self.krylov_rtol is not None:
            _RTOL.check("krylov_rtol", self.krylov_rtol)
        if self.krylov_max_steps is not None:
            check_most_steps("krylov_max_steps", self.krylov_max_steps)

    def operands(self, state: Any) -> dict[str, Any]:
        if self.linear_solver not in _KRYLOV:
            return {}
        most = _MAX_STEPS if self.krylov_max_steps is None else self.krylov_max_steps
        given = {} if self.krylov_rtol is None else {"krylov_rtol": scalar("krylov_rtol", self.krylov_rtol, state.dtype)}
        return {**given, "krylov_max_steps": count("krylov_max_steps", most)}

    @property
    def static(self) -> LinearSolver:
        """What machine code depends on."""
        solver = LINEAR_SOLVERS[self.linear_solver]
        if not isinstance(solver, KrylovSolver):
            return solver
        preconditioner = self.preconditioner or "none"
        degree = (self.neumann_degree or _DEGREE) if preconditioner == "neumann" else 0
        own = {"dimension": self.krylov_dimension or _DIMENSION} if isinstance(solver, Gmres) else {}
        return dataclasses.replace(solver, preconditioner=preconditioner, degree=degree, **own)
