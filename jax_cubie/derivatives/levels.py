"""Levels of vmap: where in an array each one's axis stands.

`Axes` has an entry for each level, innermost first: where its axis stands in the whole array, None if the array does not have
it. A level that nobody but tangents or cotangents has is one of *directions*: primal arrays lack it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import lax

from ..operands import Result

Axes: TypeAlias = tuple[int | None, ...]


class AxesOfAll(tuple[Axes, ...]):
    """The axes of several arrays, as an equation prints them: of those that have any, by number."""

    def __repr__(self) -> str:
        having = {number: axes for number, axes in enumerate(self) if any(axis is not None for axis in axes)}
        return repr(having)


def under_vmap(axes: Axes, axis: int | None) -> Axes:
    """Under one more vmap, which gave the array an axis at `axis` (None: none)."""
    moved = tuple(a if a is None or axis is None or a < axis else a + 1 for a in axes)
    return (*moved, axis)


def result_axes(result: Result, has: Sequence[bool]) -> Axes:
    """Where a result's levels stand, of those that it has: as in a launch, outermost first."""
    axes: list[int | None] = [None] * len(has)
    axis = result.batch_axis
    for level in reversed(range(len(has))):
        if has[level]:
            axes[level], axis = axis, axis + 1
    return tuple(axes)


def level_sizes(shapes: Sequence[Sequence[Any]], axes: Sequence[Axes]) -> list[Any]:
    """The size of each level; None where no array has it."""
    sizes: list[Any] = [None] * len(axes[0])
    for shape, own in zip(shapes, axes, strict=True):
        for level, axis in enumerate(own):
            if axis is not None:
                sizes[level] = shape[axis]
    return sizes


def used_levels(axes: Sequence[Axes]) -> list[int]:
    """The levels that some array has."""
    return [level for level in range(len(axes[0])) if any(own[level] is not None for own in axes)]


def pick(axes: Axes, levels: Sequence[int]) -> Axes:
    """The entries of these levels, of an array that lacks all others."""
    return tuple(axes[level] for level in levels)


def squeeze(axes: Axes, levels: Sequence[int]) -> Axes:
    """The entries of these levels, once the array has lost the axes of all others."""
    gone = [axis for level, axis in enumerate(axes) if axis is not None and level not in levels]
    kept = pick(axes, levels)
    return tuple(axis if axis is None else axis - sum(other < axis for other in gone) for axis in kept)


def lay_out(array: Any, have: Axes, want: Axes, depends: Sequence[bool], sizes: Sequence[Any]) -> Any:
    """The array with its levels where they are wanted.

    What is not wanted is summed over, or, where the array does not depend on the level, taken at index 0; what is not there is
    broadcast to `sizes`.
    """
    levels = range(len(have))
    surplus = {level: axis for level, axis in enumerate(have) if axis is not None and want[level] is None}
    summed = tuple(axis for level, axis in surplus.items() if depends[level])
    if summed:
        array = jnp.sum(array, summed, keepdims=True)
    for axis in sorted(surplus.values(), reverse=True):
        array = lax.index_in_dim(array, 0, axis, keepdims=False)
    kept = [level for level in levels if level not in surplus]
    now = dict(zip(kept, squeeze(have, kept), strict=True))

    there = {axis: now[level] for level, axis in enumerate(want) if axis is not None and now[level] is not None}
    missing = {axis: sizes[level] for level, axis in enumerate(want) if axis is not None and now[level] is None}
    lane = (axis for axis in range(array.ndim) if axis not in now.values())
    places = [axis for axis in range(array.ndim + len(missing)) if axis not in missing]
    order: list[Any] = [there[axis] if axis in there else next(lane) for axis in places]
    if order != list(range(array.ndim)):
        array = jnp.transpose(array, order)
    for axis in sorted(missing):
        shape = (*array.shape[:axis], missing[axis], *array.shape[axis:])
        array = jnp.broadcast_to(jnp.expand_dims(array, axis), shape)
    return array


def first_of(array: Any, size: Any) -> Any:
    """With one more axis in front: the array at its index 0, and zeros behind."""
    first = jnp.arange(size) == 0
    return jnp.where(jnp.expand_dims(first, tuple(range(1, 1 + array.ndim))), array[None], jnp.zeros((), array.dtype))
