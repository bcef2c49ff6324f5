"""Linear systems in a lane: what a method asks of whoever solves them."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..buffers import Buffer
from ..kernel.scalar import Scalar
from ..operands import FieldFunction

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..loop import Dimensions
    from ..loop.body import Body
    from .mass import Mass
    from .pattern import Pattern


class LinearSolver(abc.ABC):
    """Solves systems with W = shift M - J, J the Jacobian of f by the state, M the mass matrix, without one the identity.
    A frozen dataclass: static, and part of an image's key.

    Systems are those of the primal components of the state; tangents have the same matrix.
    """

    @abc.abstractmethod
    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> LinearSolver:
        """The solver for the Jacobian of that f, `field(t, y, *values)`, and that mass. sparsity: the Jacobian's, where the
        user gave one."""

    @abc.abstractmethod
    def jacobian(self, field: Callable, given: Callable | None = None) -> FieldFunction:
        """The function "f_jac", which `linearise` calls: the elements of J that it wants, flat. given: the user's function of
        the same arguments that gives all of J, [n, n]."""

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
    def factor(self, b: Body, shift: Scalar, *, constraints: bool = False) -> Scalar:
        """Makes ready to solve with W. A bool: whether it can be; else W is singular, or not finite. constraints: J has those
        rows alone in which M has no entry."""

    @abc.abstractmethod
    def solve(self, b: Body, vector: View) -> None:
        """vector = W^-1 vector."""

    @abc.abstractmethod
    def solve_transposed(self, b: Body, vector: View) -> None:
        """vector = W^-T vector."""
