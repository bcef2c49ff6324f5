"""How each accepted step is kept as a polynomial, and how the cotangents of what is kept come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel.scalar import Scalar, shifted, where
from ..loop import AdjointHooks, Hooks, Step
from ..loop.cotangents import gather
from ..loop.inside import prepare_between
from ..loop.jets import Jet, size_of
from ..operands import cotangent_name, tangent_name
from .dense import COLUMNS, STEPS, VALUES
from .save_rows import between

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .dense import Dense


# The columns of the result STEPS.
_START, _RESIDUE, _SIZE = range(COLUMNS)


def build_hooks(lane: Lane, dense: Dense) -> Hooks:
    """Its places in the loop."""
    lane.cell("dense_node", "int32")

    def accepted(b: Body, step: Step) -> None:
        signed = b.scalar(b.direction) * step.size
        prepare_between(b, step)

        def write(node: Scalar) -> None:
            theta = _fraction(b, dense, node)
            _write_values(b, dense, node, between(b, theta, signed, lambda _: Jet({0: theta})))

        _each_node(b, dense, write)
        _write_step(b, _START, step.start, "start")
        _write_step(b, _RESIDUE, step.residue)
        _write_step(b, _SIZE, step.size, "size")
        b.counter("dense_kept").add()

    def end(b: Body, result: Scalar) -> Scalar:
        """Where t1 is t0, a step of no size."""
        with b.when(b.number("span").equals(0.0)):
            _each_node(b, dense, lambda node: _write_values(b, dense, node, b.buf.state.load))
            for column in range(COLUMNS):
                _write_step(b, column, b.scalar(0.0))
        return result

    return Hooks(accepted=accepted, end=end)


def build_adjoint(lane: Lane, dense: Dense) -> AdjointHooks:
    """Its places in the backward loop."""
    lane.cell("dense_node", "int32")

    def read(b: Body, node: Scalar, row: Scalar) -> None:
        """The cotangent of the values at a node of a step, in `output_adjoint`."""
        _each_value(b, dense, node, row, lambda name, place, index: _read(b, b.buf.output_adjoint, name, place, index))

    def step(b: Body, step: Step) -> None:
        method, signed, row = b.lane.problem.method, b.scalar(b.direction) * step.size, b.get("behind")
        b.put(points_inside=True)
        prepare_between(b, step)

        def pull(node: Scalar) -> None:
            read(b, node, row)
            theta, size = Jet({0: _fraction(b, dense, node)}), size_of(b, signed)
            _, of_size = method.between_adjoint(b, theta, size, b.buf.output_adjoint)
            gather(b, **{f"size_{order}": value for order, value in of_size.items() if order in b.lane.adjoint.orders})

        _each_node(b, dense, pull)
        for order in b.lane.adjoint.orders:
            name = cotangent_name(tangent_name(STEPS, order))
            if b.lane.has_operand(name):
                for column, cell in ((_START, "start"), (_SIZE, "size")):
                    place = row.to("int64") * COLUMNS + column
                    gather(b, **{f"{cell}_{order}": b.scalar(b.direction) * b.number(name, place.value)})

    def end(b: Body) -> None:
        """Where no step was taken, all values are the state at t0."""

        def add(node: Scalar) -> None:
            read(b, node, b.scalar(0, "int32"))
            state = b.buf.adjoint
            b.each(lambda i: state.store(i, b.emitter.add(b.dtype, state.load(i), b.buf.output_adjoint.load(i))))

        with b.when(b.get("taken").equals(0)):
            _each_node(b, dense, add)

    return AdjointHooks(step=step, end=end)


def _each_node(b: Body, dense: Dense, body: Callable[[Scalar], None]) -> None:
    """`body` of the number of each node, in a loop: written once, however many there are."""
    b.put(dense_node=0)

    def turn() -> None:
        body(b.get("dense_node"))
        b.put(dense_node=b.get("dense_node") + 1)

    b.repeat_while(lambda: b.get("dense_node") <= dense.degree, turn)


def _fraction(b: Body, dense: Dense, node: Scalar) -> Scalar:
    """The fraction of a step at which a node lies."""
    theta = b.scalar(dense.nodes[0])
    for number, fraction in enumerate(dense.nodes[1:], 1):
        theta = where(node.equals(number), b.scalar(fraction), theta)
    return theta


def _each_value(b: Body, dense: Dense, node: Scalar, row: Scalar, body: Callable[[str, Any, Any], None]) -> None:
    """`body(name, place, index)` for each component `index` of the state: at which place of which result, or its tangents, its
    value at a node lies. row: the number of the step."""
    for begin, piece in b.pieces:
        name = tangent_name(VALUES, piece.order)
        first = ((row * (dense.degree + 1) + node).to("int64") * piece.size).value

        def visit(index: Any, name: str = name, first: Any = first, begin: int = begin) -> None:
            offset = b.emitter.place(index)
            body(name, b.emitter.add("int64", first, offset), shifted(b.emitter, index, begin))

        b.each(visit, piece.size)


def _write_values(b: Body, dense: Dense, node: Scalar, value_at: Callable[[Any], Any]) -> None:
    """Those at a node of the step that is kept next."""
    row = b.scalar(b.counter("dense_kept").get(), "int32")
    _each_value(b, dense, node, row, lambda name, place, index: b.res(name, place, value_at(index)))


def _write_step(b: Body, column: int, value: Scalar, cell: str | None = None) -> None:
    """A column of the step that is kept next; `cell`: where its tangents are, signed as times are, if it moves."""
    place = (b.scalar(b.counter("dense_kept").get(), "int32").to("int64") * COLUMNS + column).value
    b.res(STEPS, place, value.value)
    for order in b.moving if cell is not None else ():
        b.res(tangent_name(STEPS, order), place, (b.scalar(b.direction) * b.get(f"{cell}_{order}")).value)


def _read(b: Body, into: View, name: str, place: Any, index: Any) -> None:
    """A cotangent; 0 where there is none of that name."""
    name = cotangent_name(name)
    into.store(index, b.op(name, place) if b.lane.has_operand(name) else b.real(0))
