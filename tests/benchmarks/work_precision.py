"""Work and precision of the methods, against diffrax's: `python tests/benchmarks/work_precision.py [--picture FILE]`.

Three problems in float64, tolerances from 1e-4 to 1e-11. Prints, for each method and problem, our error over diffrax's at the
same tolerance and first step: the geometric mean over the tolerances, and the largest. A method that diffrax does not have is
lent to it as a tableau; dop853, whose error estimate it does not know, is compared with SciPy's. Errors are taken at the
end, against SciPy's DOP853 at tolerances of 1e-13. Where both are within 100 units in the last place of the solution, rounding
decides, and they are left out. With a file to draw to, it times a batch, too, and draws the picture of the README.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import jax_cubie
from jax_cubie.integrators import EXPLICIT

jax.config.update("jax_enable_x64", True)

METHODS = ("tsit5", "dopri5", "dopri8", "dop853", "vern7", "vern9")
THEIRS = {"tsit5": diffrax.Tsit5, "dopri5": diffrax.Dopri5, "dopri8": diffrax.Dopri8}
TOLERANCES = 10.0 ** -np.arange(4, 12)
LANES = 2048


def lorenz(t, y, rho):
    a, b, c = y
    return jnp.stack([10.0 * (b - a), a * (rho - c) - b, a * b - (8 / 3) * c])


def arenstorf(t, y, mu):
    """A closed orbit around earth and moon: Hairer, Norsett, Wanner, Solving ODE I, section II.0, equation (0.1)."""
    a, b, da, db = y
    other = 1 - mu
    near, far = ((a + mu) ** 2 + b**2) ** 1.5, ((a - other) ** 2 + b**2) ** 1.5
    return jnp.stack(
        [da, db, a + 2 * db - other * (a + mu) / near - mu * (a - other) / far, b - 2 * da - other * b / near - mu * b / far]
    )


def rigid_body(t, y, moment):
    """Euler's equations of a rigid body: problem (10.8.6) of Krogh's set, as in Hairer, section II.10."""
    a, b, c = y
    return jnp.stack([b * c, -a * c, -moment * a * b])


PROBLEMS = {
    "lorenz": (lorenz, [1.0, 0.0, 0.0], 28.0, 2.0),
    "arenstorf": (arenstorf, [0.994, 0.0, 0.0, -2.00158510637908252240537862224], 0.012277471, 17.0652165601579625588917206249),
    "rigid body": (rigid_body, [0.0, 1.0, 1.0], 0.51, 20.0),
}


def by_scipy(name: str, rtol: float, atol: float) -> np.ndarray:
    """The state at the end, by SciPy's DOP853."""
    f, y0, args, t1 = PROBLEMS[name]
    rhs = jax.jit(f)
    return solve_ivp(lambda t, y: rhs(t, y, args), (0, t1), y0, "DOP853", rtol=rtol, atol=atol).y[:, -1]


def reference(name: str) -> np.ndarray:
    if name == "arenstorf":
        return np.array(PROBLEMS[name][1])  # t1 is its period
    return by_scipy(name, 1e-13, 1e-15)


def lent(method: str) -> diffrax.AbstractSolver:
    """diffrax's solver, or the tableau of ours in diffrax's loop."""
    if method in THEIRS:
        return THEIRS[method]()
    numbers = EXPLICIT[method]

    class Lent(diffrax.AbstractERK):
        tableau = diffrax.ButcherTableau(
            c=np.array([float(c) for c in numbers.c[1:]]),
            a_lower=tuple(np.array([float(a) for a in row]) for row in numbers.a),
            b_sol=np.array([float(b) for b in numbers.b]),
            b_error=np.array([float(e) for e in numbers.error_weights]),
        )
        # Nothing is saved inside of a step, so any will do.
        interpolation_cls = staticmethod(
            lambda *, t0, t1, y0, y1, k: diffrax.LocalLinearInterpolation(t0=t0, t1=t1, y0=y0, y1=y1)
        )

        def order(self, terms):
            return numbers.order

    return Lent()


# Large enough for the first estimate of the error to be more than rounding, which else decides the second step.
FIRST_STEP = {"lorenz": 0.05, "arenstorf": 1e-3, "rigid body": 0.5}


def ours(problem: str, method: str):
    f, y0, args, t1 = PROBLEMS[problem]

    def final(tolerance):
        solver = jax_cubie.Solver(method, rtol=tolerance, atol=tolerance)
        solution = solver.solve(f, 0.0, t1, jnp.array(y0), args, dt0=FIRST_STEP[problem])
        return solution.ys[-1], solution.stats["nfev"]

    return jax.jit(jax.vmap(final))


def theirs(problem: str, method: str):
    f, y0, args, t1 = PROBLEMS[problem]

    def final(tolerance):
        controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(f), lent(method), 0.0, t1, FIRST_STEP[problem], jnp.array(y0), args, stepsize_controller=controller,
            max_steps=None,
        )  # fmt: skip
        return solution.ys[-1]

    return jax.jit(jax.vmap(final))


def errors(found, exact: np.ndarray) -> np.ndarray:
    return np.max(np.abs(np.asarray(found) - exact), axis=-1)


def batch_seconds(call, *arguments) -> float:
    jax.block_until_ready(call(*arguments))
    times = []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def batch(method: str, tolerance: float, mine: bool):
    """Milliseconds of a sweep of the Lorenz system."""
    f, y0, _, t1 = PROBLEMS["lorenz"]

    def final(rho):
        if mine:
            return jax_cubie.solve(f, 0.0, t1, jnp.array(y0), rho, method=method, rtol=tolerance, atol=tolerance).ys[-1]
        controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
        return diffrax.diffeqsolve(
            diffrax.ODETerm(f), lent(method), 0.0, t1, None, jnp.array(y0), rho, stepsize_controller=controller, max_steps=None
        ).ys[-1]

    return 1e3 * batch_seconds(jax.jit(jax.vmap(final)), jnp.linspace(0.0, 28.0, LANES))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", help="draw the picture into this file")
    options = parser.parse_args()
    device = jax.devices()[0]
    name = device.device_kind if device.platform != "cpu" else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    print(f"{name}, jax {jax.__version__}, diffrax {diffrax.__version__}, {datetime.date.today()}")
    curves = {}
    for problem in PROBLEMS:
        exact = reference(problem)
        rounding = 100 * np.finfo(float).eps * np.abs(exact).max()
        for method in METHODS:
            found, evaluations = ours(problem, method)(TOLERANCES)
            if method == "dop853":
                whose, others = "SciPy", np.stack([by_scipy(problem, tolerance, tolerance) for tolerance in TOLERANCES])
            else:
                whose, others = "diffrax", theirs(problem, method)(TOLERANCES)
            mine, other = errors(found, exact), errors(others, exact)
            curves[problem, method] = np.asarray(evaluations), mine
            ratios = (mine / other)[np.maximum(mine, other) > rounding]
            mean = np.exp(np.mean(np.log(ratios)))
            said = f"error at 1e-8: {mine[4]:.1e}; over {whose}'s: {mean:.3f}, at most {ratios.max():.3f}"
            print(f"{problem:11s} {method:7s} {said}", flush=True)
    if options.picture:
        draw(options.picture, curves, name)


def draw(path: str, curves: dict, machine: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    colours = {method: f"C{number}" for number, method in enumerate(METHODS)}
    for method in METHODS:
        evaluations, error = curves["arenstorf", method]
        left.loglog(error, evaluations, "o-", color=colours[method], label=method, markersize=4)
    left.set(title="Arenstorf orbit, one period, float64", xlabel="error at the end", ylabel="evaluations of f")
    exact = reference("lorenz")
    for method, mine in [*((method, True) for method in ("tsit5", "dopri8", "vern9")), ("tsit5", False), ("dopri8", False)]:
        tolerances = TOLERANCES[::2]
        spent = [batch(method, tolerance, mine) for tolerance in tolerances]
        error = errors(ours("lorenz", method)(tolerances)[0], exact)
        label = method if mine else f"{method}, diffrax"
        right.loglog(error, spent, "o-" if mine else "s--", color=colours[method], label=label, markersize=4)
        print(f"{label:17s} " + ", ".join(f"{t:.0e}: {ms:.1f} ms" for t, ms in zip(tolerances, spent, strict=True)), flush=True)
    right.set(
        title=f"Lorenz system, {LANES:,} lanes, float64\n{machine}", xlabel="error at the end (rho = 28)", ylabel="milliseconds"
    )
    right.margins(y=0.3)
    for axes in (left, right):
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", ncols=2)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
