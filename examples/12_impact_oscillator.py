"""A ball that bounces, and an oscillator that hits a wall: the bifurcation diagram of many of them, by recorded impacts.

An impact is an event: x becomes 0, downwards, and `affect` turns the speed round, of which 0.8 is left. Ever smaller bounces
end in a rest, after infinitely many of them: whoever models impacts has to say what happens then. Here what is slower than 1e-6
is held by the wall, which bears whatever pushes towards it, until something pulls.

The ball falls from a height of 1 m; all of its impacts and the time at which it rests are known. The oscillator,

    x'' + x = cos(w t)  in front of a wall at x = 0

(Thompson and Ghaffari, Physical Review A 27, 1983), is linear but for the wall. An orbit that hits it once in n periods of the
force has a closed form,

    speed = 2 |a tan(pi n / w)| / ((1 + r) sqrt(1 + tan(phase)^2)),  a = 1 / (1 - w^2),
    tan(phase) = tan(pi n / w) (1 - r) / (w (1 + r)),

which is a resonance at w = 2 n. Between them is chaos. Each lane has its own w: 300 periods pass unseen, then 32 impacts are
kept.

    python examples/12_impact_oscillator.py --lanes 1000000      # for a GPU; the default takes seconds on two cores
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

from jax_cubie import RESULTS, Event, SaveAt, Solver

jax.config.update("jax_enable_x64", True)  # chaos doubles a rounding error with each impact or so

RESTITUTION, SLOWEST, GRAVITY = 0.8, 1e-6, 9.81
PERIODS, KEPT = 300, 32
W = (2.5, 5.5)
SOLVER = Solver("tsit5", rtol=1e-7, atol=1e-7)


def in_front_of_a_wall(acceleration):
    """The vector field of x'' = acceleration(t, x, args) for x >= 0."""

    def f(t, y, args):
        x, v = y
        a = acceleration(t, x, args)
        held = (x == 0) & (v == 0)
        return jnp.stack([v, jnp.where(held, jnp.maximum(a, 0.0), a)])

    return f


def bounce(t, y, args):
    speed = -RESTITUTION * y[1]
    return jnp.stack([0.0 * speed, jnp.where(speed > SLOWEST, speed, 0.0)])


def impact(record=0, terminal=False):
    """The event, of which `record` are kept, and which ends the lane at the `terminal`-th."""
    return Event(lambda t, y, args: y[0], direction=-1, affect=bounce, record=record, terminal=terminal)


ball = in_front_of_a_wall(lambda t, x, args: -GRAVITY + 0 * x)
oscillator = in_front_of_a_wall(lambda t, x, w: jnp.cos(w * t) - x)


@jax.jit
@jax.vmap
def impacts(w):
    """Phases of the force in turns and speeds of KEPT impacts, [KEPT] each."""
    period = 2 * jnp.pi / w
    settled = SOLVER.solve(oscillator, 0.0, PERIODS * period, jnp.array([1.0, 0.0]), w, events=impact())
    # The force is where it was at the beginning, so that time may begin anew.
    found = SOLVER.solve(oscillator, 0.0, 1000 * period, settled.ys[-1], w, events=impact(KEPT, terminal=KEPT))
    return found.events.times / period % 1, -found.events.ys[:, 1], found.result


def speed_of_periodic_orbit(w, n):
    """That of the orbit which hits the wall once in n periods of the force."""
    slope = np.tan(np.pi * n / w)
    phase = slope * (1 - RESTITUTION) / (w * (1 + RESTITUTION))
    return 2 * np.abs(slope / (1 - w**2)) / ((1 + RESTITUTION) * np.sqrt(1 + phase**2))


def draw(heights, w, phases, speeds, path):
    """The ball; impacts of all oscillators, by their speed and by their phase, as densities."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 4.5), width_ratios=[0.6, 1.2, 1.2], layout="constrained")
    left.plot(*heights, color="k", linewidth=0.8)
    left.set(xlabel="s", ylabel="m", title="a ball", ylim=(0, None))
    lanes = np.repeat(w, KEPT)
    for axis, values, bins, name in (
        (middle, speeds, np.logspace(-2, 0.5, 400), "speed of impact"),
        (right, phases, np.linspace(0, 1, 400), "phase of the force, turns"),
    ):
        density, *edges = np.histogram2d(lanes, values.ravel(), (np.linspace(*W, 900), bins))
        axis.pcolormesh(*edges, np.log1p(density.T), cmap="Greys", vmax=np.log1p(density.max()) / 2, rasterized=True)
        axis.set(xlabel="w", ylabel=name)
    near = np.linspace(3.4, 4.6, 200)
    middle.plot(near, 1.15 * speed_of_periodic_orbit(near, 2), color="C3", linewidth=1, label="closed form, a bit higher")
    middle.set(yscale="log", title=f"{len(w):,} oscillators, {KEPT} impacts of each")
    middle.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanes", type=int, default=4000, help="oscillators (default: 4,000)")
    lanes = parser.parse_args().lanes

    first = np.sqrt(2 / GRAVITY)
    flights = first * np.concatenate([[1.0], 2 * RESTITUTION ** np.arange(1, 20)])
    ts = np.linspace(0.0, 5.0, 1000)
    found = SOLVER.solve(ball, 0.0, 5.0, jnp.array([1.0, 0.0]), events=impact(20), saveat=SaveAt(ts=ts))
    away = np.abs(found.events.times - np.cumsum(flights)).max()
    rests = ts[np.flatnonzero((found.ys == 0).all(1))[0]]
    known = first * (1 + RESTITUTION) / (1 - RESTITUTION)
    print(f"a ball: {found.events.count} impacts, the first 20 within {away:.0e} s of the closed form")
    print(f"at {rests:.2f} s it rests; by the sum of all flights, at {known:.2f} s")
    assert away < 1e-12 and 0 <= rests - known < 0.01

    w = np.linspace(*W, lanes)
    jax.block_until_ready(impacts(w))
    started = time.perf_counter()
    phases, speeds, result = jax.block_until_ready(impacts(w))
    seconds, device = time.perf_counter() - started, jax.devices()[0]
    assert bool((result == RESULTS.event_occurred).all())
    phases, speeds = np.asarray(phases), np.asarray(speeds)
    print(f"{lanes:,} oscillators, {KEPT} impacts kept, on {device.device_kind} ({device.platform}): {seconds:.2f} s")

    near = np.abs(w - 4) < 0.5
    away = np.abs(speeds[near] - speed_of_periodic_orbit(w[near], 2)[:, None]).max()
    print(f"3.5 < w < 4.5: one impact in two periods, at a speed within {away:.0e} of the closed form")
    assert away < 1e-5
    once = np.ptp(speeds, axis=1) < 1e-4
    print(f"{once.mean():.0%} of the oscillators hit the wall always at one speed; the others at several, or in chaos")

    path = Path(__file__).with_suffix(".png")
    draw((ts, found.ys[:, 0]), w, phases, speeds, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
