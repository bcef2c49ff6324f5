"""A Numba kernel as a JAX operation: the Ising model, many temperatures at once, inside lax.scan.

A sweep of Metropolis' algorithm updates the black squares of a periodic checkerboard, then the white ones. One
kernel does one colour; `jax.vmap` runs all temperatures in one launch, and `jax.lax.scan` the sweeps. The
magnetisation is drawn next to Onsager's exact one. On a machine with a GPU the CUDA kernel runs, elsewhere the host
kernel.
"""

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numba
import numpy as np
from numba import cuda

from jax_cubie import kernel_call

SIZE = 64
SWEEPS = 400
BLOCK = 128


def update(site, spins, chances, temperature, color):
    """The new spin of one site: both kernels call this."""
    row, column = site // SIZE, site % SIZE
    spin = spins[site]
    if (row + column) % 2 != color:
        return spin
    around = (
        spins[(row + 1) % SIZE * SIZE + column]
        + spins[(row + SIZE - 1) % SIZE * SIZE + column]
        + spins[row * SIZE + (column + 1) % SIZE]
        + spins[row * SIZE + (column + SIZE - 1) % SIZE]
    )
    cost = np.float32(2 * spin * around)
    flips = chances[site] < math.exp(-cost / temperature[0])
    return -spin if flips else spin


update_on_gpu = cuda.jit(device=True)(update)
update_on_cpu = numba.njit(update)


def kernel(spins, chances, temperature, out, color):
    """One thread for each site. Operands are pointers, in the order of the call, then the results, then the scalars."""
    site = cuda.grid(1)
    if site < SIZE * SIZE:
        out[site] = update_on_gpu(site, spins, chances, temperature, color)


def host_kernel(start, stop, spins, chances, temperature, out, color):
    """The work of the threads from start to stop."""
    for site in range(start, min(stop, SIZE * SIZE)):
        out[site] = update_on_cpu(site, spins, chances, temperature, color)


def half_sweep(spins, chances, temperature, color):
    """Updates the sites of one colour: 0 or 1."""
    return kernel_call(
        kernel,
        spins,
        chances,
        temperature,
        out_shape=jax.ShapeDtypeStruct(spins.shape, spins.dtype),
        grid=-(-SIZE * SIZE // BLOCK),
        block=BLOCK,
        scalars=(np.int32(color),),
        host_kernel=host_kernel,
    )


@partial(jax.jit, static_argnames="sweeps")
def magnetisation(key, temperatures, sweeps=SWEEPS):
    """The mean of |m| over the second half of the sweeps, for each temperature."""

    def sweep(spins, key):
        for color, part in enumerate(jax.random.split(key)):
            # One set of random numbers for all temperatures: that operand has no batch axis and is read in place.
            chances = jax.random.uniform(part, (SIZE, SIZE))
            spins = jax.vmap(half_sweep, (0, None, 0, None))(spins, chances, temperatures, color)
        return spins, jnp.abs(spins.astype(jnp.float32).mean((1, 2)))

    spins = jnp.ones((temperatures.size, SIZE, SIZE), jnp.int32)
    spins, history = jax.lax.scan(sweep, spins, jax.random.split(key, sweeps))
    return spins, history[sweeps // 2 :].mean(0)


def main():
    temperatures = jnp.linspace(1.5, 3.5, 41)
    spins, measured = magnetisation(jax.random.key(0), temperatures)
    critical = 2 / np.log(1 + np.sqrt(2))
    fine = np.linspace(1.5, 3.5, 1001)
    exact = np.maximum(1 - np.sinh(2 / fine) ** -4.0, 0) ** 0.125
    cold = np.asarray(temperatures) < 2.1
    worst = np.abs(measured - np.interp(temperatures, fine, exact))[cold].max()
    print(f"{len(temperatures)} temperatures, {SWEEPS} sweeps of {SIZE} x {SIZE} spins on {jax.devices()[0].platform}")
    print(f"below T = 2.1 the magnetisation is Onsager's to {worst:.3f}")
    assert worst < 0.02

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), width_ratios=[1.6, 1, 1, 1], layout="constrained")
    axes[0].plot(fine, exact, color="0.5", label="Onsager, infinite lattice")
    axes[0].plot(temperatures, measured, "o", markersize=4, label="measured")
    axes[0].set(xlabel="temperature", ylabel="|magnetisation|")
    axes[0].legend(frameon=False)
    for axis, wanted in zip(axes[1:], (1.8, critical, 3.2), strict=True):
        index = int(np.abs(np.asarray(temperatures) - wanted).argmin())
        axis.imshow(spins[index], cmap="binary", vmin=-1, vmax=1)
        axis.set(title=f"T = {temperatures[index]:.2f}", xticks=[], yticks=[])
    path = Path(__file__).with_suffix(".png")
    figure.savefig(path, dpi=120)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
