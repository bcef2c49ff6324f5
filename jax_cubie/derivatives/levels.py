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
    levels = len(axes[0]) if axes else 0
    found = [[shape[own[level]] for shape, own in zip(shapes, axes, strict=True) if own[level] is not None] for level in range(levels)]
    return [one[0] if one else None for one in found]


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
    surplus = [level for level in levels if have[level] is not None and want[level] is None]
    repeated = [level for level in surplus if not depends[level]]
    for axis in sorted(pick(have, repeated), key=lambda axis: -(axis or 0)):
        array = lax.index_in_dim(array, 0, axis or 0, keepdims=False)
    kept = [level for level in levels if level not in repeated]
    now = dict(zip(kept, squeeze(have, kept), strict=True))
    if summed := tuple(now[level] for level in surplus if level in now):
        array = jnp.sum(array, summed)
    kept = [level for level in levels if level not in surplus]
    now = dict(zip(kept, squeeze(have, kept), strict=True))

    wanted = {axis: level for level, axis in enumerate(want) if axis is not None}
    missing = {axis: sizes[level] for axis, level in wanted.items() if now[level] is None}
    lane = (axis for axis in range(array.ndim) if axis not in now.values())
    places = [axis for axis in range(array.ndim + len(missing)) if axis not in missing]
    order = [now[wanted[axis]] if axis in wanted else next(lane) for axis in places]
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
