"""What the translation refuses, and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class UnsupportedPrimitiveError(NotImplementedError):
    """A JAX operation in the user's function has no rule."""


class Refusal(Exception):
    """A rule's word that it cannot do this case; becomes an error with the user's line."""

    def __init__(self, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


_LINEAR_ALGEBRA = "use jnp.linalg.solve, inv or cholesky, write it out by hand, or move it outside the solve"
_RANDOM = "draw the numbers outside the solve and pass them in through args"
_COLLECTIVE = "collectives cannot run inside one trajectory; move it outside the solve"
_CALLBACK = "a solve is one kernel and cannot call back into Python; remove the callback"
_GENERIC = "write it with arithmetic, jnp.where, indexing, matmul, lax.cond, lax.scan or lax.while_loop"

HINTS: dict[str, str] = {
    "fft": "write the transform as a matrix product with a matrix passed in through args",
    "top_k": "use jnp.sort",
    "approx_top_k": "use jnp.sort",
    "conv_general_dilated": "write the stencil with slices, e.g. y[2:] - 2 * y[1:-1] + y[:-2]",
    "reduce_window": "write the window with slices and a reduction",
    "complex": "keep the real and the imaginary part as two real arrays",
    "real": "keep the real and the imaginary part as two real arrays",
    "imag": "keep the real and the imaginary part as two real arrays",
    "conj": "keep the real and the imaginary part as two real arrays",
    **dict.fromkeys(
        ("qr", "svd", "eig", "eigh", "schur", "householder_product", "tridiagonal", "tridiagonal_solve", "hessenberg"),
        _LINEAR_ALGEBRA,
    ),
    **dict.fromkeys(
        ("threefry2x32", "random_bits", "random_seed", "random_wrap", "random_unwrap", "random_split",
         "random_fold_in", "random_gamma", "random_clone", "rng_bit_generator", "rng_uniform"),
        _RANDOM,
    ),
    **dict.fromkeys(
        ("psum", "pmax", "pmin", "ppermute", "all_gather", "all_to_all", "axis_index", "reduce_scatter",
         "psum_invariant", "shard_map", "xla_pmap"),
        _COLLECTIVE,
    ),
    **dict.fromkeys(("pure_callback", "io_callback", "debug_callback", "debug_print"), _CALLBACK),
    **dict.fromkeys(
        ("igamma", "igammac", "igamma_grad_a", "polygamma", "zeta", "regularized_incomplete_beta",
         "random_gamma_grad", "bessel_i0e", "bessel_i1e"),
        "tabulate it outside the solve, pass the table in through args and use jnp.interp",
    ),
}


def source_line(source_info: Any) -> str:
    """The user's line of an equation; empty where this JAX does not tell it (it is private there)."""
    try:
        from jax._src import source_info_util

        line = source_info_util.summarize(source_info)
    except Exception:
        return ""
    return "" if line == "unknown" else line


def unsupported(name: str, lines: Sequence[Any] = (), *, detail: str = "", hint: str = "") -> UnsupportedPrimitiveError:
    """The error for the primitive ``name``: which, where, and what to write instead.

    ``lines`` are the sources of the equations around it and, last, its own; the innermost that is the user's is told.
    """
    line = next(filter(None, map(source_line, reversed(lines))), "")
    where = f" (at {line})" if line else ""
    what = f": {detail}" if detail else ""
    return UnsupportedPrimitiveError(
        f"`{name}` cannot be translated into a kernel{where}{what}. Instead: {hint or HINTS.get(name, _GENERIC)}."
    )
