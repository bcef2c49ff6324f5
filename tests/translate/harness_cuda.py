"""Runs programs on a GPU: each is a kernel of one thread in a module that libNVVM and nvJitLink compile, GPU or none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import llvmlite.ir as ir
import numpy as np
from harness import function_of

from jax_cubie.kernel.numba_cuda import assemble
from jax_cubie.kernel.target import Target
from jax_cubie.translate import Program


def new_module() -> ir.Module:
    from numba.cuda.cudadrv import nvvm

    module = ir.Module("programs")
    module.triple = "nvptx64-nvidia-cuda"
    module.data_layout = nvvm.NVVM().data_layout
    nvvm.add_ir_version(module)
    return module


def ptx_of(module: ir.Module, functions: Sequence[ir.Function], architecture: int) -> str:
    """The functions as kernels, with nothing left to be linked."""
    from numba.cuda.cudadrv import nvvm

    annotations = module.add_named_metadata("nvvm.annotations")
    for function in functions:
        annotations.add(module.add_metadata([function, "kernel", ir.Constant(ir.IntType(32), 1)]))
    text = nvvm.compile_ir(str(module), opt=3, arch=f"compute_{architecture}", fma=False)
    ptx = text.decode() if isinstance(text, bytes) else text
    assert ".visible .entry" in ptx
    unresolved = re.findall(r"\.extern \.func[^;]*;", ptx)
    assert not unresolved, unresolved
    return ptx


class CudaImage:
    """Several programs in one cubin, each callable with arrays where there is a GPU."""

    def __init__(self, programs: Sequence[Program], architecture: int) -> None:
        module = new_module()
        functions = [function_of(module, f"program{k}", program, "cuda") for k, program in enumerate(programs)]
        self.programs = list(programs)
        self.ptx = ptx_of(module, functions, architecture)
        self.cubin, _ = assemble(self.ptx.encode(), Target.parse(f"cuda:{architecture}"))
        self._module: Any = None

    def __call__(self, k: int, *arrays: Any) -> list[np.ndarray]:
        from cuda.bindings import driver

        if self._module is None:
            _checked(driver.cuInit(0))
            context = _checked(driver.cuDevicePrimaryCtxRetain(_checked(driver.cuDeviceGet(0))))
            _checked(driver.cuCtxSetCurrent(context))
            self._module = _checked(driver.cuModuleLoadData(self.cubin))
        kernel = _checked(driver.cuModuleGetFunction(self._module, f"program{k}".encode()))
        program = self.programs[k]
        inputs = [np.array(a, dtype=d).reshape(s) for a, (s, d) in zip(arrays, program.inputs, strict=True)]
        outputs = [np.zeros(shape, dtype) for shape, dtype in program.outputs]
        addresses = [_checked(driver.cuMemAlloc(max(1, a.nbytes))) for a in (*inputs, *outputs)]
        try:
            for array, address in zip((*inputs, *outputs), addresses, strict=True):
                _checked(driver.cuMemcpyHtoD(address, array.ctypes.data, array.nbytes))
            words = [np.array([int(address)], np.uint64) for address in addresses]
            pointers = np.array([word.ctypes.data for word in words], np.uint64)
            _checked(driver.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, 0, pointers.ctypes.data, 0))
            _checked(driver.cuCtxSynchronize())
            for array, address in zip(outputs, addresses[len(inputs):], strict=True):
                _checked(driver.cuMemcpyDtoH(array.ctypes.data, address, array.nbytes))
        finally:
            for address in addresses:
                driver.cuMemFree(address)
        return outputs


def _checked(answer: Any) -> Any:
    """What a call of the driver gives, without its status, which has to be success."""
    status, *values = answer
    assert int(status) == 0, f"the driver answers {status}"
    return values[0] if values else None
