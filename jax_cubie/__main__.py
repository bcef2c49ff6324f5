"""`python -m jax_cubie`: what is installed, what it can run on, and one checked solve on each kind of device."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata

_PACKAGES = ("jax_cubie", "jax", "jaxlib", "numpy", "equinox", "numba", "numba-cuda", "llvmlite")
# The Lorenz system with rho = 28 from (1, 0, 0) at t = 1, by a method of order 8, float64, tolerances of 3e-14.
_REFERENCE = (-9.40845057, -9.09619907, 28.58162762)
_TOLERANCE = 1e-3  # in float32, at tolerances of 1e-6


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report; 0 where every solve is right, else 1. `arguments` are those of the command line, unless given."""
    parser = argparse.ArgumentParser(prog="python -m jax_cubie", description=__doc__)
    parser.add_argument("--clear-cache", action="store_true", help="take all images out of the cache, and do nothing else")
    if parser.parse_args(arguments).clear_cache:
        return _clear_cache()
    _row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    for name in _PACKAGES:
        _row(name, _version(name))
    _row("nvJitLink", _nvjitlink())
    try:
        import jax

        from .kernel.cache import dump_directory
        from .kernel.disk import directory, refusal
        from .kernel.library import library

        _row("compiled part", str(library()._name))
        folder, dump = directory(), dump_directory()
        _row("image cache", "none (JAX_CUBIE_CACHE is empty)" if folder is None else refusal() or str(folder))
        if dump is not None:
            _row("dumps", str(dump))
        devices = jax.devices()
    except (ImportError, RuntimeError, OSError) as error:
        _row("broken", str(error))
        return 1
    for device in [*devices, *(jax.devices("cpu") if devices[0].platform != "cpu" else [])]:
        _row("device", f"{device} ({device.device_kind})")
    return max([_check(platform) for platform in dict.fromkeys(["cpu", devices[0].platform])])


def _clear_cache() -> int:
    from .kernel import disk

    folder = disk.directory()
    try:
        count, size = disk.clear()
    except FileNotFoundError:
        count, size = 0, 0
    except (disk.Refused, OSError) as error:
        print(error)
        return 1
    taken = f"{count} image{'' if count == 1 else 's'} of {size:,} bytes taken out of {folder}"
    print("no images are kept (JAX_CUBIE_CACHE is empty)" if folder is None else taken)
    return 0


def _row(label: str, text: str) -> None:
    print(f"{label:14s} {text}", flush=True)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _nvjitlink() -> str:
    try:
        from cuda.bindings import nvjitlink  # pyright: ignore[reportAttributeAccessIssue]

        return "{}.{}".format(*nvjitlink.version())
    except Exception as error:  # the loader of the library raises its own kinds
        why = str(error).strip().splitlines()
        return f"not found, so no CUDA images ({why[0] if why else type(error).__name__})"


def _check(platform: str) -> int:
    """One solve on a platform against its reference: 0 where it is right, else 1."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from . import RESULTS, solve

    def lorenz(t, y, rho):
        a, b, c = y
        return jnp.stack([10.0 * (b - a), a * (rho - c) - b, a * b - 8 / 3 * c])

    started = time.perf_counter()
    try:
        with jax.default_device(jax.devices(platform)[0]):
            solution = solve(lorenz, 0.0, 1.0, jnp.array([1.0, 0.0, 0.0], jnp.float32), jnp.float32(28.0))
        difference = float(np.abs(np.asarray(solution.ys[0], np.float64) - _REFERENCE).max())
    except Exception as error:  # a report is wanted, whatever went wrong
        _row(f"solve on {platform}", f"FAILED: {type(error).__name__}: {error}")
        return 1
    right = bool(solution.result == RESULTS.successful) and difference < _TOLERANCE
    seconds = time.perf_counter() - started
    verdict = "right" if right else f"WRONG ({RESULTS[solution.result] or 'it says that it succeeded'})"
    _row(f"solve on {platform}", f"{verdict}: {difference:.1e} from the reference, {seconds:.2f} s in all")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
