"""Bayesian inference: NUTS over a population of logistic growth curves, all of them one vmapped solve.

Cultures n grow by dn/dt = r n (1 - n / K) from known beginnings. Each has a rate r of its own, out of a log-normal
population; the capacity K is theirs together; readings have a log-normal error:

    log r_i ~ N(log_rate, spread)
    log reading ~ N(log n_i(t), noise)

numpyro's NUTS asks for the gradient of the log-density at each of its leapfrog steps: a forward solve and its adjoint, for
all cultures of all chains at once. The posterior is compared with that of a long run on the closed form of n(t), which no
solver had a part in.
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
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import init_to_value

from jax_cubie import SaveAt, solve

CULTURES = 8
HOURS = np.linspace(1.0, 10.0, 10)
START = 0.05  # of each culture, relative to the unit of K
TRUTH = {"log_rate": np.log(0.8), "spread": 0.3, "log_capacity": np.log(2.0), "log_noise": np.log(0.08)}
NAMES = tuple(TRUTH)
CHAINS, WARMUP, SAMPLES = 4, 400, 500
# Mean and standard deviation of the posterior, by `python 07_bayesian_growth.py --reference`: the same model with the closed
# form of n(t), 4 chains of 25,000 draws after 2,000, key 1, float64.
REFERENCE = {
    "log_rate": (-0.1225, 0.0771),  # 95,141 effective draws
    "spread": (0.2093, 0.0697),  # 81,025 effective draws
    "log_capacity": (0.7065, 0.0140),  # 120,400 effective draws
    "log_noise": (-2.5535, 0.0848),  # 130,620 effective draws
}


def logistic(t, n, parameters):
    rate, capacity = parameters
    return rate * n * (1 - n / capacity)


def solved(rate, capacity):
    """A culture's size at HOURS."""
    return solve(logistic, 0.0, HOURS[-1], START, (rate, capacity), saveat=SaveAt(ts=HOURS), rtol=1e-6, atol=1e-8).ys


def closed_form(rate, capacity):
    return capacity / (1 + (capacity / START - 1) * jnp.exp(-rate * HOURS))


def model(sizes, readings):
    """sizes: of a rate and a capacity. readings: logarithms [cultures, hours]."""
    log_rate = numpyro.sample("log_rate", dist.Normal(0.0, 1.0))
    spread = numpyro.sample("spread", dist.HalfNormal(0.5))
    log_capacity = numpyro.sample("log_capacity", dist.Normal(0.0, 1.0))
    log_noise = numpyro.sample("log_noise", dist.Normal(-2.0, 1.0))
    with numpyro.plate("cultures", CULTURES):
        log_rates = numpyro.sample("log_rates", dist.Normal(log_rate, spread))
    found = jax.vmap(sizes, (0, None))(jnp.exp(log_rates), jnp.exp(log_capacity))
    numpyro.sample("readings", dist.Normal(jnp.log(found), jnp.exp(log_noise)), obs=readings)


def simulate():
    """Logarithms of readings [cultures, hours], by NumPy's generator with seed 0."""
    random = np.random.default_rng(0)
    rates = np.exp(TRUTH["log_rate"] + TRUTH["spread"] * random.normal(size=CULTURES))
    exact = np.stack([closed_form(rate, np.exp(TRUTH["log_capacity"])) for rate in rates])
    return np.log(exact) + np.exp(TRUTH["log_noise"]) * random.normal(size=exact.shape)


def sample(sizes, readings, warmup, samples, seed):
    """NUTS: the chains, all at once."""
    begin = {"log_rate": -0.5, "spread": 0.3, "log_capacity": 0.5, "log_noise": -2.0, "log_rates": jnp.full(CULTURES, -0.5)}
    nuts = NUTS(model, init_strategy=init_to_value(values=begin))
    mcmc = MCMC(
        nuts, num_warmup=warmup, num_samples=samples, num_chains=CHAINS, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(seed), sizes, readings, extra_fields=("num_steps", "diverging"))
    return mcmc


def moments(mcmc):
    """Mean, standard deviation, effective sample size and R-hat of each parameter."""
    table = numpyro.diagnostics.summary(mcmc.get_samples(group_by_chain=True))
    return {name: [float(table[name][key]) for key in ("mean", "std", "n_eff", "r_hat")] for name in NAMES}


def draw(mcmc, readings, path):
    """The curves that the posterior allows, and its marginals beside the reference."""
    draws = {name: np.asarray(value) for name, value in mcmc.get_samples().items()}
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.4), width_ratios=[2, 1, 1, 1, 1], layout="constrained")
    some = np.random.default_rng(0).integers(len(draws["spread"]), size=60)
    curves = jax.vmap(jax.vmap(solved, (0, None)))(np.exp(draws["log_rates"][some]), np.exp(draws["log_capacity"][some]))
    for culture in range(CULTURES):
        axes[0].plot(HOURS, curves[:, culture].T, color=f"C{culture}", alpha=0.08)
        axes[0].plot(HOURS, np.exp(readings[culture]), "o", color=f"C{culture}", markersize=3.5)
    axes[0].set(title="readings, and draws of the posterior", xlabel="hours", yscale="log")
    for name, axis in zip(NAMES, axes[1:], strict=True):
        _, edges, _ = axis.hist(draws[name], bins=40, density=True, color="C0", alpha=0.5)
        mean, deviation = REFERENCE[name]
        axis.axvspan(mean - deviation, mean + deviation, color="0.6", alpha=0.3, linewidth=0)
        axis.axvline(mean, color="0.2")
        axis.axvline(TRUTH[name], color="C3", linestyle="--", linewidth=1)
        axis.set(title=name.replace("_", " "), yticks=[])
    figure.supxlabel("grey: mean and standard deviation of the reference; red: what the data were made with", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    jax.config.update("jax_enable_x64", True)
    readings = simulate()
    if parsed.reference:
        for name, (mean, deviation, effective, _) in moments(sample(closed_form, readings, 2000, 25_000, seed=1)).items():
            print(f'    "{name}": ({mean:.4f}, {deviation:.4f}),  # {effective:,.0f} effective draws')
        return

    started = time.perf_counter()
    mcmc = sample(solved, readings, WARMUP, SAMPLES, seed=0)
    seconds = time.perf_counter() - started
    extra = mcmc.get_extra_fields()
    gradients, diverged = int(extra["num_steps"].sum()), int(extra["diverging"].sum())
    print(f"{CHAINS} chains of {WARMUP} + {SAMPLES} draws in {seconds:.1f} s; {gradients:,} gradients for the draws kept")
    print(f"{diverged} of these diverged")
    print("                 mean  reference      sd  reference   errors   R-hat")
    for name, (mean, deviation, effective, r_hat) in moments(mcmc).items():
        expected, width = REFERENCE[name]
        # The mean of so many effective draws differs from the posterior's by so many of its standard errors.
        errors = (mean - expected) / (width / np.sqrt(effective))
        print(f"{name:14s} {mean:7.4f}    {expected:7.4f}  {deviation:6.4f}     {width:6.4f}  {errors:7.2f}   {r_hat:5.3f}")
        assert abs(errors) < 4 and abs(deviation / width - 1) < 0.2 and r_hat < 1.02
    path = Path(__file__).with_suffix(".png")
    draw(mcmc, readings, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="NUTS over a vmapped solve")
    parser.add_argument("--reference", action="store_true", help="make the reference's moments anew, in some minutes")
    parsed = parser.parse_args()
    main()
