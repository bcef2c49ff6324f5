"""Measles in a city whose children go to school: an epidemic under a contact rate that jumps with each holiday.

Children infect one another at school. So the contact rate of measles is a step function of the calendar, known to the day:
terms of England and Wales as Keeling and Rohani tabulate them (Modeling Infectious Diseases in Humans and Animals, 2008,
chapter 5), with their rates for measles in a population without vaccination. By how much contacts drop in holidays is what
nobody measures: here are 1,000 cities that differ in that. The driver is one table for all of them; steps end on the first and
the last day of each holiday, 600 times in a lane, and no error estimate has to stumble on them.

For a small drop the epidemic comes back each year, for a larger one every other year, as it did in London. What would change if
holidays began or ended on another day? The derivative by the days themselves says so, and a difference of two solutions agrees.
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

from jax_cubie import RESULTS, Driver, SaveAt, Solver

jax.config.update("jax_enable_x64", True)  # between epidemics one in a million is infected

YEAR = 365.0
# Days of the year on which school ends and begins: Christmas is at both ends.
DAYS = np.array([0.0, 6, 100, 115, 200, 251, 300, 307, 356, YEAR])
AT_SCHOOL = np.array([0.0, 1, 0, 1, 0, 1, 0, 1, 0, 0])
CALENDAR = Driver(DAYS, AT_SCHOOL, kind="previous", outside="periodic")
SHARE = np.diff(DAYS) @ AT_SCHOOL[:-1] / YEAR

R0, LATENT, INFECTIOUS, LIFE = 17.0, 8.0, 5.0, 50 * YEAR  # days
BEGIN = np.array([0.06, np.log(1e-4), np.log(1e-4)])
# Years of which nothing is kept, and years that are looked at.
BEFORE, SEEN = 60, 8
SOLVER = Solver("tsit5", rtol=1e-7, atol=1e-9)


def epidemic(t, y, drop, school):
    """Shares of the susceptible, and logarithms of those of the exposed and the infectious. drop: of contacts in holidays, the
    rate's mean over the year being what it is."""
    susceptible, exposed, infectious = y
    rate = R0 / INFECTIOUS * (1 - drop * (1 - school)) / (1 - drop * (1 - SHARE))
    infections = rate * susceptible * jnp.exp(infectious)
    return jnp.stack(
        [
            (1 - susceptible) / LIFE - infections,
            infections * jnp.exp(-exposed) - 1 / LATENT - 1 / LIFE,
            jnp.exp(exposed - infectious) / LATENT - 1 / INFECTIOUS - 1 / LIFE,
        ]
    )


@jax.jit
@jax.vmap
def infectious(drop):
    """The share of the infectious, from week to week of the last years."""
    saveat = SaveAt(ts=YEAR * (BEFORE + np.arange(52 * SEEN + 1) / 52), fn=lambda t, y, drop, school: jnp.exp(y[2]))
    return SOLVER.solve(epidemic, 0.0, YEAR * (BEFORE + SEEN), BEGIN, drop, drivers=CALENDAR, saveat=saveat)


@jax.jit
def after_two_years(days, drop):
    """The logarithm of the share of the infectious, of a city that measles comes to at New Year. days: [points], those of both
    years."""
    ts = jnp.concatenate([days[:-1], days + YEAR])
    calendar = Driver(ts, np.append(np.tile(AT_SCHOOL[:-1], 2), 0.0), kind="previous")
    saveat = SaveAt(t1=True, fn=lambda t, y, drop, school: y[2])
    return SOLVER.solve(epidemic, 0.0, 2 * YEAR, BEGIN, drop, drivers=calendar, saveat=saveat).ys[0]


def draw(drops, weeks, path):
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained")
    years = np.arange(weeks.shape[1]) / 52
    for drop in (0.05, 0.4):
        lane = np.argmin(np.abs(drops - drop))
        left.plot(years, 1e6 * weeks[lane], label=f"{100 * drops[lane]:.0f} % fewer contacts in holidays", linewidth=1)
    for year in range(SEEN):
        for first, last in zip(DAYS[:-1:2], DAYS[1::2], strict=True):
            left.axvspan(year + first / YEAR, year + last / YEAR, color="0.9", linewidth=0)
    left.set(xlabel="years", ylabel="infectious of a million", yscale="log", xlim=(0, SEEN), title="holidays are grey")
    left.legend(fontsize=8, loc="upper center", ncols=2)
    left.margins(y=0.2)
    for year in range(SEEN):
        right.plot(100 * drops, 1e6 * weeks[:, 52 * year], ".", color="k", markersize=1)
    right.set(xlabel="% fewer contacts in holidays", ylabel="infectious of a million, at New Year", yscale="log")
    right.set_title(f"{SEEN} years on end: one dot, each year is like the last")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanes", type=int, default=1000)
    drops = np.linspace(0.0, 0.5, parser.parse_args().lanes)

    jax.block_until_ready(infectious(drops))
    started = time.perf_counter()
    solution = jax.block_until_ready(infectious(drops))
    seconds = time.perf_counter() - started
    assert bool((solution.result == RESULTS.successful).all())
    weeks, steps, device = np.asarray(solution.ys), solution.stats["num_steps"], jax.devices()[0]
    print(f"{len(drops):,} cities for {BEFORE + SEEN} years on {device.device_kind} ({device.platform}): {seconds:.2f} s")
    print(f"{steps.min()} to {steps.max()} steps a lane, {solution.stats['num_rejected_steps'].max()} rejected at most")

    newyear = np.log(weeks[:, ::52])
    annual = np.abs(np.diff(newyear, axis=1)).max(1) < 0.05
    biennial = ~annual & (np.abs(newyear[:, 2:] - newyear[:, :-2]).max(1) < 0.05)
    neither = len(drops) - annual.sum() - biennial.sum()
    print(f"every year the same: {annual.sum()} cities; every other year: {biennial.sum()}; neither: {neither}")
    print(f"the last with one epidemic a year has {100 * drops[annual].max():.0f} % fewer contacts in holidays")
    assert annual[0] and biennial.sum() > len(drops) / 10

    slopes = np.asarray(jax.jit(jax.grad(after_two_years))(DAYS, 0.4))
    place = 4  # the first day of the summer holidays
    shift = 0.05 * np.eye(len(DAYS))[place]
    difference = (after_two_years(DAYS + shift, 0.4) - after_two_years(DAYS - shift, 0.4)) / 0.1
    print(f"summer holidays that begin a day later: {100 * slopes[place]:+.3f} % infectious after two years")
    print(f"the same by a difference of two solutions: {100 * difference:+.3f} %")
    assert abs(slopes[place] - difference) < 1e-3 * abs(difference)

    path = Path(__file__).with_suffix(".png")
    draw(drops, weeks, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
