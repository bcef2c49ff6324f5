"""A population of Hodgkin-Huxley neurons: 10,000 of them, no two alike, and the spikes that they answer a current with.

Hodgkin and Huxley's model of the squid's giant axon (1952): the voltage, and three gates that open and close with it. The rates
of two gates are quotients that become 0/0, at -55 and at -40 mV, which each spike passes through. `exprelr` has the value and
the derivative there that the formulas mean, in float32, too: implicit methods look at both.

Every neuron has a current and conductances of its own. Voltages are saved four times a millisecond; where one comes up through
0 mV is a spike. A sample is solved again in float64 with tolerances a thousand times as tight: its spikes are the same.
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

T1 = 200.0  # ms
TIMES = np.linspace(0.0, T1, 801)
SAMPLE = 32


def exprelr(x):
    """x / (1 - exp(-x)), 1 at 0."""
    near = jnp.abs(x) < 0.01
    # Where the series is taken, the quotient is that of another number: a NaN would come through in the derivative.
    apart = jnp.where(near, 1.0, x)
    return jnp.where(near, 1.0 + x / 2 + x * x / 12, -apart / jnp.expm1(-apart))


def rates(v):
    """Opening and closing of the gates m, h, n, 1/ms, at v mV."""
    return (
        (exprelr((v + 40) / 10), 4 * jnp.exp(-(v + 65) / 18)),
        (0.07 * jnp.exp(-(v + 65) / 20), jax.nn.sigmoid((v + 35) / 10)),
        (0.1 * exprelr((v + 55) / 10), 0.125 * jnp.exp(-(v + 65) / 80)),
    )


def neuron(t, y, cell):
    """mV, ms, uA/cm^2 and mS/cm^2; a membrane of 1 uF/cm^2."""
    v, m, h, n = y
    sodium = cell["sodium"] * m**3 * h * (v - 50)
    potassium = cell["potassium"] * n**4 * (v + 77)
    leak = 0.3 * (v + 54.387)
    gates = [opening * (1 - gate) - closing * gate for gate, (opening, closing) in zip((m, h, n), rates(v), strict=True)]
    return jnp.stack([cell["current"] - sodium - potassium - leak, *gates])


def at_rest(dtype):
    v = jnp.asarray(-65.0, dtype)
    return jnp.stack([v, *(opening / (opening + closing) for opening, closing in rates(v))])


@jax.jit
def voltages(cells, rtol):
    """The solutions of all cells, which save the voltage at TIMES."""
    dtype = cells["current"].dtype
    solver = Solver("rodas5p", rtol=rtol, atol=rtol)
    saveat = SaveAt(ts=jnp.asarray(TIMES, dtype), fn=lambda t, y, cell: y[0])
    return jax.vmap(lambda cell: solver.solve(neuron, 0.0, T1, at_rest(dtype), cell, saveat=saveat))(cells)


def spikes(trace):
    """The times at which a trace of voltages comes up through 0, ms."""
    (before,) = np.nonzero((trace[:-1] < 0) & (trace[1:] >= 0))
    return TIMES[before] + (TIMES[1] - TIMES[0]) * trace[before] / (trace[before] - trace[before + 1])


def draw(cells, traces, trains, path):
    """Some voltages, when each neuron fires, and how often."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.5), width_ratios=[1, 1.3, 1], layout="constrained")
    shown = np.linspace(0, len(trains) - 1, 6).astype(int)
    for row, number in enumerate(shown):
        left.plot(TIMES, traces[number] + 130 * row, color=f"C{row}", linewidth=0.9)
        left.text(T1, -60 + 130 * row, f"{cells['current'][number]:.1f}", va="bottom", ha="right", fontsize=8)
    left.set(xlabel="ms", yticks=[], title="voltages; the current in uA/cm$^2$")
    picked = np.unique(np.linspace(0, len(trains) - 1, 1500).astype(int))
    middle.eventplot([trains[number] for number in picked], lineoffsets=cells["current"][picked], linelengths=0.05, color="k")
    middle.set(xlabel="ms", ylabel="current", title=f"spikes of {len(picked):,} neurons")
    right.plot(cells["current"], [rate(train) for train in trains], ".", markersize=1.5, color="C3", alpha=0.5)
    right.set(xlabel="current", ylabel="spikes per second", title="in the second half")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def rate(train):
    """Spikes per second in the second half, when a neuron has settled: of the time between two."""
    settled = train[train > T1 / 2]
    return 1000 / np.diff(settled).mean() if len(settled) > 1 else 0.0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--neurons", type=int, default=10_000)
    count = parser.parse_args().neurons
    random = np.random.default_rng(0)
    cells = {
        "current": np.linspace(0.0, 20.0, count),
        "sodium": 120.0 * random.lognormal(0.0, 0.1, count),
        "potassium": 36.0 * random.lognormal(0.0, 0.1, count),
    }
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), cells)

    jax.block_until_ready(voltages(single, 1e-4))
    started = time.perf_counter()
    solution = jax.block_until_ready(voltages(single, 1e-4))
    seconds = time.perf_counter() - started
    assert bool((solution.result == RESULTS.successful).all())
    traces, steps = np.asarray(solution.ys, float), np.asarray(solution.stats["num_steps"])
    trains = [spikes(trace) for trace in traces]
    device = jax.devices()[0]
    print(f"{count:,} neurons for {T1:g} ms on {device.device_kind} ({device.platform}), float32: {seconds:.2f} s")
    print(f"{sum(map(len, trains)):,} spikes; {steps.min()} to {steps.max()} steps a lane")

    with jax.enable_x64(True):
        chosen = np.linspace(0, count - 1, SAMPLE).astype(int)
        sample = jax.tree.map(lambda leaf: jnp.asarray(leaf[chosen]), cells)
        exact = [spikes(trace) for trace in np.asarray(voltages(sample, 1e-7).ys)]
    pairs = [(one, trains[number]) for one, number in zip(exact, chosen, strict=True)]
    apart = [np.abs(one - other).max(initial=0) for one, other in pairs if len(one) == len(other)]
    print(
        f"as many spikes as at 1e-7 in float64: {len(apart)} of {SAMPLE} neurons; times are {max(apart):.2f} ms apart at most"
    )
    assert len(apart) >= SAMPLE - 2 and max(apart) < 1.0

    often, current = np.array([rate(train) for train in trains]), cells["current"]
    quiet, near_ten = often[current < 2].mean(), np.median(often[(np.abs(current - 10) < 0.5) & (often > 0)])
    print(f"below 2 uA/cm^2 {quiet:.1f} spikes per second; around 10, {near_ten:.0f} of a neuron that goes on firing")
    assert quiet < 1 and 60 < near_ten < 76

    path = Path(__file__).with_suffix(".png")
    draw(cells, traces, trains, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
