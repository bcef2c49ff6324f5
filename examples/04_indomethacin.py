"""Indomethacin in six people: a population fit with a random effect on each parameter of each subject.

Two compartments after an injection into the first; only the plasma is measured:

    d plasma / dt = -(k10 + k12) plasma + k21 tissue         mg/L, plasma = c0 at t = 0
    d tissue / dt = k12 plasma - k21 tissue                  as mg/L of plasma

The logarithms of a subject's c0, k10, k12 and k21 are the population's plus its effects, which are normal with a standard
deviation for each; those of the measurements differ from the curve's by normal noise. Three steps:

1. population and effects together, by Adam (optax) on the adjoint's gradient, the effects' standard deviations held;
2. the marginal likelihood, the effects integrated out by Laplace's approximation: the Hessian over the effects goes through
   the solve, and the gradient that Adam follows goes through the Hessian;
3. standard errors from the curvature at its maximum, and thousands of draws of the effects, all lanes of one launch, to see
   how good Laplace's approximation is.
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
import optax
from jax.flatten_util import ravel_pytree

from jax_cubie import SaveAt, Solver

HERE = Path(__file__).parent
PARAMETERS = {"c0": "mg/L", "k10": "1/h", "k12": "1/h", "k21": "1/h"}
DRAWS = 2000
SOLVER = Solver("tsit5", rtol=1e-9, atol=1e-9)


def read_subjects():
    """Sampling times [6, 11] in hours and concentrations [6, 11] in mg/L."""
    table = np.genfromtxt(HERE / "data" / "indomethacin.csv", delimiter=",", names=True)
    rows = [table[table["Subject"] == subject] for subject in np.unique(table["Subject"])]
    return np.stack([subject["time"] for subject in rows]), np.stack([subject["conc"] for subject in rows])


def compartments(t, y, rates):
    k10, k12, k21 = rates
    there, back = k12 * y["plasma"], k21 * y["tissue"]
    return {"plasma": back - there - k10 * y["plasma"], "tissue": there - back}


def plasma(logs, ts):
    """Concentrations [points] at `ts`. `logs` [4]: of c0, k10, k12 and k21."""
    c0, *rates = jnp.exp(logs)
    y0 = {"plasma": c0, "tissue": jnp.zeros_like(c0)}
    return SOLVER.solve(compartments, 0.0, ts[-1], y0, rates, saveat=SaveAt(ts=ts)).ys["plasma"]


def closed_form(logs, ts):
    """The exact solution: two exponentials."""
    c0, k10, k12, k21 = jnp.exp(logs)
    half = (k10 + k12 + k21) / 2
    root = jnp.sqrt(half**2 - k10 * k21)
    fast, slow = half + root, half - root
    return c0 * ((fast - k21) * jnp.exp(-fast * ts) + (k21 - slow) * jnp.exp(-slow * ts)) / (fast - slow)


def surprise(effects, population, ts, measured, model=plasma):
    """Minus the logarithm of the density of one subject's measurements and effects [4], together."""
    noise = jnp.log(model(population["means"] + effects, ts) / measured) / jnp.exp(population["log_noise"])
    scaled = effects / jnp.exp(population["log_sds"])
    constants = jnp.sum(population["log_sds"]) + len(ts) * population["log_noise"]
    return jnp.sum(noise**2) / 2 + jnp.sum(scaled**2) / 2 + constants + (len(ts) + len(effects)) / 2 * jnp.log(2 * jnp.pi)


def laplace(effects, population, ts, measured, model=plasma):
    """Minus the logarithm of the density of one subject's measurements, and its most likely effects [4].

    `effects` are such ones as of an update ago: a step by Newton's method takes them along. It is what makes them a function of
    the population with the derivative that the implicit function theorem gives.
    """
    of_effects = partial(surprise, population=population, ts=ts, measured=measured, model=model)
    effects = jax.lax.stop_gradient(effects)
    curvature = jax.lax.stop_gradient(jax.hessian(of_effects)(effects))
    effects = effects - jnp.linalg.solve(curvature, jax.grad(of_effects)(effects))
    spread = len(effects) * jnp.log(2 * jnp.pi) - jnp.linalg.slogdet(jax.hessian(of_effects)(effects))[1]
    return of_effects(effects) - spread / 2, effects


def marginal(population, effects, subjects, model=plasma):
    """Minus the logarithm of the likelihood of the population, by Laplace's approximation, and all effects [6, 4]."""
    values, effects = jax.vmap(partial(laplace, model=model), (0, None, 0, 0))(effects, population, *subjects)
    return jnp.sum(values), effects


gradient = jax.jit(jax.value_and_grad(marginal, has_aux=True))


@partial(jax.jit, static_argnames="updates")
def fit_together(population, effects, subjects, updates):
    """Population and effects together. The effects' standard deviations are held: together with them they would shrink to 0."""
    method = optax.adam(optax.cosine_decay_schedule(0.05, updates))

    def loss(unknown):
        known = population | unknown["population"]
        return jnp.sum(jax.vmap(surprise, (0, None, 0, 0))(unknown["effects"], known, *subjects))

    def update(carry, _):
        unknown, state = carry
        value, slope = jax.value_and_grad(loss)(unknown)
        change, state = method.update(slope, state)
        return (optax.apply_updates(unknown, change), state), value

    free = {name: value for name, value in population.items() if name != "log_sds"}
    unknown = {"population": free, "effects": effects}
    (unknown, _), history = jax.lax.scan(update, (unknown, method.init(unknown)), length=updates)
    return population | unknown["population"], unknown["effects"], history


def fit_marginal(population, effects, subjects, updates):
    """The population of the largest marginal likelihood; the effects follow."""
    method = optax.adam(optax.cosine_decay_schedule(0.05, updates))
    state, change_by = method.init(population), jax.jit(method.update)
    for _ in range(updates):
        (_, effects), slope = gradient(population, effects, subjects)
        change, state = change_by(slope, state)
        population = optax.apply_updates(population, change)
    return population, effects


def standard_errors(population, effects, subjects, nudge=1e-3):
    """Of the population's parameters, by the inverse of the curvature: differences of the gradient."""
    flat, restore = ravel_pytree(population)

    def slope(point):
        moved = effects
        for _ in range(3):  # the effects follow
            (_, moved), found = gradient(restore(point), moved, subjects)
        return ravel_pytree(found)[0]

    ways = nudge * jnp.eye(len(flat))
    curvature = jnp.stack([slope(flat + way) - slope(flat - way) for way in ways]) / (2 * nudge)
    return restore(jnp.sqrt(jnp.diag(jnp.linalg.inv((curvature + curvature.T) / 2))))


@jax.jit
def weighed_draws(population, effects, subjects, key):
    """Effects [6, draws, 4] from the normal distributions that Laplace's approximation gives them, logarithms of their weights
    [6, draws] and standard deviations [6, 4]. The mean weight is the density of a subject's measurements, not approximated."""
    of_subject = (0, None, 0, 0)
    curvature = jax.vmap(jax.hessian(surprise), of_subject)(effects, population, *subjects)
    spread = jnp.linalg.inv(jnp.linalg.cholesky(curvature))
    normal = jax.random.normal(key, (len(effects), DRAWS, effects.shape[-1]))
    drawn = effects[:, None] + normal @ spread
    surprises = jax.vmap(jax.vmap(surprise, (0, None, None, None)), of_subject)(drawn, population, *subjects)
    constants = normal.shape[-1] / 2 * jnp.log(2 * jnp.pi) + jnp.linalg.slogdet(spread)[1]
    return drawn, constants[:, None] + jnp.sum(normal**2, -1) / 2 - surprises, jnp.sqrt(jnp.sum(spread**2, -2))


def mean_weight(logs):
    """Minus the logarithm of the density of all measurements, and its standard error."""
    weights = np.exp(logs - logs.max(1, keepdims=True))
    variances = np.var(weights, 1) / np.mean(weights, 1) ** 2 / logs.shape[1]
    return -np.sum(np.log(np.mean(weights, 1)) + logs.max(1)), np.sqrt(np.sum(variances))


def draw(subjects, population, effects, drawn, deviations, path):
    """Six fitted curves with their uncertainty, and what each subject has of its own."""
    times, measured = subjects
    ts = jnp.linspace(0.0, 8.0, 200)
    curves = jax.jit(jax.vmap(jax.vmap(plasma, (0, None)), (0, None)))
    shown = jnp.concatenate([jnp.zeros((6, 1, 4)), effects[:, None], drawn[:, :400]], 1)
    shown = np.asarray(curves(population["means"] + shown, ts))
    figure = plt.figure(figsize=(14, 6.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2, 1])
    for number, axis in enumerate(left.subplots(2, 3, sharex=True, sharey=True).flat):
        typical, fitted, *others = shown[number]
        low, high = np.quantile(others, [0.05, 0.95], axis=0)
        axis.fill_between(ts, low, high, color="tab:blue", alpha=0.2, linewidth=0, label="90 %")
        axis.semilogy(ts, typical, "--", color="0.6", linewidth=1, label="population")
        axis.semilogy(ts, fitted, color="tab:blue", label="subject")
        axis.semilogy(times[number], measured[number], "o", color="0.15", markersize=4)
        axis.set_title(f"subject {number + 1}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        if number == 0:
            axis.legend(fontsize=8, frameon=False)
    left.supxlabel("hours after the injection")
    left.supylabel("indomethacin in plasma (mg/L)")
    axis = right.subplots()
    places = np.arange(len(PARAMETERS))
    axis.bar(places, 2 * np.exp(population["log_sds"]), 0.8, -np.exp(population["log_sds"]), color="tab:blue", alpha=0.2)
    for number, (own, deviation) in enumerate(zip(effects, deviations, strict=True)):
        axis.errorbar(places + (number - 2.5) / 9, own, deviation, fmt="o", color="tab:blue", markersize=4, linewidth=1)
    axis.axhline(0, color="0.6", linewidth=1, linestyle="--")
    axis.set_xticks(places, list(PARAMETERS))
    axis.set(ylabel="effect on the logarithm", title="six subjects; the population's spread")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    jax.config.update("jax_enable_x64", True)
    subjects = tuple(map(jnp.asarray, read_subjects()))
    means = jnp.log(jnp.array([2.0, 1.0, 1.0, 1.0]))
    population = {"means": means, "log_sds": jnp.log(jnp.full(4, 0.3)), "log_noise": jnp.log(0.3)}

    started = time.perf_counter()
    population, effects, history = fit_together(population, jnp.zeros((6, 4)), subjects, 300)
    seconds = time.perf_counter() - started
    print(f"together: minus log density from {history[0]:.2f} to {history[-1]:.2f} in {len(history)} updates, {seconds:.1f} s")

    started = time.perf_counter()
    (before, _), _ = gradient(population, effects, subjects)
    built = time.perf_counter()
    population, effects = fit_marginal(population, effects, subjects, 400)
    seconds = time.perf_counter() - built
    (value, effects), slope = gradient(population, effects, subjects)
    print(f"marginal: minus log likelihood from {before:.2f} to {value:.3f} in 400 updates, {seconds:.1f} s", end=" ")
    print(f"(the first took {built - started:.1f} s, with the builds)")
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(slope)) < 0.02
    exact, _ = jax.jit(partial(marginal, model=closed_form))(population, effects, subjects)
    print(f"the closed form of the model has the same to {abs(exact - value):.0e}")
    assert abs(exact - value) < 1e-5

    errors = standard_errors(population, effects, subjects)
    print("                population  standard error   between subjects  (logarithm)")
    rows = zip(PARAMETERS.items(), *(tree[key] for key in ("means", "log_sds") for tree in (population, errors)), strict=True)
    for (name, unit), mean, mean_error, log_sd, log_sd_error in rows:
        print(f"{name:4s}{unit:>7s} {np.exp(mean):14.3f} {mean_error:15.1%} {np.exp(log_sd):18.1%}      +- {log_sd_error:.2f}")
    print(f"noise of a measurement: {np.exp(population['log_noise']):.1%} (logarithm: +- {errors['log_noise']:.2f})")

    drawn, logs, deviations = weighed_draws(population, effects, subjects, jax.random.key(1))
    sampled, error = mean_weight(np.asarray(logs))
    print(f"{logs.size:,} draws of effects: {sampled:.3f} +- {error:.3f}, where Laplace's approximation says {value:.3f}")
    assert abs(sampled - value) < 0.1

    path = HERE / "indomethacin.png"
    draw(subjects, population, effects, drawn, deviations, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
