"""Code that a body needs at several places, and that stands in its module once, as a function of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from llvmlite import ir

from ..kernel.device import View
from ..kernel.emitter import LLVM_TYPES, Emitter
from ..kernel.memory import undefined_words
from ..kernel.scalar import Scalar

if TYPE_CHECKING:
    from .body import Body


def call_routine(
    b: Body, name: str, body: Callable[..., Scalar], buffers: Sequence[str], views: Sequence[View], numbers: Sequence[Scalar]
) -> Scalar:
    """Writes a call of the routine `body(b, *views, *numbers)`, which gives an int32; and the routine, where there is none yet.

    name: tells apart what the routine depends on, besides the plan and where the views lie. buffers: those of the lane that it
    has. It has no cells.
    """
    builder, lane = b.emitter.builder, b.lane
    own = {one: getattr(b.buf, one) for one in (*buffers, "parameters")}
    places = (f"{view.type.size}_{view.type.stride}_{view.type.space}" for view in views)
    symbol = "_".join(("jax_cubie", name, *places))
    counts = (lane.plan.words.count, lane.plan.words.lanes)
    arguments = [builder.extract_value(b.words, number) for number in range(counts[0])]
    arguments += [builder.extract_value(b.bases, number) for number in range(counts[1])]
    arguments += [b.direction, *(view.pointer for view in (*own.values(), *views)), *(number.value for number in numbers)]
    function = builder.module.globals.get(symbol)
    if function is None:
        kind = ir.FunctionType(LLVM_TYPES["int32"], [argument.type for argument in arguments])
        function = ir.Function(builder.module, kind, symbol)
        function.linkage = "internal"
        function.attributes.add("noinline")
        if lane.plan.in_step:
            function.attributes.add("convergent")
        inside = ir.IRBuilder(function.append_basic_block())
        emitter, given = Emitter(inside, b.emitter.platform, fma=b.emitter.use_fma), iter(function.args)
        structs = []
        for count in counts:
            struct = undefined_words(count)
            for number in range(count):
                struct = inside.insert_value(struct, next(given), number)
            structs.append(struct)
        direction = next(given)
        held = SimpleNamespace(**{one: View(emitter, next(given), view.type) for one, view in own.items()})
        arrays = SimpleNamespace(buffers=held, cells=SimpleNamespace())
        members = SimpleNamespace(words=structs[0], bases=structs[1], direction=direction, arrays=arrays)
        inner_views = [View(emitter, next(given), view.type) for view in views]
        inner_numbers = [Scalar(emitter, number.dtype, next(given)) for number in numbers]
        inside.ret(body(type(b)(lane, emitter, members), *inner_views, *inner_numbers).value)
    return b.scalar(builder.call(function, arguments), "int32")
