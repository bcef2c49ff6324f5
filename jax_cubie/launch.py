"""The launch of a kernel over all lanes, as an inner primitive: bound while a solve, or one of its derivatives, is lowered."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.extend.mlir import ir, lower_with_sharding_in_types
from jax.interpreters import mlir

from .build import plan_and_image
from .kernel.partition import QUEUE_COUNTER, Batched, devices_of, lower_batched, result_avals, vary_alike
from .kernel.target import default_targets
from .operands import CHUNK, Operand, Result

launch_p = Primitive("jax_cubie_launch")
launch_p.multiple_results = True


def launch(kernel: Any, arrays: Sequence[Any], operands: Sequence[Operand], levels: int) -> list[jax.Array]:
    """What the kernel gives, in the order of `kernel.results`: each with every level, at `Result.axes(levels)`."""
    return launch_p.bind(*vary_alike(arrays), kernel=kernel, operands=tuple(operands), levels=levels)


def _arrays(kernel: Any, operands: tuple[Operand, ...], levels: int) -> tuple[list[Batched], list[Batched]]:
    """How the lanes lie in the operands and in the results."""
    taken = [Batched(operand.shape, operand.dtype, operand.axes, operand.layout()) for operand in operands]
    return taken, [_batched(one, levels) for one in kernel.results]


def _batched(result: Result, levels: int) -> Batched:
    if result.added:
        return Batched(result.shape, result.dtype, (None,) * levels, tuple(reversed(range(len(result.shape)))))
    return Batched(result.shape, result.dtype, result.axes(levels), result.layout(levels), result.unwritten)


@launch_p.def_abstract_eval
def _abstract(*avals: Any, kernel: Any, operands: tuple[Operand, ...], levels: int) -> list[Any]:
    return result_avals(avals, *_arrays(kernel, operands, levels))


def _lower(context: Any, *values: Any, kernel: Any, operands: tuple[Operand, ...], levels: int, platform: str) -> Any:
    sizes, devices = _sizes(context.avals_in, operands, levels), devices_of(context)
    added = [number for number, result in enumerate(kernel.results) if result.added]
    # Shares of unequal sizes have lanes behind them that are none, and would be summed, too.
    if added and not all(isinstance(size, int) and size % devices == 0 for size in sizes):
        return _sum_afterwards(context, values, kernel, operands, levels, platform)
    plan, image = plan_and_image(kernel, operands, levels, default_targets(platform))
    taken, given = _arrays(kernel, plan.words.operands, levels)
    outputs = list(context.avals_out)
    for number in added:
        chunks = -(-math.prod(sizes) // (CHUNK * devices**levels))
        one, aval = given[number], outputs[number]
        shape = (chunks, *one.shape)
        given[number] = dataclasses.replace(one, shape=shape, layout=tuple(reversed(range(len(shape)))), unwritten=0)
        outputs[number] = jax.core.ShapedArray(shape, aval.dtype)
    found = lower_batched(
        context.replace(avals_in=[context.avals_in[number] for number in plan.sources], avals_out=outputs),
        [values[number] for number in plan.sources], image, operands=taken, results=given, words=[], launch=plan.launch(),
        scratch=[QUEUE_COUNTER] if plan.queued else [],
    )
    for number in added:
        shape, out = ir.RankedTensorType(found[number].type).shape, context.avals_out[number]
        axes = tuple(range(len(shape) - len(out.shape)))  # of chunks, and of devices in front
        found[number] = _lower_sum(context, found[number], jax.core.ShapedArray(shape, out.dtype), out, axes)
    return found


def _sizes(avals: Sequence[Any], operands: tuple[Operand, ...], levels: int) -> list[Any]:
    """Of the levels; no number where that of a batch is symbolic."""
    sizes: list[Any] = [1] * levels
    for aval, operand in zip(avals, operands, strict=True):
        for level, axis in enumerate(operand.axes):
            sizes[level] = sizes[level] if axis is None else aval.shape[axis]
    return sizes


def _lower_sum(context: Any, value: Any, aval: Any, out: Any, axes: tuple[int, ...]) -> Any:
    total = mlir.lower_fun(lambda x: jnp.sum(x, axes), multiple_results=False)
    return lower_with_sharding_in_types(context, total(context.replace(avals_in=[aval], avals_out=[out]), value)[0], out)


def _sum_afterwards(
    context: Any, values: Any, kernel: Any, operands: tuple[Operand, ...], levels: int, platform: str
) -> list[Any]:
    """Of a batch that is split unevenly over devices, or of unknown size: each lane gives what it has, and XLA sums that."""
    alone = dataclasses.replace(kernel, adjoint=dataclasses.replace(kernel.adjoint, summed=frozenset()))
    outputs = result_avals(context.avals_in, *_arrays(alone, operands, levels))
    found = _lower(
        context.replace(avals_out=outputs), *values, kernel=alone, operands=operands, levels=levels, platform=platform
    )
    for number, result in enumerate(kernel.results):
        if result.added:
            axes = alone.results[number].axes(levels)
            found[number] = _lower_sum(context, found[number], outputs[number], context.avals_out[number], axes)
    return found


for _platform in ("cpu", "cuda"):
    mlir.register_lowering(launch_p, functools.partial(_lower, platform=_platform), platform=_platform)
