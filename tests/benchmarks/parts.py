"""What a trajectory meets on its way, measured: `python tests/benchmarks/parts.py [--quick] [--only SECTION ...]`.

Prints the machine, versions and the date, then for each section a table: what was measured, the figure that is asked for, the
figure that was found. On a GPU Lorenz sweeps have 2^20 lanes, on a CPU 2^14. A time is the median of several jitted calls, with
the device waited for, that take turns with what they are compared with.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from gradients import Row, difference, in_turn, lanes_last, milliseconds, on_cpu, print_sections
from lorenz import lorenz, machine

from jax_cubie import Driver, Event, Summary, solve

GRAVITY = 9.81
# Of the accuracy of times of events: chosen steps, small ones, and ones over several impacts.
STEPS = ({}, {"method": "dop853"}, {"method": "rodas5p"}, {"method": "rk4", "dt0": 0.013}, {"method": "rk4", "dt0": 0.7})


def driven(t: jax.Array, y: jax.Array, rho: jax.Array, u: jax.Array) -> jax.Array:
    return lorenz(t, y, rho) + u


def cost(options: argparse.Namespace) -> Iterator[Row]:
    """Lorenz, t from 0 to 10, rtol = atol = 1e-6, float32: how many times a solve alone."""
    exponent = (12 if options.quick else 14) if on_cpu() else (17 if options.quick else 20)
    rho, y0 = jnp.linspace(0.0, 21.0, 2**exponent, dtype=jnp.float32), jnp.full(3, 10.0, jnp.float32)

    def swept(f: Callable = lorenz, **met: Any) -> Callable:
        def lane(rho: jax.Array) -> Any:
            found = solve(f, 0.0, 10.0, y0, rho, rtol=1e-6, atol=1e-6, **met)
            return found.ys, found.summaries, found.events

        return lanes_last(lane)

    points = np.linspace(0.0, 10.0, 1000)
    one, three = Driver(points, np.sin(points)), Driver(points, np.sin(np.outer(points, [1.0, 2.0, 3.0])))
    # Of nearly the same times: where points are close together, kinks make for many steps.
    moved = points + np.random.default_rng(0).uniform(-0.002, 0.002, 1000)
    uneven = Driver(moved, np.sin(np.outer(moved, [1.0, 2.0, 3.0])))
    wanted = {"mean": Summary.mean(), "std": Summary.std(), "max": Summary.max(), "when": Summary.time_of_max()}
    section = Event(lambda t, y, rho: y[2] - (rho - 1), direction=1, terminal=False)
    calls = {
        "mean, std, max and its time of three states": ("<= 1.3", swept(summaries=wanted)),
        "an event that never happens": ("<= 1.25", swept(events=Event(lambda t, y, rho: y[2] - 100.0))),
        "a linear driver of 1,000 points that all lanes share": ("<= 1.4", swept(driven, drivers=one)),
        "  one of three numbers": ("", swept(driven, drivers=three)),
        "  one of three numbers, at uneven times": ("", swept(driven, drivers=uneven)),
        "a time on which a step ends": ("", swept(jump_ts=jnp.array([5.0]))),
        "events that are counted": ("", swept(events=section)),
    }
    repeats = 5 if options.quick or on_cpu() else 15
    alone, *others = in_turn([swept(), *(call for _, call in calls.values())], (rho,), repeats)
    yield f"2^{exponent} lanes alone", "", milliseconds(alone)
    for (label, (asked, _)), spent in zip(calls.items(), others, strict=True):
        yield label, asked, f"{spent / alone:.2f} ({milliseconds(spent)})"


def falling(t: jax.Array, y: jax.Array, kept: jax.Array) -> jax.Array:
    return jnp.stack([y[1], -GRAVITY * jnp.ones_like(y[1])])


def impacts(dtype: Any, count: int = 20) -> np.ndarray:
    """When a ball hits the floor that falls from a height of 1 and keeps 0.9 of its speed: the closed form, in float64, of the
    numbers that the solve has in its dtype."""
    gravity, kept = (float(np.dtype(dtype).type(number)) for number in (GRAVITY, 0.9))
    speeds = np.sqrt(2 * gravity) * kept ** np.arange(count)
    return np.sqrt(2 / gravity) + np.concatenate([[0.0], np.cumsum(2 * speeds[1:] / gravity)])


def accuracy(options: argparse.Namespace) -> Iterator[Row]:
    """Times of events against closed forms: 20 impacts of a ball, whatever the steps; zeros of sin(t), by steps of 1e-13."""
    bounce = Event(
        lambda t, y, kept: y[0], direction=-1, affect=lambda t, y, kept: jnp.stack([0.0 * y[0], -kept * y[1]]), record=20
    )
    for dtype, asked in (("float64", 1e-12), ("float32", 4)):
        for settings in STEPS:
            exact = impacts(dtype)
            start = jnp.array([1.0, 0.0], dtype)
            found = solve(falling, 0.0, float(exact[-1] + 0.05), start, 0.9, events=bounce, max_steps=10_000, **settings)
            apart = np.abs(np.asarray(found.events.times, np.float64) - exact)
            name = ", ".join(str(value) for value in settings.values()) or "tsit5"
            if dtype == "float64":
                yield f"{dtype}, 20 impacts, {name}", f"<= {asked:g}", f"{(apart / exact).max():.1e}"
            else:
                ulps = apart / np.spacing(exact.astype(dtype))
                found = f"{ulps.max():.1f} ulp, the first {ulps[0]:.1f} ulp"
                yield f"{dtype}, 20 impacts, {name}", f"<= {asked} ulp", found

    def oscillator(t: jax.Array, y: jax.Array, args: Any) -> jax.Array:
        return jnp.stack([y[1], -y[0]])

    zeros = Event(lambda t, y, args: y[0], terminal=False, record=12)
    start = jnp.array([0.0, 1.0], jnp.float64)
    found = solve(oscillator, 0.0, 38.0, start, method="dop853", rtol=1e-13, atol=1e-13, events=zeros, max_steps=10_000)
    apart = np.abs(np.asarray(found.events.times) - np.pi * np.arange(1, 13))
    yield "float64, zeros of an oscillator, dop853", "<= 1e-12", f"{(apart / (np.pi * np.arange(1, 13))).max():.1e}"


def beside_diffrax(options: argparse.Namespace) -> Iterator[Row]:
    """Balls that fall from different heights, to the first impact, Tsit5, rtol = atol = 1e-6, float32; on a GPU ten calls in a
    row, waited for at the end."""
    exponent = (10 if options.quick else 12) if on_cpu() else 17
    heights = jnp.linspace(1.0, 100.0, 2**exponent, dtype=jnp.float32)

    def ours(height: jax.Array) -> jax.Array:
        start = jnp.stack([height, jnp.zeros_like(height)])
        event = Event(lambda t, y, kept: y[0])
        return solve(falling, 0.0, 20.0, start, 1.0, rtol=1e-6, atol=1e-6, dt0=0.01, events=event).ts[0]

    import optimistix

    def theirs(height: jax.Array) -> jax.Array:
        start = jnp.stack([height, jnp.zeros_like(height)])
        event = diffrax.Event(lambda t, y, args, **_: y[0], root_finder=optimistix.Newton(1e-5, 1e-5))
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(falling), diffrax.Tsit5(), 0.0, 20.0, 0.01, start, 1.0, event=event,
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6), throw=False,
        )  # fmt: skip
        return solution.ts[0]

    calls = [jax.jit(jax.vmap(ours)), jax.jit(jax.vmap(theirs))]
    seconds, spent = in_turn(calls, (heights,), 3 if options.quick else 9, in_a_row=1 if on_cpu() else 10)
    exact = jnp.sqrt(2 * heights / GRAVITY)
    errors = [difference(call(heights), exact) for call in calls]
    said = f"{milliseconds(seconds)}, {milliseconds(spent)}; errors {errors[0]:.0e}, {errors[1]:.0e}"
    asked = "" if on_cpu() else ">= 100 times"
    yield f"2^{exponent} balls to the first impact", asked, f"{spent / seconds:.0f} times ({said})"


SECTIONS = {"cost": cost, "accuracy": accuracy, "diffrax": beside_diffrax}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer lanes and repeats")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these sections")
    options = parser.parse_args()
    print(f"{machine()}, diffrax {importlib.metadata.version('diffrax')}, numba {importlib.metadata.version('numba')}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_CUBIE_CACHE"] = folder
        for name in options.only:
            with jax.enable_x64(name == "accuracy"):
                print_sections(SECTIONS, [name], options)


if __name__ == "__main__":
    main()
