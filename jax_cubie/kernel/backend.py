"""The compiler of each target."""

from __future__ import annotations

from types import ModuleType

from .target import BuildError, Target


def backend_of(target: Target) -> ModuleType:
    """The module that compiles for `target`: it has `device`, `intrinsic`, `compile_entry` and `SHARED_SPACE`.

    Both import Numba, so each is imported only when a build is due.
    """
    from numba.core import config

    if target.platform == "cpu":
        if config.DISABLE_JIT:
            raise BuildError("Numba is told to compile nothing: unset NUMBA_DISABLE_JIT (or numba.config.DISABLE_JIT)")
        from . import numba_host

        return numba_host
    if config.ENABLE_CUDASIM:
        raise BuildError("Numba is told to simulate CUDA, and compiles no kernel: unset NUMBA_ENABLE_CUDASIM")
    from . import numba_cuda

    return numba_cuda
