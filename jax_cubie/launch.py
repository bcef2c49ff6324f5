"""One launch of a kernel, as a JAX primitive that is bound while another is lowered."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from jax.extend.core import Primitive
from jax.interpreters import mlir

from .build import plan_and_image
from .kernel.partition import QUEUE_COUNTER, Batched, lower_batched, result_avals, vary_alike
from .kernel.target import default_targets
from .operands import Operand
from .problem import Problem

launch_p = Primitive("jax_cubie_launch")
launch_p.multiple_results = True


def launch(kernel: Problem, arrays: Sequence[Any], operands: tuple[Operand, ...], levels: int) -> list[Any]:
    """The results of the kernel's lanes, in the order of `kernel.results`, each with every level of vmap.

    operands: what the arrays are, with their axes.
    """
    return launch_p.bind(*vary_alike(arrays), kernel=kernel, operands=operands, levels=levels)


def _arrays(kernel: Problem, operands: tuple[Operand, ...], levels: int) -> tuple[list[Batched], list[Batched]]:
    """How the lanes lie in the operands and in the results."""
    taken = [Batched(operand.shape, operand.dtype, operand.axes, operand.layout()) for operand in operands]
    given = [Batched(one.shape, one.dtype, one.axes(levels), one.layout(levels), one.unwritten) for one in kernel.results]
    return taken, given


@launch_p.def_abstract_eval
def _abstract(*avals: Any, kernel: Problem, operands: tuple[Operand, ...], levels: int) -> list[Any]:
    return result_avals(avals, *_arrays(kernel, operands, levels))


def _lower(context: Any, *values: Any, kernel: Problem, operands: tuple[Operand, ...], levels: int, platform: str) -> Any:
    plan, image = plan_and_image(kernel, operands, levels, default_targets(platform))
    taken, given = _arrays(kernel, plan.words.operands, levels)
    return lower_batched(
        context, values, image, operands=taken, results=given, words=[], launch=plan.launch(),
        scratch=[QUEUE_COUNTER] if plan.queued else [],
    )


for _platform in ("cpu", "cuda"):
    mlir.register_lowering(launch_p, functools.partial(_lower, platform=_platform), platform=_platform)
