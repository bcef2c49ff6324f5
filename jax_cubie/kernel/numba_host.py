"""The host target: Numba function -> object file that llvmlite alone can load."""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.binding as llvm
import numba
import numba.extending
from numba.core import types

from . import host_object
from .library import ENTRY_SYMBOL
from .llvm_text import canonical, without_names
from .numba_types import Slice, make_intrinsic, slice_model
from .target import BuildError, Image, Target

numba.extending.register_model(Slice)(slice_model(numba.extending.models))

SHARED_SPACE = 0
GLOBAL_SPACE = 0

# The default error model guards each division with a raise; wrappers for Python callers would never be called.
_OPTIONS = dict(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, nogil=True)


def device(function: Callable) -> Callable:
    """A function that kernels call."""
    return numba.njit(**_OPTIONS)(function)


def intrinsic(codegen: Callable, result) -> Callable:
    """A function whose LLVM IR `codegen(builder, argument_types, arguments)` writes."""
    return make_intrinsic(numba.extending.intrinsic, codegen, result)


def compile_entry(entry: Callable, target: Target, *, dump: Callable[[str, str], None]) -> Image:
    """Compiles `entry(start, stop, arguments)`: two int64 and a pointer to 64-bit words.

    `dump(suffix, text)` receives each stage.
    """
    dispatcher = numba.njit(**_OPTIONS)(entry)
    arguments = (types.int64, types.int64, types.CPointer(types.int64))
    dispatcher.compile(types.void(*arguments))
    compiled = dispatcher.overloads[arguments]
    text = compiled.library.get_llvm_str() + _C_ENTRY.format(entry=ENTRY_SYMBOL, symbol=compiled.fndesc.llvm_func_name)
    (text,) = canonical([without_names(text)])
    dump("ll", text)
    try:
        module = llvm.parse_assembly(text)
    except RuntimeError as error:
        raise BuildError(
            f"the host code uses something that can't stand alone outside of Numba (print, a string, an exception): {error}"
        ) from error
    return Image(target, host_object.pack(host_object.target_machine().emit_object(module)))


# Numba's own convention returns a status and takes two pointers in front; nothing here raises, so both are idle.
_C_ENTRY = """
define void @{entry}(i64 %start, i64 %stop, ptr %arguments) {{
  %result = alloca ptr
  %exception = alloca ptr
  %status = call i32 @"{symbol}"(ptr %result, ptr %exception, i64 %start, i64 %stop, ptr %arguments)
  ret void
}}
"""
