"""Linear systems in a lane: what a method asks of whoever solves them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from ..buffers import ALWAYS, Buffer
from ..kernel.scalar import Scalar
from ..operands import FieldFunction
from .numbers import Complex, Vector

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

    Systems are those of the primal components of the state; tangents have the same matrix. One that is `holding` several
    matrices has as many shifts for one J; `number` says which of them is meant, "complex" ones take complex shifts and vectors.
    keeps: whether J outlives `factor`, and steps.
    """

    matrices: tuple[str, ...]
    keeps: bool

    def holding(self, matrices: tuple[str, ...]) -> Self:
        """This one, for several matrices at once, "real" and "complex" ones."""
        return dataclasses.replace(self, matrices=matrices)  # pyright: ignore[reportArgumentType] - those that are not abstract

    def keeping(self) -> Self:
        """This one, with a J that serves several times."""
        return dataclasses.replace(self, keeps=True)  # pyright: ignore[reportArgumentType] - those that are not abstract

    @property
    def keeps_jacobian(self) -> bool:
        """Whether J has to be kept beside its factors."""
        return self.keeps or self.matrices != ("real",)

    @property
    def reals(self) -> int:
        """Real numbers that all matrices have at one place."""
        return self._reals_before(len(self.matrices))

    def _reals_before(self, number: int) -> int:
        return sum(2 if kind == "complex" else 1 for kind in self.matrices[:number])

    def part_of(self, view: View, size: int, number: int) -> Vector:
        """What is that matrix's in an array of `reals` parts of that size."""
        parts = [view.part(one * size, size) for one in range(self._reals_before(number), self._reals_before(number + 1))]
        return parts[0] if len(parts) == 1 else (parts[0], parts[1])

    @abc.abstractmethod
    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> LinearSolver:
        """The solver for the Jacobian of that f, `field(t, y, *values)`, and that mass. sparsity: the Jacobian's, where the
        user gave one."""

    @abc.abstractmethod
    def jacobian(self, field: Callable, given: Callable | None = None) -> FieldFunction:
        """The function "f_jac", which `linearise` calls: the elements of J that it wants, flat. given: the user's function of
        the same arguments that gives all of J, [n, n]."""

    def buffers(self) -> tuple[Buffer, ...]:
        """The buffers of all linear solvers: which of them a solve takes may depend on its f. Their sizes wait for a problem.

        jacobian: the elements of J, where they have to be kept. lu_factors, lu_pivots: of W.
        """
        live = frozenset({"step"})
        return (
            Buffer("jacobian", 0, live=ALWAYS if self.keeps else live),
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
    def each_entry(self, b: Body, body: Callable[[Any, Any, Scalar], None]) -> None:
        """`body(row, column, value)` for each element of J that is not 0 by its structure; behind `factor` only where J is kept
        beside its factors."""

    @abc.abstractmethod
    def factor(self, b: Body, shift: Scalar | Complex, number: int = 0, *, constraints: bool = False) -> Scalar:
        """Makes ready to solve with W. A bool: whether it can be; else W is singular, or not finite. constraints: J has those
        rows alone in which M has no entry."""

    @abc.abstractmethod
    def solve(self, b: Body, vector: Vector, number: int = 0) -> None:
        """vector = W^-1 vector."""

    @abc.abstractmethod
    def solve_transposed(self, b: Body, vector: Vector, number: int = 0) -> None:
        """vector = W^-T vector."""
