"""A hybrid model: known mechanisms, an unknown growth rate that a network learns, and a solver, in one equinox module.

Batch cultures of cells X (g/L) that live on a substrate S (g/L):

    dX/dt = mu(S) X - decay X
    dS/dt = -mu(S) X / yield

The balances are known, their parameters `decay` and `yield` are not, and of mu(S) only that it is 0 without substrate, so

    mu(S) = S softplus(network(S)).

`Culture` holds these and its `Solver`, and is itself a part of `Experiment`, which knows how the photometer reads cells. All of
it is trained at once, on cultures of different substrate, through
`eqx.filter_value_and_grad`. Meanwhile `eqx.tree_at` changes the solver's tolerances, which are leaves: nothing is compiled
again. The simulated truth is Haldane's law: much substrate inhibits growth.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import optax

from jax_cubie import SaveAt, Solver

SUBSTRATE = jnp.array([0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0])  # at the beginning, g/L: a culture each
CELLS = 0.1  # at the beginning, g/L
HOURS = jnp.linspace(0.0, 24.0, 25)[1:]
NOISE = 0.02  # of substrate and of optical density, relative to 1
TRUTH = {"decay": 0.02, "yield": 0.45, "gain": 1.8}
STAGES = ((1e-3, 500), (1e-5, 1500))  # tolerances, and updates with them
REPORTED = ("decay", "yield", "gain")


def haldane(s):
    """The growth rate that the data are made with, 1/h."""
    return 0.9 * s / (1.0 + s + s**2 / 8.0)


class Growth(eqx.Module):
    """The growth rate, 1/h, of what substrate there is."""

    network: eqx.nn.MLP

    def __init__(self, key):
        self.network = eqx.nn.MLP("scalar", "scalar", width_size=16, depth=2, activation=jnp.tanh, key=key)

    def __call__(self, s):
        return s * jax.nn.softplus(self.network(s / 5.0) - 1.0)


class Culture(eqx.Module):
    """A batch culture: its mechanisms, its growth rate, and how to solve it."""

    log_decay: jax.Array
    log_yield: jax.Array
    growth: Callable
    solver: Solver

    def rates(self, t, y, args):
        cells, substrate = y
        growth = self.growth(jnp.maximum(substrate, 0.0)) * cells  # a step may end a little below 0
        return growth - jnp.exp(self.log_decay) * cells, -growth * jnp.exp(-self.log_yield)

    def __call__(self, substrate, hours):
        """Cells and substrate [points] at these hours, from that much substrate on."""
        y0 = (jnp.full_like(substrate, CELLS), substrate)
        return self.solver.solve(self.rates, 0.0, hours[-1], y0, saveat=SaveAt(ts=hours)).ys


class Experiment(eqx.Module):
    """Cultures, read by a photometer whose gain is not known."""

    culture: Culture
    log_gain: jax.Array

    def __call__(self, substrates, hours):
        """Optical densities and substrates [cultures, points, 2]."""
        cells, left = jax.vmap(self.culture, (0, None))(substrates, hours)
        return jnp.stack([jnp.exp(self.log_gain) * cells, left], -1)

    def parameters(self):
        culture = self.culture
        return dict(zip(REPORTED, map(float, map(jnp.exp, (culture.log_decay, culture.log_yield, self.log_gain))), strict=True))


def log_of(value):
    return jnp.log(jnp.asarray(value, jnp.float32))


def solver_of(experiment):
    return experiment.culture.solver


def with_tolerances(experiment, tolerance):
    """The same experiment, solved to another tolerance. An array replaces an array: nothing jitted is traced again."""
    tolerance = jnp.asarray(tolerance, jnp.float32)
    return eqx.tree_at(lambda one: (solver_of(one).rtol, solver_of(one).atol), experiment, (tolerance, tolerance))


def simulate(key):
    """What is measured [cultures, points, 2]."""
    solver = Solver("tsit5", rtol=1e-6, atol=1e-6)
    culture = Culture(log_of(TRUTH["decay"]), log_of(TRUTH["yield"]), haldane, solver)
    exact = Experiment(culture, log_of(TRUTH["gain"]))(SUBSTRATE, HOURS)
    return exact + NOISE * jax.random.normal(key, exact.shape)


class Counter(logging.Handler):
    """Counts the images that are built."""

    count = 0

    def emit(self, record):
        self.count += record.getMessage().startswith("built")


traced = []  # an entry for each time that the update is traced


def make_update(optimizer):
    def loss(learned, fixed, measured):
        return jnp.mean((eqx.combine(learned, fixed)(SUBSTRATE, HOURS) - measured) ** 2)

    @eqx.filter_jit
    def update(learned, fixed, state, measured):
        traced.append(True)
        value, gradient = eqx.filter_value_and_grad(loss)(learned, fixed, measured)
        changes, state = optimizer.update(gradient, state)
        return eqx.apply_updates(learned, changes), state, value

    return update


def train(experiment, measured, optimizer, update):
    """The trained experiment and its losses; the solver's numbers are no parameters."""
    learns = jax.tree.map(eqx.is_inexact_array, experiment)
    learns = eqx.tree_at(solver_of, learns, replace_fn=lambda solver: jax.tree.map(lambda _: False, solver))
    learned, fixed = eqx.partition(experiment, learns)
    state, losses = optimizer.init(learned), []
    for tolerance, updates in STAGES:
        _, fixed = eqx.partition(with_tolerances(eqx.combine(learned, fixed), tolerance), learns)
        for _ in range(updates):
            learned, state, value = update(learned, fixed, state, measured)
            losses.append(value)
        print(f"tolerance {tolerance:.0e}: after {updates} updates the loss is {losses[-1]:.2e}")
    return eqx.combine(learned, fixed), np.array(losses)


def draw(experiment, losses, measured, path):
    """Some cultures, and the law of growth that came out."""
    fine = jnp.linspace(0.0, 24.0, 200)
    curves = np.asarray(experiment(SUBSTRATE, fine))
    colors = plt.get_cmap("viridis")(np.linspace(0.0, 0.9, len(SUBSTRATE)))
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), width_ratios=[1, 1, 1, 0.8], layout="constrained")
    for number, label in enumerate(("optical density", "substrate (g/L)")):
        for curve, points, color in zip(curves, measured, colors, strict=True):
            axes[number].plot(fine, curve[:, number], color=color)
            axes[number].plot(HOURS, points[:, number], "o", color=color, markersize=2.5)
        axes[number].set(title=label, xlabel="hours")
    s = jnp.linspace(0.0, 12.0, 200)
    axes[2].plot(s, haldane(s), color="0.75", linewidth=4, label="Haldane's law, the truth")
    axes[2].plot(s, jax.vmap(experiment.culture.growth)(s), color="C3", label="what the network found")
    axes[2].set(title="growth rate (1/h)", xlabel="substrate (g/L)")
    axes[2].legend(frameon=False)
    axes[3].semilogy(losses)
    axes[3].axhline(NOISE**2, color="0.5", linestyle="--", linewidth=1)
    axes[3].set(title="loss; dashed: the noise", xlabel="update")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    logger, builds = logging.getLogger("jax_cubie"), Counter()
    measured = simulate(jax.random.key(0))
    solver = Solver("tsit5", rtol=jnp.float32(1e-3), atol=jnp.float32(1e-3))
    culture = Culture(log_of(0.05), log_of(0.3), Growth(jax.random.key(1)), solver)
    experiment = Experiment(culture, log_of(1.0))

    # What is measured of the photometer beforehand takes the place of a guess.
    experiment = eqx.tree_at(lambda one: one.log_gain, experiment, log_of(1.5))

    schedule = optax.cosine_decay_schedule(2e-2, sum(updates for _, updates in STAGES))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    logger.setLevel(logging.INFO)
    logger.addHandler(builds)
    experiment, losses = train(experiment, measured, optimizer, make_update(optimizer))
    logger.removeHandler(builds)
    print(f"the update was traced {len(traced)} time, for both tolerances; {builds.count} images were built")
    assert len(traced) == 1 and builds.count <= 2

    found = experiment.parameters()
    for name in REPORTED:
        print(f"{name:6s} {found[name]:7.4f}   truth {TRUTH[name]:.4f}")
    s = jnp.linspace(0.2, 10.0, 100)
    worst = float(jnp.abs(jax.vmap(experiment.culture.growth)(s) - haldane(s)).max())
    print(f"0.2 < S < 10: the growth rate is found to {worst:.3f} of at most {float(haldane(s).max()):.3f} per hour")
    assert losses[-1] < 1.5 * NOISE**2 and worst < 0.05
    assert abs(found["yield"] / TRUTH["yield"] - 1) < 0.05

    path = Path(__file__).with_suffix(".png")
    draw(experiment, losses, measured, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
