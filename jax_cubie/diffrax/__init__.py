"""diffrax's spelling of a solve: `diffeqsolve` with its arguments, defaults and solution, as one fused kernel.

Everything else that diffrax has is here under its name, so that one import is all that changes:

    from jax_cubie.diffrax import ODETerm, PIDController, SaveAt, Tsit5, diffeqsolve

Steps are diffrax 0.7.2's, and so are values, but for rounding. What differs, and what is refused, `diffeqsolve` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import diffrax as _diffrax
except ImportError as error:
    raise ImportError(
        "jax_cubie.diffrax takes diffrax's terms, solvers and controllers, and diffrax is not installed: "
        "pip install 'jax-cubie[diffrax]'"
    ) from error

from .solving import diffeqsolve

if TYPE_CHECKING:
    from diffrax import *  # noqa: F403 # pyright: ignore[reportWildcardImportFromLibrary]

__all__ = ["diffeqsolve"]


def __getattr__(name: str) -> Any:
    if name.startswith("_") or not hasattr(_diffrax, name):
        raise AttributeError(f"neither jax_cubie.diffrax nor diffrax has {name!r}")
    return getattr(_diffrax, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for name in dir(_diffrax) if not name.startswith("_"))})
