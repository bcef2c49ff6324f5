"""Runs programs on the CPU: each is emitted into one function, compiled by MCJIT, called with NumPy pointers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import llvmlite.binding as llvm
import llvmlite.ir as ir
import numpy as np

from jax_cubie.kernel.emitter import Emitter, memory_type
from jax_cubie.kernel.host_object import tuned
from jax_cubie.translate import Program, trace, translate
from jax_cubie.translate.emit import emit_program

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


def program_of(fn: Callable[..., Any], *avals: Any, unroll: int = 32, platform: str = "cpu") -> tuple[Program, list[Any]]:
    """The program of a function for one platform, and what it closes over."""
    return translate(trace(fn, *avals), unroll=unroll, platform=platform)


def function_of(module: ir.Module, name: str, program: Program, platform: str, **options: Any) -> ir.Function:
    """``void name(inputs..., outputs...)``, each a pointer."""
    memories = [*program.inputs, *program.outputs]
    types = [memory_type(dtype).as_pointer() for _, dtype in memories]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emitter = Emitter(builder, platform, **options)  # type: ignore[arg-type]
    count = len(program.inputs)

    def load(k: int, index: Any) -> ir.Value:
        return emitter.load(function.args[k], index, program.inputs[k][1])

    def store(k: int, index: Any, value: ir.Value) -> None:
        emitter.store(function.args[count + k], index, value, program.outputs[k][1])

    def several(k: int, index: Any, count: int, aligned: bool) -> ir.Value | None:
        return None if aligned else emitter.load_several(function.args[k], index, count, program.inputs[k][1])

    emit_program(emitter, program, load, store, several)
    builder.ret_void()
    return function


class Compiled:
    """Several programs in one image, each callable with arrays."""

    def __init__(self, programs: Sequence[Program], **options: Any) -> None:
        module = ir.Module("programs")
        module.triple = llvm.get_process_triple()
        for k, program in enumerate(programs):
            function_of(module, f"program{k}", program, "cpu", **options)
        self.text = str(module)
        parsed = llvm.parse_assembly(self.text)
        parsed.verify()
        machine = llvm.Target.from_triple(module.triple).create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=tuned(llvm.get_host_cpu_features().flatten()), opt=2, jit=True)
        passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
        passes.getModulePassManager().run(parsed, passes)
        self.optimised = str(parsed)
        self.engine = llvm.create_mcjit_compiler(parsed, machine)
        self.engine.finalize_object()
        self.programs = list(programs)

    def __call__(self, k: int, *arrays: Any) -> list[np.ndarray]:
        program = self.programs[k]
        inputs = [np.ascontiguousarray(a, dtype=d).reshape(s) for a, (s, d) in zip(arrays, program.inputs, strict=True)]
        outputs = [np.zeros(shape, dtype) for shape, dtype in program.outputs]
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (*inputs, *outputs)]
        address = self.engine.get_function_address(f"program{k}")
        ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers))(address)(*pointers)
        return outputs


def on_the_cpu() -> AbstractContextManager[Any]:
    """JAX's arrays and computations lie on the CPU."""
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def image_for(platform: str, programs: Sequence[Program]) -> Callable[..., list[np.ndarray]]:
    """What runs the k-th program on arrays: `image(k, *arrays)`."""
    if platform == "cpu":
        return Compiled(programs)
    from harness_cuda import CudaImage

    capability = jax.local_devices(backend="cuda")[0].compute_capability
    return CudaImage(programs, int(capability.replace(".", "")))


def run(fn: Callable[..., Any], *arrays: Any, unroll: int = 32, **options: Any) -> list[np.ndarray]:
    """Trace, compile and call ``fn`` on arrays."""
    avals = [jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype) for a in arrays]
    program, constants = program_of(fn, *avals, unroll=unroll)
    return Compiled([program], **options)(0, *arrays, *constants)
