"""Where cotangents gather in a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..kernel.device import View
from ..kernel.scalar import shifted
from ..operands import cotangent_name
from .adjoint import TIME_ARRAYS, TIMES
from .functions import Sink, Store

if TYPE_CHECKING:
    from ..kernel.emitter import Emitter
    from .body import Body
    from .lane import Lane

def cell_of(name: str, order: int) -> str:
    """The cell in which the cotangent of a time gathers."""
    return f"{name}_bar_{order}"


def declare_cells(lane: Lane) -> None:
    """The cells of the times' cotangents."""
    for order in lane.adjoint.orders:
        for name in (*TIMES, "size", "start", "pending"):
            lane.cell(cell_of(name, order), lane.problem.dtype)


def clear(b: Body) -> None:
    """All cotangents are 0."""
    for buffer in (b.buf.adjoint, b.buf.operand_adjoint):
        b.each(lambda index, buffer=buffer: buffer.store(index, b.real(0)), buffer.size)
    for order in b.lane.adjoint.orders:
        b.put(**{cell_of(name, order): 0 for name in (*TIMES, "size", "start")})


def gather(b: Body, **more: Any) -> None:
    """Adds to cotangents of times, `name_order=value`."""
    for name, value in more.items():
        root, _, order = name.rpartition("_")
        cell = cell_of(root, int(order))
        b.put(**{cell: b.get(cell) + value})


def into_adjoints(b: Body, function: str, state: View, *, add: bool = False) -> Sink:
    """The outputs of the transposed function of that name: the cotangent of the state into an array, or added to it; those of
    the time, by order, into `time_adjoint`; those of operands are added to `operand_adjoint`."""
    adjoint = b.lane.adjoint
    views = (state, b.buf.time_adjoint, b.buf.operand_adjoint)
    read = b.lane.functions[function].function.operands
    offsets = [one for one in adjoint.offsets(b.lane.problem) if one[0] in read]
    begins, times = [begin for begin, _ in b.pieces], len(adjoint.orders)

    def store(emitter: Emitter, words: Any, bases: Any, values: Sequence[Any]) -> Store:
        into, time, operand = (View(emitter, value, view.type) for value, view in zip(values, views, strict=True))

        def keep(output: int, index: Any, value: Any) -> None:
            if output < len(begins):
                place = shifted(emitter, index, begins[output])
                into.store(place, emitter.add(into.dtype, into.load(place), value) if add else value)
            elif output < len(begins) + times:
                time.store(output - len(begins), value)
            else:
                _, begin, dtype = offsets[output - len(begins) - times]
                place = shifted(emitter, index, begin)
                value = emitter.cast(value, dtype, operand.dtype)
                operand.store(place, emitter.add(operand.dtype, operand.load(place), value))

        return keep

    kinds = "_".join(f"{view.type.stride}_{view.type.space}" for view in views)
    return Sink(f"adjoints_{kinds}_{add}", tuple(view.pointer for view in views), (), store)


def conclude(b: Body, worth: Any, fine: Any) -> None:
    """Writes the cotangents of operands: 0 where there was nothing to do, NaN where the lane had failed."""
    problem, adjoint = b.lane.problem, b.lane.adjoint
    offsets = {name: begin for name, begin, _ in adjoint.offsets(problem)}
    initial = {piece.initial: piece.order for piece in problem.pieces}

    def write(name: str, size: int, value_at: Callable[[Any], Any]) -> None:
        dtype = b.lane.operand(name).dtype

        def body(index: Any) -> None:
            value = b.emitter.select(fine.value, value_at(index), b.real(float("nan")))
            value = b.emitter.select(worth.value, value, b.real(0))
            b.res(cotangent_name(name), index, b.emitter.cast(value, b.dtype, dtype))

        b.each(body, size)

    for name in adjoint.wrt:
        size = b.lane.operand(name).size
        root, _, order = name.partition(".")
        if name in initial:
            write(name, size, b.piece(b.buf.adjoint, initial[name]).load)
        elif name in offsets:
            write(name, size, b.buf.operand_adjoint.part(offsets[name], size).load)
        elif root in TIME_ARRAYS:  # written as they are come to
            with b.when(~(worth & fine)):
                write(name, size, lambda _: b.real(0))
        else:
            cell = cell_of(root, int(order or 0))
            write(name, size, lambda _, cell=cell: b.get(cell).value)
