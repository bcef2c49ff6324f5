"""Spike counts and rates of many Hodgkin-Huxley neurons, of which nothing is saved but summaries.

The neuron is that of 09_hodgkin_huxley.py, which keeps 801 voltages of each: for a million of them 3.2 GB. Here the kernel
counts on the way, and each leaves six numbers of the time after 100 ms: how often the voltage came up through 0 mV, when it
first and last did, and its highest, lowest and mean. The rate is that between the first and the last spike.

The neurons differ in the current that they are given and in their sodium conductance. With too little of either there are no
spikes, with much of both the voltage stays up and there are none, too. Of the standard neuron much is known: its rest is stable
below 9.78 and above 154.5 uA/cm^2 (Hassard, Journal of Theoretical Biology 71, 1978), and yet it can go on firing from 6.26 on
(Rinzel and Miller, Mathematical Biosciences 49, 1980). Here the first two come out of the Jacobian at rest, and the third one
out of a row of neurons.

    python examples/14_spike_counts.py --side 1000      # a million, for a GPU; the default takes seconds on two cores
"""

import argparse
import runpy
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from jax_cubie import RESULTS, Solver, Summary

T1, SETTLED = 300.0, 100.0  # ms
POTASSIUM, SODIUM = 36.0, 120.0  # mS/cm^2, of the standard neuron
SAMPLE = 64

MODEL = runpy.run_path(str(Path(__file__).with_name("09_hodgkin_huxley.py")))
neuron, at_rest, rates = MODEL["neuron"], MODEL["at_rest"], MODEL["rates"]


def voltage(t, y, cell):
    return y[0]


SPIKE = {"level": 0.0, "of": voltage, "direction": 1, "start": SETTLED}
SUMMARIES = {
    "spikes": Summary.crossings(**SPIKE),
    "first": Summary.first_crossing(**SPIKE),
    "last": Summary.last_crossing(**SPIKE),
    "highest": Summary.max(of=voltage, start=SETTLED),
    "lowest": Summary.min(of=voltage, start=SETTLED),
    "mean": Summary.mean(of=voltage, start=SETTLED),
}


@jax.jit
def firing(current, sodium, tolerance):
    """The solutions of all pairs, with their summaries, in the precision of what is given."""
    solver = Solver("tsit5", rtol=tolerance, atol=tolerance)

    def lane(current, sodium):
        cell = {"current": current, "sodium": sodium, "potassium": jnp.asarray(POTASSIUM, current.dtype)}
        return solver.solve(neuron, 0.0, T1, at_rest(current.dtype), cell, summaries=SUMMARIES)

    return jax.vmap(lane)(current, sodium)


def rate(found):
    """Spikes per second: of the time from the first to the last."""
    spikes = np.asarray(found["spikes"])
    spans = np.where(spikes > 1, np.asarray(found["last"]) - np.asarray(found["first"]), np.inf)
    return 1000 * (spikes - 1) / spans


def stability(voltages):
    """Of the standard neuron that rests at such a voltage: the current for it, and the largest real part of the eigenvalues."""

    @jax.vmap
    def at(v):
        y = jnp.stack([v, *(opening / (opening + closing) for opening, closing in rates(v))])
        cell = {"current": 0.0, "sodium": SODIUM, "potassium": POTASSIUM}
        return -neuron(0.0, y, cell)[0], jax.jacfwd(neuron, 1)(0.0, y, cell)

    current, matrix = map(np.asarray, at(voltages))
    return current, np.linalg.eigvals(matrix).real.max(1)


def draw(current, sodium, shown, path):
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    extent = (current[0], current[-1], sodium[0], sodium[-1])
    for axis, (name, values) in zip(axes, shown.items(), strict=True):
        image = axis.imshow(values, origin="lower", aspect="auto", extent=extent, cmap="magma")
        axis.plot(*[[10.0], [SODIUM]], "+", color="w")
        axis.set(xlabel="current, uA/cm$^2$", title=name)
        figure.colorbar(image, ax=axis, pad=0.01)
    axes[0].set_ylabel("sodium conductance, mS/cm$^2$")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=80, help="neurons along each of the two axes (default: 80)")
    side = parser.parse_args().side
    current, sodium = np.linspace(0.0, 160.0, side, dtype=np.float32), np.linspace(50.0, 200.0, side, dtype=np.float32)
    pairs = [axis.ravel() for axis in np.meshgrid(current, sodium)]

    jax.block_until_ready(firing(*pairs, 1e-5))
    started = time.perf_counter()
    solution = jax.block_until_ready(firing(*pairs, 1e-5))
    seconds, device = time.perf_counter() - started, jax.devices()[0]
    assert bool((solution.result == RESULTS.successful).all())
    found, steps = solution.summaries, np.asarray(solution.stats["num_steps"])
    print(f"{side**2:,} neurons for {T1:g} ms on {device.device_kind} ({device.platform}), float32: {seconds:.2f} s")
    print(f"{int(found['spikes'].sum()):,} spikes after {SETTLED:g} ms; {steps.min()} to {steps.max()} steps a lane")

    row = np.linspace(6.2, 6.4, 201, dtype=np.float32)
    fired = firing(row, np.full_like(row, SODIUM), 1e-5).summaries
    begins = row[np.flatnonzero(fired["last"] > T1 - 25.0)[0]]
    print(f"the standard neuron goes on firing from {begins:.3f} uA/cm^2 on")
    assert abs(begins - 6.26) < 0.01

    with jax.enable_x64(True):
        picked = np.random.default_rng(0).choice(side**2, SAMPLE, replace=False)
        exact = firing(*(axis[picked].astype(float) for axis in pairs), 1e-9).summaries
        same = np.asarray(exact["spikes"]) == np.asarray(found["spikes"])[picked]
        apart = np.abs(rate(exact) - rate(found)[picked])[same].max()
        print(f"as many spikes as at 1e-9 in float64: {same.sum()} of {SAMPLE} neurons; rates at most {apart:.2f} apart")
        assert same.sum() >= SAMPLE - 3 and apart < 0.5

        at, growth = stability(np.linspace(-65.0, -40.0, 100_001))
        turns = at[np.flatnonzero(np.diff(np.sign(growth)))]
    print("its rest changes stability at " + " and ".join(f"{value:.2f}" for value in turns) + " uA/cm^2")
    assert np.allclose(turns, [9.78, 154.5], rtol=1e-3)

    square = {name: np.asarray(value).reshape(side, side) for name, value in found.items()}
    shown = {
        "spikes per second": rate(square),
        "highest less lowest voltage, mV": square["highest"] - square["lowest"],
        "mean voltage, mV": square["mean"],
    }
    path = Path(__file__).with_suffix(".png")
    draw(current, sodium, shown, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
