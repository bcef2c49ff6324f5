"""The cotangents of sums over a trajectory, on the way from t1 to t0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernel.device import View
from ..kernel.scalar import Scalar
from ..loop import AdjointHooks, Step
from ..loop.cotangents import gather, into_adjoints
from ..loop.inside import prepare_between
from ..loop.jets import Jet, pull_fraction, size_of
from ..operands import cotangent_name, tangent_name
from .integrals import Integrals, Point, Sum, cotangents_of, once, samples_at_t0, state_at, time_of_t0

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane


def build_adjoint(lane: Lane, part: Integrals) -> AdjointHooks:
    """The places of sums in the backward loop."""
    sampled = [one for one in part.sums if one.sampled]

    def with_cotangents(b: Body) -> list[Sum]:
        return [one for one in part.sums if cotangents_of(b, one, part.parts(b, one))]

    def step(b: Body, step: Step) -> None:
        wanted = with_cotangents(b)
        if wanted:
            b.put(points_inside=True)
            prepare_between(b, step)
        for one in wanted:
            part.each_point(b, one, step, lambda point, one=one: _pull_point(b, part, one, step, point))

    def repeated(b: Body, step: Step) -> None:
        for one in sampled:
            part.pass_samples(b, one, step)

    def end(b: Body) -> None:
        for one in sampled:
            if one in with_cotangents(b):
                with b.when(samples_at_t0(b, one)):
                    _pull_at_t0(b, part, one)

    if not sampled:
        return AdjointHooks(step=step)
    return AdjointHooks(repeated=repeated, step=step, end=end)


def _pull_point(b: Body, part: Integrals, one: Sum, step: Step, point: Point) -> None:
    """The cotangents of one point inside of a step."""
    method, orders = b.lane.problem.method, b.lane.adjoint.orders
    size = size_of(b, b.scalar(b.direction) * step.size)
    if orders and not one.sampled:  # the length has a cotangent
        _pull_length(b, part, one, point, part.evaluate(b, one, state_at(b, step, point), point.time()))
    state = state_at(b, step, point)
    _pull(b, part, one, point.weight, point.length, state, point.time(), b.buf.integrand_adjoint)
    of_time = {}
    for number, order in enumerate(orders):
        of_time[order] = b.scalar(b.buf.time_adjoint.load(number))
        if not b.lane.problem.counts_from_t0:
            gather(b, **{f"t0_{order}": of_time[order]})
        if not point.moves:
            gather(b, **point.give_time(order, of_time[order]))
    of_theta, of_size = method.between_adjoint(b, point.theta, size, b.buf.integrand_adjoint)
    if point.moves:
        times, sizes = pull_fraction(of_theta, point.theta, size)
        for order in orders:
            if order in times:
                of_time[order] = of_time[order] + times[order]
                gather(b, **{f"start_{order}": -times[order]})
            if order in sizes:
                gather(b, **{f"size_{order}": sizes[order]})
            gather(b, **point.give_time(order, of_time[order]))
    for order, value in of_size.items():
        if order in orders:
            gather(b, **{f"size_{order}": value})


def _pull_at_t0(b: Body, part: Integrals, one: Sum) -> None:
    """The cotangents of a sample that is the state at t0."""
    _pull(b, part, one, 1.0, once(b), b.buf.state, time_of_t0(b), b.buf.adjoint, add=True)
    if not b.lane.problem.counts_from_t0:
        for number, order in enumerate(b.lane.adjoint.orders):
            gather(b, **{f"t0_{order}": b.scalar(b.buf.time_adjoint.load(number))})


def _pull_length(b: Body, part: Integrals, one: Sum, point: Point, values: View) -> None:
    """An integral is a length times values, and so are its tangents, by the product rule."""
    parts = part.parts(b, one)
    for piece, name, count in cotangents_of(b, one, parts):
        for order in b.lane.adjoint.orders:
            if piece.order & order != order:
                continue
            begin = next(first for other, first, _ in parts if other.order == piece.order & ~order)
            total, numbers = b.variable(b.real(0)), values.part(begin, count)

            def add(index: Any, name: str = name, total: Any = total, numbers: View = numbers) -> None:
                total.set(b.number(name, index).fused(b.scalar(numbers.load(index)), b.scalar(total.get())).value)

            b.each(add, count)
            gather(b, **point.give_length(order, point.weight * b.scalar(total.get())))


def _pull(
    b: Body,
    part: Integrals,
    one: Sum,
    weight: float,
    length: Jet,
    state: View,
    time: dict[str, Any],
    into: View,
    *,
    add: bool = False,
) -> None:
    """Through the function at one point, whose numbers are multiplied by these: the cotangent of the state there."""
    parts = part.parts(b, one)
    given, begin = {**b.by_pieces("y", state), **time}, sum(count for _, _, count in parts)
    there = {piece.order: name for piece, name, _ in cotangents_of(b, one, parts)}
    for piece, first, count in parts:
        view = b.buf.integrand_values.part(begin + first, count)
        shares: list[tuple[Scalar, str]] = [
            (moved, there[piece.order | order])
            for order, moved in length.terms.items()
            if not piece.order & order and piece.order | order in there
        ]

        def put(index: Any, view: View = view, shares: list[tuple[Scalar, str]] = shares) -> None:
            total = b.scalar(0.0)
            for moved, name in shares:
                total = (weight * moved).fused(b.number(name, index), total)
            view.store(index, total.value)

        b.each(put, count)
        given[cotangent_name(tangent_name(one.result, piece.order))] = view
    function = f"{one.function}_vjp"
    b.call_pieces(function, given, into_adjoints(b, function, into, add=add))
