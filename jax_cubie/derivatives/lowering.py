"""From the primitives that are lowered as they are to launches of kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from ..launch import launch
from . import kernels
from .calls import LinearCall, SolveCall
from .levels import Axes, lay_out, level_sizes


def lower_as(primitive: Primitive, function: Any) -> None:
    """Lowers it as this function of its arrays and parameters, on platforms that have kernels."""
    for platform in ("cpu", "cuda"):
        mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True), platform=platform)


def launch_solve(*arrays: Any, **params: Any) -> list[Any]:
    call = SolveCall(**params)
    kernel = kernels.forward_kernel(call.problem, call.record)
    return _launch(kernel, arrays, call.axes, call.out_axes, call.depends)


def launch_adjoint(*arrays: Any, **params: Any) -> list[Any]:
    call = LinearCall(**params)
    kernel = kernels.backward_kernel(call.problem, call.roles.seeds, call.roles.gradients)
    return _launch(kernel, arrays, call.axes, call.out_axes, call.depends)


def _launch(
    kernel: Any, arrays: Sequence[Any], axes: Sequence[Axes], out_axes: Sequence[Axes], depends: Sequence[Sequence[bool]]
) -> list[Any]:
    """Launches over all levels. An output that lacks one is summed over it, if it differs along it, or else taken once."""
    levels, sizes = len(axes[0]), level_sizes([array.shape for array in arrays], axes)
    empty = _empty_levels(sizes, depends)
    arrays = [_padded(array, [own[level] for level in empty]) for array, own in zip(arrays, axes, strict=True)]
    operands = [dataclasses.replace(one, axes=own) for one, own in zip(kernel.operands, axes, strict=True)]
    found, outputs = launch(kernel, arrays, operands, levels), []
    for array, result, want, own in zip(found, kernel.results, out_axes, depends, strict=True):
        have = result.axes(levels)
        for level in empty:
            if own[level]:
                array = lax.slice_in_dim(array, 0, 0, axis=have[level])
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
