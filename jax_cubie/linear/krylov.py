"""Matrix-free linear solvers: of J they know what it makes of a vector.

With s = 1/shift, they solve (1 - s J) x = b from x = 0 on; then s x is W^-1 b. Preconditioners stand on the right, so that the
residual is that of the system itself. Vectors are measured in units of the error that is allowed in each component.

Saad, Iterative Methods for Sparse Linear Systems, 2nd edition, sections 9.3.2 (preconditioning from the right), 10.2 (Jacobi),
12.3.1 (Neumann polynomials).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import jax.numpy as jnp
import numpy as np

from ..kernel.scalar import Scalar, most, where
from ..operands import TIME, FieldFunction
from ..solution import CODES
from .colouring import colours
from .jacobian import along_state, jacobian_function, transposed_along_state
from .linear_solver import LinearSolver
from .numbers import Complex, Vector
from .pattern import Pattern, jacobian_pattern

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..loop import Dimensions
    from ..loop.body import Body, Variable
    from .mass import Mass

PRECONDITIONERS = ("none", "jacobi", "neumann")
# The error that may be left of an increment of Newton's, in units of its tolerance: a tenth of what the iteration leaves.
INCREMENT_RTOL = 1e-3
# The residual, relative to the right side and in units in the last place, that is left where nothing says how much may be. Less
# is never asked for but by krylov_rtol, and of systems of derivatives (`derivative_rounding`).
_ROUNDING = 100.0


@dataclasses.dataclass(frozen=True)
class KrylovSolver(LinearSolver):
    """One that iterates. degree: of the Neumann polynomial. pattern: of J, once it is fitted and where it is asked for."""

    preconditioner: str = "none"
    degree: int = 0
    pattern: Pattern | None = None
    matrices: tuple[str, ...] = ("real",)
    keeps: bool = False

    makes_jacobian = False
    # What is left in the systems of derivatives, in the units of _ROUNDING.
    derivative_rounding: ClassVar[float] = _ROUNDING

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What the user calls it."""

    @property
    @abc.abstractmethod
    def preconditionings(self) -> int:
        """Places at which it applies the preconditioner."""

    @abc.abstractmethod
    def workspace(self, n: int) -> tuple[int, int]:
        """Rows of `krylov_basis`, and words of `krylov_hessenberg`, for n components."""

    @abc.abstractmethod
    def iterate(self, system: System, x: View, target: Scalar, limit: Scalar) -> tuple[Scalar, Scalar]:
        """Adds to x, which is 0, until the norm of the residual is at most `target`, in at most `limit` steps. The norm that is
        left, and the steps."""

    def holding(self, matrices: tuple[str, ...]) -> Self:
        raise ValueError(
            f"linear_solver={self.name!r} makes no Jacobian, which fully implicit methods need for complex systems and for "
            "those of all stages together: take linear_solver='dense' or 'sparse', or a method of another family, as 'kvaerno5'"
        )

    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> Self:
        if mass is not None:
            raise ValueError(f"linear_solver={self.name!r} has no mass matrix: take linear_solver='dense' or 'sparse'")
        if self.preconditioner != "jacobi":
            if sparsity is not None:
                raise ValueError(
                    f"jac_sparsity is given, but linear_solver={self.name!r} makes no Jacobian: leave it out, or take "
                    "preconditioner='jacobi', which asks for its diagonal"
                )
            return self
        return dataclasses.replace(self, pattern=jacobian_pattern(field) if sparsity is None else sparsity)

    def functions(self, field: Callable, given: Callable | None = None) -> dict[str, FieldFunction]:
        if given is not None:
            raise ValueError(f"jac is given, but linear_solver={self.name!r} makes no Jacobian: leave one of them out")
        products = {"linear_jv": along_state(field)}
        if self.pattern is None:
            return products
        return {**products, "linear_diagonal": FieldFunction(_diagonal_function(field, self.pattern), structural_zeros=True)}

    def transposed(self, field: Callable) -> dict[str, FieldFunction]:
        return {"linear_vj": transposed_along_state(field)}

    def copies(self, linearised: int) -> dict[str, int]:
        neumann = self.preconditionings if self.preconditioner == "neumann" else 0
        products = 2 + neumann
        return {"linear_jv": products, "linear_vj": products, "linear_diagonal": linearised}

    @property
    def counters(self) -> tuple[str, ...]:
        return ("krylov_iterations",)

    def words(self, dimensions: Dimensions) -> dict[str, int]:
        n = dimensions.primal
        rows, numbers = self.workspace(n)
        return {
            "krylov_state": n + 2 + dimensions.counts_from_t0,
            "krylov_diagonal": n if self.preconditioner == "jacobi" else 0,
            "krylov_scale": 2 * n,
            "krylov_residual": n,
            "krylov_direction": n,
            "krylov_product": n if self.preconditioner == "neumann" else 0,
            "krylov_basis": rows * n,
            "krylov_hessenberg": numbers,
        }

    def linearise(self, b: Body, since_t0: Any, state: View) -> None:
        kept, instant = b.buf.krylov_state, b.instant(since_t0)
        b.each(lambda index: kept.store(index, state.load(index)), b.primal)
        kept.store(b.primal, instant["t"])
        if TIME in instant:
            kept.store(b.primal + 2, instant[TIME])
        if self.pattern is not None:
            b.call("linear_diagonal", y=state, out=b.buf.krylov_diagonal, **instant)

    def each_entry(self, b: Body, body: Callable[[Any, Any, Scalar], None]) -> NoReturn:
        raise TypeError(f"linear_solver={self.name!r} makes no Jacobian")

    def factor(self, b: Body, shift: Scalar | Complex, number: int = 0, *, constraints: bool = False) -> Scalar:
        assert isinstance(shift, Scalar) and not constraints
        b.buf.krylov_state.store(b.primal + 1, (1.0 / shift).value)
        return b.scalar(True, "bool")

    def solve(
        self, b: Body, vector: Vector, number: int = 0, *, within: Callable[[Any], Scalar] | None = None, tangent: bool = False
    ) -> Scalar:
        return self._solve(b, vector, within, tangent)

    def solve_transposed(self, b: Body, vector: Vector, number: int = 0) -> None:
        self._solve(b, vector, None, True, transposed=True)

    def _solve(
        self, b: Body, vector: Vector, within: Callable[[Any], Scalar] | None, exactly: bool, *, transposed: bool = False
    ) -> Scalar:
        assert not isinstance(vector, tuple)
        scale, inverse = (b.buf.krylov_scale.part(number * b.primal, b.primal) for number in range(2))

        def keep(index: Any) -> None:
            allowed = b.scalar(1.0) if within is None else within(index)
            scale.store(index, allowed.value)
            inverse.store(index, (1.0 / allowed).value)

        b.each(keep, b.primal)
        rounding = b.scalar((self.derivative_rounding if exactly else _ROUNDING) * float(np.finfo(b.dtype).eps))
        usual = rounding if within is None else b.scalar(INCREMENT_RTOL)
        given = b.lane.has_operand("krylov_rtol") and not exactly
        rtol, limit = b.number("krylov_rtol") if given else usual, b.number("krylov_max_steps")
        if within is None:
            relative, absolute = rtol, b.scalar(0.0)
        else:
            # Where f is dissipative, an error is at most s times its residual (in the norm of the tolerances, about).
            size = b.scalar(b.buf.krylov_state.load(b.primal + 1))
            relative, absolute = rounding, rtol * b.primal**0.5 / abs(size)
        result = self._call(b, vector, relative, absolute, limit, transposed)
        solved = result >= 0
        if not exactly:
            b.counter("krylov_iterations").add(where(solved, result, -1 - result).value)
        reason = where((limit >= 1) & (rtol > 0.0), b.scalar(CODES["linear_divergence"], "int32"), CODES["invalid_input"])
        return where(solved, 0, reason)

    def _call(self, b: Body, vector: View, relative: Scalar, absolute: Scalar, limit: Scalar, transposed: bool) -> Scalar:
        from ..loop.routine import call_routine  # it imports Numba

        def body(b: Body, vector: View, relative: Scalar, absolute: Scalar, limit: Scalar) -> Scalar:
            return self._write(System(b, self, transposed), vector, relative, absolute, limit)

        buffers = [buffer.name for buffer in self.buffers() if buffer.name.startswith("krylov_")]
        name = "solve_transposed" if transposed else "solve"
        return call_routine(b, name, body, buffers, [vector], [relative, absolute, limit])

    def _write(self, system: System, vector: View, relative: Scalar, absolute: Scalar, limit: Scalar) -> Scalar:
        """The steps that it took, or -1 less that where the system was not solved, which leaves NaN.

        A right side that is not finite has a solution that is not, without a step.
        """
        b, residual = system.b, system.residual
        largest = b.variable(b.real(0))

        def begin(index: Any) -> None:
            value = b.scalar(vector.load(index)) * system.inverse_scale(index)
            residual.store(index, value.value)
            largest.set(most(abs(value), b.scalar(largest.get())).value)
            vector.store(index, b.real(0))

        b.each(begin, b.primal)
        # So that squares stay in range, the right side is near 1.
        bound = b.scalar(largest.get())
        unit = where(bound >= 4 * float(np.finfo(b.dtype).tiny), bound, 1.0)
        inverse = 1.0 / unit
        b.each(lambda index: residual.store(index, (b.scalar(residual.load(index)) * inverse).value), b.primal)
        norm = system.norm(residual)
        target = relative.fused(norm, absolute * inverse)
        left, steps = self.iterate(system, vector, target, limit)
        solved, factor = left <= target, unit * system.size
        nothing = b.scalar(float("nan"))

        def finish(index: Any) -> None:
            vector.store(index, where(solved, b.scalar(vector.load(index)) * factor, nothing).value)

        b.each(finish, b.primal)
        return where(solved | ~norm.is_finite, steps, -1 - steps)


class System:
    """A system inside of a solver's code: (1 - s J) x = b, or its transpose."""

    def __init__(self, b: Body, solver: KrylovSolver, transposed: bool):
        self.b, self._solver = b, solver
        self._product = "linear_vj" if transposed else "linear_jv"
        self._scale, self._inverse = (b.buf.krylov_scale.part(number * b.primal, b.primal) for number in range(2))
        self._instant, self.size = {"t": b.buf.krylov_state.load(b.primal)}, b.scalar(b.buf.krylov_state.load(b.primal + 1))
        if b.lane.problem.counts_from_t0:
            self._instant[TIME] = b.buf.krylov_state.load(b.primal + 2)
        self.residual, self.direction = b.buf.krylov_residual, b.buf.krylov_direction

    def row(self, number: Any) -> View:
        """A vector of `krylov_basis`, by a Python int or an int64 value."""
        n = self.b.primal
        begin = number * n if isinstance(number, int) else self.b.emitter.mul("int64", number, integer(self.b, n))
        return self.b.buf.krylov_basis.part(begin, n)

    def inverse_scale(self, index: Any) -> Scalar:
        """Of a component, what it is multiplied by to be measured."""
        return self.b.scalar(self._inverse.load(index))

    def precondition(self, source: View) -> None:
        """direction = P^-1 source, P near W / shift; the source is measured, the direction not."""
        b, direction, size = self.b, self.direction, self.size

        def own(index: Any) -> Scalar:
            return b.scalar(source.load(index)) * b.scalar(self._scale.load(index))

        def divide(index: Any) -> None:
            element = (-size).fused(b.scalar(b.buf.krylov_diagonal.load(index)), 1.0)
            direction.store(index, (own(index) / where(element.equals(0.0), 1.0, element)).value)

        def add(index: Any) -> None:
            direction.store(index, size.fused(b.scalar(b.buf.krylov_product.load(index)), own(index)).value)

        if self._solver.preconditioner == "jacobi":
            b.each(divide, b.primal)
            return
        b.each(lambda index: direction.store(index, own(index).value), b.primal)
        if self._solver.preconditioner == "neumann":
            with b.emitter.loop(self._solver.degree):
                self._multiply(direction, b.buf.krylov_product)
                b.each(add, b.primal)

    def apply(self, target: View) -> None:
        """target = W / shift times the direction, measured."""
        b, direction = self.b, self.direction
        self._multiply(direction, target)

        def subtract(index: Any) -> None:
            value = (-self.size).fused(b.scalar(target.load(index)), b.scalar(direction.load(index)))
            target.store(index, (value * self.inverse_scale(index)).value)

        b.each(subtract, b.primal)

    def _multiply(self, source: View, target: View) -> None:
        """target = J source, or its transpose times source."""
        b = self.b
        b.call(self._product, y=b.buf.krylov_state.part(0, b.primal), v=source, out=target, **self._instant)

    def add(self, target: View, factor: Scalar, source: View) -> None:
        """target = target + factor * source."""
        b = self.b

        def body(index: Any) -> None:
            target.store(index, factor.fused(b.scalar(source.load(index)), b.scalar(target.load(index))).value)

        b.each(body, b.primal)

    def dot(self, one: View, other: View) -> Scalar:
        b = self.b
        total = b.variable(b.real(0))
        b.each(lambda index: total.set(b.emitter.fma(b.dtype, one.load(index), other.load(index), total.get())), b.primal)
        return b.scalar(total.get())

    def norm(self, vector: View) -> Scalar:
        return root(self.b, self.dot(vector, vector))


def root(b: Body, value: Scalar) -> Scalar:
    """Its square root."""
    return b.scalar(b.emitter.sqrt(b.dtype, value.value))


def integer(b: Body, value: int) -> Any:
    """A constant that counts."""
    return b.emitter.constant("int64", value)


def advance(b: Body, count: Variable, by: int = 1) -> None:
    """Adds to a variable that counts."""
    count.set(b.emitter.add("int64", count.get(), integer(b, by)))


def _diagonal_function(field: Callable, pattern: Pattern) -> Callable[..., Any]:
    """The diagonal of J, [n], in fewer tangents than all of J takes: columns of one colour may share rows, but for those whose
    diagonal elements they have."""
    n = pattern.rows
    entries = tuple((row, column) for row, column in pattern.entries if row == column)
    pairs = [(row, column) for row, column in pattern.entries if row != column]
    # A row for each pair of columns that have to differ.
    apart = Pattern(len(pairs), n, tuple((number, one) for number, pair in enumerate(pairs) for one in sorted(pair)))
    places = np.array([row for row, _ in entries], np.uint32)
    found = jacobian_function(field, Pattern(n, n, entries), colours(apart))

    def diagonal(t: Any, y: Any, *values: Any) -> Any:
        own = found(t, y, *values)
        return own if len(places) == n else jnp.zeros(n, y.dtype).at[places].set(own)

    return diagonal
