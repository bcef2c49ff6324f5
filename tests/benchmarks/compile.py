"""Cold builds: `python tests/benchmarks/compile.py [--repeats N]`.

Each build has a process of its own and no cache, so that it imports Numba, too; its seconds are counted from the call of
`Solver.inspect` to its return, once JAX has started. Prints the medians, and how much of them the imports are: the same
build once more in the same process, of a vector field that is not in memory, tells.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import jax_cubie


def lorenz(t, y, rho):
    a, b, c = y
    return jnp.stack([10.0 * (b - a), a * (rho - c) - b, a * b - (8 / 3) * c])


def dense(t, y, weights):
    """20 states, each driven by all."""
    return jnp.tanh(weights @ y) - 0.1 * y**3


def network(t, y, layers):
    """3-64-64-3."""
    for weight, bias in layers[:-1]:
        y = jnp.tanh(weight @ y + bias)
    weight, bias = layers[-1]
    return weight @ y + bias


def struct(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


LAYERS = [(struct(m, n), struct(m)) for n, m in ((3, 64), (64, 64), (64, 3))]
CASES = {
    "Lorenz, 3 states": (lorenz, struct(3), struct(), ("y0", "args")),
    "20 states, dense and nonlinear": (dense, struct(20), struct(20, 20), ("y0",)),
    "a network, 3-64-64-3": (network, struct(3), LAYERS, ("y0",)),
}
TARGETS = ("cpu", "cuda:90")


def build(case: str, target: str) -> None:
    """Prints the seconds of a first build and of a second one."""
    f, y0, args, batched = CASES[case]
    jnp.zeros(3).block_until_ready()
    for field in (f, lambda t, y, args: -f(t, y, args)):
        started = time.perf_counter()
        jax_cubie.Solver("tsit5").inspect(field, 0.0, 1.0, y0, args, target=target, batched=batched)
        print(time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--build", nargs=2, metavar=("CASE", "TARGET"), help="one build in this process")
    options = parser.parse_args()
    if options.build:
        build(*options.build)
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, jax {jax.__version__}, numpy {np.__version__}, {datetime.date.today()}")
    environment = {**os.environ, "JAX_CUBIE_CACHE": ""}
    for case in CASES:
        for target in TARGETS:
            command = [sys.executable, __file__, "--build", case, target]
            runs = []
            for _ in range(options.repeats):
                said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                runs.append([float(line) for line in said.stdout.split()])
            first, second = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"{case:32s} {target:8s} {first:.2f} s in a fresh process, {second:.2f} s once Numba is there", flush=True)


if __name__ == "__main__":
    main()
