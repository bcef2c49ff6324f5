"""Theophylline under simulated schedules: tablets, drops, and a dose that each patient's own kinetics ask for.

The twelve people of `theophylline.csv` took one oral dose each; their absorption, elimination and volume are fitted here, with
the closed form of the model that 02_theophylline.py solves. Everything else in this script is simulated: nobody was given these
doses. A population is drawn from the fits (their means and covariances of logarithms), and each of its patients, a lane, goes
through three schedules of 1,100 mg a day:

    every 8 hours       a tablet of 367 mg, the first one twice as large; 2 of 10 patients forget the fifth
    every 24 hours      a tablet of 1,100 mg, whose release takes 12 hours and begins after one
    drip, then tablets  350 mg in half an hour, 46 mg / h up to the end of the second day, then as above from there on

Concentrations from 10 to 20 mg/L were long held to be those that help and do no harm. How long is each patient's in there? And
in which amount would each have to take the tablets of the first schedule to have 10 mg/L left at the end? Concentrations go
linearly with amounts, so that one derivative answers that; and how often 300 mg would have to be taken to the same end is an
equation for the interval, which Newton's method solves: doses have derivatives by their times, too.

    python examples/11_doses.py --patients 1000000      # for a GPU; the default takes seconds on two cores
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
import scipy.optimize

from jax_cubie import Doses, SaveAt, Solver

HERE = Path(__file__).parent
WINDOW = (10.0, 20.0)  # mg/L
T1 = 96.0  # h
TIMES = np.linspace(0.0, T1, 385)
SOLVER = Solver("tsit5", rtol=1e-6, atol=1e-6)


def compartments(t, y, patient):
    """mg in the gut, mg/L in the serum; rates in 1/h, the volume in L."""
    absorbed = patient["ka"] * y["gut"]
    return {"gut": -absorbed, "serum": absorbed / patient["V"] - patient["ke"] * y["serum"]}


def gut(y):
    return y["gut"]


def serum(y):
    return y["serum"]


def tablets(patient, amount=1100 / 3, interval=8.0):
    """Every 8 hours; the first is doubled. What is forgotten is a dose of nothing."""
    number = int(T1 // 8)
    amounts = amount * jnp.ones(number).at[0].set(2.0).at[4].mul(1 - patient["forgets"])
    return Doses(interval * np.arange(number), amounts, into=gut)


def slow_tablets(patient):
    """Once a day."""
    return Doses(0.0, 1100.0, into=gut, duration=12.0, lag=1.0).repeat(24.0, 3)


def drip(patient):
    """Into the serum, whose unit is mg/L; then tablets."""
    loading = Doses(0.0, 350 / patient["V"], into=serum, duration=0.5)
    on = Doses(0.5, 46 * 47.5 / patient["V"], into=serum, rate=46 / patient["V"])
    return loading, on, Doses(48.0, 1100 / 3, into=gut).repeat(8.0, 5)


SCHEDULES = {"every 8 hours": tablets, "every 24 hours": slow_tablets, "drip, then tablets": drip}


def concentrations(patient, doses, ts=TIMES):
    """[points] of one patient."""
    y0 = {"gut": 0.0 * patient["ka"], "serum": 0.0 * patient["ka"]}
    return SOLVER.solve(compartments, 0.0, T1, y0, patient, doses=doses, saveat=SaveAt(ts=ts)).ys["serum"]


# --- Patients


def fitted():
    """Logarithms [12, 3] of ka, ke and V of the twelve subjects."""
    table = np.genfromtxt(HERE / "data" / "theophylline.csv", delimiter=",", names=True)

    def fit(subject):
        def excess(logs):
            ka, ke, volume = np.exp(logs)
            dose, ts = subject["Dose"][0] * subject["Wt"][0], subject["Time"]
            return dose * ka / (volume * (ka - ke)) * (np.exp(-ke * ts) - np.exp(-ka * ts)) - subject["conc"]

        return scipy.optimize.least_squares(excess, np.log([1.5, 0.08, 35.0])).x

    return np.stack([fit(table[table["Subject"] == number]) for number in np.unique(table["Subject"])])


def drawn(logs, count):
    """Patients like those."""
    rng = np.random.default_rng(0)
    ka, ke, volume = np.exp(rng.multivariate_normal(logs.mean(0), np.cov(logs.T), count)).T
    return {"ka": ka, "ke": ke, "V": volume, "forgets": (rng.uniform(size=count) < 0.2).astype(float)}


# --- What they need


@jax.jit
@jax.vmap
def amount_wanted(patient):
    """The amount of a tablet with which 10 mg/L are left at the end, mg, and what then is left."""

    def trough(amount):
        return concentrations(patient, tablets(patient, amount), TIMES[-1:])[0]

    per_mg = jax.grad(trough)(300.0)
    amount = WINDOW[0] / per_mg
    return amount, trough(amount)


@jax.jit
@jax.vmap
def interval_wanted(patient):
    """Every how many hours 300 mg lead to 10 mg/L at the lowest, once it has become a rhythm; and what then is there."""

    def trough(interval):
        doses = Doses(0.0, 300.0, into=gut).repeat(interval, 19)
        end = 20 * interval
        y0 = {"gut": 0.0 * end, "serum": 0.0 * end}
        return SOLVER.solve(compartments, 0.0, end, y0, patient, doses=doses).ys["serum"][0]

    def newton(logs, _):
        value, slope = jax.jvp(lambda logs: jnp.log(trough(jnp.exp(logs))), (logs,), (jnp.ones_like(logs),))
        return logs - jnp.clip((value - jnp.log(WINDOW[0])) / slope, -1.0, 1.0), None

    start = jnp.log(6.0 + 0 * patient["ke"])
    interval = jnp.exp(jax.lax.scan(newton, start, length=8)[0])
    return interval, trough(interval)


def interval_by_closed_form(patient):
    """The same, where it lasts for ever: doses one by one are geometric series."""
    ka, ke, volume = patient["ka"], patient["ke"], patient["V"]

    def trough(interval):
        share = [1 / np.expm1(rate * interval) for rate in (ke, ka)]
        return 300 * ka / (volume * (ka - ke)) * (share[0] - share[1])

    return scipy.optimize.brentq(lambda interval: trough(interval) - WINDOW[0], 0.05, 200.0, xtol=1e-10)


def by_superposition(patient, ts, amounts, durations):
    """What doses into the gut, at once or at a constant rate, are in the serum at TIMES: the closed form, dose by dose."""
    total = np.zeros(len(TIMES))
    for begin, amount, lasts in zip(ts, amounts, durations, strict=True):
        for rate, sign in ((patient["ke"], 1), (patient["ka"], -1)):
            since = TIMES - begin
            if lasts:
                under_way = -np.expm1(-rate * np.clip(since, 0, lasts)) / (rate * lasts)
                value = under_way * np.exp(-rate * np.maximum(since - lasts, 0))
            else:
                value = np.exp(-rate * np.maximum(since, 0))
            scale = patient["ka"] / (patient["V"] * (patient["ka"] - patient["ke"]))
            total += np.where(since > 0, sign * amount * scale * value, 0)
    return total


# --- Pictures


def draw(curves, shares, wanted, path):
    figure, axes = plt.subplots(2, 3, figsize=(14, 7), layout="constrained")
    for axis, (name, values) in zip(axes[0], curves.items(), strict=True):
        axis.axhspan(*WINDOW, color="tab:green", alpha=0.1, linewidth=0)
        for low, high, alpha in ((2.5, 97.5, 0.15), (25, 75, 0.3)):
            axis.fill_between(TIMES, *np.percentile(values, [low, high], axis=0), color="tab:blue", alpha=alpha, linewidth=0)
        axis.plot(TIMES, np.median(values, 0), color="tab:blue")
        axis.set(title=f"{name} (simulated)", xlabel="hours", ylim=(0, 35), xticks=np.arange(0, 97, 24))
    axes[0, 0].set_ylabel("theophylline in serum, mg/L")
    for name, share in shares.items():
        axes[1, 0].hist(100 * share, bins=np.linspace(0, 100, 41), histtype="step", label=name, density=True)
    axes[1, 0].set(xlabel="percent of the last two days in the window", yticks=[])
    axes[1, 0].legend(frameon=False, fontsize=8)
    for axis, key, label in zip(axes[1, 1:], wanted, ("mg every 8 hours", "hours between 300 mg"), strict=True):
        axis.hist(wanted[key], bins=60, range=(0, np.percentile(wanted[key], 99)), color="tab:orange", alpha=0.7)
        axis.set(xlabel=f"{label}, for {WINDOW[0]:.0f} mg/L at the lowest", yticks=[])
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(count):
    jax.config.update("jax_enable_x64", True)
    patients = drawn(fitted(), count)
    curves, shares = {}, {}
    for name, schedule in SCHEDULES.items():
        run = jax.jit(jax.vmap(lambda patient, schedule=schedule: concentrations(patient, schedule(patient))))
        compiled = run.lower(patients).compile()
        started = time.perf_counter()
        curves[name] = np.asarray(jax.block_until_ready(compiled(patients)))
        seconds = time.perf_counter() - started
        late = curves[name][:, TIMES >= 48]
        shares[name] = np.mean((late >= WINDOW[0]) & (late <= WINDOW[1]), 1)
        print(f"{name}: {count:,} patients in {seconds:.2f} s; in the window {np.mean(shares[name]):.0%} of the last two days")

    first = {key: values[0] for key, values in patients.items()}
    amounts = 1100 / 3 * np.array([2.0, *[1.0] * 11])
    amounts[4] *= 1 - first["forgets"]
    exact = by_superposition(first, 8.0 * np.arange(12), amounts, np.zeros(12))
    slow = by_superposition(first, 1 + 24.0 * np.arange(4), [1100.0] * 4, [12.0] * 4)
    away = max(np.abs(curves["every 8 hours"][0] - exact).max(), np.abs(curves["every 24 hours"][0] - slow).max())
    print(f"the first patient's concentrations are at most {away:.0e} mg/L from the closed form's")
    assert away < 1e-3

    wanted = {}
    for key, solve_for in (("amount", amount_wanted), ("interval", interval_wanted)):
        wanted[key], reached = map(np.asarray, solve_for(patients))
        low, middle, high = np.percentile(wanted[key], [5, 50, 95])
        print(f"{key} for {WINDOW[0]:.0f} mg/L: {middle:.3g} in the median, {low:.3g} to {high:.3g} for 9 of 10")
        assert np.allclose(reached, WINDOW[0], rtol=1e-4)
    expected = interval_by_closed_form(first)
    print(f"the first patient's interval: {wanted['interval'][0]:.5g} h, by the closed form {expected:.5g} h")
    assert abs(wanted["interval"][0] / expected - 1) < 1e-2

    path = HERE / "doses.png"
    draw(curves, shares, wanted, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Simulates a population under repeated doses and infusions.")
    parser.add_argument("--patients", type=int, default=2000, help="how many are drawn (default: 2,000)")
    main(parser.parse_args().patients)
