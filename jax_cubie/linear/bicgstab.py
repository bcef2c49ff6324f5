"""BiCGStab.

Van der Vorst, Bi-CGSTAB: a fast and smoothly converging variant of Bi-CG for the solution of nonsymmetric linear systems, SIAM
J. Sci. Stat. Comput. 13 (1992); Saad, Iterative Methods for Sparse Linear Systems, 2nd edition, algorithm 7.7. Where one of its
denominators vanishes, it begins again with the residual at hand.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel.scalar import Scalar, where
from .krylov import KrylovSolver, System

if TYPE_CHECKING:
    from ..kernel.device import View


@dataclasses.dataclass(frozen=True)
class BiCGStab(KrylovSolver):
    """A step of it is two products, and `krylov_basis` has four vectors: the shadow of the first residual, the direction p,
    what the matrix makes of it, and what it makes of the residual."""

    # Its steps end anywhere below what is asked for, where GMRES' last one, of few components, leaves no more than a
    # factorisation does; a residual of 100 would be an error of 2e-5 in derivatives of van der Pol's equation, mu = 1000.
    derivative_rounding = 1.0

    @property
    def name(self) -> str:
        return "bicgstab"

    @property
    def preconditionings(self) -> int:
        return 2

    def workspace(self, n: int) -> tuple[int, int]:
        return 4, 0

    def iterate(self, system: System, x: View, target: Scalar, limit: Scalar) -> tuple[Scalar, Scalar]:
        b, residual, direction = system.b, system.residual, system.direction
        shadow, p, moved, stirred = map(system.row, range(4))
        left, steps = b.variable(system.norm(residual).value), b.variable(b.int32(0), "int32")
        fresh = b.variable(b.emitter.constant("bool", 1), "bool")
        rho, alpha, omega, length = (b.variable(b.real(1)) for _ in range(4))

        def clear(index: Any) -> None:
            for view in (shadow, p, moved):
                view.store(index, b.real(0))

        b.each(clear, b.primal)

        def norm() -> Scalar:
            return b.scalar(left.get())

        def turn() -> None:
            new = system.dot(shadow, residual)
            least = b.scalar(length.get()) * norm() * float(np.finfo(b.dtype).eps)
            again = b.scalar(fresh.get(), "bool") | ~(abs(new) > least)
            ratio = (new / b.scalar(rho.get())) * (b.scalar(alpha.get()) / b.scalar(omega.get()))
            beta, before = where(again, 0.0, ratio), b.scalar(omega.get())

            def place(index: Any) -> None:
                own = b.scalar(residual.load(index))
                shadow.store(index, where(again, own, b.scalar(shadow.load(index))).value)
                past = (-before).fused(b.scalar(moved.load(index)), b.scalar(p.load(index)))
                p.store(index, beta.fused(past, own).value)

            b.each(place, b.primal)
            new, far = where(again, norm() * norm(), new), where(again, norm(), b.scalar(length.get()))
            system.precondition(p)
            system.apply(moved)
            along = system.dot(shadow, moved)
            first = where(along.equals(0.0), 0.0, new / along)
            system.add(x, first, direction)
            system.add(residual, -first, moved)
            system.precondition(residual)
            system.apply(stirred)
            whole = system.dot(stirred, stirred)
            second = where(whole.equals(0.0), 0.0, system.dot(stirred, residual) / whole)
            system.add(x, second, direction)
            system.add(residual, -second, stirred)
            fresh.set((first.equals(0.0) | second.equals(0.0)).value)
            for variable, value in ((rho, new), (alpha, first), (omega, second), (length, far)):
                variable.set(value.value)
            left.set(system.norm(residual).value)
            steps.set(b.emitter.add("int32", steps.get(), b.int32(1)))

        b.repeat_while(lambda: (norm() > target) & (b.scalar(steps.get(), "int32") < limit), turn)
        return norm(), b.scalar(steps.get(), "int32")
