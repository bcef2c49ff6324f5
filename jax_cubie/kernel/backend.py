"""The compiler of each target."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType

from .target import BuildError, Target

_TRIED = "numba 0.62 to 0.68, numba-cuda 0.24 to 0.30"


def backend_of(target: Target) -> ModuleType:
    """The module that compiles for `target`: it has `device`, `intrinsic`, `compile_entry` and `SHARED_SPACE`.

    Both import Numba, so each is imported only when a build is due.
    """
    from numba.core import config

    if target.platform == "cpu":
        if config.DISABLE_JIT:
            raise BuildError("Numba is told to compile nothing: unset NUMBA_DISABLE_JIT (or numba.config.DISABLE_JIT)")
        return _import("numba_host")
    if config.ENABLE_CUDASIM:
        raise BuildError("Numba is told to simulate CUDA, and compiles no kernel: unset NUMBA_ENABLE_CUDASIM")
    return _import("numba_cuda")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(f".{name}", __package__)
    except (AttributeError, ImportError) as error:
        found = ", ".join(f"{package} {metadata.version(package)}" for package in ("numba", "numba-cuda", "llvmlite"))
        raise BuildError(
            f"jax_cubie does not fit these versions, {found}: {error}. It uses much of Numba's that may change with a release; "
            f"it is tried with {_TRIED}"
        ) from error
