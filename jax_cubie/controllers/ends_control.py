"""The device functions of the controllers that say when steps end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kernel.scalar import Scalar, where
from ..loop.clock import end_of, floor_of
from ..loop.cotangents import gather
from ..loop.part import Control
from ..operands import cotangent_name, tangent_name

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane


def given_control(lane: Lane) -> Control:
    """The ends are those of the operand `step_ends`."""
    (steps,) = lane.operand("step_ends").shape

    def end(b: Body, number: Scalar) -> Scalar:
        return b.scalar(b.direction) * b.number("step_ends", (number - 1).to("int64").value)

    def valid(b: Body) -> Scalar:
        """Each end is later than the one before, and the last is t1."""
        before, held = b.variable(b.real(0)), b.variable(b.emitter.constant("bool", 1), "bool")
        number = b.variable(b.int32(1), "int32")

        def look() -> None:
            time = end(b, b.scalar(number.get(), "int32"))
            later = time > b.scalar(before.get())
            held.set((b.scalar(held.get(), "bool") & later).value)
            before.set(time.value)
            number.set((b.scalar(number.get(), "int32") + 1).value)

        b.repeat_while(lambda: b.scalar(number.get(), "int32") <= steps, look)
        last = b.scalar(before.get())
        # Rounded alike, so that t1 is met unless another time is meant.
        meets = (last >= floor_of(b)) & (last * (1.0 - 1e-6) <= end_of(b))
        return (b.scalar(held.get(), "bool") & meets) | b.number("span").equals(0.0)

    def tangent(b: Body, number: Scalar, order: int) -> Scalar:
        return b.tangent("step_ends", order, (number - 1).to("int64").value)

    def cotangent(b: Body, number: Scalar, order: int, value: Scalar) -> None:
        name = cotangent_name(tangent_name("step_ends", order))
        if name in {result.name for result in lane.plan.words.results}:
            b.res(name, (number - 1).to("int64").value, value.value)

    return Control(valid=valid, end=end, end_tangent=tangent, end_cotangent=cotangent)


def even_control(lane: Lane) -> Control:
    """The ends are those of diffrax 0.7.2's `ConstantStepSize`."""
    lane.cell("parts", lane.problem.dtype)

    def begin(b: Body, step_size: Scalar) -> Scalar:
        # The next larger number, so that a size that was rounded down asks for no step more.
        integer = "int32" if b.dtype == "float32" else "int64"
        bits = b.emitter.bitcast(step_size.value, integer)
        above = b.scalar(b.emitter.bitcast(b.emitter.add(integer, bits, b.emitter.constant(integer, 1)), b.dtype))
        b.put(parts=b.scalar(b.emitter.apply("ceil", b.dtype, (end_of(b) / above).value)))
        return step_size

    def end(b: Body, number: Scalar) -> Scalar:
        time = end_of(b) * (number.to(b.dtype) / b.get("parts"))
        first = b.scalar(b.direction) * b.number("dt0")
        return where(number.equals(1), first, time)

    def tangent(b: Body, number: Scalar, order: int) -> Scalar:
        share = number.to(b.dtype) / b.get("parts")
        return where(number.equals(1), b.tangent("dt0", order), b.tangent("span", order) * share)

    def cotangent(b: Body, number: Scalar, order: int, value: Scalar) -> None:
        first, share = number.equals(1), number.to(b.dtype) / b.get("parts")
        gather(b, **{f"dt0_{order}": where(first, value, 0.0), f"span_{order}": where(first, 0.0, share * value)})

    return Control(begin=begin, end=end, end_tangent=tangent, end_cotangent=cotangent)
