"""Mass matrices: M of M dy/dt = f(t, y), constant in time and state, and singular where equations are algebraic."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..buffers import Buffer
from ..kernel.scalar import Scalar
from ..operands import MASS, FieldFunction
from .pattern import Pattern

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop import Dimensions
    from ..loop.body import Body

# Up to so many entries a product is written out, which leaves out what is not there.
_WRITTEN_OUT = 256
# Up to so many are visited one by one.
_LISTED = 64


@dataclasses.dataclass(frozen=True)
class Mass:
    """What is known of M; its values are the operand "mass" of the launch, [n] where it is `diagonal`, else [n, n].

    pattern: where it may have entries; elsewhere the operand is 0.
    """

    diagonal: bool
    pattern: Pattern

    @property
    def size(self) -> int:
        return self.pattern.rows

    @functools.cached_property
    def algebraic_rows(self) -> tuple[int, ...]:
        """The equations without a derivative, 0 = f_i(t, y)."""
        return tuple(sorted(set(range(self.size)) - {i for i, _ in self.pattern.entries}))

    @functools.cached_property
    def algebraic_components(self) -> tuple[int, ...]:
        """The components whose derivative stands in no equation."""
        return tuple(sorted(set(range(self.size)) - {j for _, j in self.pattern.entries}))

    @functools.cached_property
    def differential_rows(self) -> tuple[int, ...]:
        """All other equations."""
        return tuple(sorted({i for i, _ in self.pattern.entries}))

    @property
    def separates(self) -> bool:
        """Whether the algebraic equations are there to be solved for the algebraic components."""
        return 0 < len(self.algebraic_rows) == len(self.algebraic_components)

    def product(self) -> FieldFunction:
        """The function "mass" of methods: M times what is given as "y". The operand is the first of its values."""
        entries, n = self.pattern.entries, self.size
        rows: list[list[int]] = [[] for _ in range(n)]
        for i, j in entries:
            rows[i].append(j)

        def row(mass: Any, y: Any, i: int) -> Any:
            if not rows[i]:
                return jnp.zeros(1, y.dtype)
            terms = [lax.slice(mass, (i, j), (i + 1, j + 1)).reshape(1) * lax.slice(y, (j,), (j + 1,)) for j in rows[i]]
            return functools.reduce(jnp.add, terms)

        def times(t: Any, y: Any, mass: Any, *values: Any) -> Any:
            if self.diagonal:
                return mass * y
            if len(entries) <= min(_WRITTEN_OUT, n * n - 1):
                return lax.concatenate([row(mass, y, i) for i in range(n)], 0)
            return mass @ y

        return FieldFunction(times)

    def slope_of(self, field: Callable[..., Any]) -> Callable[..., Any]:
        """dy/dt along the solution, as a function like f, `field(t, y, M, *values)`.

        Of algebraic equations 0 = g(t, y), which hold all the time, it is the derivative of g that is 0. Where they separate,
        that gives the slopes of the algebraic components once the others are known; else all are found at once.
        """
        n, rows = self.size, np.array(self.differential_rows, int)
        constraints, components = np.array(self.algebraic_rows, int), np.array(self.algebraic_components, int)
        others = np.setdiff1d(np.arange(n), components)

        def differential(rhs: Any, mass: Any) -> Any:
            """The slopes of the components that have one in M, where these are as many as the rows."""
            if self.diagonal:
                return rhs[rows] / mass[rows]
            return _solve(mass[rows][:, others], rhs[rows])

        def slope(t: Any, y: Any, *values: Any) -> Any:
            mass, rhs = values[0], field(t, y, *values)
            if not len(constraints):
                return differential(rhs, mass)

            def moved(dt: Any, dy: Any) -> Any:
                """How fast the algebraic equations leave 0."""
                return jax.jvp(lambda t, y: field(t, y, *values)[constraints], (t, y), (dt, dy))[1]

            def by(wanted: np.ndarray) -> Any:
                """Their derivatives by these components, [constraints, wanted]."""
                still = jnp.zeros_like(t)
                return jnp.stack([moved(still, jnp.zeros_like(y).at[one].set(1)) for one in wanted], 1)

            now = jnp.ones_like(t)
            if not self.separates:
                matrix = jnp.concatenate([mass[rows], by(np.arange(n))])
                return _solve(matrix, jnp.concatenate([rhs[rows], -moved(now, jnp.zeros_like(y))]))
            known = jnp.zeros_like(y).at[others].set(differential(rhs, mass))
            return known.at[components].set(_solve(by(components), -moved(now, known)))

        return slope

    @staticmethod
    def buffers() -> tuple[Buffer, ...]:
        """A vector, and M times it."""
        live = frozenset({"step"})
        return (Buffer("mass_vector", 0, live=live), Buffer("mass_product", 0, live=live))

    @staticmethod
    def sizes(mass: Mass | None, dimensions: Dimensions) -> dict[str, int]:
        """Words of each of them, where a method has that mass."""
        return dict.fromkeys(("mass_vector", "mass_product"), 0 if mass is None else dimensions.states)

    # --- In a lane

    def element(self, b: Body, row: Any, column: Any) -> Scalar:
        """An element where there may be one; Python ints or int64 values."""
        if self.diagonal:
            return b.number(MASS, row)
        if b.lane.operand(MASS).order is not None:  # it lies transposed
            row, column = column, row
        if isinstance(row, int) and isinstance(column, int):
            return b.number(MASS, row * self.size + column)
        row, column = (b.emitter.constant("int64", one) if isinstance(one, int) else one for one in (row, column))
        begin = b.emitter.mul("int64", row, b.emitter.constant("int64", self.size))
        return b.number(MASS, b.emitter.add("int64", begin, column))

    def each(self, b: Body, body: Callable[[Any, Any, Scalar], None]) -> None:
        """`body(row, column, value)` for each element that is not 0 by its structure: of few written out, of many in loops, in
        which there may be others."""
        if len(self.pattern.entries) <= max(_LISTED, 2 * self.size):
            for row, column in self.pattern.entries:
                body(row, column, self.element(b, row, column))
        else:
            with b.emitter.loop(self.size) as row, b.emitter.loop(self.size) as column:
                body(row, column, self.element(b, row, column))

    @staticmethod
    def moves(b: Body) -> bool:
        """Whether M has tangents."""
        return any(name.startswith(f"{MASS}.") for name in (one.name for one in b.lane.plan.words.operands))


def _solve(matrix: Any, right: Any) -> Any:
    """The solution of a linear system, [n]."""
    return right / matrix[0] if matrix.shape == (1, 1) else jnp.linalg.solve(matrix, right)


def clear(b: Body, vector: View, components: Sequence[int]) -> None:
    """Those components of a vector, or of each direction in it, are 0."""
    for begin in range(0, vector.size, b.primal):
        for index in components:
            vector.store(begin + index, b.real(0))


def joined(entries: Pattern, mass: Mass | None) -> Pattern:
    """The pattern of shift M - J, where J has those entries."""
    return entries | (Pattern.diagonal(entries.rows) if mass is None else mass.pattern)


def constraints_of(entries: Pattern, mass: Mass) -> Pattern:
    """The same with those rows of J alone in which M has no entry."""
    kept = tuple(entry for entry in entries.entries if entry[0] in mass.algebraic_rows)
    return Pattern(entries.rows, entries.columns, kept) | mass.pattern
