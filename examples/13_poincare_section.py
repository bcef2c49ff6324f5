"""A Poincaré section of the forced Duffing oscillator: a strange attractor, cut once in each period of the force.

    x'' + 0.25 x' - x + x^3 = 0.4 cos(t)

has two wells, between which it goes to and fro without a pattern. Seen whenever the force is at one phase, its states lie on a
fractal. That phase is a matter of time alone, so nothing has to be searched for: the section is the state at saved times, one
period apart, which the method's dense output has without a change of steps. (A section by the state, as `x' = 0`, would be an
`Event` with `record=`; 12_impact_oscillator.py has one.) Lanes begin at different states; after a while all are on the
attractor.

The map from one cut to the next shrinks every area by exp(-0.25 * 2 pi), wherever it is: a solve's derivative by y0 has to have
this determinant. Along with the points, tangents are carried from period to period, whose mean growth is the largest
Lyapunov exponent. Sprott (Chaos and Time-Series Analysis, 2003, appendix A) has 0.1571 for it, and with the sum of the two,
-0.25, that is a dimension of the section of 1.386.

    python examples/13_poincare_section.py --lanes 100000      # for a GPU; the default takes seconds on two cores
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from jax_cubie import RESULTS, SaveAt, Solver

jax.config.update("jax_enable_x64", True)

DAMPING, FORCE = 0.25, 0.4
PERIOD = 2 * np.pi
SKIPPED, KEPT = 30, 300  # periods
SOLVER = Solver("dop853", rtol=1e-8, atol=1e-8)


def duffing(t, y, args):
    x, v = y
    return jnp.stack([v, x - x**3 - DAMPING * v + FORCE * jnp.cos(t)])


@jax.jit
@jax.vmap
def section(y0):
    """The solution, saved once a period."""
    ts = PERIOD * np.arange(SKIPPED, SKIPPED + KEPT)
    return SOLVER.solve(duffing, 0.0, ts[-1], y0, saveat=SaveAt(ts=ts))


def next_cut(y):
    return SOLVER.solve(duffing, 0.0, PERIOD, y).ys[-1]


@jax.jit
@jax.vmap
def growth(y):
    """Logarithms of what a tangent grows by in each of 200 periods, of which the first ones turn it."""

    def period(carry, _):
        y, tangent = jax.jvp(next_cut, *((leaf,) for leaf in carry))
        length = jnp.linalg.norm(tangent)
        return (y, tangent / length), jnp.log(length)

    return jax.lax.scan(period, (y, jnp.array([1.0, 0.0])), length=200)[1]


def draw(points, path):
    figure, (whole, part) = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    for axis, window in ((whole, (-1.7, 1.7, -0.8, 1.2)), (part, (0.9, 1.4, 0.0, 0.5))):
        bins = [np.linspace(*window[:2], 700), np.linspace(*window[2:], 600)]
        density = np.histogram2d(*points.T, bins)[0]
        axis.imshow(np.log1p(density.T), cmap="inferno", origin="lower", aspect="auto", extent=window)
        axis.set(xlabel="x", ylabel="x'")
    whole.set_title(f"{len(points):,} cuts at t = 0, modulo 2 pi")
    part.set_title("a part of it")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanes", type=int, default=2000, help="states to begin with (default: 2,000)")
    lanes = parser.parse_args().lanes
    y0 = np.random.default_rng(0).uniform(-1, 1, (lanes, 2))

    jax.block_until_ready(section(y0))
    started = time.perf_counter()
    solution = jax.block_until_ready(section(y0))
    seconds, device = time.perf_counter() - started, jax.devices()[0]
    assert bool((solution.result == RESULTS.successful).all())
    points = np.asarray(solution.ys)
    print(f"{lanes:,} lanes, {points.size // 2:,} points on {device.device_kind} ({device.platform}): {seconds:.2f} s")

    again = np.asarray(jax.jit(jax.vmap(next_cut))(points[:, 0]))
    print(f"a period solved by itself ends within {np.abs(again - points[:, 1]).max():.0e} of the next point")
    assert np.abs(again - points[:, 1]).max() < 1e-5

    shrinks = np.linalg.det(jax.jit(jax.vmap(jax.jacfwd(next_cut)))(points[:, 0]))
    known = np.exp(-DAMPING * PERIOD)
    print(f"areas shrink by {shrinks.min():.8f} to {shrinks.max():.8f} in a period; exp(-0.25 * 2 pi) is {known:.8f}")
    assert np.allclose(shrinks, known, rtol=1e-5)

    rates = np.asarray(growth(points[:, -1]))[:, 20:] / PERIOD
    exponent, spread = rates.mean(), rates.mean(1).std() / np.sqrt(lanes)
    dimension = 1 + exponent / (exponent + DAMPING)
    print(f"Lyapunov exponent {exponent:.4f} +- {spread:.4f}, dimension of the section {dimension:.3f}; Sprott: 0.1571, 1.386")
    assert abs(exponent - 0.1571) < 0.001 + 4 * spread

    path = Path(__file__).with_suffix(".png")
    draw(points.reshape(-1, 2), path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
