"""Fitting the times of events: what a ball loses at the floor and in the air, found by listening to it.

Whoever records a bouncing ball knows when it hits the floor, and nothing else. The times of the first ten impacts after a fall
from 1 m are what is measured here (simulated: the closed form with noise of 1 ms); wanted are the restitution and the drag of

    x'' = -9.81 - c v |v|,   v -> -r v at x = 0.

The model answers with `solution.events["floor"].times`, and these have derivatives by r and c: an impact moves by the implicit
function theorem, and what comes after it by the jump of the state. optimistix fits a thousand recordings by
Levenberg-Marquardt's method, each a lane. Between impacts the motion has a closed form, in whose hands SciPy's fit of the first
recordings comes to the same numbers; and the fits scatter as linear theory says they must, by the inverse of J^T J.
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
import optimistix
import scipy.optimize

from jax_cubie import Event, Solver

jax.config.update("jax_enable_x64", True)

GRAVITY, HEIGHT, IMPACTS = 9.81, 1.0, 10
TRUTH, NOISE = np.array([0.85, 0.05]), 1e-3  # restitution; drag, 1/m; s
SOLVER = Solver("dop853", rtol=1e-10, atol=1e-10)


def flight(t, y, model):
    x, v = y
    return jnp.stack([v, -GRAVITY - model[1] * v * jnp.abs(v)])


FLOOR = Event(
    lambda t, y, model: y[0],
    direction=-1,
    affect=lambda t, y, model: jnp.stack([0.0 * y[0], -model[0] * y[1]]),
    record=IMPACTS,
    terminal=IMPACTS,
)


def times_of_impacts(model):
    """[IMPACTS], s. model: restitution and drag."""
    start = jnp.array([HEIGHT, 0.0])
    return SOLVER.solve(flight, 0.0, 60.0, start, model, events={"floor": FLOOR}).events["floor"].times


def residuals(model, measured):
    return (times_of_impacts(model) - measured) / NOISE


@jax.jit
@jax.vmap
def fit(measured):
    """The model, the sum of squares that is left, and whether that was all."""
    method = optimistix.LevenbergMarquardt(rtol=1e-3, atol=1e-3)
    found = optimistix.least_squares(residuals, method, jnp.array([0.8, 0.01]), measured, max_steps=50, throw=False)
    return found.value, jnp.sum(residuals(found.value, measured) ** 2), found.result == optimistix.RESULTS.successful


def closed_form(model):
    """The same times: down from a height, v = sqrt(g / c) tanh(sqrt(g c) t); up with a speed, v = sqrt(g / c) tan(...)."""
    restitution, drag = model
    rate, scale = np.sqrt(GRAVITY * drag), np.sqrt(drag / GRAVITY)
    height, now, times = HEIGHT, 0.0, []
    for _ in range(IMPACTS):
        now += np.arccosh(np.exp(drag * height)) / rate
        times.append(now)
        speed = restitution * np.sqrt(-np.expm1(-2 * drag * height)) / scale
        now += np.arctan(speed * scale) / rate
        height = np.log1p((speed * scale) ** 2) / (2 * drag)
    return np.array(times)


def draw(models, covariance, measured, path):
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    left.plot(*models.T, ".", color="C0", markersize=3, alpha=0.5, label=f"{len(models):,} fits")
    angles = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    for share, style in ((0.5, "--"), (0.95, "-")):
        ellipse = TRUTH[:, None] + np.linalg.cholesky(covariance) @ circle * np.sqrt(-2 * np.log(1 - share))
        left.plot(*ellipse, style, color="k", linewidth=1, label=f"{share:.0%} by linear theory")
    left.plot(*TRUTH, "+", color="C3", markersize=10, label="truth")
    left.set(xlabel="restitution", ylabel="drag, 1/m")
    left.legend(frameon=False, fontsize=8)
    numbers = np.arange(IMPACTS) + 1
    apart = [1e3 * (one - closed_form(model)) for one, model in zip(measured[:20], models[:20], strict=True)]
    right.plot(numbers, np.transpose(apart), ".-", color="0.6", linewidth=0.5)
    right.plot([], ".-", color="0.6", label="20 recordings")
    without = scipy.optimize.least_squares(lambda r: closed_form([r[0], 1e-9]) - measured[0], [0.8]).fun
    right.plot(numbers, -1e3 * without, "o-", color="C3", label="the first, fitted without drag")
    right.set(xlabel="impact", ylabel="measured less fitted, ms", xticks=numbers)
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--recordings", type=int, default=1000)
    count = parser.parse_args().recordings

    exact, found = closed_form(TRUTH), np.asarray(times_of_impacts(TRUTH))
    print(f"{IMPACTS} times of impacts are within {np.abs(found - exact).max():.0e} s of the closed form")
    slopes = np.asarray(jax.jacfwd(times_of_impacts)(TRUTH))
    step = 1e-5
    known = np.stack([closed_form(TRUTH + one) - closed_form(TRUTH - one) for one in step * np.eye(2)], axis=1) / (2 * step)
    away = np.abs(slopes - known).max() / np.abs(known).max()
    print(f"their derivatives by restitution and drag are within {away:.0e} of differences of that")
    assert np.abs(found - exact).max() < 1e-7 and away < 1e-5

    measured = exact + NOISE * np.random.default_rng(0).normal(size=(count, IMPACTS))
    jax.block_until_ready(fit(measured))
    started = time.perf_counter()
    models, misfits, converged = map(np.asarray, jax.block_until_ready(fit(measured)))
    seconds, device = time.perf_counter() - started, jax.devices()[0]
    print(f"{count:,} recordings fitted on {device.device_kind} ({device.platform}): {seconds:.2f} s")
    assert converged.all()

    def peer(one):
        return scipy.optimize.least_squares(lambda model: (closed_form(model) - one) / NOISE, [0.8, 0.01], xtol=1e-12).x

    apart = np.abs(models[:5] - [peer(one) for one in measured[:5]]).max()
    print(f"SciPy's fits of the closed form to the first 5 are at most {apart:.0e} away")
    assert apart < 1e-5

    covariance = NOISE**2 * np.linalg.inv(slopes.T @ slopes)
    spread, expected = models.std(0), np.sqrt(np.diag(covariance))
    for name, truth, mean, one, other in zip(("restitution", "drag"), TRUTH, models.mean(0), spread, expected, strict=True):
        print(f"{name}: {mean:.4f} +- {one:.4f}; the truth is {truth:g}, and linear theory has +- {other:.4f}")
    print(f"sums of squares are {misfits.mean():.2f} on average; {IMPACTS - 2} are to be expected")
    assert np.allclose(spread, expected, rtol=4 / np.sqrt(2 * count)) and abs(misfits.mean() - 8) < 4 * np.sqrt(16 / count)

    path = Path(__file__).with_suffix(".png")
    draw(models, covariance, measured, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
