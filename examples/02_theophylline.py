"""Theophylline in twelve people: a pharmacokinetic model solved and fitted, all subjects and all perturbations in one launch.

One-compartment model with first-order absorption after an oral dose:

    d gut / dt = -ka gut                 gut: amount still to be absorbed, mg
    d c / dt = ka gut / V - ke c         c: concentration in the serum, mg/L

Each subject is a lane with a dose and eleven sampling times of its own. Where lanes have different numbers of samples,
repeat the last time: equal times are allowed. The solutions are compared with the closed form, then ka, ke and V are fitted
to each subject's measurements by Levenberg and Marquardt's method, whose finite differences are lanes, too: 12 subjects times
(1 + 3) parameter sets are one launch of 48.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from jax_cubie import SaveAt, Solver, check_successful

HERE = Path(__file__).parent
PARAMETERS = ("ka (1/h)", "ke (1/h)", "V (L)")
START = (1.5, 0.08, 35.0)
NUDGE = 1e-4  # of the logarithms of the parameters; the solves are good to 1e-10
SOLVER = Solver("tsit5", rtol=1e-10, atol=1e-10)


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
    """The concentrations [points] of one subject at `ts`, and its solution. `logs`: of ka, ke and V, which stay positive."""
    y0 = {"gut": dose, "serum": jnp.zeros_like(dose)}
    solution = SOLVER.solve(compartments, 0.0, ts[-1], y0, jnp.exp(logs), saveat=SaveAt(ts=ts))
    return solution.ys["serum"], solution


def closed_form(logs, dose, ts):
    """Bateman's function: the exact solution."""
    ka, ke, volume = jnp.exp(logs)
    return dose * ka / (volume * (ka - ke)) * (jnp.exp(-ke * ts) - jnp.exp(-ka * ts))


subjects_at_once = jax.jit(jax.vmap(concentrations))


@jax.jit
def residuals_and_jacobians(logs, doses, times, measured):
    """Residuals [12, 11], their derivatives by the parameters [12, 11, 3], all in one launch of 12 x 4 lanes."""
    nudges = jnp.concatenate([jnp.zeros((1, 3)), NUDGE * jnp.eye(3)])
    perturbed = jax.vmap(jax.vmap(concentrations, (0, None, None)))  # over subjects, over sets of parameters
    values, solution = perturbed(logs[:, None] + nudges, doses, times)
    jacobians = jnp.moveaxis((values[:, 1:] - values[:, :1]) / NUDGE, 1, -1)
    return values[:, 0] - measured, jacobians, solution


def fit(doses, times, measured, iterations=30):
    """Levenberg and Marquardt's method for each subject: the logarithms of its parameters [12, 3]."""
    logs = jnp.log(jnp.tile(jnp.array(START), (len(doses), 1)))
    damping = jnp.full(len(doses), 1e-2)
    residuals, jacobians, solution = residuals_and_jacobians(logs, doses, times, measured)
    iteration = 0
    while iteration < iterations:
        iteration += 1
        check_successful(solution)
        normal = jnp.einsum("spi,spj->sij", jacobians, jacobians)
        slope = jnp.einsum("spi,sp->si", jacobians, residuals)
        scale = jnp.eye(3) * jnp.diagonal(normal, axis1=1, axis2=2)[:, None]
        change = -jnp.linalg.solve(normal + damping[:, None, None] * scale, slope[..., None])[..., 0]
        trial = residuals_and_jacobians(logs + change, doses, times, measured)
        better = jnp.sum(trial[0] ** 2, 1) < jnp.sum(residuals**2, 1)
        logs = jnp.where(better[:, None], logs + change, logs)
        residuals = jnp.where(better[:, None], trial[0], residuals)
        jacobians, solution = jnp.where(better[:, None, None], trial[1], jacobians), trial[2]
        damping = jnp.where(better, damping / 5, damping * 5)
        if jnp.abs(change).max() < 1e-4:  # relative, since the parameters are logarithms
            break
    return logs, iteration


def root_mean_square(values):
    return float(jnp.sqrt(jnp.mean(jnp.square(values))))


def draw(doses, times, measured, logs, path):
    """Twelve panels: what was measured, and the fitted curve."""
    fine = jnp.tile(jnp.linspace(0.0, 25.0, 300), (len(doses), 1))
    curves, _ = subjects_at_once(logs, doses, fine)
    figure, axes = plt.subplots(3, 4, figsize=(11, 7), sharex=True, sharey=True, layout="constrained")
    for number, axis in enumerate(axes.flat):
        ka, ke, volume = np.exp(logs[number])
        axis.fill_between(fine[number], curves[number], color="tab:blue", alpha=0.12, linewidth=0)
        axis.plot(fine[number], curves[number], color="tab:blue")
        axis.plot(times[number], measured[number], "o", color="0.15", markersize=3.5)
        axis.set_title(f"subject {number + 1}, {doses[number]:.0f} mg", fontsize=10)
        text = f"ka {ka:.2f} / h\nke {ke:.3f} / h\nV {volume:.1f} L"
        axis.text(0.96, 0.95, text, transform=axis.transAxes, ha="right", va="top", fontsize=8, color="0.3")
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("hours after the dose")
    figure.supylabel("theophylline in serum (mg/L)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    jax.config.update("jax_enable_x64", True)
    doses, times, measured = map(jnp.asarray, read_subjects())

    logs = jnp.log(jnp.tile(jnp.array(START), (len(doses), 1)))
    solved, solution = subjects_at_once(logs, doses, times)
    check_successful(solution)
    difference = float(jnp.abs(solved - jax.vmap(closed_form)(logs, doses, times)).max())
    print(f"{len(doses)} subjects, one launch; from the closed form they are at most {difference:.1e} mg/L away")
    assert difference < 1e-5

    before = root_mean_square(solved - measured)
    logs, iterations = fit(doses, times, measured)
    solved, _ = subjects_at_once(logs, doses, times)
    after = root_mean_square(solved - measured)
    print(f"{iterations} iterations: the root mean square residual falls from {before:.2f} to {after:.3f} mg/L")
    assert after < 0.8
    print("subject  " + "  ".join(f"{name:>9s}" for name in PARAMETERS))
    for number, values in enumerate(np.exp(logs), start=1):
        print(f"{number:7d}  " + "  ".join(f"{value:9.3f}" for value in values))

    path = HERE / "theophylline.png"
    draw(doses, times, measured, logs, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
