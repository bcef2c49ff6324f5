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
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from .build import plan_and_image
from .kernel.custom_call import lower_on
from .kernel.partition import QUEUE_COUNTER, Batched, devices_of, lower_batched, result_avals, vary_alike
from .kernel.target import default_targets
from .operands import CHUNK, Operand, Result

launch_p = Primitive("jax_cubie_launch")
launch_p.multiple_results = True


def launch(
    kernel: Any, arrays: Sequence[Any], operands: Sequence[Operand], levels: int, summed: int | None = None
) -> list[jax.Array]:
    """What the kernel gives, in the order of `kernel.results`: each with every level, at `Result.axes(levels)`.

    summed: those that are added are sums over so many of the innermost levels, all of them if not said; each further one has an
    axis in front, the outermost first.
    """
    summed = levels if summed is None else summed
    return launch_p.bind(*vary_alike(arrays), kernel=kernel, operands=tuple(operands), levels=levels, summed=summed)


def axes_of(result: Result, levels: int, summed: int) -> tuple[int | None, ...]:
    """Where each level's axis stands in what a launch gives, innermost first; None of one that is summed over."""
    if not result.added:
        return result.axes(levels)
    return tuple(None if level < summed else levels - 1 - level for level in range(levels))


def _arrays(kernel: Any, operands: tuple[Operand, ...], levels: int, summed: int) -> tuple[list[Batched], list[Batched]]:
    """How the lanes lie in the operands and in the results."""
    taken = [Batched(operand.shape, operand.dtype, operand.axes, operand.layout()) for operand in operands]
    return taken, [_batched(one, levels, summed) for one in kernel.results]


def _batched(result: Result, levels: int, summed: int) -> Batched:
    axes = axes_of(result, levels, summed)
    if result.added:
        return Batched(result.shape, result.dtype, axes, tuple(reversed(range(len(result.shape) + levels - summed))))
    return Batched(result.shape, result.dtype, axes, result.layout(levels), result.unwritten)


@launch_p.def_abstract_eval
def _abstract(*avals: Any, kernel: Any, operands: tuple[Operand, ...], levels: int, summed: int) -> list[Any]:
    return result_avals(avals, *_arrays(kernel, operands, levels, summed))


def _lower(
    context: Any, *values: Any, kernel: Any, operands: tuple[Operand, ...], levels: int, summed: int, platform: str
) -> Any:
    sizes, devices = _sizes(context.avals_in, operands, levels), devices_of(context)
    added = [number for number, result in enumerate(kernel.results) if result.added]
    if added and (wider := _in_chunks(sizes, summed, devices)):
        if _is_worth_padding(kernel, operands, sizes, wider):
            return _padded(context, values, kernel, operands, levels, summed, wider)
        return _sum_afterwards(context, values, kernel, operands, levels, summed, platform)
    plan, image = plan_and_image(kernel, operands, levels, default_targets(platform))
    taken, given = _arrays(kernel, plan.words.operands, levels, summed)
    outputs = list(context.avals_out)
    for number in added:
        given[number] = _of_chunks(given[number], sizes, summed, devices)
        outputs[number] = jax.core.ShapedArray(_whole_shape(given[number], sizes), outputs[number].dtype)
    found = lower_batched(
        context.replace(avals_in=[context.avals_in[number] for number in plan.sources], avals_out=outputs),
        [values[number] for number in plan.sources], image, operands=taken, results=given, words=[], launch=plan.launch(),
        scratch=[QUEUE_COUNTER] if plan.queued else [],
    )
    for number in added:
        value, out, aval = found[number], context.avals_out[number], outputs[number]
        if summed < levels:
            axes = tuple(range(levels - summed, levels))
        else:  # of chunks, and of devices in front, if there are several
            shape = ir.RankedTensorType(value.type).shape
            axes = tuple(range(len(shape) - len(out.shape)))
            aval = aval if len(shape) == len(aval.shape) else jax.core.ShapedArray(shape, out.dtype)
        found[number] = _lower_sum(context, value, aval, out, axes)
    return found


def _of_chunks(one: Batched, sizes: Sequence[Any], summed: int, devices: int) -> Batched:
    """What the kernel itself gives of a result that is added: one sum for each chunk of lanes."""
    if summed == len(sizes):
        # Each device has places of its own: as many as its share of the lanes needs, however the levels are split.
        shares = devices ** len(sizes) if all(isinstance(size, int) for size in sizes) else 1
        one = dataclasses.replace(one, shape=(-(-math.prod(sizes) // (CHUNK * shares)), *one.shape))
    else:
        one = dataclasses.replace(one, axes=tuple(reversed(range(len(sizes)))), grain=CHUNK)
    rank = len(one.shape) + len(one.levels)
    return dataclasses.replace(one, layout=tuple(reversed(range(rank))), unwritten=0)


def _whole_shape(one: Batched, sizes: Sequence[Any]) -> tuple[Any, ...]:
    return one.whole(one.shape, [size // one.grain if level == 0 else size for level, size in enumerate(sizes)])


def _sizes(avals: Sequence[Any], operands: tuple[Operand, ...], levels: int) -> list[Any]:
    """Of the levels; no number where that of a batch is symbolic."""
    sizes: list[Any] = [1] * levels
    for aval, operand in zip(avals, operands, strict=True):
        for level, axis in enumerate(operand.axes):
            sizes[level] = sizes[level] if axis is None else aval.shape[axis]
    return sizes


def _in_chunks(sizes: Sequence[Any], summed: int, devices: int) -> dict[int, Any]:
    """The levels that need another size for lanes to be summed inside, with that size.

    Lanes of several devices are in shares of equal size: behind those of smaller ones lie some that are none, and would be
    summed, too. Where only the inner levels are summed over, no chunk may have lanes of two sums, and each chunk has a place of
    its own along all levels, so that what lies behind the others is cut off with its places. Batches of symbolic size are not
    split over devices.
    """
    shares = devices if all(isinstance(size, int) for size in sizes) else 1
    steps = [shares] * len(sizes) if summed == len(sizes) else [shares * CHUNK, *[1] * (len(sizes) - 1)]
    return {
        level: -(-size // step) * step
        for level, (size, step) in enumerate(zip(sizes, steps, strict=True))
        if not _divides(step, size)
    }


def _divides(step: int, size: Any) -> bool:
    """Whether a size, which may be symbolic, is known to be a multiple."""
    rest = size % step
    return isinstance(rest, int) and rest == 0


def _is_worth_padding(kernel: Any, operands: tuple[Operand, ...], sizes: Sequence[Any], wider: dict[int, Any]) -> bool:
    """Whether lanes that are none cost less memory than to have what is summed for each lane."""
    if not all(isinstance(size, int) for size in (*wider.values(), *(sizes[level] for level in wider))):
        return True
    more = math.prod(size / sizes[level] for level, size in wider.items())
    copied = sum(one.size for one in operands if any(one.axes[level] is not None for level in wider))
    return more <= 2 or more * copied < sum(result.size for result in kernel.results if result.added)


def _padded(
    context: Any, values: Any, kernel: Any, operands: tuple[Operand, ...], levels: int, summed: int, wider: dict[int, Any]
) -> Any:
    """With more lanes: their results have no cotangents, so they are neither gone back over nor add anything."""
    shares = devices_of(context)

    def function(*arrays: Any) -> list[Any]:
        given, shaped = [], []
        for array, operand in zip(arrays, operands, strict=True):
            axes = list(operand.axes)
            for level, size in wider.items():
                if axes[level] is None and operand.is_cotangent:  # the same for all of them, but not for those
                    array = jnp.broadcast_to(array, (_sizes(arrays, operands, levels)[level], *array.shape))
                    axes = [axis if axis is None else axis + 1 for axis in axes]
                    axes[level] = 0
                if (axis := axes[level]) is not None:
                    array = _widened(array, axis, size, shares)
            given.append(array)
            shaped.append(dataclasses.replace(operand, axes=tuple(axes)))
        found = launch(kernel, given, shaped, levels, summed)
        outputs = []
        for array, result in zip(found, kernel.results, strict=True):
            own = axes_of(result, levels, summed)
            for level in wider:
                if (axis := own[level]) is not None:
                    array = _narrowed(array, axis, _sizes(arrays, operands, levels)[level], shares)
            outputs.append(array)
        return outputs

    # On an explicit mesh, types can't say how arrays are split while their sharded axes are in pieces: what is made in between
    # is left to the partitioner, and the results lie as their types say.
    inside = context.replace(avals_in=[_left_to_the_partitioner(aval) for aval in context.avals_in])
    with jax.sharding.use_abstract_mesh(_automatic(jax.sharding.get_abstract_mesh())):
        found = mlir.lower_fun(function, multiple_results=True)(inside, *values)
    return [lower_with_sharding_in_types(context, value, aval) for value, aval in zip(found, context.avals_out, strict=True)]


def _left_to_the_partitioner(aval: Any) -> Any:
    mesh = aval.sharding.mesh
    if mesh.empty:
        return aval
    return aval.update(sharding=NamedSharding(_automatic(mesh), PartitionSpec(*[None] * aval.ndim)))


def _automatic(mesh: Any) -> Any:
    """The mesh without explicit axes."""
    explicit = [name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit]
    return mesh.update_axis_types(dict.fromkeys(explicit, AxisType.Auto)) if explicit else mesh


def _widened(array: Any, axis: int, size: Any, shares: int) -> Any:
    """The array with zeros along an axis, which then has that size: behind each of so many equal shares, whose elements stay on
    their device, or, where there are no such, behind them all."""
    before, shape = array.shape[axis], array.shape
    groups = shares if _divides(shares, before) else 1
    array = array.reshape(*shape[:axis], groups, before // groups, *shape[axis + 1 :])
    more = [(0, size // groups - before // groups if one == axis + 1 else 0, 0) for one in range(array.ndim)]
    return jax.lax.pad(array, jnp.zeros((), array.dtype), more).reshape(*shape[:axis], size, *shape[axis + 1 :])


def _narrowed(array: Any, axis: int, size: Any, shares: int) -> Any:
    """The array without them."""
    wide, shape = array.shape[axis], array.shape
    groups = shares if _divides(shares, size) else 1
    array = array.reshape(*shape[:axis], groups, wide // groups, *shape[axis + 1 :])
    array = jax.lax.slice_in_dim(array, 0, size // groups, axis=axis + 1)
    return array.reshape(*shape[:axis], size, *shape[axis + 1 :])


def _lower_sum(context: Any, value: Any, aval: Any, out: Any, axes: tuple[int, ...], front: int = 0) -> Any:
    """The sum over these axes; what then are the last `front` ones stand in front."""

    def total(x: Any) -> Any:
        x = jnp.sum(x, axes)
        return jnp.moveaxis(x, range(x.ndim - front, x.ndim), range(front)) if front else x

    lowered = mlir.lower_fun(total, multiple_results=False)
    return lower_with_sharding_in_types(context, lowered(context.replace(avals_in=[aval], avals_out=[out]), value)[0], out)


def _sum_afterwards(
    context: Any, values: Any, kernel: Any, operands: tuple[Operand, ...], levels: int, summed: int, platform: str
) -> list[Any]:
    """Each lane gives what it has, and XLA sums that."""
    alone = dataclasses.replace(kernel, adjoint=dataclasses.replace(kernel.adjoint, summed=frozenset()))
    outputs = result_avals(context.avals_in, *_arrays(alone, operands, levels, summed))
    found = _lower(
        context.replace(avals_out=outputs), *values, kernel=alone, operands=operands, levels=levels, summed=summed,
        platform=platform,
    )
    for number, result in enumerate(kernel.results):
        if result.added:
            axes = alone.results[number].axes(levels)[:summed]
            found[number] = _lower_sum(
                context, found[number], outputs[number], context.avals_out[number], axes, front=levels - summed
            )
    return found


lower_on(launch_p, lambda platform: functools.partial(_lower, platform=platform))
