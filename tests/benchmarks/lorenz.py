"""Lorenz sweeps against the clock and against diffrax: `python tests/benchmarks/lorenz.py [--quick]`.

8,388,608 lanes on a GPU, 16,384 on a CPU; rho = linspace(0, 21), t in [0, 1], y0 = (1, 0, 0). Prints a table with the
machine and the date. A time is the median, over repeats, of several jitted calls in a row, with the device waited for at
their end, divided by their number; "end to end" is a single call.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import diffrax
import jax
import jax.numpy as jnp

import jax_cubie


def lorenz(t, y, rho):
    a, b, c = y
    return jnp.stack([10.0 * (b - a), a * (rho - c) - b, a * b - (8 / 3) * c])


def median_seconds(call, *arguments, repeats: int, in_a_row: int = 1) -> float:
    jax.block_until_ready(call(*arguments))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(in_a_row):
            result = call(*arguments)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - started) / in_a_row)
    return statistics.median(times)


def ours(method: str, dtype: str, **settings):
    dt0 = settings.pop("dt0", None)
    solver = jax_cubie.Solver(method, **settings)
    y0 = jnp.array([1.0, 0.0, 0.0], dtype)

    def final(rho):
        return solver.solve(lorenz, 0.0, 1.0, y0, rho, dt0=dt0).ys

    # Lanes last is how the kernel writes: no transpose follows.
    return jax.jit(jax.vmap(final, out_axes=-1))


def save_points(lanes: int, repeats: int, in_a_row: int = 1) -> None:
    """What it costs to save 100 points of each lane in place of its end."""
    solver, y0, rho = jax_cubie.Solver(), jnp.array([1.0, 0.0, 0.0], "float32"), sweep(lanes, "float32")
    ts = jnp.linspace(0.01, 1.0, 100, dtype="float32")
    seconds = []
    for saveat in (jax_cubie.SaveAt(t1=True), jax_cubie.SaveAt(ts=ts)):
        call = jax.jit(jax.vmap(lambda rho, s=saveat: solver.solve(lorenz, 0.0, 1.0, y0, rho, saveat=s).ys, out_axes=-1))
        seconds.append(median_seconds(call, rho, repeats=repeats, in_a_row=in_a_row))
    written = lanes * 100 * 3 * 4 / 1e9
    row(
        f"Tsit5, 1e-6, {lanes:,} lanes, float32, 100 points saved",
        f"{1e3 * seconds[1]:.3f} ms, the end alone {1e3 * seconds[0]:.3f} ms; {written / seconds[1]:,.1f} GB/s of results",
    )


def theirs(fixed: bool, dtype: str):
    y0 = jnp.array([1.0, 0.0, 0.0], dtype)
    controller = diffrax.ConstantStepSize() if fixed else diffrax.PIDController(rtol=1e-6, atol=1e-6)

    def final(rho):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lorenz),
            diffrax.Tsit5(),
            0.0,
            1.0,
            1e-3 if fixed else None,
            y0,
            rho,
            stepsize_controller=controller,
            max_steps=None,
            throw=False,
        ).ys[0]

    return jax.jit(jax.vmap(final))


def sweep(lanes: int, dtype: str):
    return jnp.linspace(0.0, 21.0, lanes, dtype=dtype)


FIXED = dict(controller="fixed", dt0=1e-3)


def machine() -> str:
    device = jax.devices()[0]
    name = device.device_kind if device.platform != "cpu" else f"{platform.processor() or platform.machine()} CPU"
    return f"{name}, {os.cpu_count()} cores, jax {jax.__version__}, {datetime.date.today()}"


def row(label: str, value: str) -> None:
    print(f"{label:58s} {value}", flush=True)


def gpu(repeats: int) -> None:
    jax.config.update("jax_enable_x64", True)
    full, part = 2**23, 2**20
    single: dict[str, float] = {}
    for dtype in ("float32", "float64"):
        rho = sweep(full, dtype)
        for label, call in (
            ("RK4, 1000 steps", ours("rk4", dtype, dt0=1e-3)),
            ("Tsit5, 1000 steps", ours("tsit5", dtype, **FIXED)),
            ("Tsit5, 1e-6", ours("tsit5", dtype)),
        ):
            milliseconds = 1e3 * median_seconds(call, rho, repeats=repeats, in_a_row=10)
            ratio = f", {milliseconds / single[label]:.2f} times float32" if label in single else ""
            single.setdefault(label, milliseconds)
            row(f"{label}, 2^23 lanes, {dtype}", f"{milliseconds:.2f} ms{ratio}")
    compare(part, repeats, in_a_row=10)
    save_points(part, repeats, in_a_row=10)
    few = median_seconds(ours("tsit5", "float32"), sweep(8, "float32"), repeats=50)
    row("Tsit5, 1e-6, 8 lanes, float32, end to end", f"{1e6 * few:.0f} us")


def compare(lanes: int, repeats: int, in_a_row: int = 1) -> None:
    rho = sweep(lanes, "float32")
    for label, fixed, settings in (("fixed, 1000 steps", True, FIXED), ("adaptive, 1e-6", False, {})):
        mine = median_seconds(ours("tsit5", "float32", **settings), rho, repeats=repeats, in_a_row=in_a_row)
        other = median_seconds(theirs(fixed, "float32"), rho, repeats=max(3, repeats // 4))
        row(
            f"Tsit5 {label}, {lanes:,} lanes, float32",
            f"{1e3 * mine:.3f} ms, diffrax {1e3 * other:.1f} ms: {other / mine:.0f} times",
        )


def scaling(lanes: int) -> None:
    """One core against all of them, each in a process of its own."""
    cores = sorted(os.sched_getaffinity(0))
    seconds = []
    for used in (cores[:1], cores):
        command = [sys.executable, __file__, "--cores", ",".join(map(str, used)), "--lanes", str(lanes)]
        seconds.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]))
    row(
        f"Tsit5 fixed, {lanes:,} lanes, {len(cores)} cores",
        f"{1e3 * seconds[1]:.1f} ms, on one core {1e3 * seconds[0]:.1f} ms: {seconds[0] / seconds[1]:.2f} times",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument("--cores", help="run on these cores only, and print the seconds of one fixed-step sweep")
    parser.add_argument("--lanes", type=int, default=16_384)
    options = parser.parse_args()
    repeats = 3 if options.quick else 20
    if options.cores:
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
        print(median_seconds(ours("tsit5", "float32", **FIXED), sweep(options.lanes, "float32"), repeats=10))
        return
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_CUBIE_CACHE"] = folder
        if jax.devices()[0].platform == "cpu":
            compare(16_384, repeats)
            save_points(16_384, repeats)
            scaling(16_384)
        else:
            gpu(repeats)


if __name__ == "__main__":
    main()
