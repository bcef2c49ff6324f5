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


class LinearSolver(abc.ABC):
    """Solves systems with W = shift - J, J the Jacobian of f by the state. A frozen dataclass: static, and part of an image's
    key.

    Systems are those of the primal components of the state; tangents have the same matrix.
    """

    @abc.abstractmethod
    def fitted(self, field: ClosedJaxpr) -> LinearSolver:
        """The solver for the Jacobian of that f, `field(t, y, *values)`."""

    @abc.abstractmethod
    def jacobian(self, field: Callable) -> FieldFunction:
        """The function "f_jac", which `linearise` calls: the elements of J that it wants, flat."""

    def buffers(self) -> tuple[Buffer, ...]:
        """The buffers of all linear solvers: which of them a solve takes may depend on its f. Their sizes wait for a problem.

        jacobian: the elements of J, where they have to be kept. lu_factors, lu_pivots: of W.
        """
        live = frozenset({"step"})
        return (
            Buffer("jacobian", 0, live=live),
            Buffer("lu_factors", 0, live=live),
            Buffer("lu_pivots", 0, dtype="int32", live=live),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        """Words of each of them."""
        return {**{buffer.name: 0 for buffer in self.buffers()}, **self.words(dimensions)}

    @abc.abstractmethod
    def words(self, dimensions: Dimensions) -> dict[str, int]:
        """Those of the buffers that it needs."""

    @abc.abstractmethod
    def linearise(self, b: Body, since_t0: Any, state: View) -> None:
        """Keeps J at that time and state."""

    @abc.abstractmethod
    def factor(self, b: Body, shift: Scalar) -> Scalar:
        """Makes ready to solve with W. A bool: whether it can be; else W is singular, or not finite."""

    @abc.abstractmethod
    def solve(self, b: Body, vector: View) -> None:
        """vector = W^-1 vector."""

    @abc.abstractmethod
    def solve_transposed(self, b: Body, vector: View) -> None:
        """vector = W^-T vector."""
