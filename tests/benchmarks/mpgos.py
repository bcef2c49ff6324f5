"""The published bifurcation cases of MPGOS, reproduced: `python tests/benchmarks/mpgos.py [--quick] [--only SECTION ...]`.

MPGOS (Hegedűs, Program package MPGOS: challenges and solutions during the integration of a large number of independent ODE
systems using GPUs, Commun. Nonlinear Sci. Numer. Simul. 97 (2021) 105732) solves them in its tutorials 3 and 6 (version 3.1,
github.com/FerencHegedus/Massively-Parallel-GPU-ODE-Solver), from which equations, parameters, tolerances and numbers of
transients are taken. The valve's figures are those of its authors' comparison (Nagy, Plavecz and Hegedűs, The art of solving a
large number of non-stiff, low-dimensional ordinary differential equation systems on GPUs and CPUs, the same journal 112 (2022)
106521; github.com/nnagyd/ode_solver_tests, Valve_DP5/Performance/Pressure_Relief_Valve.m): of a GeForce GTX Titan Black, whose
peak in float64 is 1.7 TFLOP/s. That of Duffing's section is of one core of a Core i7-4820K, by vector code written by hand
(github.com/nnagyd/CPU_ODE_solvers, duffing_RKCK45); of a GPU none was found that could be cited.

A valve may close in ever faster impacts; here it then stays at its seat until the pressure opens it. That is so where q is
small, and no value that is compared is of that range.

Prints the machine, versions and the date, then for each case a table: what was measured, the figure that is published or known
otherwise, the figure that was found. Values are compared with SciPy's DOP853 at a tolerance of 1e-12 and with closed forms, and
bifurcations in a scan of lanes with those that are foretold by other means. A time is that of one call of a compiled solve,
with the device waited for; a CPU takes few lanes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.optimize
from gradients import Row, on_cpu, print_sections
from lorenz import machine

from jax_cubie import RESULTS, Event, SaveAt, Solver, steady_state

# Returns that pass unseen, and that are kept.
SKIPPED, KEPT = 1024, 32
# MPGOS's method, and what is faster at such tolerances.
METHODS = ("cashkarp45", "dop853")

PERIOD, FORCE = 2 * np.pi, 0.3
# Of Duffing's oscillator: the damping of some periodic orbits, and their periods.
ORBITS = {0.2143: 3, 0.2651: 4, 0.3: 5}

DAMPING, PRECOMPRESSION, COMPRESSIBILITY, RESTITUTION = 1.25, 10.0, 20.0, 0.8
# Of the valve: flow rates, and after how many openings it is where it was.
FLOWS = {2.0: 1, 4.0: 1, 6.5: 2, 8.0: 1}
# A valve that is slower than that, at its seat, stays there until the pressure opens it.
SLOWEST = 1e-6
PUBLISHED = {30_720: (8.1, 6.6), 307_200: (74.0, 59.0)}


def throughput(run: Callable, values: np.ndarray, ends: Any) -> tuple[float, str]:
    """Lanes a second, and what to say of them. ends: the result of each lane."""
    compiled = run.lower(values).compile()
    started = time.perf_counter()
    *_, result = jax.block_until_ready(compiled(values))
    seconds = time.perf_counter() - started
    assert bool((result == ends).all())
    return len(values) / seconds, f"{seconds:.3g} s, {len(values) / seconds:,.0f} lanes a second"


def vanishing(parameter: np.ndarray, amplitude: np.ndarray) -> float:
    """Where an amplitude becomes 0 that is as the root of the distance from there."""
    return float(np.polynomial.Polynomial.fit(amplitude**2, parameter, 3)(0.0))


def fixed_point(step: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> np.ndarray:
    """The state that comes back to itself, by Newton's method."""
    return scipy.optimize.root(lambda state: step(state) - state, start, options={"xtol": 1e-12, "eps": 1e-10}).x


# Duffing's oscillator


def duffing(t: Any, y: Any, k: Any) -> jax.Array:
    return jnp.stack([y[1], y[0] - y[0] ** 3 - k * y[1] + FORCE * jnp.cos(t)])


def sections(method: str) -> Callable:
    """k -> states at KEPT times that are one period of the force apart, [lanes, KEPT, 2], and results."""
    solver = Solver(method, rtol=1e-9, atol=1e-9, max_steps=10**6)
    ts = PERIOD * np.arange(SKIPPED + 1, SKIPPED + KEPT + 1)

    def lane(k: jax.Array) -> Any:
        # MPGOS ends a step there, too; what lies inside of a step of `cashkarp45` is of order 3 only.
        found = solver.solve(duffing, 0.0, ts[-1], jnp.array([-0.5, -0.1]), k, saveat=SaveAt(ts=ts), step_ts=ts)
        return found.ys, found.result

    return jax.jit(jax.vmap(lane))


def duffing_map(k: float, periods: int) -> Callable[[np.ndarray], np.ndarray]:
    """From one cut to the one so many periods later, by SciPy."""

    def step(state: np.ndarray) -> np.ndarray:
        def f(t: float, y: np.ndarray) -> list[float]:
            return [y[1], y[0] - y[0] ** 3 - k * y[1] + FORCE * np.cos(t)]

        return scipy.integrate.solve_ivp(f, (0, periods * PERIOD), state, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]

    return step


@jax.jit
@jax.vmap
def nearness_to_doubling(k: jax.Array, start: jax.Array) -> jax.Array:
    """Of the orbit of period 5 near `start`: the characteristic polynomial of its map at -1, which is 0 where it doubles."""
    solver = Solver("dop853", rtol=1e-12, atol=1e-12)

    def step(y: jax.Array) -> jax.Array:
        return solver.solve(duffing, 0.0, 5 * PERIOD, y, k).ys[-1]

    def newton(y: jax.Array, _: None) -> tuple[jax.Array, None]:
        return y - jnp.linalg.inv(jax.jacfwd(step)(y) - jnp.eye(2)) @ (step(y) - y), None

    slopes = jax.jacfwd(step)(jax.lax.scan(newton, start, length=6)[0])
    return 1 + jnp.trace(slopes) + jnp.linalg.det(slopes)


def poincare(options: argparse.Namespace) -> Iterator[Row]:
    """Poincaré sections of x'' = x - x^3 - k x' + 0.3 cos(t): 32 cuts after 1,024 periods, k from 0.2 to 0.3, 1e-9, float64."""
    lanes = (32 if options.quick else 128) if on_cpu() else 46_080
    runs = {method: sections(method) for method in METHODS}
    for method, run in runs.items():
        k = np.array(list(ORBITS))
        points, result = run(k)
        assert bool((result == RESULTS.successful).all())
        for value, row in zip(k, np.asarray(points), strict=True):
            step = duffing_map(value, ORBITS[value])
            away = np.abs(fixed_point(step, row[-1]) - row[-1]).max()
            label = f"k = {value:g}, {method}: from SciPy's orbit of period {ORBITS[value]}, x = {row[-1, 0]:.6f}"
            yield label, "", f"{away:.1e}"
            if value == 0.3 and method == "dop853":
                orbit = row[-1]
    k = np.linspace(0.2961, 0.2964, 31)
    foretold = np.interp(0.0, np.asarray(nearness_to_doubling(k, np.tile(orbit, (len(k), 1)))), k)
    k = np.linspace(0.29618, 0.29624, 13)
    points = np.asarray(runs["dop853"](k)[0])
    amplitude = np.abs(points[:, -5:] - points[:, -10:-5]).max((1, 2))
    yield "k below which period 5 becomes 10, by the scan", f"{foretold:.6f}", f"{vanishing(k, amplitude):.6f}"
    k = np.linspace(0.2, 0.3, lanes)
    yield "published: 46,080 lanes on one core of a Core i7-4820K", "195 s", f"{46_080 / 195:,.0f} lanes a second"
    for method, run in runs.items():
        _, said = throughput(run, k, RESULTS.successful)
        yield f"{lanes:,} lanes, {method}", "", said


# The pressure relief valve


def valve(t: Any, y: Any, q: Any) -> jax.Array:
    """Lift, speed, pressure."""
    x, v, p = y
    acceleration = -DAMPING * v - (x + PRECOMPRESSION) + p
    seated = (x == 0) & (v == 0)
    outflow = x * jnp.sqrt(jnp.maximum(p, 0.0))
    return jnp.stack([v, jnp.where(seated, jnp.maximum(acceleration, 0.0), acceleration), COMPRESSIBILITY * (q - outflow)])


def rebound(t: Any, y: Any, q: Any) -> jax.Array:
    speed = -RESTITUTION * y[1]
    return jnp.stack([0.0 * speed, jnp.where(speed > SLOWEST, speed, 0.0), y[2]])


def openings(method: str) -> Callable:
    """q -> the states when the valve is open as wide as it gets, [lanes, KEPT, 3], and when it turns without an impact,
    likewise, NaN once it rests; impacts meanwhile; the last state; and results."""
    solver = Solver(method, rtol=1e-10, atol=1e-10, max_steps=10**7)

    def met(returns: int, kept: int) -> dict[str, Event]:
        return {
            "top": Event(lambda t, y, q: y[1], direction=-1, terminal=returns, record=kept),
            "bottom": Event(lambda t, y, q: y[1], direction=1, terminal=False, record=kept),
            "impact": Event(lambda t, y, q: y[0], direction=-1, affect=rebound),
            "rest": steady_state(rtol=1e-6, atol=1e-6),
        }

    def lane(q: jax.Array) -> Any:
        settled = solver.solve(valve, 0.0, 1e5, jnp.array([0.2, 0.0, 0.0]), q, events=met(SKIPPED, 0))
        found = solver.solve(valve, 0.0, 1e5, settled.ys[-1], q, events=met(KEPT, KEPT))
        seen = found.events
        return seen["top"].ys, seen["bottom"].ys, seen["impact"].count, found.ys[-1], found.result

    return jax.jit(jax.vmap(lane))


def next_opening(q: float, state: np.ndarray, returns: int = 1) -> tuple[np.ndarray, float]:
    """From lift and pressure at one opening to those so many openings later, and the lowest lift in between, by SciPy."""

    def f(t: float, y: np.ndarray) -> list[float]:
        x, v, p = y
        return [v, -DAMPING * v - (x + PRECOMPRESSION) + p, COMPRESSIBILITY * (q - x * np.sqrt(p))]

    def top(t: float, y: np.ndarray) -> float:
        return y[1]

    def bottom(t: float, y: np.ndarray) -> float:
        return y[1]

    def impact(t: float, y: np.ndarray) -> float:
        return y[0]

    for event, direction in ((top, -1), (bottom, 1), (impact, -1)):
        event.direction = direction
        event.terminal = event is not bottom
    settings: dict[str, Any] = dict(method="DOP853", rtol=1e-12, atol=1e-12)
    y, lowest = np.array([state[0], 0.0, state[1]]), np.inf
    for _ in range(returns):
        # Off the opening, which SciPy would take for the next one.
        y = scipy.integrate.solve_ivp(f, (0, 0.05), y, **settings).y[:, -1]
        while True:
            found = scipy.integrate.solve_ivp(f, (0, 100), y, events=[top, bottom, impact], **settings)
            y = found.y[:, -1]
            lowest = min([lowest, *(turn[0] for turn in found.y_events[1])])
            if len(found.t_events[0]):
                break
            y, lowest = np.array([0.0, -RESTITUTION * y[1], y[2]]), 0.0
    return y[[0, 2]], lowest


def equilibrium(q: float) -> float:
    """The lift at which as much flows out as in."""
    return scipy.optimize.brentq(lambda x: x * np.sqrt(x + PRECOMPRESSION) - q, 0.0, q)


def hopf() -> float:
    """The flow rate at which the equilibrium becomes stable, by the criterion of Routh and Hurwitz."""

    def excess(x: float) -> float:
        root = np.sqrt(x + PRECOMPRESSION)
        a, b = COMPRESSIBILITY * x / (2 * root), COMPRESSIBILITY * root
        return (DAMPING + a) * (1 + DAMPING * a) - (a + b)

    x = scipy.optimize.brentq(excess, 1.0, 5.0)
    return x * np.sqrt(x + PRECOMPRESSION)


def relief_valve(options: argparse.Namespace) -> Iterator[Row]:
    """A pressure relief valve with impacts at its seat: 32 openings after 1,024, flow rate q from 0.2 to 10, 1e-10, float64."""
    runs = {method: openings(method) for method in METHODS}
    for method, run in runs.items():
        q = np.array(list(FLOWS))
        tops, _, impacts, _, result = run(q)
        assert bool((result == RESULTS.event_occurred).all())
        for value, row, count in zip(q, np.asarray(tops)[:, :, [0, 2]], np.asarray(impacts), strict=True):
            orbit = fixed_point(lambda state, q=value: next_opening(q, state, FLOWS[q])[0], row[-1])
            away = np.abs(orbit - row[-1]).max()
            label = f"q = {value:g}, {method}: {count} impacts; from SciPy's orbit, lift {row[-1, 0]:.6f}"
            yield label, "", f"{away:.1e}"
    run = runs["dop853"]
    q = np.array([8.6, 9.0, 10.0])
    away = np.abs(np.asarray(run(q)[3])[:, 0] - [equilibrium(value) for value in q]).max()
    yield "q = 8.6, 9, 10: from the equilibrium, whose lift is known", "", f"{away:.1e}"
    q = np.linspace(8.40, 8.47, 15)
    tops, bottoms = map(np.asarray, run(q)[:2])
    amplitude = (np.nanmax(tops[:, :, 0], 1) - np.nanmin(bottoms[:, :, 0], 1)) / 2
    yield "q at which oscillations end (Hopf), by the scan", f"{hopf():.4f}", f"{vanishing(q, amplitude):.4f}"
    q = np.linspace(7.56, 7.7, 8)
    lowest = [next_opening(*pair)[1] for pair in zip(q, np.asarray(run(q)[0])[:, -1, [0, 2]], strict=True)]
    foretold = np.polynomial.Polynomial.fit(lowest, q, 4)(0.0)
    q = np.linspace(7.5, 7.6, 101)
    touching = np.asarray(run(q)[2]) > 0
    last = q[touching].max()
    said = f"{last:.3f} to {q[q > last].min():.3f}"
    yield "q at which impacts end (grazing), by the lowest lift; by the scan", f"{foretold:.4f}", said
    for lanes, (seconds, transient) in PUBLISHED.items():
        said = f"{lanes / seconds:,.0f} lanes a second ({transient:g} s without what is written to a file)"
        yield f"published: {lanes:,} lanes on a Titan Black, cashkarp45", f"{seconds:g} s", said
        taken = (16 if options.quick else 96) if on_cpu() else lanes
        for method, run in runs.items():
            found, said = throughput(run, np.linspace(0.2, 10.0, taken), RESULTS.event_occurred)
            yield f"{taken:,} lanes, {method}", "", f"{said}, {found / (lanes / seconds):.3g} times as many"
        if on_cpu() or options.quick:
            return


SECTIONS = {"duffing": poincare, "valve": relief_valve}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer lanes")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these cases")
    options = parser.parse_args()
    print(f"{machine()}, scipy {importlib.metadata.version('scipy')}, numba {importlib.metadata.version('numba')}")
    with tempfile.TemporaryDirectory() as folder, jax.enable_x64(True):
        os.environ["JAX_CUBIE_CACHE"] = folder
        print_sections(SECTIONS, options.only, options, width=80, middle="known")


if __name__ == "__main__":
    main()
