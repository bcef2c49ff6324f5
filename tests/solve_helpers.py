"""What the tests of a whole solve share: vector fields, and comparison bit by bit."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, count, islice, product
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_cubie import RESULTS, ImplicitTableau, SaveAt, Solver, methods
from jax_cubie.kernel.target import Target
from jax_cubie.plan import Plan
from jax_cubie.problem import make_request
from jax_cubie.solution import CODES

METHODS = tuple(row["name"] for row in methods())
EXPLICIT_METHODS = tuple(row["name"] for row in methods() if row["family"] == "explicit Runge-Kutta")
ADAPTIVE = tuple(row["name"] for row in methods() if row["embedded_order"])
# Every kind of step that code is written for: one stage and many, with an error estimate or not, first same as last or not.
KINDS = ("euler", "heun", "bosh3", "rk4", "tsit5", "vern9")
# All that a row of diagonally implicit methods may have, and more: two matrices, and an explicit stage between them.
MIXED = ImplicitTableau(
    "mixed", order=2, a=[["1/4"], ["1/2"], ["1/4", "1/4", "1/3"]], b=["1/3", "5/12", "1/4"], b_embedded=[0, 1, 0],
    embedded_order=2,
)  # fmt: skip
LOCATIONS = tuple(Solver().buffers.settings)


def has_cuda() -> bool:
    """Whether JAX sees a CUDA device."""
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


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


def pairwise(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Rows in which every two factors take every two of their values; always the same, and as few as there can be where all
    factors have two.

    Otherwise it grows factor by factor, as "in parameter order" of Lei and Tai (1998): the rows so far each take the value that
    meets most of what is missing, then rows are added, whose other values are open until something wants them.
    """
    if all(len(values) == 2 for values in factors.values()):
        return _pairwise_of_two(factors)
    names = sorted(factors, key=lambda name: -len(factors[name]))
    rows = [dict(zip(names, values, strict=False)) for values in product(*(factors[name] for name in names[:2]))]
    for number, name in enumerate(names[2:], 2):
        missing = {(a, x, y) for a in names[:number] for x in factors[a] for y in factors[name]}
        used = dict.fromkeys(factors[name], 0)
        for row in rows:
            row[name] = max(factors[name], key=lambda y: (sum((*pair, y) in missing for pair in row.items()), -used[y]))
            used[row[name]] += 1
            missing -= {(*pair, row[name]) for pair in row.items()}
        for a, y in product(names[:number], factors[name]):
            for x in factors[a]:
                if (a, x, y) in missing:
                    fitting = (row for row in rows if row.get(a, x) == x and row.get(name, y) == y)
                    row = next(fitting, None)
                    if row is None:
                        rows.append(row := {})
                    row |= {a: x, name: y}
    return [{name: row.get(name, factors[name][0]) for name in factors} for row in rows]


def _pairwise_of_two(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """By Kleitman and Spencer (Families of k-independent sets, Discrete Math. 6, 1973): all first values, and behind that row
    each factor has its second value in a set of rows of its own, of a size at which any two of them meet."""
    rest = next(n for n in count() if comb(n, n // 2 + 1) >= len(factors))
    sets = islice(combinations(range(rest), rest // 2 + 1), len(factors))
    second = dict(zip(factors, sets, strict=True))
    return [{name: values[row in second[name]] for name, values in factors.items()} for row in (-1, *range(rest))]


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


def plan_of(
    f, args, n: int, target: str = "cpu", saveat: SaveAt | None = None, batched: bool = False, **chosen
) -> Plan:
    """Of tsit5's fixed steps from n numbers in float32, of which each lane has its own. batched: each has its own args, too."""
    solver, y0 = Solver("tsit5", controller="fixed", **chosen), jnp.zeros(n, jnp.float32)
    request = make_request(solver, f, 0.0, 1.0, y0, args, saveat or SaveAt(t1=True), 0.1)
    operands = tuple(one.batch(0 if one.name == "y0" or batched else None) for one in request.problem.operands)
    return Plan(request.problem, operands, 1, Target.parse(target))
