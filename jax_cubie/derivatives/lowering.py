"""From the primitives that are lowered as they are to launches of kernels."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from ..kernel.custom_call import lower_on
from ..launch import axes_of, launch
from ..loop.adjoint import is_of_functions
from ..operands import CHUNK
from . import kernels
from .calls import LinearCall, SolveCall
from .chain import root
from .levels import Axes, lay_out, level_sizes, pick, result_axes

_MANY = 1024  # about what a level has whose size nobody knows


def lower_as(primitive: Primitive, function: Any) -> None:
    """Lowers it as this function of its arrays and parameters, on platforms that have kernels."""
    rule = mlir.lower_fun(function, multiple_results=True)
    lower_on(primitive, lambda _: rule)


def launch_solve(*arrays: Any, **params: Any) -> list[Any]:
    call = SolveCall(**params)
    level = _level_of_directions(call, [array.shape for array in arrays])
    if level is not None:
        return _launch_directions(call, arrays, level)
    kernel = kernels.forward_kernel(call.problem, call.record)
    return _launch(kernel, arrays, call.axes, call.out_axes, call.depends)


def _level_of_directions(call: SolveCall, shapes: Sequence[Sequence[Any]]) -> int | None:
    """The level whose indices one lane can take at once: the largest that no operand of the problem itself has. Not where times
    have tangents, or tangents have checkpoints."""
    sizes, problem = level_sizes(shapes, call.axes), call.problem
    own = list(zip(problem.operands, problem.orders, call.axes, strict=True))
    times = any(order and kernels.is_time(operand.name) for operand, order, _ in own)
    if root(problem).directions == 1 or call.record or times or root(problem).moves:
        return None
    free = [level for level in range(call.levels) if all(order or axes[level] is None for _, order, axes in own)]
    known = [level for level in free if isinstance(sizes[level], int) and sizes[level] > 1]
    return max(known, key=lambda level: sizes[level], default=None)


def _launch_directions(call: SolveCall, arrays: Sequence[Any], level: int) -> list[Any]:
    """Several directions in a lane; what is left of their level is one of groups, each of which solves the problem again."""
    size = level_sizes([array.shape for array in arrays], call.axes)[level]
    groups = -(-size // root(call.problem).directions)
    count = -(-size // groups)
    directed = tuple(own[level] is not None for own in call.axes)
    grouped = [_grouped(array, own, level, groups, count) for array, own in zip(arrays, call.axes, strict=True)]
    kernel = kernels.forward_kernel(call.problem, call.record, count, directed)
    kept = [other for other in range(call.levels) if groups > 1 or other != level]  # one group is no level
    depends = [[own[other] for other in kept] for own in call.depends]
    out_axes = [result_axes(result, own) for result, own in zip(kernel.results, depends, strict=True)]
    launched = _launch(kernel, [array for array, _ in grouped], [pick(own, kept) for _, own in grouped], out_axes, depends)
    found = []
    for array, result, own, has, want in zip(launched, kernel.results, out_axes, call.depends, call.out_axes, strict=True):
        places = dict(zip(kept, own, strict=True))
        have = [places.get(other) for other in range(call.levels)]
        if has[level]:
            # The directions stand behind the rows, which stand first or behind the lanes.
            directions = 1 if result.unwritten is None else 1 + sum(axis is not None for axis in own)
            array, have = _ungrouped(array, have, level, directions, size)
        found.append(lay_out(array, tuple(have), want, [True] * call.levels, [None] * call.levels))
    return found


def _grouped(array: Any, axes: Axes, level: int, groups: int, count: int) -> tuple[Any, Axes]:
    """The array with its directions, zeros where there are not enough of them, in an axis of the lane, in front of all others,
    and one of groups in front of that if there are several."""
    place = axes[level]
    if place is None:
        return array, axes
    array = jnp.moveaxis(array, place, 0)
    missing = groups * count - array.shape[0]
    array = jnp.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)]) if missing else array
    moved = [axis if axis is None else axis + (axis < place) for axis in axes]
    if groups == 1:
        return array, (*moved[:level], None, *moved[level + 1 :])
    array = array.reshape(groups, count, *array.shape[1:])
    moved = [axis if axis is None else axis + 1 for axis in moved]
    return array, (*moved[:level], 0, *moved[level + 1 :])


def _ungrouped(array: Any, axes: Sequence[int | None], level: int, directions: int, size: int) -> tuple[Any, list[int | None]]:
    """The array with its level in front again, once it is out of groups."""
    array = jnp.moveaxis(array, directions, 0)
    axes = [axis if axis is None else axis + (axis < directions) for axis in axes]
    if (place := axes[level]) is not None:
        array = jnp.moveaxis(array, place, 0)
        axes = [axis if axis is None else axis - (axis > place) for axis in axes]
        array = array.reshape(-1, *array.shape[2:])[:size]
    return array, [*axes[:level], 0, *axes[level + 1 :]]


def launch_adjoint(*arrays: Any, **params: Any) -> list[Any]:
    call = LinearCall(**params)
    sizes = level_sizes([array.shape for array in arrays], call.axes)
    known = all(not isinstance(size, int) or size > 0 for size in sizes)
    order, numbers = _summed_first(call, sizes) if known else ([], [])
    # The lanes of one sum are neighbours, and so the levels that it is over the innermost ones.
    levels = [*order, *(level for level in range(call.levels) if level not in order)]
    kernel = kernels.backward_kernel(
        call.problem, call.roles.seeds, call.roles.gradients, tuple(call.roles.gradients[number] for number in numbers)
    )
    axes, out_axes = ([pick(own, levels) for own in every] for every in (call.axes, call.out_axes))
    depends = [[own[level] for level in levels] for own in call.depends]
    return _launch(kernel, arrays, axes, out_axes, depends, len(order))


def _summed_first(call: LinearCall, sizes: Sequence[Any]) -> tuple[list[int], list[int]]:
    """The levels to sum over inside of the kernel, and the gradients, by their places, that are sums over these.

    That of an operand which the lanes of some levels share is a sum over them. Where operands share different levels, they are
    those with which the kernel writes least.
    """
    operands, shared, elements = call.problem.operands, {}, {}
    for number, (out, depends) in enumerate(zip(call.out_axes, call.depends, strict=True)):
        levels, operand = frozenset(_missing(out)), operands[call.roles.gradients[number]]
        if levels and all(depends) and is_of_functions(operand.name):
            shared[number], elements[number] = levels, operand.size
    if not shared:
        return [], []
    known = [size if isinstance(size, int) else _MANY for size in sizes]

    def written(chosen: frozenset[int]) -> int:
        lanes, together = math.prod(known), math.prod(known[level] for level in chosen)
        sums = lanes // together * -(-together // CHUNK)
        return sum(elements[number] * (sums if chosen <= levels else lanes) for number, levels in shared.items())

    both = [one & other for one, other in itertools.combinations_with_replacement(dict.fromkeys(shared.values()), 2)]
    chosen = min(filter(None, both), key=lambda levels: (written(levels), -len(levels), sorted(levels)))
    return sorted(chosen), [number for number, levels in shared.items() if levels >= chosen]


def _missing(axes: Axes) -> list[int]:
    return [level for level, axis in enumerate(axes) if axis is None]


def _launch(
    kernel: Any, arrays: Sequence[Any], axes: Sequence[Axes], out_axes: Sequence[Axes], depends: Sequence[Sequence[bool]],
    summed: int = 0,
) -> list[Any]:
    """Launches over all levels. An output that lacks one is summed over it, if it differs along it, or else taken once.

    summed: over so many of the innermost levels the kernel sums by itself, what it adds.
    """
    levels, sizes = len(axes[0]), level_sizes([array.shape for array in arrays], axes)
    empty = _empty_levels(sizes, depends)
    arrays = [_padded(array, [own[level] for level in empty]) for array, own in zip(arrays, axes, strict=True)]
    operands = [dataclasses.replace(one, axes=own) for one, own in zip(kernel.operands, axes, strict=True)]
    found, outputs = launch(kernel, arrays, operands, levels, summed), []
    for array, result, want, own in zip(found, kernel.results, out_axes, depends, strict=True):
        have = axes_of(result, levels, summed)
        for level in empty:
            if own[level] and (axis := have[level]) is not None:
                array = lax.slice_in_dim(array, 0, 0, axis=axis)
        outputs.append(lay_out(array, have, want, own, sizes))
    return outputs


def _empty_levels(sizes: Sequence[Any], depends: Sequence[Sequence[bool]]) -> list[int]:
    """The levels without any index, for which something is wanted all the same: of no directions, the results."""
    known = [level for level, size in enumerate(sizes) if isinstance(size, int) and size == 0]
    return [level for level in known if not all(own[level] for own in depends)]


def _padded(array: Any, axes: Sequence[int | None]) -> Any:
    shape = list(array.shape)
    for axis in axes:
        if axis is not None:
            shape[axis] = 1
    return array if shape == list(array.shape) else jnp.zeros(shape, array.dtype)
