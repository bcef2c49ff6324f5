"""Stiff systems, measured: `python tests/benchmarks/stiff.py [--quick] [--only SECTION ...] [--picture FILE]`.

Prints the machine, versions and the date, then for each section a table: what was measured, the figure that is asked for, the
figure that was found. Everything is in float64 but what is only built. The problems and their reference values are those of the
tests. An error is the largest of any component, in units of its tolerance, which is rtol (size + |y|) with a size of the
problem's. Times beside diffrax are at one error: diffrax has the tolerance at which the 95th percentile of its lanes' errors is
that of ours. (The median would tell nothing of HIRES, where half of the lanes have settled at the end, whatever their steps.) A
time is the median of several jitted calls, with the device waited for, that take turns. Cold builds have processes of their
own.

diffrax's solvers are taken twice: as they come, and with optimistix's Chord, up to 40 iterations, in place of diffrax's own
root finder. That, VeryChord, gives up on many stages of Kvaerno5, so that half of its steps are rejected, and several times as
many are taken.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.append(str(Path(__file__).parents[1] / "tables"))

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from compile import dense
from gradients import Row, difference, differences, in_turn, milliseconds, on_cpu, print_sections
from lorenz import machine
from scipy.integrate import solve_ivp
from stiff_problems import PROBLEMS, StiffProblem, hodgkin_huxley, reference, robertson

import jax_cubie
from jax_cubie import Solver

jax.config.update("jax_enable_x64", True)

TOLERANCES = (1e-4, 1e-6, 1e-8)
# Small against what moves first, for both sides: diffrax 0.7 without one takes 0.01.
FIRST_STEP = {"robertson": 1e-6, "hires": 1e-4, "brusselator": 1e-4, "chemical_akzo_reduced": 1e-3}


def with_chord(solver: type[diffrax.AbstractImplicitSolver]) -> diffrax.AbstractSolver:
    chord = diffrax.with_stepsize_controller_tols(optimistix.Chord)(cauchy_termination=False)
    return solver(root_finder=chord, root_find_max_steps=40)


class Iterations(optimistix.Newton):
    """Eight iterations of Newton's at each stage, with a Jacobian of their own, and none that gives up."""

    def terminate(self, fn: Any, y: Any, args: Any, options: Any, state: Any, tags: Any) -> tuple[Any, Any]:
        return state.step >= 8, optimistix.RESULTS.successful


KVAERNO5 = {"Kvaerno5": diffrax.Kvaerno5(), "Kvaerno5 with Chord": with_chord(diffrax.Kvaerno5)}


def ours(problem: StiffProblem, method: str, dt0: float, **settings: Any) -> Callable:
    """Of (rtol, y0, args): the state at the end, and `stats`."""

    def lane(rtol: Any, y0: jax.Array, args: Any) -> tuple[jax.Array, dict]:
        solver = Solver(method, rtol=rtol, atol=rtol * problem.atol(1.0), **settings)
        solution = solver.solve(problem.f, 0.0, problem.t1, y0, args, dt0=dt0)
        return solution.ys[-1], solution.stats

    return lane


def theirs(problem: StiffProblem, solver: diffrax.AbstractSolver, dt0: float, checkpointed: int | None = None) -> Callable:
    """As `ours`, by diffrax. checkpointed: the most steps, to be differentiated backwards."""
    adjoint = diffrax.RecursiveCheckpointAdjoint() if checkpointed else diffrax.ForwardMode()

    def lane(rtol: Any, y0: jax.Array, args: Any) -> tuple[jax.Array, dict]:
        controller = diffrax.PIDController(rtol=rtol, atol=rtol * problem.atol(1.0))
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(problem.f), solver, 0.0, problem.t1, dt0, y0, args, stepsize_controller=controller,
            max_steps=checkpointed or 20_000, adjoint=adjoint, throw=False,
        )  # fmt: skip
        return solution.ys[-1], solution.stats

    return lane


def over_tolerances(lane: Callable, problem: StiffProblem, tolerances: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends [tolerances, n], accepted and rejected steps [tolerances]."""
    ends, stats = jax.jit(jax.vmap(lane, (0, None, None)))(jnp.asarray(tolerances), jnp.asarray(problem.y0), problem.args)
    return np.asarray(ends), np.asarray(stats["num_accepted_steps"]), np.asarray(stats["num_rejected_steps"])


# Accuracy


def accuracy(options: argparse.Namespace) -> Iterator[Row]:
    """Scaled errors at the end, rtol 1e-4, 1e-6, 1e-8."""
    for name, dt0 in FIRST_STEP.items():
        problem, exact = PROBLEMS[name], reference(name)
        for method in options.methods:
            ends, steps, _ = over_tolerances(ours(problem, method, dt0), problem, TOLERANCES)
            found = [
                f"{float(problem.scaled_error(end, exact, rtol)):.2g} ({count} steps)"
                for end, count, rtol in zip(ends, steps, TOLERANCES, strict=True)
            ]
            yield f"{name}, {method}", "<= 10", ", ".join(found)


# Steps


def steps(options: argparse.Namespace) -> Iterator[Row]:
    """Accepted (and rejected) steps at rtol 1e-4, 1e-6, 1e-8 beside diffrax's: the same tolerances and first step.

    Nearly all of the steps that diffrax's Kvaerno5 rejects on Robertson are such that a root finder gave up on, and each is
    followed by several small ones. With eight iterations of Newton's it has no such: its stages are then solved to rounding. On
    HIRES some of those do not converge, and are taken all the same: at 1e-6 the error at the end is 89 tolerances, ours 1.5.
    """
    eight = diffrax.Kvaerno5(root_finder=Iterations(1.0, 1.0), root_find_max_steps=9)
    solvers = {
        "kvaerno3": {"Kvaerno3": diffrax.Kvaerno3(), "Kvaerno3 with Chord": with_chord(diffrax.Kvaerno3)},
        "kvaerno5": {**KVAERNO5, "Kvaerno5 with 8 iterations": eight},
    }
    for name in ("robertson", "hires"):
        problem, dt0 = PROBLEMS[name], FIRST_STEP[name]
        for method, others in solvers.items():
            _, mine, rejected = over_tolerances(ours(problem, method, dt0), problem, TOLERANCES)
            yield f"{name}, {method}", "", ", ".join(map("{} ({})".format, mine, rejected))
            for label, solver in others.items():
                _, theirs_, rejected = over_tolerances(theirs(problem, solver, dt0), problem, TOLERANCES)
                found = map("{} ({}): {:.2f}".format, theirs_, rejected, mine / theirs_)
                yield f"  diffrax, {label}; of that, ours", "0.9 to 1.1", ", ".join(found)


# All methods

# One with the widest range of rates, one of eight states, one whose stiffness comes and goes.
COMPARED = {"robertson": 1e-6, "hires": 1e-4, "van_der_pol": 1e-3}


def methods(options: argparse.Namespace) -> Iterator[Row]:
    """Every method for stiff systems that estimates its error, and "auto", at equal tolerances: accepted (and rejected) steps,
    evaluations of f, factorisations, the scaled error at the end, and microseconds for one of 64 lanes alike."""
    tolerances = jnp.asarray([1e-3, 1e-6])
    named = [one["name"] for one in jax_cubie.methods() if one["stiff"] and one["embedded_order"] is not None]
    for name, dt0 in COMPARED.items():
        problem, exact = PROBLEMS[name], reference(name)
        start = jnp.tile(jnp.asarray(problem.y0), (8 if options.quick else 64, 1))
        for method in (*named, "auto"):
            batch = jax.jit(jax.vmap(ours(problem, method, dt0), (None, 0, None)))
            calls = [functools.partial(batch, rtol) for rtol in tolerances]
            seconds = in_turn(calls, (start, problem.args), 1 if options.quick else 3)
            for rtol, call, spent in zip(tolerances, calls, seconds, strict=True):
                ends, stats = jax.tree.map(lambda one: np.asarray(one)[0], call(start, problem.args))
                accepted, rejected, evaluations, factorisations = (
                    int(stats[key]) for key in ("num_accepted_steps", "num_rejected_steps", "nfev", "num_factorisations")
                )
                error = float(problem.scaled_error(ends, exact, float(rtol)))
                yield (
                    f"{name}, {method}, {rtol:.0e}", "",
                    f"{accepted:6d} ({rejected:4d}) steps {evaluations:8d} f {factorisations:6d} LU {error:9.2g} "
                    f"{1e6 * spent / len(start):9.1f} us",
                )  # fmt: skip


def invariants(options: argparse.Namespace) -> Iterator[Row]:
    """A rigid body, whose squared angular momentum is constant: how far it is from that after 10,000 steps of 0.1."""

    def rigid_body(t: Any, y: jax.Array, args: Any) -> jax.Array:
        return jnp.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]])

    def momentum(y: Any) -> float:
        return float(y[0] ** 2 + y[1] ** 2)

    start = jnp.array([0.0, 1.0, 1.0])
    for one in jax_cubie.methods():
        if one["stiff"] and one["order"] <= 6:
            settings = {"newton_rtol": 1e-13, "newton_atol": 1e-13} if one["family"] != "Rosenbrock" else {}
            solver = Solver(one["name"], controller="fixed", max_steps=20_000, **settings)
            end = solver.solve(rigid_body, 0.0, 1000.0, start, dt0=0.1).ys[-1]
            yield f"order {one['order']}, {one['name']}", "", f"{abs(momentum(end) - momentum(start)):.1e}"


# Lanes


def lanes_of_robertson(count: int) -> tuple[StiffProblem, jax.Array, jax.Array]:
    """t to 1e5; each rate over two decades of its own: the problem, y0, k of each lane."""
    # At rtol 1e-6 the absolute tolerances are those of CVODE's example, 1e-8, 1e-14, 1e-6: b is as little as 1e-9.
    problem = dataclasses.replace(PROBLEMS["robertson"], t1=1e5, size=np.array([1e-2, 1e-8, 1.0]))
    spread = 10.0 ** np.random.default_rng(0).uniform(-1, 1, (count, 3))
    return problem, jnp.asarray(problem.y0), jnp.asarray(problem.args * spread)


def lanes_of_hires(count: int) -> tuple[StiffProblem, jax.Array, jax.Array]:
    """The eighth reactant's start over a decade: the problem, y0 of each lane [count, 8], no args."""
    problem = PROBLEMS["hires"]
    starts = np.tile(problem.y0, (count, 1))
    starts[:, 7] *= 10.0 ** np.random.default_rng(0).uniform(-0.5, 0.5, count)
    return problem, jnp.asarray(starts), jnp.zeros(count)


def same_error(problem: StiffProblem, mine: Callable, other: Callable, sample: tuple) -> tuple[float, str]:
    """The tolerance at which diffrax's error is ours at 1e-6: the 95th percentile of `sample`, against ours at 1e-11."""
    exact = np.asarray(mine(1e-11, *sample)[0])

    def error(call: Callable, tolerance: float) -> float:
        return float(np.percentile(problem.scaled_error(call(tolerance, *sample)[0], exact, 1e-6), 95))

    target, grid = error(mine, 1e-6), 10.0 ** -np.arange(3.0, 9.0)
    found = np.minimum.accumulate([error(other, tolerance) for tolerance in grid])
    same = float(np.exp(np.interp(-np.log(target), -np.log(found), np.log(grid))))
    return same, f"error {target:.2g}, diffrax's {error(other, same):.2g} at {same:.1e}"


def beside_diffrax(
    problem: StiffProblem, dt0: float, axes: tuple, lanes: tuple, sample: tuple, options: argparse.Namespace,
    fewer: int | None = None,
) -> Iterator[tuple[str, float, str]]:
    """Of the first of our methods at 1e-6 and of diffrax's at the same error: whose, how many times ours is faster, details.

    fewer: diffrax has only so many of the lanes, the first ones; both times are then those of a lane.
    """
    mine = jax.jit(jax.vmap(ours(problem, options.methods[0], dt0), (None, *axes)))
    others = {label: jax.jit(jax.vmap(theirs(problem, solver, dt0), (None, *axes))) for label, solver in KVAERNO5.items()}
    same = {label: same_error(problem, mine, other, sample) for label, other in others.items()}
    count = next(len(one) for one, axis in zip(lanes, axes, strict=True) if axis is not None)
    part = tuple(one if axis is None else one[:fewer] for one, axis in zip(lanes, axes, strict=True))
    calls = [functools.partial(mine, 1e-6, *lanes)]
    calls += [functools.partial(others[label], same[label][0], *part) for label in others]
    seconds, *theirs_ = in_turn(calls, (), 3 if options.quick or on_cpu() else 9)
    for (label, (_, said)), spent in zip(same.items(), theirs_, strict=True):
        if fewer is None or fewer >= count:
            yield label, spent / seconds, f"({milliseconds(seconds)}, {milliseconds(spent)}; {said})"
        else:
            times, of = (spent / fewer) / (seconds / count), f"{milliseconds(spent)} of {fewer} lanes"
            yield label, times, f"a lane ({milliseconds(seconds)} of {count:,} lanes, {of}; {said})"


def robertson_lanes(options: argparse.Namespace) -> Iterator[Row]:
    """Robertson's reactions, each rate spread over two decades, t to 1e5, rtol 1e-6; errors are those of 64 lanes."""
    exponent, method = (8 if options.quick else 10) if on_cpu() else 17, options.methods[0]
    problem, y0, k = lanes_of_robertson(2**exponent)
    dt0 = FIRST_STEP["robertson"]
    for label, times, said in beside_diffrax(problem, dt0, (None, 0), (y0, k), (y0, k[:64]), options):
        asked = "" if on_cpu() else ">= 100 times"
        yield f"2^{exponent} lanes, {method} beside diffrax's {label}", asked, f"{times:.0f} times {said}"
    if not on_cpu():
        calls = [
            functools.partial(jax.jit(jax.vmap(ours(problem, method, dt0, schedule=one), (None, None, 0))), 1e-6)
            for one in ("queue", "static")
        ]
        queue, static = in_turn(calls, (y0, k), 3 if options.quick else 9)
        found = f"{static / queue:.2f} times ({milliseconds(queue)}, static {milliseconds(static)})"
        yield f"2^{exponent} lanes, {method}: the queue against static", ">= 2 times", found


def hires_lanes(options: argparse.Namespace) -> Iterator[Row]:
    """HIRES, the start of the eighth reactant over a decade, rtol 1e-6; errors are those of 128 lanes. On a CPU diffrax has the
    first of these lanes alone, since more take minutes a call: what is compared is the time of a lane, and of more lanes at
    once nothing was measured."""
    count, method = 512 if options.quick else 4096, options.methods[0]
    fewer = (64 if options.quick else 256) if on_cpu() else None
    problem, y0, none = lanes_of_hires(count)
    lanes, sample = (y0, none), (y0[:128], none[:128])
    for label, times, said in beside_diffrax(problem, FIRST_STEP["hires"], (0, 0), lanes, sample, options, fewer):
        asked = ">= 8 times" if on_cpu() else ""
        yield f"{count:,} lanes, {method} beside diffrax's {label}", asked, f"{times:.1f} times {said}"


# Beside gradsolve


def gradsolve(options: argparse.Namespace) -> Iterator[Row]:
    """gradsolve's Rosenbrock23 on its own example, examples/06_stiff.py: Robertson's reactions, t to 1e4, all lanes alike, rtol
    1e-6, atol 1e-9. Its kernel is called as its benchmarks do, through its FFI entry point, with arrays that lie on the device
    as it wants them. Ours have the largest tolerance from which on their largest relative error is no larger than gradsolve's,
    against 1e-12. On a CPU its kernel is a loop on one core."""
    try:
        from gradsolve.cuda._ffi_bridge import make_runner_rosenbrock
    except ImportError:
        yield "gradsolve is not installed", "", "not measured: pip install gradsolve"
        return
    platform, compiler = ("cpu", "c++") if on_cpu() else ("cuda", "nvcc")
    if shutil.which(compiler) is None:
        yield f"gradsolve builds its kernel with {compiler}, which is not on PATH", "", "not measured"
        return
    exponent = (8 if options.quick else 12) if on_cpu() else 17
    problem = dataclasses.replace(PROBLEMS["robertson"], t1=1e4, size=1e-3)  # rtol 1e-6 goes with its atol
    lanes = tuple(jnp.tile(jnp.asarray(one)[:, None], (1, 2**exponent)) for one in (problem.y0, problem.args))
    sample = tuple(one[:, :1] for one in lanes)
    kernel = make_runner_rosenbrock("robertson", 3, 3, "float64", platform)

    @jax.jit
    def theirs_(y0: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        return kernel(y0, k, problem.t1, 1e-6, 1e-9, 50_000)

    exact = np.asarray(ours(problem, "radau_iia_5", 1e-6)(1e-12, jnp.asarray(problem.y0), jnp.asarray(problem.args))[0])

    def error(end: Any) -> float:
        return float(np.max(np.abs(np.asarray(end)[:, 0] / exact - 1.0)))

    end, taken = theirs_(*sample)
    target = error(end)
    yield "gradsolve, error and accepted steps", "", f"{target:.2g}, {int(taken[0])}"
    calls, said, grid = [theirs_], [], 10.0 ** -np.arange(2.0, 9.0, 0.05)
    methods = dict.fromkeys(("rosenbrock23", *options.methods))
    for method in methods:
        call = jax.jit(jax.vmap(ours(problem, method, FIRST_STEP["robertson"]), (None, -1, -1), (-1, 0)))
        found = np.array([error(call(tolerance, *sample)[0]) for tolerance in grid])
        same = float(grid[np.flatnonzero(~(found <= target))[-1] + 1])
        end, stats = call(same, *sample)
        calls.append(functools.partial(call, same))
        said.append(f"error {error(end):.2g} at {same:.1e}, {int(stats['num_accepted_steps'][0])} steps")
    seconds, *mine = in_turn(calls, lanes, 3 if options.quick else 9)
    for method, spent, details in zip(methods, mine, said, strict=True):
        asked = ">= 1.3 times" if method == "rosenbrock23" and not on_cpu() else ""
        times = f"{seconds / spent:.2f} times ({milliseconds(spent)}, {milliseconds(seconds)}; {details})"
        yield f"2^{exponent} lanes, {method} beside gradsolve's Rosenbrock23", asked, times


# Linear solvers and resources


def linear(options: argparse.Namespace) -> Iterator[Row]:
    """Sparse against dense LU: the Brusselator on a line, n = 64, rtol 1e-6. The order of elimination is the natural one for
    such a band and no rows are exchanged, so that both do the same sums: 0 apart is no measure of accuracy."""
    count = (16 if options.quick else 64) if on_cpu() else 2**13
    problem, dt0 = PROBLEMS["brusselator"], FIRST_STEP["brusselator"]
    diffusion = jnp.linspace(0.01, 0.04, count)
    for method in options.methods:
        calls = [
            functools.partial(jax.jit(jax.vmap(ours(problem, method, dt0, linear_solver=one), (None, None, 0))), 1e-6)
            for one in ("sparse", "dense")
        ]
        arguments = (jnp.asarray(problem.y0), diffusion)
        sparse, full = in_turn(calls, arguments, 3)
        apart = difference(*(call(*arguments)[0] for call in calls))
        found = f"{full / sparse:.1f} times ({milliseconds(sparse)}, dense {milliseconds(full)}; {apart:.0e} apart)"
        yield f"{count:,} lanes, {method}", ">= 5 times", found


def resources(options: argparse.Namespace) -> Iterator[Row]:
    """Built for cuda:90, float32: Robertson (n = 3), Hodgkin and Huxley (n = 4)."""
    for f, n, args in ((robertson, 3, jax.ShapeDtypeStruct((3,), jnp.float32)), (hodgkin_huxley, 4, None)):
        args = jax.ShapeDtypeStruct((), jnp.float32) if args is None else args
        for method in (options.methods[0], "kvaerno3"):
            y0 = jax.ShapeDtypeStruct((n,), jnp.float32)
            image = Solver(method).inspect(f, 0.0, 1.0, y0, args, target="cuda:90", batched=("args",))
            found = f"{image.registers} registers, {image.spill_bytes} B spilled, {image.stack_bytes} B local"
            yield f"{f.__name__}, n = {n}, {method}", "0 B, 0 B", found


# Gradients


def gradient(options: argparse.Namespace) -> Iterator[Row]:
    """Of the sum of the logarithms of Robertson's final states by y0 and the logarithms of the rates, t to 1e5, rtol 1e-6."""
    exponent, method, dt0 = (5 if options.quick else 8) if on_cpu() else 14, options.methods[0], FIRST_STEP["robertson"]
    problem, y0, k = lanes_of_robertson(2**exponent)
    logs = jnp.log(k)
    lane = ours(problem, method, dt0)

    def gradient_of(lane: Callable, rtol: float) -> Callable:
        def loss(y0: jax.Array, logs: jax.Array) -> jax.Array:
            return jnp.sum(jnp.log(lane(rtol, y0, jnp.exp(logs))[0]))

        return jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (None, 0)))

    over_lanes = (None, None, 0)
    mine = gradient_of(lane, 1e-6)
    for label, solver in reversed(KVAERNO5.items()):  # the quicker one first
        forwards = jax.jit(jax.vmap(theirs(problem, solver, dt0), over_lanes))
        same, said = same_error(problem, jax.jit(jax.vmap(lane, over_lanes)), forwards, (y0, k[:64]))
        # As few checkpoints as there can be.
        most = int(forwards(same, y0, k)[1]["num_steps"].max()) + 1
        other = gradient_of(theirs(problem, solver, dt0, most), same)
        seconds, spent = in_turn([mine, other], (y0, logs), 1 if options.quick else 3)
        found = f"{spent / seconds:.0f} times ({milliseconds(seconds)}, {milliseconds(spent)}; {said})"
        yield f"2^{exponent} lanes: gradient beside diffrax's {label}", "" if on_cpu() else ">= 50 times", found
        yield "  the two gradients apart", "", f"{difference(mine(y0, logs), other(y0, logs)):.1e}"

    def tight(point: dict) -> jax.Array:
        return jnp.sum(jnp.log(lane(1e-11, point["y0"], jnp.exp(point["logs"]))[0]))

    # Starts away from 0: half of a difference would be at negative concentrations.
    point = {"y0": jnp.array([0.9, 1e-3, 0.1]), "logs": jnp.log(jnp.asarray(problem.args))}
    apart = differences(tight, point, jax.jit(jax.grad(tight))(point))
    yield "one lane at 1e-11 against central differences", "<= 1e-5", f"{apart:.1e}"


# Cold builds

TARGETS = ("cpu", "cuda:90")
BUILDS = {"rodas5p": ("HIRES", 4), "kvaerno5": ("20 states, dense and nonlinear", 8)}


def build(method: str, target: str) -> None:
    """Prints the seconds of a build."""
    jnp.zeros(3).block_until_ready()
    if method == "kvaerno5":
        f, n, args = dense, 20, jax.ShapeDtypeStruct((20, 20), jnp.float32)
    else:
        f, n, args = PROBLEMS["hires"].f, 8, None
    y0 = jax.ShapeDtypeStruct((n,), jnp.float32)
    started = time.perf_counter()
    Solver(method).inspect(f, 0.0, 1.0, y0, args, target=target, batched=("y0",))
    print(time.perf_counter() - started)


def builds(options: argparse.Namespace) -> Iterator[Row]:
    """From `inspect` to its return, in a fresh process, with no cache, the import of Numba included; float32, medians."""
    for method, (what, asked) in BUILDS.items():
        for target in TARGETS:
            command = [sys.executable, __file__, "--build", method, target]
            seconds = []
            for _ in range(1 if options.quick else 5):
                environment = {**os.environ, "JAX_CUBIE_CACHE": ""}
                said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
                seconds.append(float(said))
            yield f"{what}, {method}, {target}", f"<= {asked} s", f"{statistics.median(seconds):.2f} s"


# The picture


# Lanes of a batch on a CPU. Of 64 states one: a batch of 4 took diffrax minutes.
DRAWN = {"robertson": 64, "hires": 64, "brusselator": 1, "chemical_akzo_reduced": 64}


def draw(path: str, methods: list[str]) -> None:
    """Above, accepted steps of one lane over its error; below, milliseconds a lane of a batch (SciPy: of one)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tolerances = 10.0 ** -np.arange(3.0, 10.0, 1.5)
    figure, axes = plt.subplots(2, len(DRAWN), figsize=(4.4 * len(DRAWN), 8), constrained_layout=True)
    for column, (name, count) in enumerate(DRAWN.items()):
        problem, exact, dt0 = PROBLEMS[name], reference(name), FIRST_STEP[name]
        count = count if on_cpu() else 2**14
        start = jnp.tile(jnp.asarray(problem.y0), (count, 1))
        curves = {method: (ours(problem, method, dt0), "o-") for method in methods}
        curves |= {f"{label}, diffrax": (theirs(problem, solver, dt0), "s--") for label, solver in KVAERNO5.items()}
        for number, (label, (lane, style)) in enumerate(curves.items()):
            batch = jax.jit(jax.vmap(lane, (None, 0, None)))
            calls = [functools.partial(batch, rtol) for rtol in tolerances]
            found = [jax.tree.map(lambda one: np.asarray(one)[0], call(start, problem.args)) for call in calls]
            error = [float(problem.scaled_error(end, exact, 1.0)) for end, _ in found]
            taken = [stats["num_accepted_steps"] for _, stats in found]
            times = in_turn(calls, (start, problem.args), 9 if label in methods else 1)
            spent = [1e3 * seconds / count for seconds in times]
            error = np.where(np.array(error) < 1.0, error, np.nan)  # else it ran out of steps
            line = {"color": f"C{number}", "label": label, "markersize": 4}
            axes[0, column].loglog(error, taken, style, **line)
            axes[1, column].loglog(error, spent, style, **line)
        for number, scipy_method in enumerate(("Radau", "BDF"), len(curves)):
            line = {"color": f"C{number}", "label": f"{scipy_method}, SciPy", "markersize": 4}
            error, taken, spent = zip(*(by_scipy(problem, scipy_method, rtol, exact) for rtol in tolerances), strict=True)
            axes[0, column].loglog(error, taken, "^:", **line)
            axes[1, column].loglog(error, spent, "^:", **line)
        axes[0, column].set(title=f"{name.removesuffix('_reduced')}, {len(exact)} states, t to {problem.t1:g}")
        axes[1, column].set(title="one lane" if count == 1 else f"{count:,} lanes (SciPy: one)")
        print(f"drawn: {name}", flush=True)
    for axis in axes.flat:
        axis.set(xlabel="scaled error at the end")
        axis.invert_xaxis()
        axis.grid(alpha=0.3)
    axes[0, 0].set(ylabel="accepted steps")
    axes[1, 0].set(ylabel="milliseconds a lane")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    figure.suptitle(f"{machine()}, float64", fontsize=9)
    figure.savefig(path, dpi=80)
    print(f"drawn: {path}")


def by_scipy(problem: StiffProblem, method: str, rtol: float, exact: np.ndarray) -> tuple[float, int, float]:
    """Scaled error, steps, milliseconds; f and its Jacobian are JAX's, jitted."""
    f = jax.jit(lambda t, y: problem.f(t, y, problem.args))
    jac = jax.jit(jax.jacfwd(f, argnums=1))
    arguments = (0.0, problem.y0)
    jax.block_until_ready((f(*arguments), jac(*arguments)))
    started = time.perf_counter()
    solution = solve_ivp(f, (0.0, problem.t1), problem.y0, method, rtol=rtol, atol=problem.atol(rtol), jac=jac)
    spent = 1e3 * (time.perf_counter() - started)
    return float(problem.scaled_error(solution.y[:, -1], exact, 1.0)), len(solution.t) - 1, spent


SECTIONS = {
    "accuracy": accuracy,
    "steps": steps,
    "methods": methods,
    "invariants": invariants,
    "robertson": robertson_lanes,
    "hires": hires_lanes,
    "gradsolve": gradsolve,
    "linear": linear,
    "resources": resources,
    "gradient": gradient,
    "builds": builds,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer lanes and repeats")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS), help="these sections, or none")
    methods = ["rodas5p", "radau_iia_5", "kvaerno5"]
    parser.add_argument("--methods", nargs="+", default=methods, help="of ours; the first is the one that is timed")
    parser.add_argument("--picture", metavar="FILE", help="draw work over precision into this file")
    parser.add_argument("--build", nargs=2, metavar=("METHOD", "TARGET"), help="a cold build in this process")
    options = parser.parse_args()
    if options.build:
        build(*options.build)
        return
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("diffrax", "scipy", "numba"))
    print(f"{machine()}, {versions}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_CUBIE_CACHE"] = folder
        print_sections(SECTIONS, options.only, options)
        if options.picture:
            draw(options.picture, options.methods)


if __name__ == "__main__":
    main()
