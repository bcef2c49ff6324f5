"""GMRES, restarted, by modified Gram-Schmidt and Givens' rotations.

Saad, Schultz, GMRES: a generalized minimal residual algorithm for solving nonsymmetric linear systems, SIAM J. Sci. Stat.
Comput. 7 (1986); Saad, Iterative Methods for Sparse Linear Systems, 2nd edition, algorithms 6.9, 6.11, section 6.5.3.

It ends by the norm that the rotations know. Where that is reached, the solution is as good as those of a factorisation are:
Paige, Rozloznik, Strakos, Modified Gram-Schmidt, least squares, and backward stability of MGS-GMRES, SIAM J. Matrix Anal. Appl.
28 (2006).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel.scalar import Scalar, where
from .krylov import KrylovSolver, System, advance, integer, root

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body, Variable


@dataclasses.dataclass(frozen=True)
class Gmres(KrylovSolver):
    """dimension: of the Krylov space that it minimises over before it starts again."""

    dimension: int = 0

    @property
    def name(self) -> str:
        return "gmres"

    @property
    def preconditionings(self) -> int:
        return 2

    def _dimension(self, n: int) -> int:
        return min(self.dimension, n)

    def workspace(self, n: int) -> tuple[int, int]:
        m = self._dimension(n)
        return m + 1, m * (m + 3) + 1

    def iterate(self, system: System, x: View, target: Scalar, limit: Scalar) -> tuple[Scalar, Scalar]:
        b = system.b
        left, steps = b.variable(system.norm(system.residual).value), b.variable(b.int32(0), "int32")
        space = _Space(system, self._dimension(b.primal))

        def norm() -> Scalar:
            return b.scalar(left.get())

        def goes_on() -> Scalar:
            return (norm() > target) & (b.scalar(steps.get(), "int32") < limit)

        def extend() -> None:
            left.set(space.extend().value)
            steps.set(b.emitter.add("int32", steps.get(), b.int32(1)))

        def cycle() -> None:
            space.begin(norm())
            b.repeat_while(lambda: goes_on() & space.has_room(), extend)
            space.combine()
            system.add(x, b.scalar(1.0), system.direction)
            with b.when(norm() > target):
                product = system.row(0)
                system.apply(product)
                system.add(system.residual, b.scalar(-1.0), product)
                left.set(system.norm(system.residual).value)

        b.repeat_while(goes_on, cycle)
        return norm(), b.scalar(steps.get(), "int32")


class _Space:
    """A Krylov space of up to m dimensions, which grows.

    `krylov_basis` has its orthonormal vectors as rows. `krylov_hessenberg` has the triangular matrix that rotations made of the
    Hessenberg matrix, column by column; their cosines, and sines; and the right side as they turned it, whose last element is
    the residual's.
    """

    def __init__(self, system: System, m: int):
        self._system, self._b, self._m = system, system.b, m
        words = system.b.buf.krylov_hessenberg
        self._cosines, self._sines = words.part(m * m, m), words.part(m * m + m, m)
        self._right = words.part(m * (m + 2), m + 1)
        self._size = system.b.variable(integer(system.b, 0), "int64")

    def has_room(self) -> Scalar:
        """Whether it may have one more dimension."""
        return self._b.scalar(self._size.get(), "int64") < self._m

    def begin(self, norm: Scalar) -> None:
        """With the direction of the residual alone, which has that norm."""
        b, first, residual = self._b, self._system.row(0), self._system.residual
        inverse = 1.0 / norm
        b.each(lambda index: first.store(index, (b.scalar(residual.load(index)) * inverse).value), b.primal)
        self._right.store(0, norm.value)
        self._size.set(integer(b, 0))

    def extend(self) -> Scalar:
        """One more dimension. The norm of the residual that it leaves."""
        b, system, size = self._b, self._system, self._size.get()
        after, column = b.emitter.add("int64", size, integer(b, 1)), self._column(size)
        new = system.row(after)
        system.precondition(system.row(size))
        system.apply(new)

        def project(number: Any) -> None:
            old = system.row(number)
            share = system.dot(new, old)
            column.store(number, share.value)
            system.add(new, -share, old)

        _count_up(b, after, project)
        rest = system.norm(new)
        inverse = where(rest.equals(0.0), 0.0, 1.0 / rest)
        b.each(lambda index: new.store(index, (b.scalar(new.load(index)) * inverse).value), b.primal)

        def rotate(number: Any) -> None:
            following = b.emitter.add("int64", number, integer(b, 1))
            cosine, sine = b.scalar(self._cosines.load(number)), b.scalar(self._sines.load(number))
            one, other = b.scalar(column.load(number)), b.scalar(column.load(following))
            column.store(number, cosine.fused(one, sine * other).value)
            column.store(following, cosine.fused(other, -(sine * one)).value)

        _count_up(b, size, rotate)
        own = b.scalar(column.load(size))
        radius = root(b, own.fused(own, rest * rest))
        # A matrix that makes nothing of a vector leaves the residual as it is.
        nothing = radius.equals(0.0)
        cosine, sine = where(nothing, 0.0, own / radius), where(nothing, 1.0, rest / radius)
        before = b.scalar(self._right.load(size))
        left = -(sine * before)
        for view, value in ((column, radius), (self._cosines, cosine), (self._sines, sine), (self._right, cosine * before)):
            view.store(size, value.value)
        self._right.store(after, left.value)
        self._size.set(after)
        return abs(left)

    def combine(self) -> None:
        """direction = what the best solution in the space is."""
        b, system = self._b, self._system
        last = b.variable(self._size.get(), "int64")

        def substitute() -> None:
            advance(b, last, -1)
            number = last.get()
            column, pivot = self._column(number), b.scalar(self._column(number).load(number))
            share = where(pivot.equals(0.0), 0.0, b.scalar(self._right.load(number)) / pivot)
            self._right.store(number, share.value)

            def subtract(row: Any) -> None:
                value = (-share).fused(b.scalar(column.load(row)), b.scalar(self._right.load(row)))
                self._right.store(row, value.value)

            _count_up(b, number, subtract)

        b.repeat_while(lambda: b.scalar(last.get(), "int64") > 0, substitute)
        first, share = system.row(0), b.scalar(self._right.load(0))
        b.each(lambda index: first.store(index, (share * b.scalar(first.load(index))).value), b.primal)

        def add(number: Any) -> None:
            system.add(first, b.scalar(self._right.load(number)), system.row(number))

        _count_up(b, self._size.get(), add, first=1)
        system.precondition(first)

    def _column(self, number: Any) -> View:
        begin = self._b.emitter.mul("int64", number, integer(self._b, self._m))
        return self._b.buf.krylov_hessenberg.part(begin, self._m)


def _count_up(b: Body, end: Any, body: Callable[[Any], None], first: int = 0) -> None:
    """`body(index)` for int64 indices from `first` up to, not with, `end`."""
    index: Variable = b.variable(integer(b, first), "int64")

    def turn() -> None:
        body(index.get())
        advance(b, index)

    b.repeat_while(lambda: b.scalar(index.get(), "int64") < b.scalar(end, "int64"), turn)
