"""An epidemic under contacts that were counted: fourteen surveys of Hungary in 2020 and 2021, and what they do not explain.

Month by month a representative sample of Hungarians was asked by telephone how many people they met in a day outside of their
homes; the first number is of the days before the epidemic (data/SOURCES.md). Here the rate of infection is proportional to
these contacts: a driver, straight lines from survey to survey, since nothing is known in between; steps end on its corners. To
it comes what is passed on at home, which stays as it was, in a model of the susceptible, the exposed and the infectious.

What nobody knows differs from lane to lane: how many one person infected before the epidemic, what share of them at home, for
how long one is exposed and infectious, how many were infected when the first cases were confirmed (4 March 2020), and on which
day, between the state of emergency (11 March) and the order to stay at home (28 March), contacts began to fall. No survey tells
that, so the times of the driver, too, are a lane's own. Two published numbers say which lanes may be true: of 10,474 people, a
representative sample again, tested from 1 to 16 May, 69 had antibodies and 3 were infected (Merkely et al., GeroScience 42,
2020). They are taken here for a simple random sample, of the recovered and of the exposed and infectious.

Fewer contacts were counted in each survey from September 2020 to April 2021 than in May. So in this model each reproduction
number is smaller in November than in May, and a second wave, if there is one, comes in summer. In truth it came that autumn,
and a third one in spring. What is left out here is what made them: the season, the variant Alpha, whom of which age one meets,
how near and for how long, infections from abroad and in nursing homes. Masks are left out, too, and vaccines, given from the
end of 2020 on, with which even fewer would have been infected. The example says how much more infectious contacts must have
become at the least, and which survey's error counts most: by derivatives with respect to the measured values, in reverse
through the driver, checked against differences of solutions.

    python examples/16_measured_contacts.py --lanes 200000      # more that agree with May; the default takes seconds on 2 cores
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
import scipy.special

from jax_cubie import RESULTS, Driver, SaveAt, Solver, Summary

jax.config.update("jax_enable_x64", True)  # derivatives are compared with differences

SURVEYS = np.genfromtxt(
    Path(__file__).parent / "data" / "contacts_hungary.csv", delimiter=",", names=True, dtype=("M8[D]", "M8[D]", float)
)
CONTACTS = SURVEYS["contacts"]
# Days are counted from the middle of the first survey on; the middles of all.
BEGIN = np.datetime64("2020-03-04")
MIDDLES = ((SURVEYS["first"] - BEGIN) + (SURVEYS["last"] - BEGIN)).astype(float) / 2
MAY, NOVEMBER, END = 65.5, MIDDLES[7], MIDDLES[-1]  # the middle of the tests; contacts were fewest of 2020; the last survey
WEEKS = np.arange(MAY % 7, END, 7)
TESTED, ANTIBODIES, INFECTED = 10_474, 69, 3  # people in May
FALLING = 5.0  # days that it takes contacts to fall in March
# What nobody knows, from the least to the most that is drawn.
UNKNOWN = {
    "r0": (2.0, 4.0),  # people whom one infects before the epidemic
    "home": (0.05, 0.35),  # of them, the share at home
    "latent": (2.0, 5.0),  # days
    "infectious": (2.0, 8.0),  # days
    "fall": (7.0, 24.0),  # the day on which contacts begin to fall
    "start": (np.log(1e-6), np.log(1e-4)),  # the logarithm of the share of the infected on day 0
}
SOLVER = Solver("tsit5", rtol=1e-6, atol=1e-10)  # a thousandth of a person in a country of 10 million


def reproduction(t, y, lane, contacts):
    """How many people one infects if contacts and the share of the susceptible stay as they are."""
    return lane["r0"] * (lane["home"] + (1 - lane["home"]) * contacts / lane["before"]) * y[0]


def epidemic(t, y, lane, contacts):
    """Shares of the susceptible, the exposed and the infectious."""
    _, exposed, infectious = y
    infections = reproduction(t, y, lane, contacts) / lane["infectious"] * infectious
    falling_ill = exposed / lane["latent"]
    return jnp.stack([-infections, infections - falling_ill, falling_ill - infectious / lane["infectious"]])


SUMMARIES = {
    "peak": Summary.max(of=lambda t, y, lane, contacts: y[2]),
    "when": Summary.time_of_max(of=lambda t, y, lane, contacts: y[2]),
    "below 1": Summary.first_crossing(1.0, of=reproduction, direction=-1),
}


def points(fall, contacts):
    """The driver's times and values: in March contacts are as before up to the fall, and behind it as in April's survey."""
    times = jnp.concatenate([jnp.stack([0.0, fall, fall + FALLING]), MIDDLES[1:]])
    return times, jnp.concatenate([contacts[:1], contacts[:2], contacts[1:]])


def solve(lane, contacts, saveat, **kept):
    """The solution of a lane. contacts: [surveys], as measured."""
    share, days = jnp.exp(lane["start"]), lane["latent"] + lane["infectious"]
    y0 = jnp.stack([1 - share, share * lane["latent"] / days, share * lane["infectious"] / days])
    times, values = points(lane["fall"], contacts)
    # Steps that end on the corners are more accurate than those that find out by their error, and fewer.
    kept |= dict(drivers=Driver(times, values), step_ts=times[1:-1], saveat=saveat)
    return SOLVER.solve(epidemic, 0.0, END, y0, lane | {"before": contacts[0]}, **kept)


@jax.jit
@jax.vmap
def weekly(lane):
    """Solutions from week to week, with reproduction numbers and summaries."""
    return solve(lane, CONTACTS, SaveAt(ts=WEEKS), observables=reproduction, summaries=SUMMARIES)


def ever_infected(lane, contacts):
    """The logarithm of the share of people who have been infected at the last survey."""
    return jnp.log(1 - solve(lane, contacts, SaveAt(t1=True)).ys[0, 0])


@jax.jit
def sensitivities(lanes):
    """How many % more people are ever infected where a survey counts 1 % more contacts, [lanes, surveys], and where contacts
    fall a day later, [lanes]."""
    by_lane, by_contacts = jax.vmap(jax.grad(ever_infected, (0, 1)), (0, None))(lanes, CONTACTS)
    return by_contacts * CONTACTS, 100 * by_lane["fall"]


@jax.jit
def differences(lane):
    """The first of them for one lane, [surveys], from solutions for 1 % more and 1 % less."""
    shifts = 0.01 * np.diag(CONTACTS)
    more, less = (jax.vmap(ever_infected, (None, 0))(lane, CONTACTS + shift) for shift in (shifts, -shifts))
    return (more - less) / 0.02


def agreement(y):
    """Whether as many as were found, or fewer, and as many, or more, are both no rarer than one time in 40, by Poisson's law.
    y: [lanes, 3], in May."""
    agree = np.ones(len(y), bool)
    for found, share in ((ANTIBODIES, 1 - y.sum(1)), (INFECTED, y[:, 1] + y[:, 2])):
        expected = TESTED * share
        agree &= (scipy.special.pdtr(found, expected) > 1 / 40) & (scipy.special.pdtrc(found - 1, expected) > 1 / 40)
    return agree


def date(days):
    return BEGIN + np.round(np.asarray(days)).astype("m8[D]")


def spread(values):
    """Below which 5, 50 and 95 % of the lanes are. values: [lanes, ...]."""
    return np.quantile(values, [0.05, 0.5, 0.95], axis=0)


def draw(lanes, found, agree, by_survey, path):
    figure, ((counted, numbers), (people, bars)) = plt.subplots(2, 2, figsize=(14, 8), layout="constrained")
    for fall in spread(lanes["fall"][agree]):
        times, values = points(fall, CONTACTS)
        counted.plot(date(times), values, color="C0", linewidth=0.8)
    counted.plot(date(MIDDLES), CONTACTS, "o", color="k", markersize=4)
    counted.set(yscale="log", ylabel="contacts a day, outside of home", title="the surveys, and the driver of three lanes")
    counted.set_yticks([3, 5, 10, 20, 30], labels=["3", "5", "10", "20", "30"])
    counted.minorticks_off()

    low, middle, high = spread(found.observables[agree])
    numbers.fill_between(date(WEEKS), low, high, color="C0", alpha=0.3, linewidth=0)
    numbers.plot(date(WEEKS), middle, color="C0")
    numbers.axhline(1.0, color="k", linewidth=0.6)
    numbers.set(ylim=(0, None), title="reproduction number if May's tests agree: median, 5 to 95 %")

    infected = 1e6 * (found.ys[:, :, 1] + found.ys[:, :, 2])
    for group, color, label in ((~agree, "0.75", "any lanes"), (agree, "C0", "lanes that agree with May's tests")):
        people.plot(date(WEEKS), infected[group][:100].T, color=color, linewidth=0.5)
        people.plot([], [], color=color, label=label)
    tests = f"found in May: {INFECTED} of {TESTED:,}"
    people.plot(date([MAY]), [1e6 * INFECTED / TESTED], "o", color="C3", label=tests, zorder=3)
    people.set(yscale="log", ylim=(0.1, 1e6), ylabel="exposed and infectious of a million")
    people.legend(fontsize=8, loc="upper right")

    low, middle, high = spread(by_survey)
    bars.bar(range(len(middle)), middle, yerr=[middle - low, high - middle], color="C0", error_kw={"linewidth": 0.8})
    bars.axhline(0.0, color="k", linewidth=0.6)
    bars.set_xticks(range(len(middle)), [str(day)[:7] for day in date(MIDDLES)], rotation=60, fontsize=8)
    bars.set_title("% more people ever infected by 1 % more contacts in a survey")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanes", type=int, default=20_000, help="draws of what nobody knows (default: 20,000)")
    count, random = parser.parse_args().lanes, np.random.default_rng(0)
    lanes = {name: random.uniform(*ends, count) for name, ends in UNKNOWN.items()}

    jax.block_until_ready(weekly(lanes))
    started = time.perf_counter()
    found = jax.block_until_ready(weekly(lanes))
    seconds, device = time.perf_counter() - started, jax.devices()[0]
    assert bool((found.result == RESULTS.successful).all())
    found, steps = jax.tree.map(np.asarray, found), np.asarray(found.stats["num_steps"])
    print(f"{count:,} epidemics of {END:.0f} days on {device.device_kind} ({device.platform}): {seconds:.2f} s")
    print(f"{steps.min()} to {steps.max()} steps a lane")

    may, november = np.searchsorted(WEEKS, [MAY, NOVEMBER])
    agree = agreement(found.ys[:, may])
    some = {name: values[agree] for name, values in lanes.items()}
    begins, when, peak = (found.summaries[name][agree] for name in ("below 1", "when", "peak"))
    numbers = found.observables[agree]
    print(f"{agree.sum()} agree with what was found in May; in 90 % of these")
    low, middle, high = date(spread(begins))
    print(f"- the reproduction number fell below 1 between {low} and {high} (median {middle})")
    low, middle, high = date(spread(when))
    print(f"- the peak was between {low} and {high} (median {middle})")
    low, middle, high = 100 * spread(peak)
    print(f"- {low:.2f} to {high:.2f} % of all people were infectious then (median {middle:.2f} %)")
    for week in (may, november):
        low, middle, high = spread(numbers[:, week])
        print(f"- the reproduction number was {low:.2f} to {high:.2f} on {date(WEEKS[week])} (median {middle:.2f})")
    # Between the saved weeks, the summary has found when it fell below 1.
    each, after = np.arange(len(numbers)), np.searchsorted(WEEKS, begins)
    assert (numbers[each, after - 1] > 1).all() and (numbers[each, after] < 1).all()
    assert (numbers[:, november] < np.minimum(numbers[:, may], 1.0)).all()
    low, middle, high = spread(1 / numbers[:, november])
    print(f"- it would have been 1 then, had contacts been {low:.1f} to {high:.1f} times as infectious (median {middle:.1f})")

    by_survey, by_fall = map(np.asarray, sensitivities(some))
    low, middle, high = spread(by_survey)
    print("1 % more contacts in one survey change how many are ever infected by")
    most = np.argsort(-np.abs(middle))[:4]
    for survey in most:
        ends = f"{low[survey]:+.1f} to {high[survey]:+.1f} %"
        print(f"- {ends}: that of {date(MIDDLES[survey])} (median {middle[survey]:+.1f} %)")
    # Only their ratios to the first one count: more of them all changes nothing.
    assert most[0] == 0 and np.abs(by_survey.sum(1)).max() < 1e-6
    low, middle, high = spread(by_fall)
    print(f"and contacts that begin to fall a day later by {low:+.0f} to {high:+.0f} % (median {middle:+.0f} %)")
    away = np.abs(differences({name: values[0] for name, values in some.items()}) - by_survey[0]).max()
    print(f"for one lane, differences of solutions say the same within {away:.0e} %")
    assert away < 1e-3 * np.abs(by_survey[0]).max()

    path = Path(__file__).with_suffix(".png")
    draw(lanes, found, agree, by_survey, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
