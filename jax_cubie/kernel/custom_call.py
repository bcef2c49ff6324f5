"""An image as an XLA custom call: the lowering that every primitive here shares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from . import library
from .target import Image

FFI_TARGETS = {"cpu": library.HOST_TARGET, "cuda": library.CUDA_TARGET}


@functools.cache
def register() -> None:
    """Makes the handlers known to JAX, and to them the loader for host images of other processes."""
    library.register()
    library.set_host_loader(_load_host)


def _load_host(key: str, data: bytes) -> tuple[int, int]:
    from .host_object import load

    return load(key, data)


@functools.lru_cache(maxsize=256)
def _encoded(data: bytes) -> tuple[str, str]:
    return library.encode(data)


def lower_on(primitive: Primitive, rule: Callable[[str], Any]) -> None:
    """Has a primitive lowered by `rule(platform)` on the platforms that have kernels; elsewhere NotImplementedError says so."""
    for platform in FFI_TARGETS:
        mlir.register_lowering(primitive, rule(platform), platform=platform)
    mlir.register_lowering(primitive, _refuse)


def _refuse(context: Any, *_: Any, **__: Any) -> Any:
    raise NotImplementedError(
        "jax_cubie makes machine code for CPUs ('cpu') and NVIDIA GPUs ('cuda'), but this is compiled for "
        f"{' and '.join(context.module_context.platforms)}: run it on one of these, as with jax.default_device("
        "jax.devices('cpu')[0]), or export for these platforms"
    )


def lower(
    context: Any,
    operands: Sequence[Any],
    image: Image,
    *,
    batch: Sequence[int] = (),
    words: Sequence[int],
    launch: Sequence[int],
    operand_layouts: Sequence[Sequence[int]],
    result_layouts: Sequence[Sequence[int]],
    filled: Sequence[int] = (),
    attributes: dict[str, Any] | None = None,
) -> Sequence[Any]:
    """The custom call that runs `image`, inside a lowering rule of JAX.

    batch: empty; or how many operands in front are none of the kernel's, then for each level of vmap, innermost first, an
    operand and which of its dimensions is the level's: the handler reads the sizes there. words: 64-bit arguments behind the
    pointers of operands and results, and, with a batch, the number of lanes and each level's size. launch: on the host the
    indices of one lane, and the grain; on CUDA 8 numbers: the grid, the block, the bytes of shared memory, and with a queue of
    lanes the threads that a multiprocessor is to hold, else 0. -n in the grid is one block for every n lanes; with a queue
    there are no more blocks than those threads are. Layouts name dimensions from fastest to slowest. filled: the last operands
    are none of the kernel's, either, but what results hold before the launch: the number of the result of each. attributes:
    further ones of the operation.
    """
    register()
    key, text = _encoded(image.data)
    rule = jax.ffi.ffi_lowering(
        FFI_TARGETS[image.target.platform],
        operand_layouts=[tuple(layout) for layout in operand_layouts],
        result_layouts=[tuple(layout) for layout in result_layouts],
        operand_output_aliases={len(operands) - len(filled) + i: result for i, result in enumerate(filled)},
        extra_attributes=attributes,
    )
    return rule(
        context,
        *operands,
        key=key,
        image=text,
        batch=np.asarray(batch, np.int64),
        filled=np.asarray(filled, np.int64),
        words=np.asarray(words, np.int64),
        launch=np.asarray(launch, np.int64),
    )
