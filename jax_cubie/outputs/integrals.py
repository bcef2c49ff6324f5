"""Integrals of a function over a trajectory, with their derivatives: what derivatives of summaries are made of.

They are sums over points inside of each accepted step, as `quadrature` has them. The sizes of steps are held fixed, as in all
derivatives, but for those that move with times.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..buffers import BACKWARD, Buffer
from ..kernel.scalar import Scalar, where
from ..loop import AdjointHooks, Dimensions, Hooks, Part, Step
from ..loop.inside import prepare_between
from ..loop.jets import Jet, size_of
from ..operands import Piece, Result, cotangent_name, tangent_name
from ..solution import FINE
from .quadrature import gauss

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane

INTEGRAND, NAME = "integrand", "integrals"
"""The function, and the result."""


@dataclasses.dataclass(frozen=True)
class Integrals(Part):
    """The integrals of the `size` numbers that the function "integrand" gives. order: of the method."""

    size: int
    order: int

    @property
    def inside(self) -> bool:
        return True

    @staticmethod
    def buffers() -> tuple[Buffer, ...]:
        return (
            Buffer("integral", 0),
            Buffer("integrand_state", 0, live=frozenset({"step/output"})),
            Buffer("integrand_values", 0, live=frozenset({"step/output"})),
            Buffer("integrand_adjoint", 0, live=BACKWARD),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        values = self.size * (dimensions.states // dimensions.primal)
        return {
            "integral": 0 if dimensions.backward else values,
            "integrand_state": dimensions.states,
            "integrand_values": values * (2 if dimensions.backward else 1),
            "integrand_adjoint": dimensions.states if dimensions.backward else 0,
        }

    def copies(self) -> dict[str, int]:
        points = len(gauss(self.order).points)
        return {INTEGRAND: points, f"{INTEGRAND}_vjp": points}

    def outputs_of(self, function: str) -> tuple[str, ...]:
        return (NAME,) if function == INTEGRAND else ()

    @property
    def evaluated_backwards(self) -> tuple[str, ...]:
        return (INTEGRAND,)

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        """One row, so that directions stand behind it."""
        return (Result(NAME, (1, self.size), dtype),)

    def hooks(self, lane: Lane) -> Hooks:
        return Hooks(start=self._start, accepted=self._accepted, end=self._end)

    def adjoint(self, lane: Lane) -> AdjointHooks:
        from .integral_adjoints import build_adjoint

        return build_adjoint(lane, self)

    # --- The places in the loop

    def _start(self, b: Body) -> None:
        b.each(lambda index: b.buf.integral.store(index, b.real(0)), b.buf.integral.size)

    def _accepted(self, b: Body, step: Step) -> None:
        rule, signed, parts = gauss(self.order), b.scalar(b.direction) * step.size, self.parts(b)
        prepare_between(b, step)
        size = size_of(b, signed)
        for theta, weight in zip(rule.points, rule.weights, strict=True):
            values = self.evaluate(b, step, theta)
            for piece, begin, count in parts:
                for order, moved in size.terms.items():
                    if piece.order & order != order:
                        continue
                    source = next(first for other, first, _ in parts if other.order == piece.order & ~order)

                    total, numbers = b.buf.integral.part(begin, count), values.part(source, count)

                    def add(i: Any, total: View = total, numbers: View = numbers, by: Scalar = weight * moved) -> None:
                        total.store(i, by.fused(b.scalar(numbers.load(i)), b.scalar(total.load(i))).value)

                    b.each(add, count)

    def _end(self, b: Body, result: Scalar) -> Scalar:
        fine = result.equals(FINE[0])
        if b.lane.problem.stops:
            fine = fine | result.equals(FINE[1])
        for piece, begin, count in self.parts(b):
            total = b.buf.integral.part(begin, count)

            def write(index: Any, total: View = total, name: str = tangent_name(NAME, piece.order)) -> None:
                place = b.emitter.place(index)
                b.res(name, place, where(fine, b.scalar(total.load(index)), float("nan")).value)

            b.each(write, count)
        return result

    # --- What both directions have

    def parts(self, b: Body) -> list[tuple[Piece, int, int]]:
        """For each piece of the state that of the integrals: where its numbers begin, and how many they are."""
        found, begin = [], 0
        for _, piece in b.pieces:
            count = self.size * max(piece.directions, 1)
            found.append((piece, begin, count))
            begin += count
        return found

    def state_at(self, b: Body, step: Step, theta: float) -> View:
        """The state at a fraction of the step, tangents among it, in `integrand_state`."""
        method, signed, view = b.lane.problem.method, b.scalar(b.direction) * step.size, b.buf.integrand_state
        values = method.between(b, b.real(theta), signed.value)
        b.each(lambda index: view.store(index, values(index)))
        if b.moving:
            method.add_between_moved(b, Jet({0: b.scalar(theta)}), size_of(b, signed), view)
        return view

    def time_at(self, b: Body, step: Step, theta: float) -> dict[str, Any]:
        """The time there and its tangents, as functions of the user's take them."""
        since = b.scalar(b.direction) * b.scalar(theta).fused(step.size, step.start)
        return b.instant(since.value, theta)

    def evaluate(self, b: Body, step: Step, theta: float) -> View:
        """The numbers there, and behind them their tangents, in `integrand_values`."""
        from ..loop.functions import into_view

        total = sum(count for _, _, count in self.parts(b))
        view = b.buf.integrand_values.part(0, total)
        sink = into_view(view, [begin for _, begin, _ in self.parts(b)])
        given = {**state_by_pieces(b, self.state_at(b, step, theta)), **self.time_at(b, step, theta)}
        b.call_pieces(INTEGRAND, given, sink)
        return view


def state_by_pieces(b: Body, state: View) -> dict[str, View]:
    """A state as functions of the user's take it."""
    return {tangent_name("y", piece.order): state.part(begin, piece.size) for begin, piece in b.pieces}


def cotangents_of(b: Body, parts: list[tuple[Piece, int, int]]) -> list[tuple[Piece, str, int]]:
    """The pieces whose integrals have a cotangent: with its operand, and how many numbers it has."""
    named = [(piece, cotangent_name(tangent_name(NAME, piece.order)), count) for piece, _, count in parts]
    return [one for one in named if b.lane.has_operand(one[1])]
