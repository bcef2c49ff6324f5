"""Derivatives, measured: `python tests/benchmarks/gradients.py [--quick] [--only SECTION ...]`.

Prints the machine, versions and the date, then for each section a table: what was measured, the figure that is asked for, the
figure that was found. On a GPU Lorenz sweeps have 2^20 lanes (2^17 beside diffrax), on a CPU 2^14 (4,096). A time is the median
of several jitted calls, with the device waited for, that take turns with what they are compared with. Memory and cold builds
have processes of their own.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import diffrax
import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from lorenz import lorenz, machine, sweep

from jax_cubie import SaveAt, Solver

# What a section prints: label, figure asked for, figure found.
Row = tuple[str, str, str]

THEOPHYLLINE = Path(__file__).parents[2] / "examples" / "data" / "theophylline.csv"


def on_cpu() -> bool:
    return jax.devices()[0].platform == "cpu"


def lanes_last(lane: Callable) -> Callable:
    """Jitted over lanes, the results left with lanes last: as the kernel writes them, without a transpose."""
    return jax.jit(jax.vmap(lane, out_axes=-1))


def difference(found: Any, expected: Any) -> float:
    """Of two trees: the largest of any leaf, relative to that leaf's largest element; NaN if there is one."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return float(np.max([float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(other))) for one, other in pairs]))


def same_bits(found: Any, expected: Any) -> bool:
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(np.asarray(one).tobytes() == np.asarray(other).tobytes() for one, other in pairs)


def in_turn(calls: list[Callable], arguments: tuple, repeats: int, in_a_row: int = 1) -> list[float]:
    """Median seconds of each of some calls. They take turns, so that what else a machine does befalls all of them."""
    for call in calls:
        jax.block_until_ready(call(*arguments))
    rounds = []
    for _ in range(repeats):
        times = []
        for call in calls:
            started = time.perf_counter()
            for _ in range(in_a_row):
                result = call(*arguments)
            jax.block_until_ready(result)
            times.append((time.perf_counter() - started) / in_a_row)
        rounds.append(times)
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


# Accuracy


def accuracy(quick: bool) -> Iterator[Row]:
    """The Lorenz system in float64, t from 0 to 0.5; the loss is a sum of sines of what is saved."""
    with jax.enable_x64(True):
        point = {"y0": jnp.array([1.0, 2.0, 3.0]), "args": jnp.array(28.0), "t1": jnp.array(0.5)}
        ts = jnp.linspace(0.1, 0.4, 4)

        def loss(point: dict, **settings: Any) -> jax.Array:
            saveat = SaveAt(ts=ts, t1=True)
            solution = Solver(**settings).solve(lorenz, 0.0, point["t1"], point["y0"], point["args"], saveat=saveat)
            return jnp.sum(jnp.sin(solution.ys))

        for method in ("tsit5",) if quick else ("tsit5", "dopri8"):
            tight = functools.partial(loss, method=method, rtol=1e-12, atol=1e-12)
            gradient = jax.jit(jax.grad(tight))(point)
            found = differences(tight, point, gradient)
            yield f"{method}, 1e-12: gradient against central differences", "<= 1e-6", f"{found:.1e}"
            forward = jax.jit(jax.jacfwd(tight))(point)
            yield f"{method}, 1e-12: forward against reverse", "<= 1e-11", f"{difference(forward, gradient):.1e}"

        yield "tsit5, 60 uneven steps: against diffrax, StepTo", "<= 1e-9", f"{same_steps(loss, point, ts):.1e}"
        yield "tsit5, 1e-6, 16 lanes: each as alone, bit for bit", "all", batched_and_alone()
        yield "tsit5, 1e-7: Hessian by four routes", "<= 1e-9", f"{four_hessians():.1e}"


def differences(loss: Callable, point: Any, gradient: Any) -> float:
    """How far a gradient is from differences of fourth order, each number of the point relative to itself."""
    flat, unflatten = jax.flatten_util.ravel_pytree(point)
    value = jax.jit(lambda numbers: loss(unflatten(numbers)))
    found, step, apart = jax.flatten_util.ravel_pytree(gradient)[0], 1e-5, []
    for number in range(flat.size):
        way = jnp.zeros_like(flat).at[number].set(step)
        near, far = value(flat + way) - value(flat - way), value(flat + 2 * way) - value(flat - 2 * way)
        expected = (8 * near - far) / (12 * step)
        apart.append(float(jnp.abs(found[number] / expected - 1)))
    return float(np.max(apart))


def same_steps(loss: Callable, point: dict, ts: jax.Array) -> float:
    """Gradients by y0 and rho through one list of steps, ours against diffrax's."""
    ends = jnp.asarray(np.sort(np.append(np.random.default_rng(0).uniform(0.0, 0.5, 59), 0.5)))

    def theirs(point: dict) -> jax.Array:
        ys = diffrax.diffeqsolve(
            diffrax.ODETerm(lorenz), diffrax.Tsit5(), 0.0, point["t1"], None, point["y0"], point["args"],
            saveat=diffrax.SaveAt(ts=ts, t1=True), stepsize_controller=diffrax.StepTo(jnp.append(0.0, ends)), max_steps=64,
        ).ys
        return jnp.sum(jnp.sin(ys))

    found = jax.jit(jax.grad(functools.partial(loss, controller="given", step_ends=ends)))(point)
    expected = jax.jit(jax.grad(theirs))(point)
    return difference((found["y0"], found["args"]), (expected["y0"], expected["args"]))


def final(y0: jax.Array, rho: Any, tolerance: float) -> jax.Array:
    return Solver(rtol=tolerance, atol=tolerance).solve(lorenz, 0.0, 0.5, y0, rho).ys[0]


def batched_and_alone() -> str:
    lanes, random = 16, np.random.default_rng(1)
    y0, rho = jnp.asarray(random.normal(size=(lanes, 3))), jnp.asarray(random.uniform(0, 30, lanes))

    def both_ways(y0: jax.Array, rho: jax.Array) -> Any:
        def loss(y0: jax.Array, rho: jax.Array) -> jax.Array:
            return jnp.sum(final(y0, rho, 1e-6) ** 2)

        return jax.grad(loss, (0, 1))(y0, rho), jax.jacfwd(final, 1)(y0, rho, 1e-6)

    batched, alone = jax.jit(jax.vmap(both_ways))(y0, rho), jax.jit(both_ways)
    same = [same_bits(jax.tree.map(lambda leaf, n=n: leaf[n], batched), alone(y0[n], rho[n])) for n in range(lanes)]
    return "all" if all(same) else f"{sum(same)} of {lanes}"


def four_hessians() -> float:
    def loss(y0: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(final(y0, 28.0, 1e-7)))

    y0, ways = jnp.array([1.0, 2.0, 3.0]), (jax.jacfwd, jax.jacrev)
    first, *others = [jax.jit(outer(inner(loss)))(y0) for outer in ways for inner in ways]
    return float(np.max([difference(other, first) for other in others]))


# Cost


def end(y0: jax.Array, rho: jax.Array) -> jax.Array:
    return Solver("tsit5").solve(lorenz, 0.0, 1.0, y0, rho).ys[0]


def cost(quick: bool) -> Iterator[Row]:
    """Of Lorenz sweeps in float32 at 1e-6, t from 0 to 1, as in `lorenz.py`, in multiples of the solve itself."""
    repeats, in_a_row = 5 if quick else 21, 1 if on_cpu() else 5
    exponent = 14 if on_cpu() else 20
    y0, rho = jnp.array([1.0, 0.0, 0.0], jnp.float32), sweep(2**exponent, "float32")
    calls, random = [lanes_last(functools.partial(end, y0))], np.random.default_rng(0)
    for directions in (1, 4, 8):
        along = [jnp.asarray(random.normal(size=(directions, *shape)), jnp.float32) for shape in ((3,), ())]

        def pushed(rho: jax.Array, along: list = along) -> tuple:
            return jax.vmap(lambda *way: jax.jvp(end, (y0, rho), way), out_axes=(None, 0))(*along)

        calls.append(lanes_last(pushed))
    calls.append(lanes_last(lambda rho: jax.value_and_grad(lambda *point: jnp.sum(end(*point) ** 2), (0, 1))(y0, rho)))
    primal, *others = in_turn(calls, (rho,), repeats, in_a_row)
    yield f"2^{exponent} lanes: the solve itself", "", milliseconds(primal)
    labels = ("jvp, 1 direction", "jvp, 4 directions", "jvp, 8 directions", "gradient by y0 and rho")
    for label, asked, seconds in zip(labels, ("1.9", "4.4", "7.2", "5.0"), others, strict=True):
        yield label, f"<= {asked}", f"{seconds / primal:.2f} ({milliseconds(seconds)})"


# Beside diffrax


def beside_diffrax(quick: bool) -> Iterator[Row]:
    """The gradient of the final states of Lorenz lanes by y0 and rho, float32, 1e-6."""
    exponent = 12 if on_cpu() else 17
    y0, rho = jnp.array([1.0, 0.0, 0.0], jnp.float32), sweep(2**exponent, "float32")
    most = 64  # steps of any lane, accepted and rejected: its checkpoints are as few as they can be

    def their_end(y0: jax.Array, rho: jax.Array) -> jax.Array:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lorenz), diffrax.Tsit5(), 0.0, 1.0, None, y0, rho, max_steps=most, throw=False,
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6), adjoint=diffrax.RecursiveCheckpointAdjoint(),
        ).ys[0]

    def gradient(end: Callable) -> Callable:
        return jax.jit(jax.vmap(jax.grad(lambda *point: jnp.sum(end(*point) ** 2), (0, 1)), (None, 0)))

    steps = jax.jit(jax.vmap(lambda rho: Solver("tsit5").solve(lorenz, 0.0, 1.0, y0, rho).stats["num_steps"]))(rho)
    assert int(steps.max()) < most - 8, "diffrax needs a larger max_steps"
    mine, other = gradient(end), gradient(their_end)
    ours, theirs = in_turn([mine, other], (y0, rho), repeats=3 if quick else 9, in_a_row=1 if on_cpu() else 10)
    asked = ">= 8 times" if on_cpu() else ">= 100 times"
    found = f"{theirs / ours:.0f} times ({milliseconds(ours)}, diffrax {milliseconds(theirs)})"
    yield f"2^{exponent} lanes: gradient, diffrax's RecursiveCheckpointAdjoint", asked, found
    yield "the two gradients apart (float32)", "", f"{difference(mine(y0, rho), other(y0, rho)):.1e}"


# A neural ODE


def our_rows(network: eqx.nn.MLP, y0: jax.Array, ts: jax.Array) -> jax.Array:
    solver = Solver("tsit5", rtol=1e-4, atol=1e-4)
    return solver.solve(lambda t, y, args: network(y), 0.0, 1.0, y0, saveat=SaveAt(ts=ts), dt0=0.1).ys


def their_rows(network: eqx.nn.MLP, y0: jax.Array, ts: jax.Array) -> jax.Array:
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: network(y)), diffrax.Tsit5(), 0.0, 1.0, 0.1, y0, saveat=diffrax.SaveAt(ts=ts),
        stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-4), max_steps=32, throw=False,
    ).ys


def network(quick: bool) -> Iterator[Row]:
    """One update of an MLP, 2-64-64-2, by Adam, on 4,096 series of ten irregular times each; tsit5 at 1e-4, float32, two
    or three steps a lane."""
    lanes, random = 4096, np.random.default_rng(0)
    y0 = jnp.asarray(random.normal(size=(lanes, 2)), jnp.float32)
    ts = jnp.asarray(np.sort(random.uniform(0, 1, (lanes, 10)), axis=1), jnp.float32)
    turned = jnp.stack([jnp.cos(2 * ts), jnp.sin(2 * ts)], -1)
    measured = turned * y0[:, None, :1] + jnp.stack([-turned[..., 1], turned[..., 0]], -1) * y0[:, None, 1:]
    model = eqx.nn.MLP(2, 2, 64, 2, activation=jnp.tanh, key=jax.random.key(1))
    weights, static = eqx.partition(model, eqx.is_inexact_array)
    optimizer = optax.adam(1e-3)
    state = optimizer.init(weights)

    def update(rows: Callable) -> Callable:
        def loss(weights: Any) -> jax.Array:
            network = eqx.combine(weights, static)
            return jnp.mean((jax.vmap(functools.partial(rows, network))(y0, ts) - measured) ** 2)

        @jax.jit
        def step(weights: Any, state: Any) -> tuple:
            value, gradient = jax.value_and_grad(loss)(weights)
            changes, state = optimizer.update(gradient, state)
            return optax.apply_updates(weights, changes), state, value

        return step

    # On a GPU JAX's products take 10 bits of each factor unless told otherwise; ours take all of them.
    precisions: dict[str, str | None] = {"": None}
    if not on_cpu():
        precisions = {", all bits of products": "highest"}
        if not quick:
            precisions[", diffrax with JAX's default products"] = None
    for said, precision in precisions.items():
        with jax.default_matmul_precision(precision):
            mine, other = update(our_rows), update(their_rows)
            ours, theirs = in_turn([mine, other], (weights, state), repeats=3 if quick else 9)
            apart = difference(mine(weights, state)[2], other(weights, state)[2])
        found = f"{theirs / ours:.2f} times ({milliseconds(ours)}, diffrax {milliseconds(theirs)}; losses {apart:.0e} apart)"
        yield f"4,096 lanes: one training update{said}", ">= 1 times" if on_cpu() else ">= 2 times", found


# Theophylline


def compartments(t: jax.Array, y: jax.Array, parameters: jax.Array) -> jax.Array:
    ka, ke, volume = parameters
    return jnp.stack([-ka * y[0], ka * y[0] / volume - ke * y[1]])


def solved(logs: jax.Array, dose: jax.Array, ts: jax.Array) -> jax.Array:
    y0 = jnp.stack([dose, jnp.zeros_like(dose)])
    # Where a start goes astray, the rates are large and the steps many: NaN, and a fit takes nothing that is NaN.
    solver = Solver("tsit5", rtol=1e-6, atol=1e-6, max_steps=500)
    return solver.solve(compartments, 0.0, ts[-1], y0, jnp.exp(logs), saveat=SaveAt(ts=ts)).ys[:, 1]


def closed_form(logs: jax.Array, dose: jax.Array, ts: jax.Array) -> jax.Array:
    ka, ke, volume = jnp.exp(logs)
    return dose * ka / (volume * (ka - ke)) * (jnp.exp(-ke * ts) - jnp.exp(-ka * ts))


def by_cramers_rule(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Three equations: a library call for each of 120,000 lanes would take longer than the solves."""
    first, second, third = matrix.T
    numerators = [
        jnp.dot(right, jnp.cross(second, third)),
        jnp.dot(first, jnp.cross(right, third)),
        jnp.dot(first, jnp.cross(second, right)),
    ]
    return jnp.stack(numerators) / jnp.dot(first, jnp.cross(second, third))


def fit(concentrations: Callable, updates: int, logs: jax.Array, dose: jax.Array, ts: jax.Array, measured: jax.Array) -> tuple:
    """Levenberg and Marquardt's method from one start: the logarithms of the parameters, and the sum of squares."""

    def residuals(logs: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = concentrations(logs, dose, ts) - measured
        return found, found

    look = jax.jacfwd(residuals, has_aux=True)

    def update(carry: tuple, _: None) -> tuple:
        logs, jacobian, errors, damping = carry
        normal = jacobian.T @ jacobian
        change = -by_cramers_rule(normal + damping * jnp.diag(jnp.diag(normal)), jacobian.T @ errors)
        tried = logs + jnp.clip(change, -1.0, 1.0)
        new = (tried, *look(tried), damping / 5)
        better = jnp.sum(new[2] ** 2) < jnp.sum(errors**2)
        kept = (logs, jacobian, errors, jnp.minimum(damping * 5, 1e8))
        return jax.tree.map(lambda one, other: jnp.where(better, one, other), new, kept), None

    (logs, _, errors, _), _ = jax.lax.scan(update, (logs, *look(logs), jnp.array(1e-2)), None, updates)
    return logs, jnp.sum(errors**2)


def theophylline(quick: bool) -> Iterator[Row]:
    """ka, ke and V of twelve subjects from random starts, float64, tsit5 at 1e-6: a launch for each update."""
    with jax.enable_x64(True):
        table = np.genfromtxt(THEOPHYLLINE, delimiter=",", names=True)
        rows = [table[table["Subject"] == subject] for subject in np.unique(table["Subject"])]
        doses = jnp.asarray([one["Dose"][0] * one["Wt"][0] for one in rows])
        times, measured = (jnp.asarray(np.stack([one[name] for one in rows])) for name in ("Time", "conc"))
        starts, updates = 1_000 if quick else 10_000, 50
        low, high = np.log([0.3, 0.02, 15.0]), np.log([5.0, 0.25, 80.0])
        logs = jnp.asarray(np.random.default_rng(0).uniform(low, high, (starts, 3)))

        def fits(concentrations: Callable) -> Callable:
            over_starts = jax.vmap(functools.partial(fit, concentrations, updates), (0, None, None, None))
            return jax.jit(jax.vmap(over_starts, (None, 0, 0, 0)))

        arguments = (doses, times, measured)
        call = fits(solved).lower(logs, *arguments).compile()
        started = time.perf_counter()
        found, squares = jax.block_until_ready(call(logs, *arguments))
        seconds = time.perf_counter() - started
        reached = float(jnp.mean(squares < 1.001 * squares.min(1, keepdims=True)))
        exact, expected = fits(closed_form)(logs[:100], *arguments)
        apart = difference(best_of(found, squares), best_of(exact, expected))
        yield f"12 x {starts:,} starts, {updates} updates", "seconds", f"{seconds:.1f} s"
        yield "starts that reach the best sum of squares", "", f"{100 * reached:.1f} %"
        yield "best parameters against those of the closed form", "<= 1e-4", f"{apart:.1e}"


def best_of(logs: jax.Array, squares: jax.Array) -> jax.Array:
    """Each subject's best parameters [12, 3]; of the two sets with one and the same curve, that with ka > ke."""
    best = jnp.argmin(jnp.where(logs[..., 0] > logs[..., 1], squares, jnp.inf), axis=1)
    return jnp.exp(logs[jnp.arange(len(logs)), best])


# Memory


def peak_memory(steps: str) -> None:
    """Of steps that are "fixed" or "adaptive". Prints a number of lanes, and bytes: the most that their gradient takes (on a
    CPU beyond what was resident before), those of XLA's plan for arrays in between, and those in use on the device."""
    exponent = 16 if on_cpu() else 20
    y0, rho = jnp.array([1.0, 0.0, 0.0], jnp.float32), sweep(2**exponent, "float32")
    solver = Solver("tsit5", controller="fixed")
    if steps == "adaptive":  # as long as they may be
        solver = Solver("tsit5", rtol=1e-4, atol=1e-4, dtmax=1e-3, max_steps=1024)

    def loss(y0: jax.Array, rho: jax.Array) -> jax.Array:
        return jnp.sum(solver.solve(lorenz, 0.0, 1.0, y0, rho, dt0=1e-3).ys ** 2)

    gradient = jax.vmap(jax.grad(loss, (0, 1)), (None, 0), out_axes=-1)
    compiled = jax.jit(gradient).lower(y0, rho).compile()
    plan = compiled.memory_analysis()
    if on_cpu():
        # Else the peak is that of the build. (That of getrusage is no use: it begins at the parent's.)
        Path("/proc/self/clear_refs").write_text("5")
    before = resident_kib("VmRSS")
    found = jax.block_until_ready(compiled(y0, rho))
    peak = 1024 * (resident_kib("VmHWM") - before) if on_cpu() else jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    assert plan is not None and all(bool(jnp.isfinite(leaf).all()) for leaf in found)
    print(2**exponent, peak, plan.temp_size_in_bytes, device_memory())


def resident_kib(name: str) -> int:
    """Of this process's memory: what is resident now (VmRSS), and the most that was (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def device_memory() -> int:
    """Bytes in use on the first GPU, whoever uses them; 0 where there is none, or none that says so."""
    if on_cpu() or shutil.which("nvidia-smi") is None:
        return 0
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    said = subprocess.run(query, capture_output=True, text=True).stdout.split()
    return int(said[0]) * 2**20 if said and said[0].isdigit() else 0


def memory(quick: bool) -> Iterator[Row]:
    """Of the gradient of Lorenz lanes of 1,000 steps each, float32, by y0 and rho: steps that are fixed, and those that a
    controller chooses under max_steps=1024."""
    for steps in ("fixed", "adaptive"):
        used = device_memory()
        lanes, peak, arrays, after = map(int, own_process("--peak-memory", steps))
        gib = 2**20 / lanes / 2**30
        label = f"2^20 lanes x 1,000 {steps} steps: JAX's peak on the device"
        if on_cpu():
            label = f"2^20 lanes x 1,000 {steps} steps: resident set of {lanes:,} lanes, times {2**20 // lanes}"
        yield label, "<= 2 GiB", f"{peak * gib:.2f} GiB"
        yield "of that, arrays between the two launches (XLA's plan)", "", f"{arrays * gib:.2f} GiB"
        if after:
            found = f"{(after - used) / 2**30:.2f} GiB"
            yield "all that the process takes of the GPU (XLA takes arrays' memory by powers of 2)", "", found


# One long lane


def long(quick: bool) -> Iterator[Row]:
    """One lane of the Lorenz system, fixed steps, t from 0 to 1."""
    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"):
            yield from long_lane(dtype, (3 if quick else 9) if on_cpu() else 3)


def long_lane(dtype: str, repeats: int) -> Iterator[Row]:
    y0, rho, count = jnp.array([1.0, 0.0, 0.0]), jnp.array(21.0), 10**6
    solver = Solver("tsit5", controller="fixed", max_steps=count + 10)

    def loss(y0: jax.Array, rho: jax.Array, dt0: float) -> jax.Array:
        return jnp.sum(solver.solve(lorenz, 0.0, 1.0, y0, rho, dt0=dt0).ys ** 2)

    primal, gradient = jax.jit(loss), jax.jit(jax.grad(loss, (0, 1)))
    few = [jax.block_until_ready(call(y0, rho, 1e-3)) for call in (primal, gradient)][1]  # compiles; dt0 is no constant
    times = [[], []]
    for _ in range(repeats):
        for call, taken in zip((primal, gradient), times, strict=True):
            started = time.perf_counter()
            many = jax.block_until_ready(call(y0, rho, 1 / count))
            taken.append(time.perf_counter() - started)
    seconds = list(map(statistics.median, times))
    found = f"{seconds[1] / seconds[0]:.2f} ({seconds[1]:.2f} s, the solve {seconds[0]:.3f} s)"
    yield f"{count:,} steps of one lane, {dtype}: gradient by y0 and rho", "<= 8", found
    yield "the gradient against that of 1,000 steps", "", f"{difference(many, few):.1e}"


# Cold builds

TARGETS = ("cpu", "cuda:90")


def build(target: str) -> None:
    """Prints the seconds of a first build, the solve that records and its way back, and those of another field's."""
    platform = target.partition(":")[0]
    if platform == "cuda":
        os.environ["JAX_CUBIE_CUDA_TARGET"] = target
    jnp.zeros(3).block_until_ready()
    lanes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1024, 3), (1024,))]
    for f in (lorenz, lambda t, y, rho: -lorenz(t, y, rho)):

        def loss(y0: jax.Array, rho: jax.Array, f: Callable = f) -> jax.Array:
            return jnp.sum(Solver("tsit5").solve(f, 0.0, 1.0, y0, rho).ys ** 2)

        started = time.perf_counter()
        # Traces, differentiates, translates, and builds both images; XLA compiles nothing here.
        jax.jit(jax.vmap(jax.grad(loss, (0, 1)))).trace(*lanes).lower(lowering_platforms=(platform,))
        print(time.perf_counter() - started)


def builds(quick: bool) -> Iterator[Row]:
    """Of grad(Lorenz, tsit5), from `jax.grad` to machine code, with no cache; medians."""
    for target in TARGETS:
        runs = [list(map(float, own_process("--build", target, cache=""))) for _ in range(1 if quick else 5)]
        first, second = (statistics.median(column) for column in zip(*runs, strict=True))
        yield f"{target}: in a fresh process, the import of Numba included", "<= 3 s", f"{first:.2f} s"
        yield f"{target}: once Numba is there", "", f"{second:.2f} s"


def own_process(*options: str, cache: str | None = None) -> list[str]:
    """The words that this script prints in a process of its own. cache: another folder for images, "" for none."""
    variables = os.environ if cache is None else {**os.environ, "JAX_CUBIE_CACHE": cache}
    command = [sys.executable, __file__, *options]
    return subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE, text=True).stdout.split()


SECTIONS = {
    "accuracy": accuracy,
    "cost": cost,
    "diffrax": beside_diffrax,
    "network": network,
    "theophylline": theophylline,
    "memory": memory,
    "long": long,
    "builds": builds,
}


Section = Callable[[Any], Iterator[Row]]


def print_sections(
    sections: Mapping[str, Section], chosen: Iterable[str], options: Any, width: int = 66, middle: str = "asked"
) -> None:
    """The chosen sections, each with what it is, its rows, and how long it took. width: of labels; middle: above the figures
    that are asked for."""
    for name in chosen:
        section, started = sections[name], time.perf_counter()
        print(f"\n{name}. {' '.join((section.__doc__ or '').split())}", flush=True)
        print(f"  {'':{width}s} {middle:>12s}   found")
        for label, asked, found in section(options):
            print(f"  {label:{width}s} {asked:>12s}   {found}", flush=True)
        print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few repeats, fewer starts and methods")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these sections")
    parser.add_argument("--build", metavar="TARGET", help="two cold builds in this process")
    parser.add_argument("--peak-memory", metavar="STEPS", help="the memory of one gradient in this process")
    options = parser.parse_args()
    if options.build:
        build(options.build)
        return
    if options.peak_memory:
        peak_memory(options.peak_memory)
        return
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("diffrax", "optax", "numba"))
    print(f"{machine()}, {versions}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_CUBIE_CACHE"] = folder
        print_sections(SECTIONS, options.only, options.quick)


if __name__ == "__main__":
    main()
