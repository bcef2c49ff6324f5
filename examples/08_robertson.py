"""Robertson's reactions at 100,000 sets of rates: a stiff system, each lane with step sizes and linear algebra of its own.

    A -> B            k1 = 0.04
    B + B -> C + B    k2 = 3e7
    B + C -> A + C    k3 = 1e4

B comes and goes within milliseconds and less, A lasts for days: for its stability an explicit method would need some 10^8 steps
where rodas5p takes a hundred. Each rate is known to a factor of ten only. What does that leave unknown of B, and which of the
rates is to blame? Bands of the concentrations over time answer the first, rank correlations of B with the rates the second.

Two things are known exactly: A + B + C = 1, and B is soon where its production and its removal balance,
k2 B^2 + k3 B C = k1 A.
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

from jax_cubie import RESULTS, SaveAt, Solver

jax.config.update("jax_enable_x64", True)  # beyond t = 100 the two rates of B differ in digits that float32 does not have

RATES = np.array([0.04, 3e7, 1e4])
TIMES = np.logspace(-6, 5, 56)
# B is 1e-5 at most, and as little as 1e-10 at the end.
SOLVER = Solver("rodas5p", rtol=1e-6, atol=jnp.array([1e-8, 1e-14, 1e-8]))


def robertson(t, y, k):
    a, b, c = y
    slow, fast, back = k[0] * a, k[1] * b * b, k[2] * b * c
    return jnp.stack([back - slow, slow - fast - back, fast])


@jax.jit
@jax.vmap
def concentrations(k):
    """The solution, its states saved at TIMES."""
    return SOLVER.solve(robertson, 0.0, TIMES[-1], jnp.array([1.0, 0.0, 0.0]), k, saveat=SaveAt(ts=TIMES))


def balanced(a, c, k):
    """The concentration of B at which as much of it comes as goes."""
    k1, k2, k3 = k.T[..., None]
    # Of the two forms of the root, the one without a difference.
    return 2 * k1 * a / (k3 * c + np.sqrt((k3 * c) ** 2 + 4 * k1 * k2 * a))


def rank_correlations(values, k):
    """Spearman's, of each rate with values [lanes, times]: [3, times]."""

    def ranks(x):
        order = np.argsort(np.argsort(x, axis=0), axis=0).astype(float)
        return (order - order.mean(0)) / order.std(0)

    return ranks(k).T @ ranks(values) / len(k)


def draw(states, blame, path):
    """Left, each concentration's median, middle half and middle 95 %; right, which rate decides on B."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for number, (name, scale) in enumerate((("A", 1.0), ("B, times 5,000", 5e3), ("C", 1.0))):
        low, lower, middle, upper, high = np.percentile(scale * states[..., number], [2.5, 25, 50, 75, 97.5], axis=0)
        left.fill_between(TIMES, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
        left.fill_between(TIMES, lower, upper, color=f"C{number}", alpha=0.3, linewidth=0)
        left.semilogx(TIMES, middle, color=f"C{number}", label=name)
    left.set(xlabel="time", title="concentrations", ylim=(0, 1.2))
    left.legend(frameon=False, loc="upper left")
    for number, row in enumerate(blame):
        right.semilogx(TIMES, row, color=f"C{number + 3}", label=f"k{number + 1}")
    right.axhline(0, color="0.7", linewidth=0.8)
    right.set(xlabel="time", title="rank correlation of B with the rates", ylim=(-1, 1))
    right.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lanes", type=int, default=100_000, help="sets of rates")
    lanes = parser.parse_args().lanes
    k = RATES * 10 ** np.random.default_rng(0).uniform(-1, 1, (lanes, 3))

    jax.block_until_ready(concentrations(k))
    started = time.perf_counter()
    solution = jax.block_until_ready(concentrations(k))
    seconds = time.perf_counter() - started
    states, steps = np.asarray(solution.ys), np.asarray(solution.stats["num_steps"])
    device = jax.devices()[0]
    print(f"{lanes:,} lanes to t = {TIMES[-1]:g} on {device.device_kind} ({device.platform}): {seconds:.2f} s")
    print(f"{steps.min()} to {steps.max()} steps a lane, {steps.sum():,} in all")
    assert bool((solution.result == RESULTS.successful).all())

    a, b, c = np.moveaxis(states, -1, 0)
    conserved = np.abs(a + b + c - 1).max()
    settled = TIMES > 1
    apart = np.abs(b / balanced(a, c, k) - 1)[:, settled]
    print(
        f"A + B + C is 1 to {conserved:.1e}; for t > 1, B is in balance to {np.median(apart):.0e}, at worst {apart.max():.0e}"
    )
    assert conserved < 1e-6 and np.median(apart) < 1e-3

    blame = rank_correlations(b, k)
    for moment in (1e-4, 1.0, 1e4):
        column = np.argmin(np.abs(np.log(TIMES / moment)))
        low, high = np.percentile(b[:, column], [2.5, 97.5])
        said = ", ".join(f"k{number + 1} {value:+.2f}" for number, value in enumerate(blame[:, column]))
        print(f"t = {TIMES[column]:7.1e}: 95 % of B between {low:.1e} and {high:.1e}; rank correlation with {said}")

    path = Path(__file__).with_suffix(".png")
    draw(states, blame, path)
    print(f"drawn: {path.name}")


if __name__ == "__main__":
    main()
