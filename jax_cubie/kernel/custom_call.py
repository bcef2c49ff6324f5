"""An image as an XLA custom call: the lowering that every primitive here shares."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from . import library
from .target import Image

FFI_TARGETS = {"cpu": library.HOST_TARGET, "cuda": library.CUDA_TARGET}


@functools.cache
def register() -> None:
    """Makes the handlers known to JAX, and to them the loader for host images of other processes."""
    library.register()
    library.set_host_loader(_load_host)


def _load_host(key: str, data: bytes) -> int:
    from .host_object import load

    return load(key, data)


@functools.lru_cache(maxsize=256)
def _encoded(data: bytes) -> tuple[str, str]:
    return library.encode(data)


def lower(
    context: Any,
    operands: Sequence[Any],
    image: Image,
    *,
    words: Sequence[int],
    launch: Sequence[int],
    operand_layouts: Sequence[Sequence[int]],
    result_layouts: Sequence[Sequence[int]],
) -> Sequence[Any]:
    """The custom call that runs `image`, inside a lowering rule of JAX.

    words: 64-bit arguments behind the pointers of operands and results. launch: on CUDA the grid, the block and the bytes of
    shared memory (7 numbers); on the host the number of indices and the grain. Layouts name dimensions from fastest to
    slowest.
    """
    register()
    key, text = _encoded(image.data)
    rule = jax.ffi.ffi_lowering(
        FFI_TARGETS[image.target.platform],
        operand_layouts=[tuple(layout) for layout in operand_layouts],
        result_layouts=[tuple(layout) for layout in result_layouts],
    )
    return rule(
        context,
        *operands,
        key=key,
        image=text,
        words=np.asarray(words, np.int64),
        launch=np.asarray(launch, np.int64),
    )
