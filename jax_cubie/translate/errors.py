"""What the translation refuses, and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..field_errors import installed_package


class UnsupportedPrimitiveError(NotImplementedError):
    """A JAX operation in the user's function has no rule."""


class Refusal(Exception):
    """A rule's word that it cannot do this case; becomes an error with the user's line."""

    def __init__(self, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


_PACKAGE = str(Path(__file__).parents[1])

_LINEAR_ALGEBRA = "use jnp.linalg.solve, inv, qr or cholesky, write it out by hand, or move it outside the solve"
_RANDOM = "draw the numbers outside the solve and pass them in through args"
_COLLECTIVE = "collectives cannot run inside one trajectory; move it outside the solve"
_CALLBACK = "a solve is one kernel and cannot call back into Python; leave it out; SaveAt(steps=True, fn=...) keeps values"
_NESTED = "a solve inside of f is not there: make its state a part of y, or solve it before"
_GENERIC = "write it with arithmetic, jnp.where, indexing, matmul, lax.cond, lax.scan or lax.while_loop"

HINTS: dict[str, str] = {
    "fft": "write the transform as a matrix product with a matrix passed in through args",
    "approx_top_k": "use jax.lax.top_k",
    "ragged_dot_general": "use a matmul for each group",
    "select_and_scatter": "write the window with slices and jnp.where",
    **dict.fromkeys(("complex", "real", "imag", "conj"), "keep the real and the imaginary part as two real arrays"),
    **dict.fromkeys(("svd", "eig", "eigh", "schur", "tridiagonal", "hessenberg", "geqrf", "geqp3", "ormqr"), _LINEAR_ALGEBRA),
    **dict.fromkeys(
        ("threefry2x32", "random_bits", "random_seed", "random_wrap", "random_unwrap", "random_split",
         "random_fold_in", "random_gamma", "random_clone", "rng_bit_generator", "rng_uniform"),
        _RANDOM,
    ),
    **dict.fromkeys(
        ("psum", "pmax", "pmin", "ppermute", "all_gather", "all_to_all", "axis_index", "reduce_scatter",
         "psum_invariant", "shard_map"),
        _COLLECTIVE,
    ),
    **dict.fromkeys(("pure_callback", "io_callback", "debug_callback", "debug_print"), _CALLBACK),
    **dict.fromkeys(
        ("unvmap_any", "unvmap_all", "unvmap_max", "check"),
        "nothing is raised inside a kernel (equinox.error_if, checkify); check outside the solve, or return NaN",
    ),
    **dict.fromkeys(("get", "swap", "addupdate", "new_ref", "run_state"),
                    "references cannot be changed inside a kernel; carry the values through lax.scan or lax.fori_loop"),
    "jax_cubie_solve": _NESTED,
    **dict.fromkeys(
        ("bcoo_dot_general", "bcsr_dot_general"),
        "write a sparse product with indices, jnp.zeros(n).at[rows].add(values * y[columns])",
    ),
    "linear_solve": "use jnp.linalg.solve",
    "ffi_call": "a solve is one kernel and cannot call another; write the function in JAX",
    "custom_lin": "write it with jax.custom_jvp, which serves both, or ask for a reverse derivative (jax.vjp, jax.grad) alone: "
    "second derivatives take a forward one, too",
}
# Operations that no user writes, by what they stand for.
_MEANT = {
    "custom_lin": "the forward derivative of a function whose own derivative is a reverse one (jax.custom_vjp, "
    "equinox.filter_custom_vjp)",
}
_ITERATION = "write the iteration with jax.lax.fori_loop, or let jax.lax.custom_root hold it where f takes derivatives"
# The same for what is called by name in another package, whichever operation of it is met first.
_CALLED: dict[tuple[str, str], str] = {
    ("optimistix", "root_find"): "write Newton's iteration, jax.lax.fori_loop(0, 8, lambda _, z: z - "
    "jnp.linalg.solve(jax.jacfwd(g)(z), g(z)), z0), or let jax.lax.custom_root hold it where f takes derivatives",
    **dict.fromkeys([("optimistix", name) for name in ("fixed_point", "least_squares", "minimise")], _ITERATION),
    ("lineax", "linear_solve"): _LINEAR_ALGEBRA,
    ("diffrax", "diffeqsolve"): _NESTED,
}


def _source(lines: Sequence[Any]) -> tuple[str, tuple[str, str] | None]:
    """The user's line, and the function of `_CALLED` that is called there; empty where this JAX does not tell (it is
    private there).

    The line is the innermost that stands in no installed package: that of a layer or an interpolation helps nobody.
    """
    try:
        from jax._src import source_info_util

        frames = [frame for line in reversed(lines) for frame in source_info_util.user_frames(line.traceback)]
    except Exception:
        return "", None
    called, own = None, frames[:1]
    for frame in frames:
        package = installed_package(frame.file_name)
        if package is None and not frame.file_name.startswith(_PACKAGE):
            own = [frame]
            break
        if (key := (package or "", frame.function_name)) in _CALLED:
            called = key
    return next((f"{f.file_name}:{f.start_line}:{f.start_column} ({f.function_name})" for f in own), ""), called


def users_line(lines: Sequence[Any]) -> str:
    """The user's line among the sources of equations, the innermost last; empty where it is not known."""
    return _source(lines)[0]


def unsupported(name: str, lines: Sequence[Any] = (), *, detail: str = "", hint: str = "") -> UnsupportedPrimitiveError:
    """The error for the primitive ``name``: which, where, and what to write instead.

    ``lines`` are the sources of the equations around it and, last, its own.
    """
    line, called = _source(lines)
    where = f" (at {line})" if line else ""
    what = f": {detail}" if detail else ""
    brought = "" if called is None else f", which {'.'.join(called)} brings,"
    instead = hint or (_CALLED[called] if called else HINTS.get(name, _GENERIC))
    named = _MEANT.get(name, f"`{name}`")
    return UnsupportedPrimitiveError(f"{named}{brought} cannot be translated into a kernel{where}{what}. Instead: {instead}.")
