"""Linear systems in a lane: what a method asks of whoever solves them."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from ..buffers import Buffer
from ..kernel.scalar import Scalar
from ..operands import FieldFunction
from .complex_scalar import Complex

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..loop import Dimensions
    from ..loop.body import Body

# A vector in a lane: an array, or of complex numbers those of their parts.
Vector: TypeAlias = "View | tuple[View, View]"


class LinearSolver(abc.ABC):
    """Solves systems with W = shift - J, J the Jacobian of f by the state. A frozen dataclass: static, and part of an image's
    key.

    Systems are those of the primal components of the state; tangents have the same matrix. One that is `holding` several
    matrices has as many shifts for one J; `number` says which of them is meant, "complex" ones take complex shifts and vectors.
    """

    @abc.abstractmethod
    def holding(self, matrices: tuple[str, ...]) -> LinearSolver:
        """The solver of several matrices at once, "real" and "complex" ones. Raises ValueError if there is none."""

    @abc.abstractmethod
    def fitted(self, field: ClosedJaxpr) -> LinearSolver:
        """The solver for the Jacobian of that f, `field(t, y, *values)`."""

    @abc.abstractmethod
    def jacobian(self, field: Callable) -> FieldFunction:
        """The function "f_jac", which `linearise` calls: the elements of J that it wants, flat."""

    @abc.abstractmethod
    def buffers(self) -> tuple[Buffer, ...]:
        """Its buffers; their sizes wait for a problem."""

    @abc.abstractmethod
    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        """Words of each of its buffers."""

    @abc.abstractmethod
    def linearise(self, b: Body, since_t0: Any, state: View) -> None:
        """Keeps J at that time and state."""

    @abc.abstractmethod
    def each_entry(self, b: Body, body: Callable[[Any, Any, Scalar], None]) -> None:
        """`body(row, column, value)` for each element of J that is not 0 by its structure, before the first `factor`, or where
        it is `holding` several matrices."""

    @abc.abstractmethod
    def factor(self, b: Body, shift: Scalar | Complex, number: int = 0) -> Scalar:
        """Makes ready to solve with W. A bool: whether it can be; else W is singular, or not finite."""

    @abc.abstractmethod
    def solve(self, b: Body, vector: Vector, number: int = 0) -> None:
        """vector = W^-1 vector."""

    @abc.abstractmethod
    def solve_transposed(self, b: Body, vector: Vector, number: int = 0) -> None:
        """vector = W^-T vector."""
