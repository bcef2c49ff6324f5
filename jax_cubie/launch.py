"""The launch of a kernel over all lanes, as an inner primitive: bound while a solve, or one of its derivatives, is lowered."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from .build import plan_and_image
from .kernel.partition import QUEUE_COUNTER, Batched, lower_batched, result_avals, vary_alike
from .kernel.target import default_targets
from .operands import Operand

launch_p = Primitive("jax_cubie_launch")
launch_p.multiple_results = True


def launch(kernel: Any, arrays: Sequence[Any], operands: Sequence[Operand], levels: int) -> list[jax.Array]:
    """What the kernel gives, in the order of `kernel.results`: each with every level, at `Result.axes(levels)`."""
    return launch_p.bind(*vary_alike(arrays), kernel=kernel, operands=tuple(operands), levels=levels)


def _arrays(kernel: Any, operands: tuple[Operand, ...], levels: int) -> tuple[list[Batched], list[Batched]]:
    """How the lanes lie in the operands and in the results."""
    taken = [Batched(operand.shape, operand.dtype, operand.axes, operand.layout()) for operand in operands]
    given = [Batched(one.shape, one.dtype, one.axes(levels), one.layout(levels), one.unwritten) for one in kernel.results]
    return taken, given


@launch_p.def_abstract_eval
def _abstract(*avals: Any, kernel: Any, operands: tuple[Operand, ...], levels: int) -> list[Any]:
    return result_avals(avals, *_arrays(kernel, operands, levels))


def _lower(context: Any, *values: Any, kernel: Any, operands: tuple[Operand, ...], levels: int, platform: str) -> Any:
    plan, image = plan_and_image(kernel, operands, levels, default_targets(platform))
    taken, given = _arrays(kernel, plan.words.operands, levels)
    values = [values[number] for number in plan.sources]
    context = context.replace(avals_in=[context.avals_in[number] for number in plan.sources])
    return lower_batched(
        context, values, image, operands=taken, results=given, words=[], launch=plan.launch(),
        scratch=[QUEUE_COUNTER] if plan.queued else [],
    )


for _platform in ("cpu", "cuda"):
    mlir.register_lowering(launch_p, functools.partial(_lower, platform=_platform), platform=_platform)
