"""A sweep over the Lorenz system: 100,000 trajectories in one launch, and a picture of how they move.

`jax.jit(jax.vmap(...))` of one solve is the whole batch. Every lane has its own rho and its own step sizes, reports how it
ended, and saves its own times. Up to rho = 24.74 a trajectory settles on one of two fixed points,
x = y = +-sqrt(8/3 (rho - 1)) and z = rho - 1, which is checked; beyond, it is chaotic.
"""

import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from jax_cubie import RESULTS, SaveAt, solve

LANES = 100_000
RHO_MAX = 28.0
T1 = 20.0
SHOWN = (10.0, 20.0, 24.0, 28.0)
FAILURES = ("max_steps_reached", "dt_min_reached", "step_size_underflow", "not_finite", "invalid_input")
Y0 = jnp.array([1.0, 0.0, 0.0])


def lorenz(t, y, rho):
    """dy/dt with sigma = 10 and beta = 8/3; `rho` is what `args` is in `solve`."""
    a, b, c = y
    return jnp.stack([10.0 * (b - a), a * (rho - c) - b, a * b - (8 / 3) * c])


@jax.jit
@jax.vmap
def end_state(rho):
    """Where a trajectory is at t = T1."""
    return solve(lorenz, 0.0, T1, Y0, rho, rtol=1e-5, atol=1e-5)


@partial(jax.jit, static_argnames="points")
def trajectories(rho, points):
    """The same trajectories, saved at `points` times: saving changes no step."""
    saveat = SaveAt(ts=jnp.linspace(0.0, T1, points))
    return jax.vmap(lambda value: solve(lorenz, 0.0, T1, Y0, value, saveat=saveat, rtol=1e-5, atol=1e-5).ys)(rho)


def timed(call, *arguments):
    """The result, and the seconds that a second call takes: the first one also compiles."""
    jax.block_until_ready(call(*arguments))
    started = time.perf_counter()
    result = jax.block_until_ready(call(*arguments))
    return result, time.perf_counter() - started


def failures(result):
    """How many lanes ended with each result code other than success."""
    counts = {name: int(jnp.sum(result == getattr(RESULTS, name))) for name in FAILURES}
    return {name: count for name, count in counts.items() if count}


def draw(rho, histories, shown, path):
    """Above, x over time and rho; below, some trajectories seen from the side."""
    with plt.style.context("dark_background"):
        figure = plt.figure(figsize=(11, 7.5), layout="constrained")
        grid = figure.add_gridspec(2, len(SHOWN), height_ratios=[1.5, 1])
        top = figure.add_subplot(grid[0, :])
        extent = (float(rho[0]), float(rho[-1]), 0.0, T1)
        image = top.imshow(histories.T, origin="lower", aspect="auto", extent=extent, cmap="twilight", vmin=-20, vmax=20)
        figure.colorbar(image, ax=top, label="x", pad=0.01)
        top.set(xlabel="rho", ylabel="time", title="Lorenz: each column is a trajectory with its own rho")
        colors = plt.get_cmap("plasma")(np.linspace(0.35, 0.95, len(SHOWN)))
        for number, (value, states, color) in enumerate(zip(SHOWN, shown, colors, strict=True)):
            axis = figure.add_subplot(grid[1, number])
            axis.plot(states[:, 0], states[:, 2], color=color, linewidth=0.6)
            axis.plot(*states[-1, [0, 2]], "o", color="white", markersize=3)
            axis.set(title=f"rho = {value:g}", xlabel="x", ylabel="z" if number == 0 else None)
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=120)
        plt.close(figure)


def main():
    rho = jnp.linspace(0.0, RHO_MAX, LANES)
    solution, seconds = timed(end_state, rho)
    ends = np.asarray(solution.ys[:, 0])
    steps = np.asarray(solution.stats["num_steps"])
    device = jax.devices()[0]
    print(f"{LANES:,} lanes to t = {T1:g} on {device.device_kind} ({device.platform}): {seconds:.2f} s")
    print(f"{LANES / seconds:,.0f} lanes per second; {steps.min()} to {steps.max()} steps a lane, {steps.sum():,} in all")
    print(f"failures: {failures(solution.result) or 'none'}")

    # Between these a lane is settled long before t = 20, so the exact answer is known.
    settled = (np.asarray(rho) > 2) & (np.asarray(rho) < 10)
    exact = np.sqrt(8 / 3 * (np.asarray(rho) - 1)[settled])
    worst = np.abs(np.abs(ends[settled, 0]) - exact).max()
    print(f"2 < rho < 10: the end states are the fixed points to {worst:.1e}")
    assert worst < 1e-3

    path = Path(__file__).with_name("lorenz_sweep.png")
    columns = jnp.linspace(0.0, RHO_MAX, 1500)
    draw(columns, np.asarray(trajectories(columns, 600))[..., 0], np.asarray(trajectories(jnp.array(SHOWN), 4000)), path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
