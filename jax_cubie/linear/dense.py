"""LU factorisation of a full matrix, with partial pivoting.

Golub, Van Loan, Matrix Computations, section 3.4. Small matrices are unrolled: rows are exchanged by selects there, so that all
indices are known, and the matrix may lie in registers. Larger ones are loops over memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ..kernel.scalar import Scalar
from ..operands import FieldFunction
from .colouring import colours
from .jacobian import jacobian_function
from .linear_solver import LinearSolver
from .mass import Mass
from .numbers import Complex, Numbers, Total, Vector, either, is_pivot, reciprocal, size, times, to_matrix
from .pattern import Pattern, jacobian_pattern

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..loop import Dimensions
    from ..loop.body import Body

# Rows that are exchanged by selects: whether two were is a bit of one int32, n (n - 1) / 2 bits in all.
UNROLLED = 8


@dataclasses.dataclass(frozen=True)
class DenseLU(LinearSolver):
    """Factors with partial pivoting; the pivots' reciprocals lie on the diagonal. pattern: of J, once it is fitted.

    J has a buffer of its own but where there is one real matrix, in whose place it can be.
    """

    pattern: Pattern | None = None
    matrices: tuple[str, ...] = ("real",)
    keeps: bool = False
    mass: Mass | None = None

    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> DenseLU:
        return dataclasses.replace(self, pattern=jacobian_pattern(field) if sparsity is None else sparsity, mass=mass)

    def jacobian(self, field: Callable, given: Callable | None = None) -> FieldFunction:
        """All elements of J, row by row. given: the user's function that gives them."""
        if given is not None:
            return FieldFunction(lambda t, y, *values: given(t, y, *values).reshape(-1))
        pattern = self.pattern
        assert pattern is not None
        entries, n = jacobian_function(field, pattern, colours(pattern)), pattern.rows
        places = np.array([row * n + column for row, column in pattern.entries], np.uint32)

        def full(t: Any, y: Any, *values: Any) -> Any:
            found = entries(t, y, *values)
            return found if len(places) == n * n else jnp.zeros(n * n, y.dtype).at[places].set(found)

        return FieldFunction(full, structural_zeros=True)

    def functions(self, field: Callable, given: Callable | None = None) -> dict[str, FieldFunction]:
        return {"f_jac": self.jacobian(field, given)}

    def transposed(self, field: Callable) -> dict[str, FieldFunction]:
        return {}

    def copies(self, linearised: int) -> dict[str, int]:
        return {"f_jac": linearised}

    @property
    def counters(self) -> tuple[str, ...]:
        return ()

    def words(self, dimensions: Dimensions) -> dict[str, int]:
        n = dimensions.primal
        return {
            "jacobian": n * n if self.keeps_jacobian else 0,
            "lu_factors": self.reals * n * n,
            "lu_pivots": len(self.matrices) * pivot_words(n),
        }

    def linearise(self, b: Body, since_t0: Any, state: View) -> None:
        b.call("f_jac", y=state, out=self._values(b), **b.instant(since_t0))

    def each_entry(self, b: Body, body: Callable[[Any, Any, Scalar], None]) -> None:
        values = DenseMatrix(b, b.primal, self._values(b), b.buf.lu_pivots)
        values.each(lambda row, column: body(row, column, values.element(row, column).get()))

    def factor(self, b: Body, shift: Scalar | Complex, number: int = 0, *, constraints: bool = False) -> Scalar:
        matrix, mass = self._matrix(b, number), self.mass
        self.each_entry(b, lambda row, column, value: matrix.element(row, column).set(to_matrix(-value, shift)))
        if mass is None:
            matrix.add_to_diagonal(shift)
            return matrix.factor()
        if constraints:
            for row in mass.differential_rows:
                matrix.each_of_row(row, lambda element: element.set(to_matrix(b.scalar(0.0), shift)))

        def add(row: Any, column: Any, value: Scalar) -> None:
            element = matrix.element(row, column)
            element.set(element.get() + times(shift, value))

        mass.each(b, add)
        return matrix.factor()

    def solve(
        self, b: Body, vector: Vector, number: int = 0, *, within: Callable[[Any], Scalar] | None = None, tangent: bool = False
    ) -> Scalar:
        self._matrix(b, number).solve(vector)
        return b.scalar(0, "int32")

    def solve_transposed(self, b: Body, vector: Vector, number: int = 0) -> None:
        self._matrix(b, number).solve_transposed(vector)

    def _values(self, b: Body) -> View:
        return b.buf.jacobian if self.keeps_jacobian else b.buf.lu_factors

    def _matrix(self, b: Body, number: int) -> DenseMatrix:
        n = b.primal
        pivots = b.buf.lu_pivots.part(number * pivot_words(n), pivot_words(n))
        return DenseMatrix(b, n, self.part_of(b.buf.lu_factors, n * n, number), pivots)


def pivot_words(n: int) -> int:
    """int32 words of what tells which rows were exchanged."""
    return 1 if n <= UNROLLED else n


class _Element:
    """One element of an array, to compute with."""

    def __init__(self, array: Numbers, index: Any):
        self._array, self._index = array, index

    def get(self) -> Any:
        return self._array.get(self._index)

    def set(self, value: Any) -> None:
        self._array.set(self._index, value)

    def subtract(self, factor: Any, other: Any) -> None:
        """Less a product."""
        self.set((-factor).fused(other, self.get()))


def _exchange(one: _Element, other: _Element, exchanged: Scalar) -> None:
    first, second = one.get(), other.get()
    one.set(either(exchanged, second, first))
    other.set(either(exchanged, first, second))


class DenseMatrix:
    """A full matrix in a lane, row by row; once `factor` is through, its factors.

    n: its rows. elements: n * n numbers. pivots: `pivot_words(n)` words of int32.
    """

    def __init__(self, b: Body, n: int, elements: Vector, pivots: View):
        self._b, self._n, self._elements, self._pivots = b, n, Numbers(b, elements), pivots
        self._unrolled = n <= UNROLLED

    def each(self, body: Callable[[Any, Any], None]) -> None:
        """`body(row, column)` for every element; Python ints where it is unrolled, else int64 values."""
        if self._unrolled:
            for row in range(self._n):
                for column in range(self._n):
                    body(row, column)
        else:
            with self._b.emitter.loop(self._n) as row, self._b.emitter.loop(self._n) as column:
                body(row, column)

    def each_of_row(self, row: int, body: Callable[[_Element], None]) -> None:
        """`body(element)` for every element of a row."""
        if self._unrolled:
            for column in range(self._n):
                body(self.element(row, column))
        else:
            with self._b.emitter.loop(self._n) as column:
                body(self.element(row, column))

    def element(self, row: Any, column: Any) -> _Element:
        """Of Python ints or int64 values."""
        if isinstance(row, int) and isinstance(column, int):
            return _Element(self._elements, row * self._n + column)
        emitter = self._b.emitter
        row, column = (emitter.constant("int64", one) if isinstance(one, int) else one for one in (row, column))
        begin = emitter.mul("int64", row, emitter.constant("int64", self._n))
        return _Element(self._elements, emitter.add("int64", begin, column))

    def add_to_diagonal(self, shift: Scalar | Complex) -> None:
        """Adds a number to each of its elements there."""

        def add(index: Any) -> None:
            element = self.element(index, index)
            element.set(element.get() + shift)

        if self._unrolled:
            for index in range(self._n):
                add(index)
        else:
            with self._b.emitter.loop(self._n) as index:
                add(index)

    def factor(self) -> Scalar:
        """A bool: whether no pivot is zero, or not finite."""
        return self._factor_unrolled() if self._unrolled else self._factor_looped()

    def solve(self, vector: Vector) -> None:
        """vector = matrix^-1 vector."""
        x = Numbers(self._b, vector)
        if self._unrolled:
            self._solve_unrolled([_Element(x, index) for index in range(self._n)])
        else:
            self._solve_looped(x)

    def solve_transposed(self, vector: Vector) -> None:
        """vector = matrix^-T vector."""
        x = Numbers(self._b, vector)
        if self._unrolled:
            self._solve_transposed_unrolled([_Element(x, index) for index in range(self._n)])
        else:
            self._solve_transposed_looped(x)

    # --- Unrolled

    def _bit(self, column: int, row: int) -> int:
        """Which bit tells whether `row` was exchanged with row number `column`, the first of those that are left."""
        return column * self._n - column * (column + 1) // 2 + row - column - 1

    def _factor_unrolled(self) -> Scalar:
        b, n = self._b, self._n
        bits, fine = b.scalar(0, "int32"), b.scalar(True, "bool")
        for k in range(n):
            for row in range(k + 1, n):
                exchanged = size(self.element(row, k).get()) > size(self.element(k, k).get())
                for column in range(n):
                    _exchange(self.element(k, column), self.element(row, column), exchanged)
                bits = bits | (exchanged.to("int32") << self._bit(k, row))
            pivot, rest = self.element(k, k), range(k + 1, n)
            inverse = reciprocal(pivot.get())
            pivot.set(inverse)
            for row in rest:
                factor = self.element(row, k).get() * inverse
                self.element(row, k).set(factor)
                for column in rest:
                    self.element(row, column).subtract(factor, self.element(k, column).get())
            fine = fine & is_pivot(inverse)
        self._pivots.store(0, bits.value)
        return fine

    def _exchanges(self) -> list[tuple[int, int, Scalar]]:
        """The pairs of rows in the order in which they were exchanged, and whether they were."""
        n, bits = self._n, self._b.scalar(self._pivots.load(0), "int32")
        pairs = [(k, row) for k in range(n) for row in range(k + 1, n)]
        return [(k, row, ~(bits & (1 << self._bit(k, row))).equals(0)) for k, row in pairs]

    def _solve_unrolled(self, x: list[_Element]) -> None:
        n = self._n
        for k, row, exchanged in self._exchanges():
            _exchange(x[k], x[row], exchanged)
        for k in range(n):
            for row in range(k + 1, n):
                x[row].subtract(self.element(row, k).get(), x[k].get())
        for k in reversed(range(n)):
            x[k].set(x[k].get() * self.element(k, k).get())
            for row in range(k):
                x[row].subtract(self.element(row, k).get(), x[k].get())

    def _solve_transposed_unrolled(self, x: list[_Element]) -> None:
        n = self._n
        for k in range(n):
            x[k].set(x[k].get() * self.element(k, k).get())
            for row in range(k + 1, n):
                x[row].subtract(self.element(k, row).get(), x[k].get())
        for k in reversed(range(n)):
            for row in range(k):
                x[row].subtract(self.element(k, row).get(), x[k].get())
        for k, row, exchanged in reversed(self._exchanges()):
            _exchange(x[k], x[row], exchanged)

    # --- Loops

    def _integer(self, value: int) -> Any:
        return self._b.emitter.constant("int64", value)

    def _count_up(self, first: Any, end: Any, body: Callable[[Any], None]) -> None:
        """`body(index)` for int64 indices from `first` up to, not with, `end`."""
        b = self._b
        index = b.variable(first, "int64")

        def turn() -> None:
            body(index.get())
            index.set(b.emitter.add("int64", index.get(), self._integer(1)))

        b.repeat_while(lambda: b.scalar(index.get(), "int64") < b.scalar(end, "int64"), turn)

    def _count_down(self, body: Callable[[Any], None]) -> None:
        """`body(index)` for int64 indices from the last row down to 0."""
        b = self._b
        index = b.variable(self._integer(self._n - 1), "int64")

        def turn() -> None:
            body(index.get())
            index.set(b.emitter.sub("int64", index.get(), self._integer(1)))

        b.repeat_while(lambda: b.scalar(index.get(), "int64") >= b.scalar(0, "int64"), turn)

    def _after(self, index: Any) -> Any:
        return self._b.emitter.add("int64", index, self._integer(1))

    def _factor_looped(self) -> Scalar:
        b, pivots, end = self._b, self._pivots, self._integer(self._n)
        fine = b.variable(b.emitter.constant("bool", 1), "bool")
        with b.emitter.loop(self._n) as k:
            largest = b.variable(size(self.element(k, k).get()).value)
            chosen = b.variable(k, "int64")

            def compare(row: Any, k: Any = k, largest: Any = largest, chosen: Any = chosen) -> None:
                found = size(self.element(row, k).get())
                with b.when(found > b.scalar(largest.get())):
                    largest.set(found.value)
                    chosen.set(row)

            self._count_up(self._after(k), end, compare)
            pivots.store(k, b.emitter.cast(chosen.get(), "int64", "int32"))

            def exchange(column: Any, k: Any = k, chosen: Any = chosen) -> None:
                _exchange(self.element(k, column), self.element(chosen.get(), column), b.scalar(True, "bool"))

            with b.when(~b.scalar(chosen.get(), "int64").equals(b.scalar(k, "int64"))):
                self._count_up(self._integer(0), end, exchange)
            pivot = self.element(k, k)
            inverse = reciprocal(pivot.get())
            pivot.set(inverse)
            fine.set((b.scalar(fine.get(), "bool") & is_pivot(inverse)).value)

            def eliminate(row: Any, k: Any = k, inverse: Any = inverse) -> None:
                factor = self.element(row, k).get() * inverse
                self.element(row, k).set(factor)

                def subtract(column: Any) -> None:
                    self.element(row, column).subtract(factor, self.element(k, column).get())

                self._count_up(self._after(k), end, subtract)

            self._count_up(self._after(k), end, eliminate)
        return b.scalar(fine.get(), "bool")

    def _exchange_looped(self, x: Numbers, k: Any) -> None:
        other = self._b.emitter.cast(self._pivots.load(k), "int32", "int64")
        _exchange(_Element(x, k), _Element(x, other), self._b.scalar(True, "bool"))

    def _dot(self, x: Numbers, first: Any, end: Any, coefficient: Callable[[Any], Any], start: Any) -> Any:
        """start, less the sum of coefficient(index) * x[index]."""
        total = Total(self._b, start)
        self._count_up(first, end, lambda index: total.subtract(coefficient(index), x.get(index)))
        return total.get()

    def _solve_looped(self, x: Numbers) -> None:
        zero, end = self._integer(0), self._integer(self._n)
        with self._b.emitter.loop(self._n) as k:
            self._exchange_looped(x, k)
        with self._b.emitter.loop(self._n) as k:
            x.set(k, self._dot(x, zero, k, lambda index, k=k: self.element(k, index).get(), x.get(k)))

        def substitute(k: Any) -> None:
            rest = self._dot(x, self._after(k), end, lambda index: self.element(k, index).get(), x.get(k))
            x.set(k, rest * self.element(k, k).get())

        self._count_down(substitute)

    def _solve_transposed_looped(self, x: Numbers) -> None:
        zero, end = self._integer(0), self._integer(self._n)
        with self._b.emitter.loop(self._n) as k:
            rest = self._dot(x, zero, k, lambda index, k=k: self.element(index, k).get(), x.get(k))
            x.set(k, rest * self.element(k, k).get())

        def substitute(k: Any) -> None:
            x.set(k, self._dot(x, self._after(k), end, lambda index: self.element(index, k).get(), x.get(k)))

        self._count_down(substitute)
        self._count_down(lambda k: self._exchange_looped(x, k))
