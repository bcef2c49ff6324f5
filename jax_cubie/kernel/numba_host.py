"""The host target: Numba function -> object file that llvmlite alone can load."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import llvmlite.binding as llvm
import numba
import numba.extending
from numba.core import codegen, cpu, registry, target_extension, types, typing
from numba.core.compiler_lock import global_compiler_lock
from numba.core.typing import mathdecl, npydecl
from numba.cpython import builtins, mathimpl, numbers, rangeobj, tupleobj  # noqa: F401 all but mathimpl add to the builtins

from . import host_object
from .library import ENTRY_SYMBOL
from .llvm_text import canonical, without_names
from .numba_types import make_intrinsic, register_models
from .target import BuildError, Image, Resources, Target

register_models(numba.extending.register_model, numba.extending.models)

SHARED_SPACE = 0
GLOBAL_SPACE = 0

# The default error model guards each division with a raise; wrappers for Python callers would never be called.
_OPTIONS = dict(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, nogil=True)

# The small target: what the code of a solve is written with. The rest of Numba's for the CPU (linear algebra by way of SciPy,
# strings, lists, classes) would take a sixth of a process's first build. Nor is machine code made for this process to run.
_SMALL = "jax_cubie"


class _Small(target_extension.CPU):
    """What Numba knows the small target by."""


target_extension.target_registry[_SMALL] = _Small


class _Library(codegen.JITCodeLibrary):
    """LLVM's passes are run once, over all that is in an image. Numba runs them over each function, each library and all that
    a library calls, which takes a fifth of a build longer and comes to code as fast."""

    def _optimize_functions(self, ll_module) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        """`optimize` does it, of an entry."""

    def optimize(self) -> None:
        with global_compiler_lock:
            super()._optimize_final_module()

    def _finalize_specific(self) -> None:
        """No machine code is made of it here."""


class _Codegen(codegen.JITCPUCodegen):
    _library_class = _Library

    def _customize_tm_features(self) -> str:
        return host_object.tuned(super()._customize_tm_features())

    def _add_module(self, module) -> None:
        """The engine never sees a module, and so keeps none."""


class _TypingContext(typing.Context):
    def load_additional_registries(self) -> None:
        for module in (mathdecl, npydecl):
            self.install_registry(module.registry)


class _TargetContext(cpu.CPUContext):
    def init(self) -> None:
        super().init()
        self._internal_codegen = _Codegen("jax_cubie")

    def load_additional_registries(self) -> None:
        self.install_registry(mathimpl.registry)

    def post_lowering(self, mod, library) -> None:
        """Numba's own links its runtime, which counts references: there are none."""

    def get_executable(self, library, fndesc, env) -> _Library:
        """What Numba tells functions apart by. Nothing is run from here: linked code is all that is wanted."""
        library.finalize()
        return library


class _SmallTarget(registry.CPUTarget):
    _made: tuple[_TypingContext, _TargetContext] | None = None

    def _contexts(self) -> tuple[_TypingContext, _TargetContext]:
        with global_compiler_lock:  # which making them takes; no other lock is held meanwhile
            if self._made is None:
                types_known = _TypingContext()
                self._made = types_known, _TargetContext(types_known, _SMALL)
            return self._made

    @property
    def typing_context(self) -> _TypingContext:
        return self._contexts()[0]

    @property
    def target_context(self) -> _TargetContext:
        return self._contexts()[1]


class _SmallDispatcher(registry.CPUDispatcher):
    targetdescr = _SmallTarget(_SMALL)

    def add_overload(self, cres) -> None:
        """Known to callers that are compiled, not to Python's calls."""
        self.overloads[tuple(cres.signature.args)] = cres


target_extension.dispatcher_registry[_Small] = _SmallDispatcher
target_extension.jit_registry[_Small] = partial(numba.jit, _target=_SMALL)


def device(function: Callable, *, foreign: bool = False) -> Callable:
    """A function that kernels call. `foreign` is for a user's own: it may use all that Numba offers."""
    return numba.njit(**_OPTIONS, _target="cpu" if foreign else _SMALL)(function)


def intrinsic(codegen: Callable, result) -> Callable:
    """A function whose LLVM IR `codegen(builder, argument_types, arguments)` writes."""
    return make_intrinsic(numba.extending.intrinsic, codegen, result)


def compile_entry(entry: Callable, target: Target, *, foreign: bool = False, dump: Callable[[str, str], None]) -> Image:
    """Compiles `entry(start, stop, arguments)`: two int64 and a pointer to 64-bit words.

    `foreign` as for `device`, where any of the functions called is. `dump(suffix, text)` receives each stage.
    """
    dispatcher = device(entry, foreign=foreign)
    arguments = (types.int64, types.int64, types.CPointer(types.int64))
    with target_extension.target_override("cpu" if foreign else _SMALL):
        dispatcher.compile(types.void(*arguments))
    compiled = dispatcher.overloads[arguments]
    if isinstance(compiled.library, _Library):
        compiled.library.optimize()
    text = compiled.library.get_llvm_str() + _C_ENTRY.format(entry=ENTRY_SYMBOL, symbol=compiled.fndesc.llvm_func_name)
    (text,) = canonical([without_names(text)])
    dump("ll", text)
    try:
        module = llvm.parse_assembly(text)
    except RuntimeError as error:
        raise BuildError(
            "the host code uses something that can't stand alone outside of Numba (print, a string, an exception, work on "
            f"slices of an array): write a loop over elements. LLVM said: {' '.join(str(error).split())[:300]}"
        ) from error
    data, stack = host_object.assemble(module)
    return Image(target, data, Resources(stack_bytes=stack))


# Numba's own convention returns a status and takes two pointers in front, for a value and for an exception.
_C_ENTRY = """
define i32 @{entry}(i64 %start, i64 %stop, ptr %arguments) {{
  %result = alloca ptr
  %exception = alloca ptr
  %status = call i32 @"{symbol}"(ptr %result, ptr %exception, i64 %start, i64 %stop, ptr %arguments)
  ret i32 %status
}}
"""
