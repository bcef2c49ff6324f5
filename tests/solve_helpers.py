"""What the tests of a whole solve share: vector fields, and comparison bit by bit."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from itertools import combinations, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cubie import RESULTS, Solver, methods
from jax_cubie.solution import CODES

METHODS = tuple(row["name"] for row in methods())
ADAPTIVE = tuple(row["name"] for row in methods() if row["embedded_order"])
# Every kind of step that code is written for: one stage and many, with an error estimate or not, first same as last or not.
KINDS = ("euler", "heun", "bosh3", "rk4", "dopri5", "tsit5", "vern9")
LOCATIONS = tuple(Solver().buffers.settings)


def lorenz(t: Any, y: Any, rho: Any) -> Any:
    """The Lorenz system; products and sums only."""
    return jnp.stack([10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - (8 / 3) * y[2]])


def decay(t: Any, y: Any, rate: Any) -> Any:
    return -rate * y


def clock(t: Any, y: Any, args: Any) -> Any:
    """y is the time that has passed."""
    return jnp.ones_like(y)


def code(solution: Any) -> np.ndarray:
    """The number of each lane's result."""
    return np.asarray(solution.result._value)


def all_are(solution: Any, name: str) -> bool:
    """Whether every lane ended so; compared by number and, for one lane, as users compare."""
    codes = code(solution)
    if codes.ndim == 0:
        assert bool(solution.result == getattr(RESULTS, name)) == (int(codes) == CODES[name])
    return bool(np.all(codes == CODES[name]))


def arrays(tree: Any) -> list[np.ndarray]:
    """Every array of a pytree or a Solution, result codes among them."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_bits(one: Any, other: Any, context: str = "") -> None:
    """Equal in dtype, shape and every bit, NaN included."""
    left, right = arrays(one), arrays(other)
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, f"{context}: {a.dtype}{a.shape} and {b.dtype}{b.shape}"
        if a.tobytes() != b.tobytes():
            different = np.argwhere(~((a == b) | ((a != a) & (b != b))))
            raise AssertionError(f"{context}: differ at {different[:5].tolist()}:\n{a}\n{b}")


def stacked(solve_one: Callable[..., Any], *columns: Iterable[Any]) -> Any:
    """One solve for each row of the columns, stacked: what `jax.vmap` has to equal."""
    solutions = [solve_one(*row) for row in zip(*columns, strict=True)]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *solutions)


def pairwise(names: Iterable[str], values: tuple[str, str] = ("local", "shared")) -> list[dict[str, str]]:
    """Rows in which every two names take every two values; greedy, so always the same."""
    names = list(names)
    needed = {
        (a, x, b, y) for a, b in combinations(names, 2) for x, y in product(values, repeat=2)
    }
    rows = []
    candidates = [dict(zip(names, row, strict=True)) for row in product(values, repeat=len(names))]

    def met(row: dict[str, str]) -> set:
        return {(a, row[a], b, row[b]) for a, b in combinations(names, 2)}

    while needed:
        best = max(candidates, key=lambda row: len(met(row) & needed))
        rows.append(best)
        needed -= met(best)
    return rows


def python(script: str, *arguments: str, **environment: str) -> str:
    """Runs a script in a fresh process and answers with what it printed."""
    settings = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    for name in [name for name, value in settings.items() if value == "unset"]:
        del settings[name]
    here = os.path.dirname(os.path.abspath(__file__))  # not the checkout, which may lack the compiled part
    settings["PYTHONPATH"] = os.pathsep.join([here, settings.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments], env=settings, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout
