"""What a large vector field costs in front of LLVM: `python tests/benchmarks/translate.py`.

For each number of statements the seconds that JAX takes to trace, that the program takes to be made of the trace, and that its
LLVM IR takes to be written, for each of two targets; the least of several runs.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import llvmlite.ir as ir
import numpy as np

from jax_cubie.kernel.emitter import Emitter
from jax_cubie.translate import Program, trace, translate
from jax_cubie.translate.emit import emit_program

STATES = 30


def field(statements: int) -> Callable:
    """A chain of a quotient and a sum for each two statements, each of which needs others."""

    def f(y):
        v = list(y)
        for k in range(statements // 2):
            v[k % STATES] = v[k % STATES] / (v[(k + 7) % STATES] + 1.5)
        return jnp.stack(v)

    return f


def emit(program: Program, target: str) -> None:
    """Writes the program's LLVM IR, as text, into a module of its own."""
    module = ir.Module("m")
    memories = [*program.inputs, *program.outputs]
    types = [ir.PointerType(ir.FloatType())] * len(memories)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), "f")
    emitter = Emitter(ir.IRBuilder(function.append_basic_block("entry")), target)
    emit_program(
        emitter,
        program,
        lambda k, index: emitter.load(function.args[k], index, program.inputs[k][1]),
        lambda k, index, value: emitter.store(function.args[len(program.inputs) + k], index, value, program.outputs[k][1]),
    )
    emitter.builder.ret_void()
    str(module)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The least of several runs."""
    least = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - begin)
    return least


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, jax {jax.__version__}, numpy {np.__version__}, {datetime.date.today()}")
    aval = jax.ShapeDtypeStruct((STATES,), jnp.float32)
    for statements in (500, 2000, 6000):
        f = field(statements)
        # A new function each time, or JAX would not trace it again.
        tracing = seconds(lambda f=f: jax.make_jaxpr(lambda y: f(y))(aval), repeats)
        both = seconds(lambda f=f: translate(trace(lambda y: f(y), aval), unroll=32, platform="cpu"), repeats)
        program, _ = translate(trace(f, aval), unroll=32, platform="cpu")
        for target in ("cpu", "cuda"):
            emitting = seconds(lambda program=program, target=target: emit(program, target), repeats)
            translating = both - tracing
            print(
                f"{program.statement_count():5,} statements  {target:4}  {tracing:.2f} s for JAX to trace, then "
                f"{translating:.2f} s to translate and {emitting:.2f} s to write: "
                f"{translating + emitting:.2f} s in front of LLVM"
            )


if __name__ == "__main__":
    main()
