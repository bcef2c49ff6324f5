"""A neural ODE: a network learns a vector field from irregularly sampled series, each of them a lane with times of its own.

The series spiral inwards,

    d(x, y)/dt = A (x^3, y^3),   A = [[-0.2, 1.5], [-1.5, -0.2]],

each from another state, and have 16 noisy samples at random times. dy/dt is a perceptron with two hidden layers of 64, an
equinox module that `solve` takes as it is. `eqx.filter_value_and_grad` goes through the solve; all lanes share the weights,
whose gradient is the sum over them. The first 20 updates are done with diffrax, too: same model, same steps, same loss.
"""

import time
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import optax

from jax_cubie import SaveAt, solve

SERIES = 128
POINTS = 16
T1 = 4.0
NOISE = 0.02
TOLERANCE = 1e-5
DT0 = 0.02
COMPARED = 20  # updates
UPDATES = 800
SPIRAL = jnp.array([[-0.2, 1.5], [-1.5, -0.2]])


def spiral(t, y, args):
    return SPIRAL @ y**3


class Field(eqx.Module):
    """dy/dt = network(y)."""

    network: eqx.nn.MLP

    def __init__(self, key):
        self.network = eqx.nn.MLP(2, 2, width_size=64, depth=2, activation=jnp.tanh, key=key)

    def __call__(self, t, y, args):
        return self.network(y)


def ours(field, y0, ts):
    """The states [points, 2] of one series."""
    saveat = SaveAt(ts=ts)
    return solve(field, 0.0, ts[-1], y0, saveat=saveat, dt0=DT0, rtol=TOLERANCE, atol=TOLERANCE).ys


def theirs(field, y0, ts):
    """The same by diffrax."""
    controller = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)
    term, method, saveat = diffrax.ODETerm(field), diffrax.Tsit5(), diffrax.SaveAt(ts=ts)
    return diffrax.diffeqsolve(
        term, method, 0.0, ts[-1], DT0, y0, saveat=saveat, stepsize_controller=controller, max_steps=256
    ).ys


def measure(key):
    """Initial states [series, 2], times [series, points] and noisy states at them [series, points, 2]."""
    of_states, of_times, of_noise = jax.random.split(key, 3)
    radius = jax.random.uniform(of_states, (SERIES, 1), minval=0.6, maxval=1.2)
    angle = jnp.linspace(0.0, 2 * jnp.pi, SERIES, endpoint=False)
    y0 = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    ts = jnp.sort(jax.random.uniform(of_times, (SERIES, POINTS), maxval=T1), axis=1)
    ys = jax.vmap(ours, (None, 0, 0))(spiral, y0, ts)
    return y0, ts, ys + NOISE * jax.random.normal(of_noise, ys.shape)


def trainer(solved, optimizer):
    """The compiled function that does one update."""

    def loss(field, y0, ts, measured):
        return jnp.mean((jax.vmap(solved, (None, 0, 0))(field, y0, ts) - measured) ** 2)

    @eqx.filter_jit
    def update(field, state, *data):
        value, gradient = eqx.filter_value_and_grad(loss)(field, *data)
        changes, state = optimizer.update(gradient, state, field)
        return eqx.apply_updates(field, changes), state, value

    return update


def train(update, field, optimizer, data, updates):
    """The trained field, the loss before each update, and the seconds of the fastest one."""
    state, losses, seconds = optimizer.init(eqx.filter(field, eqx.is_inexact_array)), [], []
    for _ in range(updates):
        started = time.perf_counter()
        field, state, value = update(field, state, *data)
        losses.append(float(value))
        seconds.append(time.perf_counter() - started)
    return field, np.array(losses), min(seconds)


def draw(field, data, losses, compared, path):
    """Some series and what the trained field makes of them; the loss; how far it is from diffrax's."""
    y0, ts, measured = data
    shown, fine = range(0, SERIES, SERIES // 4), jnp.broadcast_to(jnp.linspace(0.0, T1, 400), (4, 400))
    curves, exact = (jax.vmap(ours, (None, 0, 0))(one, y0[:: SERIES // 4], fine) for one in (field, spiral))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), width_ratios=[1.2, 1, 1], layout="constrained")
    for number, series in enumerate(shown):
        color = f"C{number}"
        left.plot(*exact[number].T, color="0.75", linewidth=3)
        left.plot(*curves[number].T, color=color)
        left.plot(*measured[series].T, "o", color=color, markersize=3.5)
    left.set(title="four of the series: samples, truth (grey), fit", xlabel="x", ylabel="y", aspect="equal")
    middle.semilogy(losses, color="C0")
    middle.axhline(NOISE**2, color="0.5", linestyle="--", linewidth=1)
    middle.text(UPDATES, NOISE**2, "variance of the noise", ha="right", va="bottom", color="0.4", fontsize=9)
    middle.set(title="loss", xlabel="update")
    right.semilogy(np.maximum(compared, 1e-8), "o", color="C3", markersize=4)
    right.axhline(np.finfo(np.float32).eps, color="0.5", linestyle="--", linewidth=1)
    right.text(COMPARED, np.finfo(np.float32).eps, "a float32's last place", ha="right", va="top", color="0.4", fontsize=9)
    right.set(title="relative difference from diffrax's loss", xlabel="update", ylim=(5e-9, 1e-5))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    data = measure(jax.random.key(0))
    field = Field(jax.random.key(1))
    optimizer = optax.adam(optax.warmup_cosine_decay_schedule(1e-3, 6e-3, 50, UPDATES))
    update = trainer(ours, optimizer)

    with jax.default_matmul_precision("highest"):  # a GPU's products have fewer bits else
        _, reference, their_seconds = train(trainer(theirs, optimizer), field, optimizer, data, COMPARED)
    trained, losses, our_seconds = train(update, field, optimizer, data, UPDATES)
    compared = np.abs(losses[:COMPARED] / reference - 1)
    print(f"{SERIES} series of {POINTS} samples; the first {COMPARED} updates:")
    print("update      jax_cubie        diffrax   relative difference")
    for number in range(0, COMPARED, 3):
        print(f"{number:6d}  {losses[number]:13.8f}  {reference[number]:13.8f}   {compared[number]:.1e}")
    print(f"at most {compared.max():.1e} apart; {1e3 * our_seconds:.1f} ms an update, diffrax {1e3 * their_seconds:.1f} ms")
    assert compared.max() < 3e-6
    print(f"after {UPDATES} updates the loss is {losses[-1]:.2e}; the noise has a variance of {NOISE**2:.2e}")
    assert losses[-1] < 3 * NOISE**2

    path = Path(__file__).with_suffix(".png")
    draw(trained, data, losses, compared, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
