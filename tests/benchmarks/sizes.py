"""How times grow with the sizes: `python tests/benchmarks/sizes.py [--quick] [--picture FILE]`.

Beside diffrax in the same run: lanes from 2^3 to 2^24 (Lorenz), components from 4 to 256 (Lorenz-96), saved points from 1 to
1,000 (Lorenz), lanes of a network (2-64-64-2, tanh); without it the two schedules on lanes that end at very different times.
tsit5, float32, fixed steps but where it says so. A time is the least of several jitted calls, with the device waited for. On a
GPU JAX's own products take 10 bits of each factor unless told otherwise; here they are told to take all, as ours do.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from lorenz import lorenz, machine

import jax_cubie

Row = tuple[int, float, float]  # size, seconds of ours, of diffrax


def lorenz96(t, y, forcing):
    return (jnp.roll(y, -1) - jnp.roll(y, 2)) * jnp.roll(y, 1) - y + forcing


def van_der_pol(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def ours(f: Callable, steps: int, dt0: float | None, points: int = 1, **settings: Any) -> Callable:
    t1 = steps * (dt0 or 1e-2)
    solver = jax_cubie.Solver(**settings) if dt0 is None else jax_cubie.Solver(controller="fixed", **settings)
    saveat = jax_cubie.SaveAt(t1=True) if points == 1 else jax_cubie.SaveAt(ts=jnp.linspace(t1 / points, t1, points))
    return jax.jit(jax.vmap(lambda y0, args: solver.solve(f, 0.0, t1, y0, args, saveat=saveat, dt0=dt0).ys))


def theirs(f: Callable, steps: int, dt0: float, points: int = 1) -> Callable:
    t1 = steps * dt0
    saveat = diffrax.SaveAt(t1=True) if points == 1 else diffrax.SaveAt(ts=jnp.linspace(t1 / points, t1, points))

    def solve(y0, args):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(f), diffrax.Tsit5(), 0.0, t1, dt0, y0, args, saveat=saveat, max_steps=steps + 8, throw=False,
            stepsize_controller=diffrax.ConstantStepSize(), adjoint=diffrax.ForwardMode(),
        ).ys  # fmt: skip

    return jax.jit(jax.vmap(solve))


def least_seconds(call: Callable, arguments: tuple, budget: float) -> float:
    """Of several calls, as many as fit into `budget` seconds, three at least."""
    jax.block_until_ready(call(*arguments))
    best, until, count = np.inf, time.perf_counter() + budget, 0
    while count < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        best, count = min(best, time.perf_counter() - started), count + 1
    return best


def both(sizes: list[int], make: Callable[[int], tuple[Callable, Callable, tuple]], budget: float) -> list[Row]:
    rows = []
    for size in sizes:
        mine, other, arguments = make(size)
        rows.append((size, least_seconds(mine, arguments, budget), least_seconds(other, arguments, budget)))
    return rows


def states(lanes: int, components: int = 3) -> jax.Array:
    return 1 + 0.1 * jax.random.normal(jax.random.key(0), (lanes, components), jnp.float32)


def by_lanes(largest: int, budget: float) -> list[Row]:
    mine, other = ours(lorenz, 100, 0.01), theirs(lorenz, 100, 0.01)

    def make(lanes: int) -> tuple:
        return mine, other, (states(lanes), jnp.linspace(0, 21, lanes, dtype=jnp.float32))

    return both([2**k for k in range(3, largest + 1, 3)], make, budget)


def by_components(lanes: int, budget: float) -> list[Row]:
    def make(components: int) -> tuple:
        arguments = (states(lanes, components), jnp.full(lanes, 8, jnp.float32))
        return ours(lorenz96, 100, 0.01), theirs(lorenz96, 100, 0.01), arguments

    return both([4, 8, 16, 32, 33, 48, 64, 128, 256], make, budget)


def by_points(lanes: int, budget: float) -> list[Row]:
    def make(points: int) -> tuple:
        arguments = (states(lanes), jnp.linspace(0, 21, lanes, dtype=jnp.float32))
        return ours(lorenz, 100, 0.01, points), theirs(lorenz, 100, 0.01, points), arguments

    return both([1, 10, 100, 1000], make, budget)


def by_network_lanes(sizes: list[int], budget: float) -> list[Row]:
    network = eqx.nn.MLP(2, 2, 64, 2, activation=jnp.tanh, key=jax.random.key(1))

    def f(t, y, args):
        return network(y)

    mine, other = ours(f, 100, 0.01), theirs(f, 100, 0.01)

    def make(lanes: int) -> tuple:
        return mine, other, (states(lanes, 2), jnp.zeros(lanes, jnp.float32))

    return both(sizes, make, budget)


def schedules(lanes: int, budget: float) -> None:
    """Van der Pol, mu log-uniform in 0.1..300, t to 20, tolerances of 1e-6: the longest lane takes a thousand times the steps
    of the shortest."""
    mu = np.exp(np.random.default_rng(0).uniform(np.log(0.1), np.log(300), lanes)).astype(np.float32)
    y0 = jnp.tile(jnp.array([2.0, 0.0], jnp.float32), (lanes, 1))
    print(f"schedules, {lanes:,} lanes of van der Pol's equation: milliseconds")
    print(f"{'':12s} {'static':>10s} {'queue':>10s} {'auto':>10s}")
    for label, order in (("shuffled", mu), ("ascending", np.sort(mu)), ("descending", np.sort(mu)[::-1].copy())):
        seconds = [
            least_seconds(ours(van_der_pol, 2000, None, schedule=schedule), (y0, jnp.asarray(order)), budget)
            for schedule in ("static", "queue", "auto")
        ]
        print(f"{label:12s} " + " ".join(f"{1e3 * s:10.2f}" for s in seconds), flush=True)


def table(title: str, unit: str, rows: list[Row], each: Callable[[int], float]) -> None:
    """`each(size)`: what a row's time is divided by."""
    print(f"{title}: {unit}")
    print(f"{'size':>10s} {'jax_cubie':>12s} {'diffrax':>12s} {'ratio':>8s}")
    for size, mine, other in rows:
        print(f"{size:10,d} {1e9 * mine / each(size):12.4g} {1e9 * other / each(size):12.4g} {other / mine:8.1f}", flush=True)


def draw(panels: list[tuple[str, str, list[Row], Callable[[int], float]]], path: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.2), layout="constrained")
    for axis, (title, unit, rows, each) in zip(axes, panels, strict=True):
        sizes = [row[0] for row in rows]
        for column, label in ((1, "jax_cubie"), (2, "diffrax")):
            axis.loglog(sizes, [1e9 * row[column] / each(row[0]) for row in rows], "o-", markersize=3, label=label)
        axis.set_xlabel(title)
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(machine(), fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer lanes and repeats")
    parser.add_argument("--picture", help="where to draw the tables")
    options = parser.parse_args()
    cpu = jax.devices()[0].platform == "cpu"
    budget = 0.1 if options.quick else 1.0
    many = (2**10 if options.quick else 2**12) if cpu else 2**14 if options.quick else 2**17
    jax.config.update("jax_default_matmul_precision", "highest")
    print(machine(), flush=True)
    largest = (12 if options.quick else 18) if cpu else 18 if options.quick else 24
    panels = [
        ("lanes", "ns a lane and step", by_lanes(largest, budget), lambda size: 100 * size),
        ("components", "ns a component and step", by_components(many // 8, budget), lambda size: 100 * size * (many // 8)),
        ("saved points", "ns a lane and step", by_points(many, budget), lambda size: 100 * many),
        (
            "lanes of a network",
            "ns a lane and step",
            by_network_lanes([256, 4096] if cpu else [256, 4096, 65_536], budget),
            lambda size: 100 * size,
        ),
    ]
    for title, unit, rows, each in panels:
        table(title, unit, rows, each)
    schedules(many if cpu or options.quick else 2**20, budget)
    if options.picture:
        draw(panels, options.picture)


if __name__ == "__main__":
    main()
