"""What algebraic equations, rows in which a mass matrix has no entry, ask of the state at t0 and behind jumps, and slopes where
f is not y'.

With M_d the rows of M that have entries, and g the components of f in the other rows, all systems here have one matrix: the
rows of M_d, and those of -dg/dy. It is regular where the equations have index 1. (Hairer, Wanner, Solving Ordinary
Differential Equations II, section VI.1.)
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..kernel.scalar import Scalar
from ..linear import LinearSolver, Mass
from ..linear.mass import clear
from ..loop.cotangents import into_view_of_input
from ..loop.functions import into_output
from ..nonlinear.iteration import KAPPA, tolerance
from ..operands import primal_name
from .transposed import add_to_adjoint, pull
from .vectors import add_up, copy, directions, fill

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body

# Newton's iterations for an initial state, at most.
_ITERATIONS = 20
_ONE = [Fraction(1)]


class Constraints:
    """Writes it, for a mass matrix and the linear solver of a method with it."""

    def __init__(self, mass: Mass, linear: LinearSolver):
        self._mass, self._linear = mass, linear
        self._differential_rows = mass.differential_rows
        self._differential_components = sorted(set(range(mass.size)) - set(mass.algebraic_components))

    def factor(self, b: Body, since_t0: Any, state: View) -> Scalar:
        """Makes ready for systems at that time and primal state; whether it can be."""
        self._linear.linearise(b, since_t0, state)
        return self._linear.factor(b, b.scalar(1.0), constraints=True)

    # --- The state at t0, and behind jumps

    def find_state(self, b: Body, since_t0: Scalar | None = None) -> Scalar:
        """Solves g(t, y) = 0 for the algebraic components, by Newton's method from what they are; whether it did. Tangents are
        those of the solution. since_t0: the signed time t, counted from t0; None: t0, where a state without a solution stays
        the one that was given."""
        now = b.real(0) if since_t0 is None else since_t0.value
        state, delta = b.piece(b.buf.state, 0), b.piece(b.buf.mass_product, 0)
        found = b.variable(b.emitter.constant("bool", 0), "bool")
        going, number = b.variable(b.emitter.constant("bool", 1), "bool"), b.variable(b.int32(0), "int32")

        def turn() -> None:
            b.call(primal_name("f") if len(b.pieces) > 1 else "f", y=state, out=delta, **b.instant(now))
            regular = self.factor(b, now, state)
            clear(b, delta, self._differential_rows)
            self._linear.solve(b, delta)
            small = regular
            for index in self._mass.algebraic_components:
                change = b.scalar(delta.load(index))
                value = b.scalar(state.load(index)) + change
                state.store(index, value.value)
                small = small & (abs(change) <= KAPPA * tolerance(b, index, abs(value).value))
            number.set(b.emitter.add("int32", number.get(), b.int32(1)))
            more = b.scalar(number.get(), "int32") < _ITERATIONS
            found.set(small.value)
            going.set((regular & ~small & more).value)

        b.repeat_while(lambda: b.scalar(going.get(), "bool"), turn)
        if since_t0 is None:
            with b.when(~b.scalar(found.get(), "bool")):
                b.begin_piece(b.pieces[0][1])
        if len(b.pieces) > 1:
            self.factor(b, now, state)
            self._add_tangents(b, now)
        return b.scalar(found.get(), "bool")

    def _add_tangents(self, b: Body, now: Any) -> None:
        state, algebraic = b.buf.state, self._mass.algebraic_components
        for _, piece in b.pieces[1:]:
            clear(b, b.piece(state, piece.order), algebraic)
        for number, (_, piece) in enumerate(b.pieces[1:], start=1):
            delta, target = b.piece(b.buf.mass_product, piece.order), b.piece(state, piece.order)
            b.call("f", y=state, out=into_output(delta, number), **b.instant(now))
            clear(b, delta, self._differential_rows)
            for direction, part in zip(directions(b, delta), directions(b, target), strict=True):
                self._linear.solve(b, direction)
                for index in algebraic:
                    part.store(index, direction.load(index))

    def adjoint_of_state(self, b: Body, since_t0: Scalar | None = None) -> None:
        """From the cotangent of the state found to that of the one before, and to those of operands and times: the algebraic
        components are a function of the others. since_t0: as of `find_state`."""
        now = b.real(0) if since_t0 is None else since_t0.value
        state, multiplier, product = b.buf.state, b.buf.mass_vector, b.buf.mass_product
        self.factor(b, now, b.piece(state, 0))
        fill(b, multiplier, 0.0)
        orders = [piece.order for _, piece in b.pieces]
        for order in reversed(orders):
            target = b.piece(multiplier, order)
            if order != orders[-1]:
                given = {**b.instant(now), "y": state, "f*": multiplier}
                b.call("f_vjp", out=into_view_of_input(b, 0, product), **given)
                add_up(b, target, b.piece(b.buf.adjoint, order), _ONE, [b.piece(product, order)])
            else:
                copy(b, target, b.piece(b.buf.adjoint, order))
            clear(b, target, self._differential_components)
            for direction in directions(b, target):
                self._linear.solve_transposed(b, direction)
            clear(b, target, self._differential_rows)
        pull(b, "f", now, 0, multiplier, product, y=state)
        add_to_adjoint(b, product)
        clear(b, b.buf.adjoint, self._mass.algebraic_components)

    # --- Slopes

    def first_slope(self, b: Body, rhs: View) -> tuple[View, Callable[[View], None]]:
        """From f at t0 the slope there, and what makes another f close by one, in its place. Those of algebraic components
        follow the others. Where there is no slope, all stay f: they are to choose a step by."""
        slope, fine = b.buf.mass_vector, self.factor(b, b.real(0), b.piece(b.buf.state, 0))
        copy(b, slope, rhs)

        def to_slope(rhs: View) -> None:
            primal = b.piece(rhs, 0)
            with b.when(fine):
                clear(b, primal, self._mass.algebraic_rows)
                self._linear.solve(b, primal)

        to_slope(slope)
        return slope, to_slope
