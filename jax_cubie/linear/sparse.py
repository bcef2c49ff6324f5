"""LU factorisation of a sparse matrix, in an order that is found when a solve is traced.

Without pivoting: a pivot that vanishes makes the step fail, and a smaller step, whose matrix has a larger diagonal, take its
place. All operations are known beforehand: few of them are code, one by one; many are tables that loops go through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel.scalar import Scalar
from ..operands import FieldFunction
from .colouring import colours
from .jacobian import jacobian_function
from .linear_solver import LinearSolver
from .mass import Mass, constraints_of, joined
from .numbers import Complex, Numbers, Total, Vector, is_pivot, reciprocal, times, to_matrix
from .pattern import Pattern, jacobian_pattern
from .symbolic import SparseLU, Sum, Tables

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..loop import Dimensions
    from ..loop.body import Body

# Products of a step's factorisations up to which they are written one by one; a complex matrix counts as two.
_UNROLLED = 600


@dataclasses.dataclass(frozen=True)
class SparseFactors(LinearSolver):
    """Factors of the matrix that `plan` is for; `entries` is the part of it that J has. Both None until it is fitted."""

    plan: SparseLU | None = None
    entries: Pattern | None = None
    matrices: tuple[str, ...] = ("real",)
    keeps: bool = False
    mass: Mass | None = None

    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> SparseFactors:
        entries = jacobian_pattern(field) if sparsity is None else sparsity
        try:
            plan = SparseLU.of(joined(entries, mass))
            if mass is not None and not plan.eliminates(constraints_of(entries, mass)):
                raise ValueError("its algebraic equations alone can't be eliminated in that order")
        except ValueError as error:
            raise ValueError(
                f"linear_solver='sparse' does not exchange rows, and has to here ({error}): take 'dense' or 'auto'"
            ) from None
        return SparseFactors(plan, entries, self.matrices, self.keeps, mass)

    @property
    def _fitted(self) -> tuple[SparseLU, Pattern]:
        assert self.plan is not None and self.entries is not None
        return self.plan, self.entries

    @property
    def _unrolled(self) -> bool:
        plan, _ = self._fitted
        return self.reals * sum(len(one.terms) + 1 for one in plan.factor) <= _UNROLLED

    def functions(self, field: Callable, given: Callable | None = None) -> dict[str, FieldFunction]:
        return {"f_jac": self.jacobian(field, given)}

    def transposed(self, field: Callable) -> dict[str, FieldFunction]:
        return {}

    def copies(self, linearised: int) -> dict[str, int]:
        return {"f_jac": linearised}

    @property
    def counters(self) -> tuple[str, ...]:
        return ()

    def jacobian(self, field: Callable, given: Callable | None = None) -> FieldFunction:
        """Those elements of J that its pattern has. given: the user's function that gives all."""
        _, entries = self._fitted
        if given is not None:
            places = np.array([row * entries.columns + column for row, column in entries.entries], np.uint32)
            return FieldFunction(lambda t, y, *values: given(t, y, *values).reshape(-1)[places])
        return FieldFunction(jacobian_function(field, entries, colours(entries)), structural_zeros=True)

    def words(self, dimensions: Dimensions) -> dict[str, int]:
        plan, entries = self._fitted
        return {"jacobian": len(entries.entries), "lu_factors": self.reals * len(plan.entries)}

    def linearise(self, b: Body, since_t0: Any, state: View) -> None:
        b.call("f_jac", y=state, out=b.buf.jacobian, **b.instant(since_t0))

    def each_entry(self, b: Body, body: Callable[[Any, Any, Scalar], None]) -> None:
        _, entries = self._fitted
        rows, columns = zip(*entries.entries, strict=True) if entries.entries else ((), ())

        def visit(index: Any) -> None:
            row, column = _looked_up(b, "jacobian_rows", rows, index), _looked_up(b, "jacobian_columns", columns, index)
            body(row, column, b.scalar(b.buf.jacobian.load(index)))

        _each(b, len(rows), self._unrolled, visit)

    def _factors(self, b: Body, number: int) -> Numbers:
        return Numbers(b, self.part_of(b.buf.lu_factors, len(self._fitted[0].entries), number))

    def factor(self, b: Body, shift: Scalar | Complex, number: int = 0, *, constraints: bool = False) -> Scalar:
        plan, entries = self._fitted
        factors, jacobian, mass = self._factors(b, number), b.buf.jacobian, self.mass
        _each(b, len(plan.entries), self._unrolled, lambda index: factors.set(index, to_matrix(b.scalar(0.0), shift)))
        kept = [k for k, (row, _) in enumerate(entries.entries) if not constraints or row in self._algebraic]
        name = "constraint" if constraints else "jacobian"

        def negate(place: Any, index: Any) -> None:
            index = _looked_up(b, "constraint_entries", kept, index) if constraints else index
            factors.set(place, to_matrix(-b.scalar(jacobian.load(index)), shift))

        def add_shift(place: Any, index: Any) -> None:
            factors.set(place, factors.get(place) + shift)

        def add_mass(place: Any, index: Any) -> None:
            assert mass is not None
            rows, columns = zip(*mass.pattern.entries, strict=True)
            row, column = _looked_up(b, "mass_rows", rows, index), _looked_up(b, "mass_columns", columns, index)
            factors.set(place, factors.get(place) + times(shift, mass.element(b, row, column)))

        places = plan.places(entries)
        self._at_places(b, f"{name}_places", [places[k] for k in kept], negate)
        if mass is None:
            self._at_places(b, "diagonal_places", plan.places(Pattern.diagonal(entries.rows)), add_shift)
        else:
            self._at_places(b, "mass_places", plan.places(mass.pattern), add_mass)
        fine = b.variable(b.emitter.constant("bool", 1), "bool")
        self._sums(b, "factor", plan.factor, factors, factors, factors, fine)
        return b.scalar(fine.get(), "bool")

    @property
    def _algebraic(self) -> frozenset[int]:
        """The rows in which the mass matrix has no entry."""
        return frozenset(() if self.mass is None else self.mass.algebraic_rows)

    def solve(
        self, b: Body, vector: Vector, number: int = 0, *, within: Callable[[Any], Scalar] | None = None, tangent: bool = False
    ) -> Scalar:
        factors, x = self._factors(b, number), Numbers(b, vector)
        self._sums(b, "solve", self._fitted[0].solve, factors, x, x)
        return b.scalar(0, "int32")

    def solve_transposed(self, b: Body, vector: Vector, number: int = 0) -> None:
        factors, x = self._factors(b, number), Numbers(b, vector)
        self._sums(b, "solve_transposed", self._fitted[0].solve_transposed, factors, x, x)

    def _at_places(self, b: Body, name: str, places: Sequence[int], body: Callable[[Any, Any], None]) -> None:
        """`body(place, index)` for each of the places."""
        _each(b, len(places), self._unrolled, lambda index: body(_looked_up(b, name, places, index), index))

    def _sums(
        self, b: Body, name: str, sums: Sequence[Sum], factors: Numbers, x: Numbers, z: Numbers, fine: Any = None
    ) -> None:
        """Does what `Sum` says. fine: becomes False where a pivot is 0 or not finite."""

        def divide(target: Any, total: Any, pivot: Any) -> Any:
            return total * factors.get(pivot)

        def invert(total: Any) -> Any:
            inverse = reciprocal(total)
            fine.set((b.scalar(fine.get(), "bool") & is_pivot(inverse)).value)
            return inverse

        if self._unrolled:
            for target, terms, pivot in sums:
                total = x.get(target)
                for left, right in terms:
                    total = (-factors.get(left)).fused(z.get(right), total)
                if pivot >= 0:
                    total = invert(total) if fine is not None and pivot == target else divide(target, total, pivot)
                x.set(target, total)
            return
        self._sums_by_tables(b, name, Tables.of(sums), factors, x, z, divide, invert if fine is not None else None)

    @staticmethod
    def _sums_by_tables(
        b: Body, name: str, tables: Tables, factors: Numbers, x: Numbers, z: Numbers, divide: Callable, invert: Callable | None
    ) -> None:
        emitter, one = b.emitter, b.emitter.constant("int64", 1)

        def of(column: str, index: Any) -> Any:
            return _looked_up(b, f"{name}_{column}", getattr(tables, column).tolist(), index)

        with emitter.loop(len(tables.target)) as number:
            target, pivot = of("target", number), of("pivot", number)
            total = Total(b, x.get(target))
            term, end = b.variable(of("begin", number), "int64"), of("begin", emitter.add("int64", number, one))

            def subtract(term: Any = term, total: Any = total) -> None:
                total.subtract(factors.get(of("left", term.get())), z.get(of("right", term.get())))
                term.set(emitter.add("int64", term.get(), one))

            b.repeat_while(lambda term=term, end=end: b.scalar(term.get(), "int64") < b.scalar(end, "int64"), subtract)
            divided = b.scalar(pivot, "int64") >= b.scalar(0, "int64")
            with b.when(divided):
                if invert is None:
                    total.set(divide(target, total.get(), pivot))
                else:
                    own = b.scalar(pivot, "int64").equals(b.scalar(target, "int64"))
                    with b.emitter.builder.if_else(own.value) as (then, otherwise):
                        with then:
                            total.set(invert(total.get()))
                        with otherwise:
                            total.set(divide(target, total.get(), pivot))
            x.set(target, total.get())


def _each(b: Body, size: int, unrolled: bool, body: Callable[[Any], None]) -> None:
    if unrolled or size == 0:
        for index in range(size):
            body(index)
    else:
        with b.emitter.loop(size) as index:
            body(index)


def _looked_up(b: Body, name: str, numbers: Sequence[int], index: Any) -> Any:
    """Number `index` of a table of integers, as a Python int or an int64 value as the index is."""
    from ..kernel.memory import look_up

    return numbers[index] if isinstance(index, int) else look_up(b.emitter, name, numbers, index)
