"""What methods for stiff systems have in common: linear systems in each step, mass matrices, and Newton's iteration."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..linear import LinearSolver, Mass
from ..nonlinear import Newton
from ..operands import primal_name
from .field_functions import FieldFunction
from .implicit_tableau import ImplicitTableau
from .jacobian_reuse import JacobianReuse
from .tableau_method import TableauMethod

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..linear import Pattern
    from ..loop.body import Body
    from .constraints import Constraints


class ImplicitMethod(TableauMethod):
    """A method that solves linear systems in each step.

    linear: who solves them. mass: the mass matrix, where there is one. watched: whether it measures its Jacobians, for those
    who change methods.
    """

    linear: LinearSolver
    mass: Mass | None
    watched: bool

    fallible: ClassVar[bool] = True

    @property
    def primal_too(self) -> tuple[str, ...]:
        return () if self.mass is None else ("f", "mass")

    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> Self:
        fitted = self.linear.fitted(field, mass, sparsity)
        return dataclasses.replace(self, linear=fitted, mass=mass)  # pyright: ignore[reportArgumentType] - those not abstract

    def slope_of(self, field: Callable) -> Callable:
        return field if self.mass is None else self.mass.slope_of(field)

    def transposed(self, field: Callable) -> dict[str, FieldFunction]:
        return self.linear.transposed(field)

    @property
    def dense_adjoint_rows(self) -> int:
        """Of cotangents of the step's beginning, and of f at both ends where values between are Hermite's."""
        return 1 if self.tableau.dense is not None else 3

    @property
    def constraints(self) -> Constraints | None:
        return self.equations_at_t0 if self.mass is not None and self.mass.separates else None

    @property
    def equations_at_t0(self) -> Constraints:
        """What there is to solve for there with a mass matrix: slopes, and where there are constraints the state."""
        from .constraints import Constraints

        assert self.mass is not None
        return Constraints(self.mass, self.linear.holding(("real",)))

    def first_slope(self, b: Body) -> tuple[View, Callable[[View], None] | None]:
        return (self.start_rhs(b), None) if self.mass is None else self.equations_at_t0.first_slope(b, self.start_rhs(b))


class NewtonMethod(ImplicitMethod):
    """An implicit Runge-Kutta method: its stages are found by Newton's iteration."""

    tableau: ImplicitTableau
    newton: Newton

    @abc.abstractmethod
    def rows(self, b: Body) -> list[View]:
        """What is found of each stage."""

    def __post_init__(self) -> None:
        if self.tableau.dense is not None and self.tableau.dense.a:
            raise ValueError(f"tableau {self.name!r}: its values between steps can't have stages of their own")

    @property
    def primal_too(self) -> tuple[str, ...]:
        return ("f", *(() if self.mass is None else ("mass",)))

    def differentiated(self, field: Callable) -> dict[str, FieldFunction]:
        found = {"f": FieldFunction(field)}
        return found if self.mass is None else {**found, "mass": self.mass.product()}

    @property
    def reuse(self) -> JacobianReuse:
        return JacobianReuse(self.linear, self.newton, self.watched)

    def dense_rows(self, b: Body) -> list[View]:
        return self.rows(b)

    def primal_rows(self, b: Body) -> list[View]:
        """Of the primal state alone."""
        return [b.piece(row, 0) for row in self.rows(b)]

    def evaluate_primal(self, b: Body, since_t0: Any, state: View, into: View) -> None:
        """f of the primal components alone."""
        b.call(primal_name("f") if len(b.pieces) > 1 else "f", y=state, out=into, **b.instant(since_t0))
