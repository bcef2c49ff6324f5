"""Linear systems in a lane: what a method asks of whoever solves them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

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
    keeps: whether J outlives `factor`, and steps. makes_jacobian: whether there is a J to keep.
    """

    makes_jacobian: ClassVar[bool] = True

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
    def functions(self, field: Callable, given: Callable | None = None) -> dict[str, FieldFunction]:
        """What it evaluates of the primal state alone, by name: what is derived of `field(t, y, *values)`. given: the user's
        function of the same arguments that gives all of J, [n, n]."""

    @abc.abstractmethod
    def transposed(self, field: Callable) -> dict[str, FieldFunction]:
        """What it evaluates besides for systems with W^T."""

    @abc.abstractmethod
    def copies(self, linearised: int) -> dict[str, int]:
        """At how many places it evaluates each of them, where at so many J is asked for."""

    @property
    @abc.abstractmethod
    def counters(self) -> tuple[str, ...]:
        """The counters that it keeps, as those of a method."""

    def work(self, counted: Mapping[str, Any], jacobians: Any, factorisations: Any, solves: Any) -> dict[str, Any]:
        """What was done, by names in the statistics of a solution, for a method that asked for so many."""
        made = {"num_jacobians": jacobians, "num_factorisations": factorisations}
        if not self.makes_jacobian:
            made = {name: 0 * count for name, count in made.items()}
        return {**made, "num_linear_solves": solves, **{f"num_{name}": counted[name] for name in self.counters}}

    def buffers(self) -> tuple[Buffer, ...]:
        """The buffers of all linear solvers: which of them a solve takes may depend on its f. Their sizes wait for a problem.

        jacobian: the elements of J, where they have to be kept. lu_factors, lu_pivots: of W. krylov_state: the state of J,
        behind it the time and the inverse of the shift. krylov_diagonal: that of J. All others are an iteration's.
        krylov_scale: what components are measured in, and the inverse of that. krylov_direction: of a step; krylov_product:
        its product by J. krylov_basis: vectors. krylov_hessenberg: what is known of W in their space.
        """
        live, scratch = frozenset({"step"}), frozenset({"step/stage", "backward"})
        return (
            Buffer("jacobian", 0, live=ALWAYS if self.keeps else live),
            Buffer("lu_factors", 0, live=live),
            Buffer("lu_pivots", 0, dtype="int32", live=live),
            Buffer("krylov_state", 0, live=live),
            Buffer("krylov_diagonal", 0, live=live),
            Buffer("krylov_scale", 0, live=scratch),
            Buffer("krylov_residual", 0, live=scratch),
            Buffer("krylov_direction", 0, live=scratch),
            Buffer("krylov_product", 0, live=scratch),
            Buffer("krylov_basis", 0, live=scratch),
            Buffer("krylov_hessenberg", 0, live=scratch),
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
    def solve(
        self, b: Body, vector: Vector, number: int = 0, *, within: Callable[[Any], Scalar] | None = None, tangent: bool = False
    ) -> Scalar:
        """vector = W^-1 vector. An int32: 0, or the code of why it could not be solved, and then it is NaN.

        within: the error that a component may have, by its index, of whose part an iteration stops; None: as little as rounding
        leaves. tangent: whether it is one's, for which settings mean nothing and which no statistics count.
        """

    @abc.abstractmethod
    def solve_transposed(self, b: Body, vector: Vector, number: int = 0) -> None:
        """vector = W^-T vector; NaN where it could not be solved."""
