"""Theophylline in twelve people: a pharmacokinetic model fitted to each, from thousands of random starts at once.

One-compartment model with first-order absorption after an oral dose:

    d gut / dt = -ka gut                 gut: amount still to be absorbed, mg
    d c / dt = ka gut / V - ke c         c: concentration in the serum, mg/L

Each subject has a dose and eleven sampling times of its own, and a lane is a subject with one of its starts. Where lanes have
different numbers of samples, repeat the last time: equal times are allowed. The parameters are fitted twice: by
Levenberg and Marquardt's method (optimistix), whose Jacobians are tangents that ride in the same launch, and by Adam (optax),
whose gradients are the adjoint's. The best fits are those that SciPy finds with the closed form of the model.

    python examples/02_theophylline.py --starts 10000      # for a GPU; the default takes a minute on two cores
"""

import argparse
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import lineax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import optax
import optimistix
import scipy.optimize

from jax_cubie import SaveAt, Solver

HERE = Path(__file__).parent
PARAMETERS = ("ka (1/h)", "ke (1/h)", "V (L)")
LOWEST, HIGHEST = np.log([0.1, 0.01, 3.0]), np.log([10.0, 1.0, 300.0])  # of the starts
UPDATES = {"Levenberg-Marquardt": 50, "Adam": 400}
# A lane that runs out of steps is NaN: Levenberg and Marquardt's method refuses such an update, Adam is lost in that lane.
SOLVER = Solver("tsit5", rtol=1e-8, atol=1e-8, max_steps=256)


def read_subjects():
    """Subjects' doses [12] in mg, sampling times [12, 11] in hours and concentrations [12, 11] in mg/L."""
    table = np.genfromtxt(HERE / "data" / "theophylline.csv", delimiter=",", names=True)
    rows = [table[table["Subject"] == subject] for subject in np.unique(table["Subject"])]
    longest = max(map(len, rows))
    # Ragged subjects would repeat their last sample, with weight 0. In this table all have eleven.
    assert all(len(subject) == longest for subject in rows)
    doses = np.array([subject["Dose"][0] * subject["Wt"][0] for subject in rows])
    return doses, np.stack([subject["Time"] for subject in rows]), np.stack([subject["conc"] for subject in rows])


def compartments(t, y, parameters):
    ka, ke, volume = parameters
    absorbed = ka * y["gut"]
    return {"gut": -absorbed, "serum": absorbed / volume - ke * y["serum"]}


def concentrations(logs, dose, ts):
    """The concentrations [points] of one subject at `ts`. `logs` [3]: of ka, ke and V, which stay positive."""
    y0 = {"gut": dose, "serum": jnp.zeros_like(dose)}
    return SOLVER.solve(compartments, 0.0, ts[-1], y0, jnp.exp(logs), saveat=SaveAt(ts=ts)).ys["serum"]


def closed_form(logs, dose, ts):
    """Bateman's function: the exact solution."""
    ka, ke, volume = np.exp(logs)
    return dose * ka / (volume * (ka - ke)) * (np.exp(-ke * ts) - np.exp(-ka * ts))


@jax.custom_jvp
def residuals(logs, subject):
    """What is too much [points] in the fit of one subject: its dose, times and concentrations."""
    dose, ts, measured = subject
    return concentrations(logs, dose, ts) - measured


@residuals.defjvp
def tangents_of_residuals(primals, tangents):
    # An update takes several products with the Jacobian, each of which would be a launch. So it is formed first: one launch.
    logs, subject = primals
    jacobian, values = jax.jacfwd(lambda logs: 2 * (residuals.fun(logs, subject),), has_aux=True)(logs)
    return values, jacobian @ tangents[0]


@partial(jax.jit, static_argnames="updates")
def levenberg_marquardt(starts, subjects, updates):
    """Logarithms [12, starts, 3], their sums of squares [12, starts] and updates [12, starts]."""
    method = optimistix.LevenbergMarquardt(rtol=1e-9, atol=1e-9, linear_solver=lineax.Normal(lineax.Cholesky()))

    def fit(start, subject):
        found = optimistix.least_squares(residuals, method, start, subject, max_steps=updates, throw=False)
        return found.value, jnp.sum(residuals(found.value, subject) ** 2), found.stats["num_steps"]

    return jax.vmap(jax.vmap(fit, (0, None)))(starts, subjects)


@partial(jax.jit, static_argnames="updates")
def adam(starts, subjects, updates):
    """Logarithms [12, starts, 3], their sums of squares [12, starts] and those of all updates [updates, 12, starts]."""
    method = optax.adam(optax.cosine_decay_schedule(0.1, updates))

    def sums_of_squares(logs):
        sums = jnp.sum(jax.vmap(jax.vmap(residuals.fun, (0, None)))(logs, subjects) ** 2, -1)
        return jnp.sum(sums), sums  # no lane's gradient knows of another lane

    def update(carry, _):
        logs, state = carry
        slope, sums = jax.grad(sums_of_squares, has_aux=True)(logs)
        change, state = method.update(slope, state)
        return (optax.apply_updates(logs, change), state), sums

    (logs, _), history = jax.lax.scan(update, (starts, method.init(starts)), length=updates)
    return logs, sums_of_squares(logs)[1], history


def timed(name, fit, starts, subjects):
    compiled = fit.lower(starts, subjects, UPDATES[name]).compile()
    started = time.perf_counter()
    result = jax.block_until_ready(compiled(starts, subjects))
    seconds = time.perf_counter() - started
    print(f"{UPDATES[name]} {name} updates of {len(starts)} subjects x {starts.shape[1]:,} starts: {seconds:.2f} s")
    return jax.tree.map(np.asarray, result)


def absorbed_first(logs):
    """ka and ke may change places if V does so, too, and no measurement can tell: here ka is the larger."""
    ka, ke, volume = np.moveaxis(logs, -1, 0)
    swapped = np.stack([ke, ka, volume + ke - ka], -1)
    return np.where((ka < ke)[..., None], swapped, logs)


def best_of(logs, sums):
    """The best fit of each subject [12, 3], and the share of starts that came as far.

    The solves' errors tell nothing among the best starts, so it is the median of them: Adam may have left one of them early.
    """
    excess = sums / np.nanmin(sums, 1, keepdims=True) - 1
    best = np.where((excess < 1e-7)[..., None], absorbed_first(logs), np.nan)
    return np.nanmedian(best, 1), np.mean(excess < 1e-4)


def scipy_fit(doses, times, measured):
    """The logarithms [12, 3] that SciPy finds with the closed form."""
    start = np.log([1.5, 0.08, 35.0])
    tight = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12}

    def fit(dose, ts, values):
        return scipy.optimize.least_squares(lambda logs: closed_form(logs, dose, ts) - values, start, **tight).x

    return absorbed_first(np.stack(list(map(fit, doses, times, measured))))


def draw(doses, times, measured, logs, starts, ends, sums, history, path):
    """Twelve fitted curves; where the first subject's starts went; how Adam's sums of squares fall."""
    fine = jnp.tile(jnp.linspace(0.0, 25.0, 300), (len(doses), 1))
    curves = jax.jit(jax.vmap(concentrations))(jnp.asarray(logs), jnp.asarray(doses), fine)
    figure = plt.figure(figsize=(14, 7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2.6, 1])
    axes = left.subplots(3, 4, sharex=True, sharey=True)
    for number, axis in enumerate(axes.flat):
        ka, ke, volume = np.exp(logs[number])
        axis.fill_between(fine[number], curves[number], color="tab:blue", alpha=0.12, linewidth=0)
        axis.plot(fine[number], curves[number], color="tab:blue")
        axis.plot(times[number], measured[number], "o", color="0.15", markersize=3.5)
        axis.set_title(f"subject {number + 1}, {doses[number]:.0f} mg", fontsize=10)
        text = f"ka {ka:.2f} / h\nke {ke:.3f} / h\nV {volume:.1f} L"
        axis.text(0.96, 0.95, text, transform=axis.transAxes, ha="right", va="top", fontsize=8, color="0.3")
        axis.spines[["top", "right"]].set_visible(False)
    left.supxlabel("hours after the dose")
    left.supylabel("theophylline in serum (mg/L)")

    basins, fall = right.subplots(2, 1)
    found = sums[0] < np.nanmin(sums[0]) * (1 + 1e-4)
    faster = ends[0, :, 0] > ends[0, :, 1]
    groups = {"ka > ke": found & faster, "ka < ke, same curves": found & ~faster, "elsewhere": ~found}
    for (name, group), color in zip(groups.items(), ("tab:blue", "tab:orange", "0.7"), strict=True):
        if group.any():
            basins.loglog(*np.exp(starts[0, group, :2]).T, ".", color=color, markersize=3, label=f"{name}: {group.sum():,}")
    basins.set(xlabel="ka at the start (1/h)", ylabel="ke at the start (1/h)", title="subject 1: where starts end")
    basins.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, columnspacing=0.8, markerscale=3)
    excess = history / np.nanmin(history, (0, 2))[:, None] - 1
    quarters = np.nanquantile(excess.reshape(len(history), -1), [0.25, 0.5, 0.75], axis=1)
    fall.fill_between(np.arange(len(history)), quarters[0], quarters[2], color="tab:blue", alpha=0.2, linewidth=0)
    fall.semilogy(quarters[1], color="tab:blue")
    fall.set(ylim=(1e-6, None), xlabel="updates", ylabel="excess sum of squares", title="Adam: median and quarters of lanes")
    for axis in (basins, fall):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(count):
    jax.config.update("jax_enable_x64", True)
    subjects = doses, times, measured = read_subjects()
    expected = scipy_fit(doses, times, measured)
    shape = (len(doses), count, len(PARAMETERS))
    starts = jax.random.uniform(jax.random.key(0), shape, minval=LOWEST, maxval=HIGHEST)

    on_device = jax.tree.map(jnp.asarray, subjects)
    ends, sums, _ = timed("Levenberg-Marquardt", levenberg_marquardt, starts, on_device)
    *by_adam, history = timed("Adam", adam, starts, on_device)
    for name, (logs, values) in {"Levenberg-Marquardt": (ends, sums), "Adam": by_adam}.items():
        best, share = best_of(logs, values)
        away = np.abs(np.exp(best - expected) - 1).max()
        print(f"{name}: {share:.0%} of the starts reach their subject's best fit, at most {away:.0e} from SciPy's")
        assert away < 5e-5, "the fits differ from SciPy's in the first four digits"

    best, _ = best_of(ends, sums)
    print("subject  " + "  ".join(f"{name:>9s}" for name in PARAMETERS) + "   SciPy, closed form")
    for number, both in enumerate(zip(np.exp(best), np.exp(expected), strict=True), start=1):
        ours, theirs = ("  ".join(f"{value:9.4g}" for value in values) for values in both)
        print(f"{number:7d}  {ours}   {theirs}")

    path = HERE / "theophylline.png"
    draw(doses, times, measured, best, np.asarray(starts), ends, sums, history, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fits a pharmacokinetic model from many random starts at once.")
    parser.add_argument("--starts", type=int, default=500, help="random starts of each subject (default: 500)")
    main(parser.parse_args().starts)
