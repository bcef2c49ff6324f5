"""LU factorisation of a full matrix, with partial pivoting.

Golub, Van Loan, Matrix Computations, section 3.4. Small matrices are unrolled: rows are exchanged by selects there, so that all
indices are known, and the matrix may lie in registers. Larger ones are loops over memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ..buffers import Buffer
from ..kernel.scalar import Scalar, where
from ..operands import MASS, FieldFunction
from .colouring import colours
from .jacobian import jacobian_function
from .linear_solver import LinearSolver
from .mass import Mass
from .pattern import Pattern

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..loop import Dimensions
    from ..loop.body import Body

# Rows that are exchanged by selects: whether two were is a bit of one int32, n (n - 1) / 2 bits in all.
UNROLLED = 8


@dataclasses.dataclass(frozen=True)
class DenseLU(LinearSolver):
    """Factors with partial pivoting; the pivots' reciprocals lie on the diagonal. sparsity: where the Jacobian has entries, if
    the user says so; then it takes as many tangents as its columns have colours."""

    mass: Mass | None = None
    sparsity: Pattern | None = None

    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> DenseLU:
        return DenseLU(mass, sparsity)

    def jacobian(self, field: Callable, given: Callable | None = None) -> FieldFunction:
        if given is not None:
            return FieldFunction(lambda t, y, *values: given(t, y, *values).reshape(-1))
        if self.sparsity is None:
            return FieldFunction(lambda t, y, *values: jax.jacfwd(field, argnums=1)(t, y, *values).reshape(-1))
        pattern = self.sparsity
        places = jnp.array([i * pattern.columns + j for i, j in pattern.entries], "uint32")
        entries = jacobian_function(field, pattern, colours(pattern))

        def spread(t: Any, y: Any, *values: Any) -> Any:
            zeros = jnp.zeros(pattern.rows * pattern.columns, y.dtype)
            return zeros.at[places].set(entries(t, y, *values), mode="promise_in_bounds", unique_indices=True)

        return FieldFunction(spread)

    def buffers(self) -> tuple[Buffer, ...]:
        live = frozenset({"step"})
        return (Buffer("lu_factors", 0, live=live), Buffer("lu_pivots", 0, dtype="int32", live=live))

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        n = dimensions.primal
        return {"lu_factors": n * n, "lu_pivots": 1 if n <= UNROLLED else n}

    def linearise(self, b: Body, since_t0: Any, state: View) -> None:
        b.call("f_jac", y=state, out=b.buf.lu_factors, **b.instant(since_t0))

    def factor(self, b: Body, shift: Scalar, *, constraints: bool = False) -> Scalar:
        factors, n = b.buf.lu_factors, b.primal

        def negate(index: Any) -> None:
            factors.store(index, b.emitter.neg(b.dtype, factors.load(index)))

        _each(b, n * n, negate)
        if constraints:
            self._clear_differential_rows(b)
        if self.mass is None:
            _each(b, n, lambda index: _element(b, factors, index, index).add(shift))
        else:
            self._add_mass(b, self.mass, shift)
        return _factor_unrolled(b) if n <= UNROLLED else _factor_looped(b)

    def _clear_differential_rows(self, b: Body) -> None:
        n, algebraic = b.primal, () if self.mass is None else self.mass.algebraic_rows
        for row in sorted(set(range(n)) - set(algebraic)):
            part = b.buf.lu_factors.part(row * n, n)
            _each(b, n, lambda index, part=part: part.store(index, b.real(0)))

    @staticmethod
    def _add_mass(b: Body, mass: Mass, shift: Scalar) -> None:
        """Adds shift * M."""
        factors, n, entries = b.buf.lu_factors, b.primal, mass.pattern.entries

        def add(row: Any, column: Any, value: Scalar) -> None:
            place = _element(b, factors, row, column)
            place.set(shift.fused(value, place.get()))

        if mass.diagonal:
            _each(b, n, lambda index: add(index, index, b.number(MASS, index)))
        elif n <= UNROLLED or len(entries) <= 2 * n:
            for row, column in entries:
                add(row, column, mass.element(b, row, column))
        else:
            with b.emitter.loop(n) as row, b.emitter.loop(n) as column:
                add(row, column, mass.element(b, row, column))

    def solve(self, b: Body, vector: View) -> None:
        if b.primal <= UNROLLED:
            _solve_unrolled(b, vector)
        else:
            _solve_looped(b, vector)

    def solve_transposed(self, b: Body, vector: View) -> None:
        if b.primal <= UNROLLED:
            _solve_transposed_unrolled(b, vector)
        else:
            _solve_transposed_looped(b, vector)


def _each(b: Body, size: int, body: Callable[[Any], None]) -> None:
    """`body(index)` for every index below `size`, unrolled where the matrix is."""
    if b.primal <= UNROLLED:
        for index in range(size):
            body(index)
    else:
        with b.emitter.loop(size) as index:
            body(index)


class _Element:
    """One element of an array, to compute with."""

    def __init__(self, b: Body, view: View, index: Any):
        self._b, self._view, self._index = b, view, index

    def get(self) -> Scalar:
        return self._b.scalar(self._view.load(self._index))

    def set(self, value: Scalar) -> None:
        self._view.store(self._index, value.value)

    def add(self, value: Scalar) -> None:
        self.set(self.get() + value)

    def subtract(self, factor: Scalar, other: Scalar) -> None:
        """Less a product, rounded once."""
        self.set((-factor).fused(other, self.get()))


def _element(b: Body, matrix: View, row: Any, column: Any) -> _Element:
    """Element (row, column), Python ints or int64 values, of the matrix."""
    n = b.primal
    if isinstance(row, int) and isinstance(column, int):
        return _Element(b, matrix, row * n + column)
    as_value = (b.emitter.constant("int64", one) if isinstance(one, int) else one for one in (row, column))
    row, column = as_value
    begin = b.emitter.mul("int64", row, b.emitter.constant("int64", n))
    return _Element(b, matrix, b.emitter.add("int64", begin, column))


def _exchange(one: _Element, other: _Element, exchanged: Scalar) -> None:
    first, second = one.get(), other.get()
    one.set(where(exchanged, second, first))
    other.set(where(exchanged, first, second))


def _bit(n: int, column: int, row: int) -> int:
    """Which bit tells whether `row` was exchanged with row number `column`, the first of those that are left."""
    return column * n - column * (column + 1) // 2 + row - column - 1


def _factor_unrolled(b: Body) -> Scalar:
    factors, n = b.buf.lu_factors, b.primal
    bits, fine = b.scalar(0, "int32"), b.scalar(True, "bool")
    for k in range(n):
        for row in range(k + 1, n):
            exchanged = abs(_element(b, factors, row, k).get()) > abs(_element(b, factors, k, k).get())
            for column in range(n):
                _exchange(_element(b, factors, k, column), _element(b, factors, row, column), exchanged)
            bits = bits | (exchanged.to("int32") << _bit(n, k, row))
        fine = fine & _eliminate(b, k, range(k + 1, n))
    b.buf.lu_pivots.store(0, bits.value)
    return fine


def _eliminate(b: Body, k: Any, rest: range) -> Scalar:
    factors = b.buf.lu_factors
    pivot = _element(b, factors, k, k)
    reciprocal = 1.0 / pivot.get()
    pivot.set(reciprocal)
    for row in rest:
        factor = _element(b, factors, row, k).get() * reciprocal
        _element(b, factors, row, k).set(factor)
        for column in rest:
            _element(b, factors, row, column).subtract(factor, _element(b, factors, k, column).get())
    return reciprocal.is_finite & ~reciprocal.equals(0.0)


def _exchanges(b: Body) -> list[tuple[int, int, Scalar]]:
    """The pairs of rows in the order in which they were exchanged, and whether they were."""
    n, bits = b.primal, b.scalar(b.buf.lu_pivots.load(0), "int32")
    pairs = [(k, row) for k in range(n) for row in range(k + 1, n)]
    return [(k, row, ~(bits & (1 << _bit(n, k, row))).equals(0)) for k, row in pairs]


def _solve_unrolled(b: Body, vector: View) -> None:
    factors, n = b.buf.lu_factors, b.primal
    x = [_Element(b, vector, index) for index in range(n)]
    for k, row, exchanged in _exchanges(b):
        _exchange(x[k], x[row], exchanged)
    for k in range(n):
        for row in range(k + 1, n):
            x[row].subtract(_element(b, factors, row, k).get(), x[k].get())
    for k in reversed(range(n)):
        x[k].set(x[k].get() * _element(b, factors, k, k).get())
        for row in range(k):
            x[row].subtract(_element(b, factors, row, k).get(), x[k].get())


def _solve_transposed_unrolled(b: Body, vector: View) -> None:
    factors, n = b.buf.lu_factors, b.primal
    x = [_Element(b, vector, index) for index in range(n)]
    for k in range(n):
        x[k].set(x[k].get() * _element(b, factors, k, k).get())
        for row in range(k + 1, n):
            x[row].subtract(_element(b, factors, k, row).get(), x[k].get())
    for k in reversed(range(n)):
        for row in range(k):
            x[row].subtract(_element(b, factors, k, row).get(), x[k].get())
    for k, row, exchanged in reversed(_exchanges(b)):
        _exchange(x[k], x[row], exchanged)


def _count_up(b: Body, first: Any, end: Any, body: Callable[[Any], None]) -> None:
    """`body(index)` for int64 indices from `first` up to, not with, `end`."""
    index = b.variable(first, "int64")

    def turn() -> None:
        body(index.get())
        index.set(b.emitter.add("int64", index.get(), b.emitter.constant("int64", 1)))

    b.repeat_while(lambda: b.scalar(index.get(), "int64") < b.scalar(end, "int64"), turn)


def _count_down(b: Body, first: Any, body: Callable[[Any], None]) -> None:
    """`body(index)` for int64 indices from `first` down to 0."""
    index = b.variable(first, "int64")

    def turn() -> None:
        body(index.get())
        index.set(b.emitter.sub("int64", index.get(), b.emitter.constant("int64", 1)))

    b.repeat_while(lambda: b.scalar(index.get(), "int64") >= b.scalar(0, "int64"), turn)


def _after(b: Body, index: Any) -> Any:
    return b.emitter.add("int64", index, b.emitter.constant("int64", 1))


def _factor_looped(b: Body) -> Scalar:
    factors, pivots, n = b.buf.lu_factors, b.buf.lu_pivots, b.primal
    end = b.emitter.constant("int64", n)
    fine = b.variable(b.emitter.constant("bool", 1), "bool")
    with b.emitter.loop(n) as k:
        largest = b.variable(abs(_element(b, factors, k, k).get()).value)
        chosen = b.variable(k, "int64")

        def compare(row: Any, k: Any = k, largest: Any = largest, chosen: Any = chosen) -> None:
            size = abs(_element(b, factors, row, k).get())
            with b.when(size > b.scalar(largest.get())):
                largest.set(size.value)
                chosen.set(row)

        _count_up(b, _after(b, k), end, compare)
        pivots.store(k, b.emitter.cast(chosen.get(), "int64", "int32"))

        def exchange(column: Any, k: Any = k, chosen: Any = chosen) -> None:
            _exchange(_element(b, factors, k, column), _element(b, factors, chosen.get(), column), b.scalar(True, "bool"))

        with b.when(~b.scalar(chosen.get(), "int64").equals(b.scalar(k, "int64"))):
            _count_up(b, b.emitter.constant("int64", 0), end, exchange)
        pivot = _element(b, factors, k, k)
        reciprocal = 1.0 / pivot.get()
        pivot.set(reciprocal)
        fine.set((b.scalar(fine.get(), "bool") & reciprocal.is_finite & ~reciprocal.equals(0.0)).value)

        def eliminate(row: Any, k: Any = k, reciprocal: Scalar = reciprocal) -> None:
            factor = _element(b, factors, row, k).get() * reciprocal
            _element(b, factors, row, k).set(factor)

            def subtract(column: Any) -> None:
                _element(b, factors, row, column).subtract(factor, _element(b, factors, k, column).get())

            _count_up(b, _after(b, k), end, subtract)

        _count_up(b, _after(b, k), end, eliminate)
    return b.scalar(fine.get(), "bool")


def _exchange_looped(b: Body, vector: View, k: Any) -> None:
    other = b.emitter.cast(b.buf.lu_pivots.load(k), "int32", "int64")
    _exchange(_Element(b, vector, k), _Element(b, vector, other), b.scalar(True, "bool"))


def _dot(b: Body, vector: View, first: Any, end: Any, coefficient: Callable[[Any], Scalar], start: Scalar) -> Scalar:
    """start, less the sum of coefficient(index) * vector[index]."""
    total = b.variable(start.value)

    def add(index: Any) -> None:
        total.set((-coefficient(index)).fused(b.scalar(vector.load(index)), b.scalar(total.get())).value)

    _count_up(b, first, end, add)
    return b.scalar(total.get())


def _solve_looped(b: Body, vector: View) -> None:
    factors, n = b.buf.lu_factors, b.primal
    zero, end = b.emitter.constant("int64", 0), b.emitter.constant("int64", n)
    with b.emitter.loop(n) as k:
        _exchange_looped(b, vector, k)
    with b.emitter.loop(n) as k:
        x = _Element(b, vector, k)
        x.set(_dot(b, vector, zero, k, lambda index, k=k: _element(b, factors, k, index).get(), x.get()))

    def substitute(k: Any) -> None:
        x = _Element(b, vector, k)
        rest = _dot(b, vector, _after(b, k), end, lambda index: _element(b, factors, k, index).get(), x.get())
        x.set(rest * _element(b, factors, k, k).get())

    _count_down(b, b.emitter.constant("int64", n - 1), substitute)


def _solve_transposed_looped(b: Body, vector: View) -> None:
    factors, n = b.buf.lu_factors, b.primal
    zero, end = b.emitter.constant("int64", 0), b.emitter.constant("int64", n)
    with b.emitter.loop(n) as k:
        x = _Element(b, vector, k)
        rest = _dot(b, vector, zero, k, lambda index, k=k: _element(b, factors, index, k).get(), x.get())
        x.set(rest * _element(b, factors, k, k).get())

    def substitute(k: Any) -> None:
        x = _Element(b, vector, k)
        x.set(_dot(b, vector, _after(b, k), end, lambda index: _element(b, factors, index, k).get(), x.get()))

    _count_down(b, b.emitter.constant("int64", n - 1), substitute)
    _count_down(b, b.emitter.constant("int64", n - 1), lambda k: _exchange_looped(b, vector, k))
