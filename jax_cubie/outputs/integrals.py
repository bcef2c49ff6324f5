"""Sums of a function over a trajectory, with their derivatives: what derivatives of summaries are made of.

Integrals are sums over points inside of each accepted step, as `quadrature` has them; others are sums of samples. The sizes of
steps are held fixed, as in all derivatives, but for those that move with times.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..buffers import BACKWARD, Buffer
from ..kernel.scalar import Scalar, most, where
from ..loop import AdjointHooks, Dimensions, Hooks, Part, Step
from ..loop.inside import prepare_between
from ..loop.jets import Jet, fraction_of, size_of
from ..operands import Piece, Result, cotangent_name, numbered, tangent_name
from ..solution import CODES, FINE
from .quadrature import gauss
from .summaries import LATE

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane


# In units in the last place, how far the end of a step may be from where a window begins that begins there.
_CLOSE = 4.0


@dataclasses.dataclass(frozen=True)
class Sum:
    """What is made of the `size` numbers that a function gives. starts: from the operand `start` on, else from t0. sampled: the
    sum of what they are then, and in even distances `every` of that, and not their integral. number: among those that start
    late or are sampled; None: the other one."""

    number: int | None
    size: int
    starts: bool = False
    sampled: bool = False

    @property
    def function(self) -> str:
        return numbered("integrand", self.number)

    @property
    def result(self) -> str:
        return numbered("integrals", self.number)

    @property
    def start(self) -> str:
        """When it begins, counted from t0, and no earlier than that."""
        return numbered("sum_start", self.number)

    @property
    def every(self) -> str:
        return numbered("sum_every", self.number)

    @property
    def samples(self) -> str:
        """The counter of the samples that lie behind."""
        return numbered("samples", self.number)


@dataclasses.dataclass(frozen=True)
class Integrals(Part):
    """Those sums. order: of the method."""

    sums: tuple[Sum, ...]
    order: int

    @property
    def inside(self) -> bool:
        return True

    @property
    def counters(self) -> tuple[str, ...]:
        return tuple(one.samples for one in self.sums if one.sampled)

    @property
    def remembered_counters(self) -> tuple[str, ...]:
        return self.counters

    @staticmethod
    def buffers() -> tuple[Buffer, ...]:
        return (
            Buffer("integral", 0),
            Buffer("integrand_state", 0, live=frozenset({"step/output"})),
            Buffer("integrand_values", 0, live=frozenset({"step/output"})),
            Buffer("integrand_adjoint", 0, live=BACKWARD),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        pieces = dimensions.states // dimensions.primal
        values = max(one.size for one in self.sums) * pieces
        return {
            "integral": 0 if dimensions.backward else sum(one.size for one in self.sums) * pieces,
            "integrand_state": dimensions.states,
            "integrand_values": values * (2 if dimensions.backward else 1),
            "integrand_adjoint": dimensions.states if dimensions.backward else 0,
        }

    def copies(self) -> dict[str, int]:
        points = len(gauss(self.order).points)
        places = {one.function: 2 if one.sampled else points for one in self.sums}
        return places | {f"{name}_vjp": count for name, count in places.items()}

    def outputs_of(self, function: str) -> tuple[str, ...]:
        return tuple(one.result for one in self.sums if one.function == function)

    @property
    def evaluated_backwards(self) -> tuple[str, ...]:
        return tuple(one.function for one in self.sums if not one.sampled)

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        """One row each, so that directions stand behind it."""
        return tuple(Result(one.result, (1, one.size), dtype) for one in self.sums)

    def hooks(self, lane: Lane) -> Hooks:
        return Hooks(start=self._start, accepted=self._accepted, end=self._end)

    def adjoint(self, lane: Lane) -> AdjointHooks:
        from .integral_adjoints import build_adjoint

        return build_adjoint(lane, self)

    # --- The places in the loop

    def _start(self, b: Body) -> Scalar | None:
        b.each(lambda index: b.buf.integral.store(index, b.real(0)), b.buf.integral.size)
        valid = None
        for one in self.sums:
            if not one.sampled:
                continue
            every = b.number(one.every)
            fine = (every > 0.0) & (every < float("inf"))
            valid = fine if valid is None else valid & fine
            with b.when(fine & samples_at_t0(b, one)):
                values = self.evaluate(b, one, b.buf.state, time_of_t0(b))
                self._add(b, one, 1.0, once(b), values)
                b.counter(one.samples).add()
        return None if valid is None else where(valid, b.scalar(CODES["successful"], "int32"), CODES["invalid_input"])

    def _accepted(self, b: Body, step: Step) -> None:
        prepare_between(b, step)
        for one in self.sums:

            def add(point: Point, one: Sum = one) -> None:
                values = self.evaluate(b, one, state_at(b, step, point), point.time())
                self._add(b, one, point.weight, point.length, values)

            self.each_point(b, one, step, add)

    def _add(self, b: Body, one: Sum, weight: float, length: Jet, values: View) -> None:
        """Adds the numbers at a point, multiplied by these."""
        parts, begin = self.parts(b, one), self._begin(b, one)
        for piece, first, count in parts:
            for order, moved in length.terms.items():
                if piece.order & order != order:
                    continue
                source = next(place for other, place, _ in parts if other.order == piece.order & ~order)
                total, numbers = b.buf.integral.part(begin + first, count), values.part(source, count)

                def add(i: Any, total: View = total, numbers: View = numbers, by: Scalar = weight * moved) -> None:
                    total.store(i, by.fused(b.scalar(numbers.load(i)), b.scalar(total.load(i))).value)

                b.each(add, count)

    def _end(self, b: Body, result: Scalar) -> Scalar:
        fine = result.equals(FINE[0])
        if b.lane.problem.stops:
            fine = fine | result.equals(FINE[1])
        for one in self.sums:
            begin = self._begin(b, one)
            for piece, first, count in self.parts(b, one):
                total = b.buf.integral.part(begin + first, count)

                def write(index: Any, total: View = total, name: str = tangent_name(one.result, piece.order)) -> None:
                    place = b.emitter.place(index)
                    b.res(name, place, where(fine, b.scalar(total.load(index)), float("nan")).value)

                b.each(write, count)
        return result

    def _begin(self, b: Body, one: Sum) -> int:
        """Where its numbers begin in `integral`."""
        before = self.sums[: self.sums.index(one)]
        return sum(count for other in before for _, _, count in self.parts(b, other))

    # --- What both directions have

    def parts(self, b: Body, one: Sum) -> list[tuple[Piece, int, int]]:
        """For each piece of the state that of the sum: where its numbers begin, and how many they are."""
        found, begin = [], 0
        for _, piece in b.pieces:
            count = one.size * max(piece.directions, 1)
            found.append((piece, begin, count))
            begin += count
        return found

    def each_point(self, b: Body, one: Sum, step: Step, visit: Callable[[Point], None]) -> None:
        """`visit` at all points that count inside of a step."""
        if one.sampled:
            self.pass_samples(b, one, step, visit)
        elif one.starts:
            with b.when(step.end > _latest_begin(b, one)):
                for point in self._points_from_start(b, one, step):
                    visit(point)
        else:
            for point in self._points(b, step):
                visit(point)

    def pass_samples(self, b: Body, one: Sum, step: Step, visit: Callable[[Point], None] | None = None) -> None:
        """The samples inside of a step lie behind now."""
        limit = where(step.last, step.end + LATE * b.number(one.every), step.until)

        def sample() -> None:
            if visit is not None:
                visit(_sample(b, one, step))
            b.counter(one.samples).add()

        b.repeat_while(lambda: _time_of_sample(b, one) <= limit, sample)

    def _points(self, b: Body, step: Step) -> Iterator[Point]:
        """Those of a step that counts as a whole."""
        rule, signed = gauss(self.order), b.scalar(b.direction) * step.size
        size = size_of(b, signed)
        for theta, weight in zip(rule.points, rule.weights, strict=True):

            def time(theta: float = theta) -> dict[str, Any]:
                since = b.scalar(b.direction) * b.scalar(theta).fused(step.size, step.start)
                return b.instant(since.value, theta)

            def give_time(order: int, value: Scalar, theta: float = theta) -> dict[str, Scalar]:
                return {f"start_{order}": value, f"size_{order}": theta * value}

            def give_length(order: int, value: Scalar) -> dict[str, Scalar]:
                return {f"size_{order}": value}

            yield Point(Jet({0: b.scalar(theta)}), weight, size, time, give_time, give_length, False)

    def _points_from_start(self, b: Body, one: Sum, step: Step) -> Iterator[Point]:
        """Those of a step in which the window may begin; then it is summed from there on.

        A point, and how long that is, are sums of times: of the beginning of the window or of the step, and of the end of the
        step.
        """
        rule, direction = gauss(self.order), b.scalar(b.direction)
        before = (begin_of(b, one) - step.start - step.residue) / step.size
        inside, size = step.start <= _latest_begin(b, one), size_of(b, direction * step.size)
        begin = where(inside, most(before, b.scalar(0.0)), 0.0)

        def begins(order: int) -> Scalar:
            return where(inside, b.tangent(one.start, order), b.get(f"start_{order}"))

        def ends(order: int) -> Scalar:
            return b.get(f"start_{order}") + b.get(f"size_{order}")

        def shares(order: int, of_begin: Scalar, of_end: Scalar) -> dict[str, Scalar]:
            """The cotangents of both, as those of the times that they are."""
            named, own = where(inside, of_begin, 0.0), where(inside, 0.0, of_begin)
            return {f"{one.start}_{order}": named, f"start_{order}": own + of_end, f"size_{order}": of_end}

        def give_length(order: int, value: Scalar) -> dict[str, Scalar]:
            return shares(order, -value, value)

        length = Jet({0: (1.0 - begin) * size.terms[0], **{order: ends(order) - begins(order) for order in b.moving}})
        for place, weight in zip(rule.points, rule.weights, strict=True):
            theta = begin + (1.0 - begin) * place

            def moved(order: int, place: float = place) -> Scalar:
                return (1.0 - place) * begins(order) + place * ends(order) if order in b.moving else b.scalar(0.0)

            def give_time(order: int, value: Scalar, place: float = place) -> dict[str, Scalar]:
                return shares(order, (1.0 - place) * value, place * value)

            def time(theta: Scalar = theta, moved: Callable[[int], Scalar] = moved) -> dict[str, Any]:
                return _instant(b, direction * theta.fused(step.size, step.start), moved)

            yield Point(fraction_of(b, theta, size, moved), weight, length, time, give_time, give_length, True)

    def evaluate(self, b: Body, one: Sum, state: View, time: dict[str, Any]) -> View:
        """The numbers of a state, and behind them their tangents, in `integrand_values`."""
        from ..loop.functions import into_view

        parts = self.parts(b, one)
        view = b.buf.integrand_values.part(0, sum(count for _, _, count in parts))
        sink = into_view(view, [begin for _, begin, _ in parts])
        b.call_pieces(one.function, {**b.by_pieces("y", state), **time}, sink)
        return view


@dataclasses.dataclass(frozen=True)
class Point:
    """A time inside of a step. theta: which fraction of it; moves: whether that has tangents. weight, length: what the numbers
    there are multiplied by. time(): as functions of the user's take it. give_time(order, value): a cotangent of the time as
    those of what it consists of, for `gather`; give_length: the same of `length`."""

    theta: Jet
    weight: float
    length: Jet
    time: Callable[[], dict[str, Any]]
    give_time: Callable[[int, Scalar], dict[str, Scalar]]
    give_length: Callable[[int, Scalar], dict[str, Scalar]]
    moves: bool


def begin_of(b: Body, one: Sum) -> Scalar:
    """When it begins, counted from t0 and running forwards."""
    return b.scalar(b.direction) * b.number(one.start) if one.starts else b.scalar(0.0)


def _latest_begin(b: Body, one: Sum) -> Scalar:
    """When the window begins, and rounding: a step that begins there, and the end of the one before, are no earlier."""
    return begin_of(b, one) * (1.0 + _CLOSE * float(np.finfo(b.dtype).eps))


def once(b: Body) -> Jet:
    """The length of a sample."""
    return Jet({0: b.scalar(1.0)})


def samples_at_t0(b: Body, one: Sum) -> Scalar:
    """Whether the state at t0 is a sample."""
    return begin_of(b, one) <= 0.0


def time_of_t0(b: Body) -> dict[str, Any]:
    """It, as functions of the user's take it."""
    given = b.given_time(b.op("t0"), b.real(0))
    zero = b.scalar(0.0)
    moved = {order: zero if b.lane.problem.counts_from_t0 else b.tangent("t0", order) for order in b.moving}
    return given | {tangent_name("t", order): value.value for order, value in moved.items()}


def _time_of_sample(b: Body, one: Sum) -> Scalar:
    """That of the next one, counted from t0 and running forwards."""
    number = b.scalar(b.counter(one.samples).get(), "int32").to(b.dtype)
    return number.fused(b.number(one.every), begin_of(b, one))


def _sample(b: Body, one: Sum, step: Step) -> Point:
    """The next one, inside of the step at hand."""
    direction = b.scalar(b.direction)
    since, along = _time_of_sample(b, one), direction * b.scalar(b.counter(one.samples).get(), "int32").to(b.dtype)
    theta = (since - step.start - step.residue) / step.size
    theta = where(theta < 1.0, theta, 1.0)

    def moved(order: int) -> Scalar:
        found = along * b.tangent(one.every, order)
        return b.tangent(one.start, order) + found if one.starts else found

    def give_time(order: int, value: Scalar) -> dict[str, Scalar]:
        found = {f"{one.every}_{order}": along * value}
        return found | {f"{one.start}_{order}": value} if one.starts else found

    def time() -> dict[str, Any]:
        return _instant(b, direction * since, moved)

    fraction = fraction_of(b, theta, size_of(b, direction * step.size), moved)
    return Point(fraction, 1.0, once(b), time, give_time, lambda order, value: {}, True)


def _instant(b: Body, since_t0: Scalar, moved: Callable[[int], Scalar]) -> dict[str, Any]:
    """A time since t0 with its tangents, as functions of the user's take them."""
    given = b.instant(since_t0.value)
    for order in b.moving:
        value = moved(order)
        value = value if b.lane.problem.counts_from_t0 else b.tangent("t0", order) + value
        given[tangent_name("t", order)] = value.value
    return given


def state_at(b: Body, step: Step, point: Point) -> View:
    """The state at a point of the step, tangents among it, in `integrand_state`."""
    method, signed, view = b.lane.problem.method, b.scalar(b.direction) * step.size, b.buf.integrand_state
    values = method.between(b, point.theta.terms[0].value, signed.value)
    b.each(lambda index: view.store(index, values(index)))
    if b.moving:
        method.add_between_moved(b, point.theta, size_of(b, signed), view)
    return view


def cotangents_of(b: Body, one: Sum, parts: list[tuple[Piece, int, int]]) -> list[tuple[Piece, str, int]]:
    """The pieces whose sums have a cotangent: with its operand, and how many numbers it has."""
    named = [(piece, cotangent_name(tangent_name(one.result, piece.order)), count) for piece, _, count in parts]
    return [found for found in named if b.lane.has_operand(found[1])]
