"""What is used of Numba, numba-cuda and JAX that they do not promise to keep: private names, and public ones undocumented.

A release that changes one of them fails here, and says which line of ours wants it, before anything else fails in a way that
says less. So there is no upper bound on their versions, which would keep users from what works.
"""

import ast
import importlib
import inspect
from importlib import metadata
from pathlib import Path

import numba
import numba.cuda
import numba.cuda.dispatcher
import numba.cuda.extending as cuda_extending
import numba.extending
import pytest
from jax._src import config as jax_config
from llvmlite import ir
from numba.core import codegen, config, cpu, imputils, registry, target_extension, types, typing
from numba.core.compiler_lock import global_compiler_lock
from numba.core.datamodel import models
from numba.core.runtime import rtsys
from numba.core.typing import mathdecl, npydecl
from numba.cpython import mathimpl
from numba.cuda import compiler, descriptor
from numba.cuda import target as cuda_target
from numba.cuda.cudadrv import nvvm

from jax_cubie import kernel
from jax_cubie.kernel import numba_cuda
from jax_cubie.kernel.backend import backend_of
from jax_cubie.kernel.target import BuildError, Target

KERNEL = Path(kernel.__file__).parent


def takes(function, count):
    """Whether it can be called with so many arguments by position, `self` among them."""
    inspect.signature(function).bind(*range(count))  # TypeError where it can't
    return True


def accepts(function, *names):
    """Whether these can be given by name."""
    return set(names) <= set(inspect.signature(function).parameters)


def says(function, text):
    """Whether its source holds that; for what only shows when it runs."""
    return text in inspect.getsource(function)


def calls_return_a_status():
    """Two pointers stand in front of a function's own parameters, and it returns an int32."""
    made = registry.cpu_target.target_context.call_conv.get_function_type(types.void, (types.int64,))
    pointers = [isinstance(kind, ir.PointerType) for kind in made.args[:2]]
    return made.return_type == ir.IntType(32) and pointers == [True, True] and len(made.args) == 3


def compiled():
    dispatcher = numba.njit(lambda x: x + 1)
    dispatcher.compile((types.int64,))
    return dispatcher, dispatcher.overloads[(types.int64,)]


def star_tuples_unpack():
    return isinstance(types.StarArgTuple.from_types((types.int32, types.float64)), types.BaseTuple)


def has_registry(*modules):
    return all(hasattr(module, "registry") for module in modules)


HOST_OPTIONS = ("error_model", "no_cpython_wrapper", "no_cfunc_wrapper", "nogil")
CUDA_CODEGEN = importlib.import_module("numba.cuda.codegen")
CUDA_MODULES = [f"numba.cuda.{name}" for name in numba_cuda._TYPES + numba_cuda._LOWERINGS]
MODELS, CUDA_MODELS = numba.extending.models, cuda_extending.core_models
# In each file: a piece of the line that relies on it, and whether it is so.
NAMES = {
    "numba_host.py": [
        ("class _Library(codegen.JITCodeLibrary)", lambda: says(codegen.CPUCodeLibrary, "self._finalize_specific()")),
        ("def _optimize_functions", lambda: says(codegen.CPUCodeLibrary.add_llvm_module, "_optimize_functions(ll_module)")),
        ("self._codegen._data_layout", lambda: says(codegen.CPUCodeLibrary._optimize_functions, "_codegen._data_layout")),
        ("def _optimize_final_module", lambda: says(codegen.CPUCodeLibrary.finalize, "self._optimize_final_module()")),
        ("super()._optimize_final_module()", lambda: takes(codegen.CPUCodeLibrary._optimize_final_module, 1)),
        ("def _finalize_specific", lambda: takes(codegen.JITCodeLibrary._finalize_specific, 1)),
        ("_library_class = _Library", lambda: codegen.JITCPUCodegen._library_class is codegen.JITCodeLibrary),
        ("def _add_module", lambda: takes(codegen.JITCPUCodegen._add_module, 2)),
        ("class _TypingContext(typing.Context)", lambda: takes(typing.Context.load_additional_registries, 1)),
        ("for module in (mathdecl, npydecl)", lambda: has_registry(mathdecl, npydecl)),
        ("self.install_registry(module.registry)", lambda: takes(typing.Context.install_registry, 2)),
        ("super().init()", lambda: takes(cpu.CPUContext.init, 1)),
        ("self._internal_codegen =", lambda: says(cpu.CPUContext, "self._internal_codegen")),
        ('_Codegen("jax_cubie")', lambda: takes(codegen.JITCPUCodegen, 1)),
        ("self.install_registry(mathimpl.registry)", lambda: has_registry(mathimpl)),
        ("def post_lowering", lambda: takes(cpu.CPUContext.post_lowering, 3)),
        ("def get_executable", lambda: takes(cpu.CPUContext.get_executable, 4)),
        ("library.finalize()", lambda: takes(codegen.CPUCodeLibrary.finalize, 1)),
        ("class _SmallTarget(registry.CPUTarget)", lambda: takes(registry.CPUTarget, 1)),
        ("def typing_context", lambda: hasattr(registry.CPUTarget, "typing_context")),
        ("def target_context", lambda: hasattr(registry.CPUTarget, "target_context")),
        ("_TargetContext(types_known, _SMALL)", lambda: takes(cpu.CPUContext, 2)),
        ("with global_compiler_lock", lambda: hasattr(global_compiler_lock, "__enter__")),
        ("targetdescr = _SmallTarget", lambda: registry.CPUDispatcher.targetdescr is registry.cpu_target),
        ("def add_overload", lambda: takes(registry.CPUDispatcher.add_overload, 2)),
        ("class _Small(target_extension.CPU)", lambda: inspect.isclass(target_extension.CPU)),
        ("target_extension.target_registry[", lambda: target_extension.target_registry["cpu"] is target_extension.CPU),
        ("target_extension.dispatcher_registry[", lambda: target_extension.CPU in target_extension.dispatcher_registry),
        ("target_extension.jit_registry[", lambda: target_extension.CPU in target_extension.jit_registry),
        ("with target_extension.target_override", lambda: takes(target_extension.target_override, 1)),
        ("partial(numba.jit, _target=_SMALL)", lambda: says(numba.jit, "'_target'")),
        ("_OPTIONS = dict(error_model=", lambda: all(hasattr(cpu.CPUTargetOptions, name) for name in HOST_OPTIONS)),
        ("compiled = dispatcher.overloads[arguments]", lambda: compiled()[1].signature.return_type == types.int64),
        ("compiled.library.get_llvm_str()", lambda: "define" in compiled()[1].library.get_llvm_str()),
        ("compiled.fndesc.llvm_func_name", lambda: isinstance(compiled()[1].fndesc.llvm_func_name, str)),
        ("define i32 @{entry}", calls_return_a_status),
        ("numba.extending.models)", lambda: takes(MODELS.PrimitiveModel, 3) or takes(MODELS.StructModel, 4)),
    ],
    "host_object.py": [
        ("rtsys.initialize(cpu_target.target_context)", lambda: takes(rtsys.initialize, 1)),
    ],
    "numba_types.py": [
        ("types.StarArgTuple.from_types", star_tuples_unpack),
        ("context.get_dummy_value()", lambda: takes(registry.cpu_target.target_context.get_dummy_value, 0)),
    ],
    "numba_cuda.py": [
        ("extending.core_models)", lambda: takes(CUDA_MODELS.PrimitiveModel, 3) or takes(CUDA_MODELS.StructModel, 4)),
        ("make_intrinsic(numba.cuda.extending.intrinsic", lambda: callable(cuda_extending.intrinsic)),
        (
            "compiler._compile_pyfunc_with_fixup(",
            lambda: accepts(compiler._compile_pyfunc_with_fixup, "device", "cc", "launch_bounds", "abi"),
        ),
        ("library._entry_name", lambda: says(CUDA_CODEGEN, "self._entry_name =")),
        ("in library.llvm_strs", lambda: says(CUDA_CODEGEN, "def llvm_strs")),
        ("nvvm.CompilationUnit(options)", lambda: takes(nvvm.CompilationUnit, 1)),
        ("unit.add_module(", lambda: takes(nvvm.CompilationUnit.add_module, 2)),
        ("unit.verify()", lambda: takes(nvvm.CompilationUnit.verify, 1)),
        ("unit.lazy_add_module(", lambda: takes(nvvm.CompilationUnit.lazy_add_module, 2)),
        ("return unit.compile()", lambda: takes(nvvm.CompilationUnit.compile, 1)),
        ("unit.get_log()", lambda: takes(nvvm.CompilationUnit.get_log, 1)),
        ("nvvm.llvm_replace(text)", lambda: takes(nvvm.llvm_replace, 1)),
        ("nvvm.LibDevice().get()", lambda: takes(nvvm.LibDevice.get, 1)),
        ("_TYPES = ", lambda: has_registry(*map(importlib.import_module, CUDA_MODULES))),
        ("class _TypingContext(", lambda: takes(cuda_target.CUDATypingContext.load_additional_registries, 1)),
        ("class _TargetContext(", lambda: takes(cuda_target.CUDATargetContext.load_additional_registries, 1)),
        ("if self._typingctx is None", lambda: hasattr(descriptor.CUDATarget("cuda"), "_typingctx")),
        ("if self._targetctx is None", lambda: hasattr(descriptor.CUDATarget("cuda"), "_targetctx")),
        ("numba.cuda.dispatcher.get_current_device = Device", lambda: callable(numba.cuda.dispatcher.get_current_device)),
        ("descriptor.cuda_target = target if", lambda: isinstance(descriptor.cuda_target, descriptor.CUDATarget)),
        ("with compiler.global_compiler_lock", lambda: hasattr(compiler.global_compiler_lock, "__enter__")),
    ],
    "call_entry.py": [
        ("(host_models.PointerModel)", lambda: inspect.isclass(models.PointerModel)),
        ("(cuda_extending.core_models.PointerModel)", lambda: inspect.isclass(CUDA_MODELS.PointerModel)),
        ("(host_imputils.lower_builtin,", lambda: callable(imputils.lower_builtin)),
        ("cuda_extending.lower_builtin)", lambda: callable(cuda_extending.lower_builtin)),
        ("types.BaseTuple.from_types", lambda: isinstance(types.BaseTuple.from_types((types.int32,)), types.UniTuple)),
        ("compiled.signature.return_type", lambda: compiled()[1].signature.return_type == types.int64),
    ],
    "content.py": [
        ('getattr(value, "py_func"', lambda: inspect.isfunction(compiled()[0].py_func)),
        ('getattr(dispatcher, "targetoptions"', lambda: isinstance(compiled()[0].targetoptions, dict)),
        ('getattr(dispatcher, "_can_compile"', lambda: compiled()[0]._can_compile is True),
        ('getattr(dispatcher, "locals"', lambda: hasattr(compiled()[0], "locals")),
        ('getattr(value, "_defn"', lambda: inspect.isfunction(numba.extending.intrinsic(lambda context: None)._defn)),
    ],
    "toolchain.py": [
        ("module.reload_config()", lambda: takes(config.reload_config, 0)),
    ],
    "backend.py": [
        ("config.DISABLE_JIT", lambda: config.DISABLE_JIT in (0, 1)),
        ("config.ENABLE_CUDASIM", lambda: config.ENABLE_CUDASIM in (0, 1)),
    ],
    "partition.py": [
        ("config._check_vma(False)", lambda: hasattr(jax_config._check_vma(False), "__enter__")),
    ],
}
ROWS = [pytest.param(file, *row, id=f"{file}: {row[0]}") for file, rows in NAMES.items() for row in rows]


def line_of(file: str, piece: str) -> int:
    text = (KERNEL / file).read_text()
    assert text.count(piece) >= 1, f"{file} holds no {piece!r} any more: take the row out of this table, or mend it"
    return text[: text.index(piece)].count("\n") + 1


@pytest.mark.parametrize(("file", "piece", "holds"), ROWS)
def test_is_as_we_know_it(file, piece, holds):
    line = line_of(file, piece)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numba", "numba-cuda", "llvmlite", "jax"))
    said = f"jax_cubie/kernel/{file}:{line} ({piece}) relies on what {versions} has no more"
    try:
        found = holds()
    except (AttributeError, ImportError, KeyError, TypeError) as error:
        pytest.fail(f"{said}: {type(error).__name__}: {error}")
    assert found, said


def test_versions_that_do_not_fit_are_named(monkeypatch):
    real = importlib.import_module

    def import_module(name, package=None):
        if name == ".numba_host":
            raise AttributeError("module 'numba.core.codegen' has no attribute 'JITCodeLibrary'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(BuildError, match=r"numba \d[\d.]+, numba-cuda .* 'JITCodeLibrary'.* tried with numba 0.62 to"):
        backend_of(Target("cpu"))


def test_no_private_name_is_left_out():
    """Each attribute with an underscore that is none of ours has a row above."""
    ours, used = set(), {}
    for path in sorted(KERNEL.glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if path.name not in ("numba_host.py", "numba_cuda.py"):  # whose classes inherit from Numba's
                    ours.add(node.attr)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                used.setdefault(node.attr, f"{path.name}:{node.lineno}")
    rows = " ".join(piece for of_file in NAMES.values() for piece, _ in of_file)
    assert {name: where for name, where in used.items() if name not in ours and name not in rows} == {}
    assert {"_compile_pyfunc_with_fixup", "_entry_name", "_typingctx"} <= set(used)
