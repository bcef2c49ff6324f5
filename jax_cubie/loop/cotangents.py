"""Where cotangents gather in a backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..kernel import warp
from ..kernel.device import View
from ..kernel.scalar import Scalar, shifted, where
from ..operands import cotangent_name, primal_of, word_of
from .adjoint import NUMBERED_TIMES, TIMES, WRITTEN, is_of_functions
from .functions import Sink, Store

if TYPE_CHECKING:
    from ..kernel.emitter import Emitter
    from .body import Body
    from .lane import Lane


def cell_of(name: str, order: int) -> str:
    """The cell in which the cotangent of a time gathers."""
    return f"{name}_bar_{order}"


def _times_of(lane: Lane) -> list[str]:
    """The operands whose cotangents gather in cells."""
    names = [operand.name for operand in lane.problem.operands]
    return [*TIMES, *(name for name in names if word_of(name) in NUMBERED_TIMES and name == primal_of(name))]


def declare_cells(lane: Lane) -> None:
    """The cells of the times' cotangents."""
    for order in lane.adjoint.orders:
        for name in (*_times_of(lane), "size", "start", "pending"):
            lane.cell(cell_of(name, order), lane.problem.dtype)


def clear(b: Body) -> None:
    """All cotangents are 0."""
    for buffer in (b.buf.adjoint, b.buf.operand_adjoint):
        b.each(lambda index, buffer=buffer: buffer.store(index, b.real(0)), buffer.size)
    for order in b.lane.adjoint.orders:
        b.put(**{cell_of(name, order): 0 for name in (*_times_of(b.lane), "size", "start")})


def gather(b: Body, **more: Any) -> None:
    """Adds to cotangents of times, `name_order=value`."""
    for name, value in more.items():
        root, _, order = name.rpartition("_")
        cell = cell_of(root, int(order))
        b.put(**{cell: b.get(cell) + where(b.get("active"), value, 0.0) if b.lane.plan.in_step else b.get(cell) + value})


def unless_done(b: Body, value: Any, before: Any) -> Any:
    """`value`; `before` in a lane that is done, and goes along with others of its warp."""
    return b.emitter.select(b.get("active").value, value, before) if b.lane.plan.in_step else value


def some_of(b: Body, condition: Scalar) -> Scalar:
    """The condition; where a warp goes back over steps together, whether it holds in one of its lanes that are not done."""
    if not b.lane.plan.in_step:
        return condition
    return b.scalar(warp.some(b.emitter, (condition & b.get("active")).value), "bool")


def into_adjoints(b: Body, function: str, *states: View, add: bool = False) -> Sink:
    """The outputs of the transposed function of that name: the cotangents of the state and its like, in the order of the
    function's inputs, into arrays, or added to them; those of
    the time, by order, into `time_adjoint`; those of operands are added to `operand_adjoint`, or summed over the warp's lanes
    and added to the results."""
    lane, adjoint = b.lane, b.lane.adjoint
    views = (*states, b.buf.time_adjoint, b.buf.operand_adjoint)
    read, together = lane.functions[function].function.operands, adjoint.together(lane.plan)
    offsets = {name: (begin, dtype) for name, begin, dtype in adjoint.offsets(lane.plan)}
    operands = [name for name in adjoint.wrt if is_of_functions(name) and name in read]
    begins, times = [begin for begin, _ in b.pieces], len(adjoint.orders)
    first = len(states) * len(begins) + times
    results = tuple(cotangent_name(name) for name in operands if name in together)
    summed = frozenset(first + number for number, name in enumerate(operands) if name in together)

    def store(emitter: Emitter, words: Any, bases: Any, values: Sequence[Any]) -> Store:
        *arrays, time, operand = (View(emitter, value, view.type) for value, view in zip(values, views, strict=False))

        def counted(name: str, value: Any) -> Any:
            """Threads whose lanes are done go along with others of their warp, and count for nothing."""
            if not lane.plan.in_step:
                return value
            return emitter.select(values[len(views)], value, emitter.constant(lane.operand(name).dtype, 0))

        def add_to_result(name: str, place: Any, value: Any) -> None:
            lane.addressing.add(emitter, words, bases, lane.result_number(cotangent_name(name)), place, value)

        def keep(output: int, index: Any, value: Any) -> None:
            if output < first - times:
                into, place = arrays[output // len(begins)], shifted(emitter, index, begins[output % len(begins)])
                into.store(place, emitter.add(into.dtype, into.load(place), value) if add else value)
            elif output < first:
                time.store(output - (first - times), value)
            elif output in summed:
                name = operands[output - first]
                value = warp.total(emitter, lane.operand(name).dtype, counted(name, value))
                with emitter.builder.if_then(_is_first(emitter)):
                    add_to_result(name, index, value)
            else:
                name = operands[output - first]
                begin, dtype = offsets[name]
                place = shifted(emitter, index, begin)
                value = emitter.cast(counted(name, value), dtype, operand.dtype)
                operand.store(place, emitter.add(operand.dtype, operand.load(place), value))

        def keep_several(output: int, index: Any, values: Sequence[Any]) -> None:
            name = operands[output - first]
            value = warp.totals(emitter, lane.operand(name).dtype, [counted(name, value) for value in values])
            thread = emitter.cast(warp.thread_of_warp(emitter), "uint32", "int64")
            index = emitter.place(index)
            add_to_result(name, emitter.add("int64", index, thread), value)

        return Store(keep, summed, keep_several)

    kinds = "_".join(f"{view.type.stride}_{view.type.space}" for view in views)
    pointers = tuple(view.pointer for view in views)
    values = (*pointers, b.get("active").value) if lane.plan.in_step else pointers
    return Sink(f"adjoints_{kinds}_{add}", values, results, store)


def into_view_of_input(b: Body, number: int, view: View) -> Sink:
    """Of the outputs of a transposed function only the cotangent of state number `number` among its inputs, into an array."""
    begins = [begin for begin, _ in b.pieces]

    def store(emitter: Emitter, words: Any, bases: Any, values: Sequence[Any]) -> Store:
        target = View(emitter, values[0], view.type)

        def keep(output: int, index: Any, value: Any) -> None:
            if output // len(begins) == number:
                target.store(shifted(emitter, index, begins[output % len(begins)]), value)

        return Store(keep)

    return Sink(f"input_{number}_{view.type.stride}_{view.type.space}", (view.pointer,), (), store)


def _is_first(emitter: Emitter) -> Any:
    """Whether the thread is the first of its warp."""
    return emitter.compare("eq", "uint32", warp.thread_of_warp(emitter), emitter.constant("uint32", 0))


def conclude(b: Body, worth: Scalar, fine: Scalar, present: Scalar) -> None:
    """Writes the cotangents of operands: 0 where there was nothing to do, NaN where the lane had failed.

    present: whether there is such a lane at all; in a warp that sums, threads without one are there, too.
    """
    problem, adjoint, emitter = b.lane.problem, b.lane.adjoint, b.emitter
    offsets = {name: begin for name, begin, _ in adjoint.offsets(b.lane.plan)}
    together = adjoint.together(b.lane.plan)
    initial = {piece.initial: piece.order for piece in problem.pieces}

    def value_of(name: str, value: Any) -> Any:
        value = emitter.select(fine.value, value, b.real(float("nan")))
        value = emitter.select(worth.value, value, b.real(0))
        return emitter.cast(value, b.dtype, b.lane.operand(name).dtype)

    def write(name: str, size: int, value_at: Callable[[Any], Any]) -> None:
        b.each(lambda index: b.res(cotangent_name(name), index, value_of(name, value_at(index))), size)

    def add(name: str, size: int, value_at: Callable[[Any], Any]) -> None:
        number = b.lane.result_number(cotangent_name(name))

        def body(index: Any) -> None:
            value = value_of(name, value_at(index))
            if emitter.platform == "cpu":
                b.lane.addressing.add(emitter, b.words, b.bases, number, index, value)
                return
            value = warp.total(emitter, b.lane.operand(name).dtype, value)
            with emitter.builder.if_then(emitter.logical_and(_is_first(emitter), present.value)):
                b.lane.addressing.store(emitter, b.words, b.bases, number, index, value)

        b.each(body, size)

    own = [name for name in adjoint.wrt if name not in adjoint.summed]
    with contextlib.ExitStack() as stack:
        if b.lane.plan.in_warps:
            stack.enter_context(b.when(present))
        for name in own:
            size = b.lane.operand(name).size
            root, _, order = name.partition(".")
            if name in initial:
                write(name, size, b.piece(b.buf.adjoint, initial[name]).load)
            elif name in offsets:
                write(name, size, b.buf.operand_adjoint.part(offsets[name], size).load)
            elif word_of(name) in WRITTEN:  # written as they are come to
                with b.when(~(worth & fine)):
                    write(name, size, lambda _: b.real(0))
            else:
                cell = cell_of(root, int(order or 0))
                write(name, size, lambda _, cell=cell: b.get(cell).value)
    for name in adjoint.wrt:
        if name in together:
            _fail_together(b, name, worth & ~fine)
        elif name in adjoint.summed:
            size = b.lane.operand(name).size
            add(name, size, b.buf.operand_adjoint.part(offsets[name], size).load)


def _fail_together(b: Body, name: str, failed: Scalar) -> None:
    """A lane that failed makes the sum NaN."""
    emitter, size = b.emitter, b.lane.operand(name).size
    with emitter.builder.if_then(warp.some(emitter, failed.value)):
        thread = emitter.cast(warp.thread_of_warp(emitter), "uint32", "int64")
        nan = emitter.constant(b.lane.operand(name).dtype, float("nan"))
        with emitter.loop(-(-size // warp.WARP)) as turn:
            index = emitter.add("int64", emitter.mul("int64", turn, emitter.constant("int64", warp.WARP)), thread)
            with emitter.builder.if_then(emitter.compare("lt", "int64", index, emitter.constant("int64", size))):
                b.res(cotangent_name(name), index, nan)
