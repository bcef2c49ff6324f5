"""Every operation through libNVVM, for an architecture that reads LLVM 7 and one that does not; no GPU is needed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import llvmlite.ir as ir
import numpy as np
import pytest
from cases import avals, flat
from cases_elementwise import ELEMENTWISE_CASES
from harness import function_of, program_of
from harness_cuda import CudaImage, new_module, ptx_of

from jax_cubie.kernel.emitter import LLVM_TYPES, OPERATIONS, Emitter
from jax_cubie.translate.program import DTYPES, FLOATS, PREDICATES

pytest.importorskip("numba.cuda.cudadrv.nvvm")

FLOAT_AND_INT = {"add", "sub", "mul", "div", "rem", "neg", "abs", "min", "max", "select", "eq", "ne", "lt", "le", "gt",
                 "ge"}
INT_ONLY = {"and", "or", "xor", "not", "population_count", "clz", "shift_left", "shift_right_logical",
            "shift_right_arithmetic"}
BINARY = {"add", "sub", "mul", "div", "rem", "min", "max", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor",
          "shift_left", "shift_right_logical", "shift_right_arithmetic", "pow", "atan2", "nextafter", "copysign"}


def every_operation(module: ir.Module, fastmath: bool) -> ir.Function:
    """A kernel that applies every operation in every dtype, and every conversion."""
    memories = {d: (LLVM_TYPES[d] if d != "bool" else ir.IntType(8)).as_pointer() for d in DTYPES}
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), list(memories.values())), f"all_{int(fastmath)}")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    e = Emitter(builder, "cuda", fastmath=fastmath)
    pointers = dict(zip(DTYPES, function.args, strict=True))
    count = iter(range(100, 100_000))

    def keep(dtype: str, value: ir.Value) -> None:
        e.store(pointers[dtype], next(count), value, dtype)

    for dtype in DTYPES:
        x, y, z = (e.load(pointers[dtype], k, dtype) for k in range(3))
        for op in sorted(OPERATIONS):
            float_only = op not in FLOAT_AND_INT and op not in INT_ONLY
            if dtype in FLOATS and op in INT_ONLY or dtype not in FLOATS and float_only:
                continue
            if dtype == "bool" and op not in ("and", "or", "xor", "not", "select", "eq", "ne"):
                continue
            if op == "select":
                args = [e.compare("eq", dtype, x, y), y, z]
            else:
                args = [x, y, z] if op == "fma" else [x, y] if op in BINARY else [x]
            keep("bool" if op in PREDICATES else dtype, e.apply(op, dtype, *args))
        for to in DTYPES:
            keep(to, e.cast(x, dtype, to))
    with e.loop(5) as index:
        local = e.alloca("float32", 5)
        e.store(local, index, e.constant("float32", 1), "float32")
        keep("float32", e.load(local, index, "float32"))
    builder.ret_void()
    return function


@pytest.mark.parametrize("architecture", [90, 100])
def test_every_operation_links(architecture: int) -> None:
    module = new_module()
    functions = [every_operation(module, False), every_operation(module, True)]
    ptx_of(module, functions, architecture)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_elementwise_rule_is_assembled(dtype: str) -> None:
    with jax.enable_x64(True):
        cases = [c for c in ELEMENTWISE_CASES if dtype in c.dtypes]
        programs = [program_of(flat(c.fn), *avals(c.args(dtype)), platform="cuda")[0] for c in cases]
        image = CudaImage(programs, 90)
        assert image.cubin.startswith(b"\x7fELF")
        assert image.ptx.count(".entry") == len(cases)


@pytest.mark.parametrize("architecture", [90, 100])
def test_programs_link_and_float32_stays_float32(architecture: int) -> None:
    weights = jnp.asarray(np.ones((64, 64), np.float32))

    def lorenz(y: Any, p: Any) -> Any:
        return jnp.stack([p[0] * (y[1] - y[0]), y[0] * (p[1] - y[2]) - y[1], y[0] * y[1] - p[2] * y[2]])

    def stencil(y: Any) -> Any:
        return jnp.roll(y, 1) - 2 * y + jnp.roll(y, -1) + jnp.maximum(y, 0) / 3

    def network(y: Any) -> Any:
        return weights @ jnp.maximum(weights @ y, 0.1)

    def loops(y: Any) -> Any:
        return jax.lax.fori_loop(0, 100, lambda k, s: s * 0.5 + y[k % 3], y), jnp.sort(y), jnp.sqrt(jnp.abs(y)) ** 3

    module = new_module()
    functions = []
    for name, fn, shapes in (("lorenz", lorenz, [(3,), (3,)]), ("stencil", stencil, [(100,)]),
                             ("network", network, [(64,)]), ("loops", loops, [(3,)])):
        program, _ = program_of(fn, *[jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes], platform="cuda")
        functions.append(function_of(module, name, program, "cuda"))
    ptx = ptx_of(module, functions, architecture)
    assert ".f64" not in ptx
    lorenz_ptx = ptx[ptx.index(".entry lorenz"):]
    lorenz_ptx = lorenz_ptx[:lorenz_ptx.index("\n}")]
    assert "local" not in lorenz_ptx
    # y0 (p1 - y2) - y1, and y0 y1 - p2 y2.
    assert lorenz_ptx.count("fma.rn.f32") == 2
