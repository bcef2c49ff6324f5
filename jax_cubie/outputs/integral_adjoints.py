"""The cotangents of integrals over a trajectory, on the way from t1 to t0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernel.device import View
from ..kernel.scalar import Scalar
from ..loop import AdjointHooks, Step
from ..loop.cotangents import gather, into_adjoints
from ..loop.inside import prepare_between
from ..loop.jets import Jet, size_of
from ..operands import cotangent_name, tangent_name
from .integrals import INTEGRAND, NAME, Integrals, cotangents_of, state_by_pieces
from .quadrature import gauss

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane


def build_adjoint(lane: Lane, part: Integrals) -> AdjointHooks:
    """The places of integrals in the backward loop."""

    def step(b: Body, step: Step) -> None:
        if cotangents_of(b, part.parts(b)):
            _step(b, part, step)

    return AdjointHooks(step=step)


def _step(b: Body, part: Integrals, step: Step) -> None:
    method, signed, orders = b.lane.problem.method, b.scalar(b.direction) * step.size, b.lane.adjoint.orders
    b.put(points_inside=True)
    prepare_between(b, step)
    rule, size = gauss(part.order), size_of(b, signed)
    for theta, weight in zip(rule.points, rule.weights, strict=True):
        if orders:  # the size of the step has a cotangent
            _pull_size(b, part, weight, part.evaluate(b, step, theta))
        state = part.state_at(b, step, theta)
        _pull(b, part, weight, size, state, part.time_at(b, step, theta))
        for number, order in enumerate(orders):
            of_time = b.scalar(b.buf.time_adjoint.load(number))
            if not b.lane.problem.counts_from_t0:
                gather(b, **{f"t0_{order}": of_time})
            gather(b, **{f"start_{order}": of_time, f"size_{order}": theta * of_time})
        _, of_size = method.between_adjoint(b, Jet({0: b.scalar(theta)}), size, b.buf.integrand_adjoint)
        for order, value in of_size.items():
            if order in orders:
                gather(b, **{f"size_{order}": value})


def _pull_size(b: Body, part: Integrals, weight: float, values: View) -> None:
    """An integral is the size of the step times values, and so are its tangents, by the product rule."""
    parts = part.parts(b)
    for piece, name, count in cotangents_of(b, parts):
        for order in b.lane.adjoint.orders:
            if piece.order & order != order:
                continue
            begin = next(first for other, first, _ in parts if other.order == piece.order & ~order)
            total, numbers = b.variable(b.real(0)), values.part(begin, count)

            def add(index: Any, name: str = name, total: Any = total, numbers: View = numbers) -> None:
                total.set(b.number(name, index).fused(b.scalar(numbers.load(index)), b.scalar(total.get())).value)

            b.each(add, count)
            gather(b, **{f"size_{order}": weight * b.scalar(total.get())})


def _pull(b: Body, part: Integrals, weight: float, size: Jet, state: View, time: dict[str, Any]) -> None:
    """Through the function at one point: the cotangent of the state there in `integrand_adjoint`."""
    parts = part.parts(b)
    given, begin = {**state_by_pieces(b, state), **time}, sum(count for _, _, count in parts)
    there = {piece.order: name for piece, name, _ in cotangents_of(b, parts)}
    for piece, first, count in parts:
        view = b.buf.integrand_values.part(begin + first, count)
        shares: list[tuple[Scalar, str]] = [
            (moved, there[piece.order | order])
            for order, moved in size.terms.items()
            if not piece.order & order and piece.order | order in there
        ]

        def put(index: Any, view: View = view, shares: list[tuple[Scalar, str]] = shares) -> None:
            total = b.scalar(0.0)
            for moved, name in shares:
                total = (weight * moved).fused(b.number(name, index), total)
            view.store(index, total.value)

        b.each(put, count)
        given[cotangent_name(tangent_name(NAME, piece.order))] = view
    function = f"{INTEGRAND}_vjp"
    b.call_pieces(function, given, into_adjoints(b, function, b.buf.integrand_adjoint))
