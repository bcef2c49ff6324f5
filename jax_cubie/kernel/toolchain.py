"""What machine code depends on beyond what it is built from: versions, settings, the CUDA compilers' files.

Found without importing Numba: a process whose images are all cached never does.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import platform
import runpy
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = {
    "cpu": ("jax_cubie", "numpy", "numba", "llvmlite"),
    "cuda": (
        *("jax_cubie", "numpy", "numba", "llvmlite", "numba-cuda", "cuda-bindings", "cuda-core", "cuda-pathfinder"),
        *("nvidia-nvvm", "nvidia-nvjitlink", "nvidia-nvjitlink-cu12", "nvidia-cuda-nvcc-cu12"),
    ),
}
# Settings of Numba's that are said of a machine or a session, or of code that names no architecture: they change none here.
_HARMLESS = {
    *("NUM_THREADS", "NUMBA_NUM_THREADS", "_NUMBA_NUM_THREADS", "NUMBA_DEFAULT_NUM_THREADS", "THREADING_LAYER"),
    *("THREADING_LAYER_PRIORITY", "CACHE_DIR", "COLOR_SCHEME", "WARNINGS", "DISABLE_PERFORMANCE_WARNINGS"),
    *("CUDA_LOW_OCCUPANCY_WARNINGS", "CUDA_WARN_ON_IMPLICIT_COPY", "CUDA_LOG_LEVEL", "FULL_TRACEBACKS"),
    "CUDA_DEFAULT_PTX_CC",
}
# What numba-cuda adds to Numba's settings when it is imported, and how it is unless somebody changes it.
_ADDED = {"CUDA_ENABLE_NRT": False}
_CONFIGURATION_FILE = Path(".numba_config.yaml")  # Numba reads it in the current folder
_COMPILERS = ("libnvvm.so*", "libdevice*.bc", "libnvJitLink.so*")


def toolchain(target: str) -> tuple[str, ...]:
    """A description of it, for "cpu" or "cuda"; equal in processes whose code would be equal."""
    return (*_installed(target), *_numba_settings())


@functools.cache
def _installed(target: str) -> tuple[str, ...]:
    found = [f"{platform.python_implementation()} {platform.python_version()}"]
    for name in _PACKAGES[target]:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            pass
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.parent.rglob("*.py")):
        sources.update(path.read_bytes())
    return (*found, sources.hexdigest(), *(compilers() if target == "cuda" else ()))


def compilers() -> tuple[str, ...]:
    """libNVVM, libdevice and nvJitLink: path, size and time of all files that may be the ones that are loaded.

    Which are is for cuda.pathfinder and numba-cuda to say, who load them to know. One too many costs a build.
    """
    roots = [sys.prefix, "/usr", "/usr/local/cuda"]
    roots += [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX") if os.environ.get(name)]
    roots += [path for folder in sys.path if folder for path in glob.glob(f"{glob.escape(folder)}/nvidia/*")]
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    for root in roots:
        folders += [f"{root}/lib", f"{root}/lib64", f"{root}/lib/x86_64-linux-gnu", f"{root}/lib/aarch64-linux-gnu"]
        folders += [f"{root}/nvvm/lib64", f"{root}/nvvm/lib", f"{root}/nvvm/libdevice"]
    found = {}
    for folder in filter(None, folders):
        for pattern in _COMPILERS:
            for path in glob.glob(f"{glob.escape(folder)}/{pattern}"):
                try:
                    status = os.stat(path)
                except OSError:
                    continue
                found[os.path.realpath(path)] = f"{status.st_size} {status.st_mtime_ns}"
    return tuple(f"{path} {stamp}" for path, stamp in sorted(found.items()))


def _numba_settings() -> tuple[str, ...]:
    """Numba's settings: from the environment and its file, and those that this process has changed meanwhile."""
    environment = tuple(
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("NUMBA_") and name[len("NUMBA_") :] not in _HARMLESS
    )
    try:
        environment = (*environment, _CONFIGURATION_FILE.read_text())
    except OSError:
        pass
    changed = []
    # numba-cuda has one of its own where it does not take Numba's.
    for module in {id(found): found for name in _CONFIGS if (found := sys.modules.get(name)) is not None}.values():
        module.reload_config()  # as the compiler will: a changed environment wins over what was set in the process
        added = {name: value for name, value in _ADDED.items() if f"NUMBA_{name}" not in os.environ}
        unchanged = added | _read_anew(str(module.__file__), environment)
        changed += [
            f"{name}={value!r}"
            for name, value in sorted(vars(module).items())
            if name.isupper() and name not in _HARMLESS and name in unchanged and value != unchanged[name]
        ]
    return (*environment, *changed)


_CONFIGS = ("numba.core.config", "numba.cuda.core.config")


@functools.lru_cache(maxsize=16)
def _read_anew(file: str, environment: tuple[str, ...]) -> dict[str, Any]:
    """Numba's module of settings as it is where nothing has changed them."""
    return runpy.run_path(file, run_name="jax_cubie_numba_settings")
