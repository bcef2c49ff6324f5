"""The compiler of each target."""

from __future__ import annotations

from types import ModuleType

from .target import Target


def backend_of(target: Target) -> ModuleType:
    """The module that compiles for `target`: it has `device`, `intrinsic`, `compile_entry` and `SHARED_SPACE`.

    Both import Numba, so each is imported only when a build is due.
    """
    if target.platform == "cpu":
        from . import numba_host

        return numba_host
    from . import numba_cuda

    return numba_cuda
