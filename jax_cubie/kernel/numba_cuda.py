"""The CUDA target: Numba function -> PTX and cubin, with no driver and no GPU.

Everything that knows numba-cuda's internals stands here, so that a successor can be a second backend one day.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
from collections.abc import Callable, Iterator

import numba.cuda
import numba.cuda.dispatcher
import numba.cuda.extending
from numba.core import types
from numba.cuda import compiler, descriptor
from numba.cuda import target as numba_target
from numba.cuda.cudadrv import nvvm

from .code_size import register_count
from .library import ENTRY_SYMBOL, Blob, pack_blobs
from .llvm_text import canonical, without_names
from .numba_types import make_intrinsic, register_models
from .target import BuildError, Image, Resources, Target

register_models(numba.cuda.extending.register_model, numba.cuda.extending.core_models)

SHARED_SPACE = 3
GLOBAL_SPACE = 1


def device(function: Callable) -> Callable:
    """A function that kernels call."""
    return numba.cuda.jit(device=True)(function)


def intrinsic(codegen: Callable, result) -> Callable:
    """A function whose LLVM IR `codegen(builder, argument_types, arguments)` writes."""
    return make_intrinsic(numba.cuda.extending.intrinsic, codegen, result)


def compile_entry(
    entry: Callable,
    target: Target,
    *,
    words: int,
    block: int | None = None,
    fastmath: bool = False,
    foreign: bool = False,
    dump: Callable[[str, str], None],
) -> Image:
    """Compiles the kernel `entry(words)`, a tuple of `words` int64, one kernel parameter each.

    `block` bounds the threads of a block, so that the assembler may use all the registers that such a block leaves.
    `foreign` is for a user's own code: it may use all that numba.cuda offers, and libNVVM may make its products and sums
    into fma.
    `dump(suffix, text)` receives each stage. Raises BuildError where the toolchain is missing or refuses the code.
    """
    capability = divmod(target.architecture, 10)
    with _compiling_for(capability, whole=foreign):
        library, _ = compiler._compile_pyfunc_with_fixup(
            entry,
            types.void(types.UniTuple(types.int64, words)),
            device=False,
            cc=capability,
            launch_bounds=block,
            abi="numba",
        )
        symbol = library._entry_name
        modules = _callers_first([_own_entry(without_names(text), symbol) for text in library.llvm_strs])
    modules = canonical(modules)
    dump("ll", "\n".join(modules))
    # Contraction belongs to our emitter, which writes fma itself; then no result depends on the schedule.
    options = dict(ftz=True, prec_div=False, prec_sqrt=False) if fastmath else {}
    ptx = _to_ptx(modules, dict(opt=3, arch=f"compute_{target.architecture}", fma=foreign, **options))
    ptx = ptx.rstrip(b"\x00 \n") + b"\n"
    dump("ptx", ptx.decode())
    unresolved = re.findall(r"^\.extern \.func.*$", ptx.decode(), re.MULTILINE)
    if unresolved:
        raise BuildError(f"the PTX for {target} calls functions that nothing defines: {unresolved}")
    cubin, log = assemble(ptx, target)
    dump("resources", log)
    resources = dataclasses.replace(read_resources(log, ptx.decode()), registers=register_count(cubin))
    codes = (("cubin", cubin), ("ptx", ptx))
    blobs = [Blob(kind, target.architecture, code, resources.stack_bytes) for kind, code in codes]
    return Image(target, pack_blobs(blobs, parameters=words), resources)


def _to_ptx(modules: list[str], options: dict) -> bytes:
    """Links and compiles modules with libNVVM; its log is part of the error."""
    unit = nvvm.CompilationUnit(options)
    try:
        for text in modules:
            unit.add_module(nvvm.llvm_replace(text).encode())
        unit.verify()
        unit.lazy_add_module(nvvm.LibDevice().get())
        return unit.compile()
    except Exception as error:  # the bindings' own kinds; none of them carries the log
        raise BuildError(f"libNVVM refused the code for {options['arch']}: {error}. {unit.get_log()}") from error


def _own_entry(text: str, symbol: str) -> str:
    return text.replace(f'"{symbol}"', ENTRY_SYMBOL).replace(symbol, ENTRY_SYMBOL)


def _callers_first(modules: list[str]) -> list[str]:
    """The modules in the order in which they are first called, beginning with the entry.

    Numba keeps them in a set, whose order differs from process to process, and libNVVM drops a `linkonce_odr` function
    that nothing has called yet.
    """
    defining = {name: text for text in modules for name in _DEFINED.findall(text)}
    ordered = [next(text for text in modules if f"@{ENTRY_SYMBOL}(" in text)]
    for caller in ordered:  # grows while it is walked
        for name in _NAME.findall(caller):
            text = defining.get(name)
            if text is not None and not any(text is other for other in ordered):
                ordered.append(text)
    return ordered


_NAME = re.compile(r'@"[^"]+"')
_DEFINED = re.compile(r'^define linkonce_odr [^@]*(@"[^"]+")', re.MULTILINE)


# What the code of a solve is written with. The rest of numba.cuda (half precision and bfloat16, linear algebra by way of
# SciPy, strings, lists) would take a fifth of a process's first build or more.
_TYPES = ("cudadecl", "cudamath", "typing.npydecl")
_LOWERINGS = ("cudaimpl", "libdeviceimpl", "mathimpl")
_LOWERINGS += ("cpython.builtins", "cpython.numbers", "cpython.rangeobj", "cpython.tupleobj")


class _TypingContext(numba_target.CUDATypingContext):
    def load_additional_registries(self) -> None:
        for name in _TYPES:
            self.install_registry(importlib.import_module(f"numba.cuda.{name}").registry)


class _TargetContext(numba_target.CUDATargetContext):
    def load_additional_registries(self) -> None:
        for name in _LOWERINGS:
            self.install_registry(importlib.import_module(f"numba.cuda.{name}").registry)


class _SmallTarget(descriptor.CUDATarget):
    @property
    def typing_context(self) -> _TypingContext:
        if self._typingctx is None:
            self._typingctx = _TypingContext()
        return self._typingctx

    @property
    def target_context(self) -> _TargetContext:
        if self._targetctx is None:
            self._targetctx = _TargetContext(self.typing_context)
        return self._targetctx


_small_target = _SmallTarget("cuda")


@contextlib.contextmanager
def _compiling_for(capability: tuple[int, int], *, whole: bool) -> Iterator[None]:
    """What Numba looks up while it compiles: its target, `whole` or small, and the current device, which it asks for at a
    call of a device function and which a machine without a GPU lacks.

    Under Numba's own lock, so that nothing else is compiled meanwhile.
    """

    class Device:
        compute_capability = capability

    with compiler.global_compiler_lock:
        device, target = numba.cuda.dispatcher.get_current_device, descriptor.cuda_target
        numba.cuda.dispatcher.get_current_device = Device
        descriptor.cuda_target = target if whole else _small_target
        try:
            yield
        finally:
            numba.cuda.dispatcher.get_current_device, descriptor.cuda_target = device, target


def assemble(ptx: bytes, target: Target) -> tuple[bytes, str]:
    """PTX to a cubin with nvJitLink; the cubin and the assembler's report.

    PTX of the newest compilers is refused by older drivers; the cubin is not.
    """
    try:
        from cuda.bindings import nvjitlink
    except ImportError as error:
        raise BuildError(
            "nvJitLink is missing: install the CUDA extra, pip install 'jax_cubie[cuda13]' (or [cuda12])"
        ) from error
    # A result out of nvJitLink's own cache would come without the report.
    options = [f"-arch=sm_{target.architecture}", "-Xptxas=-v", "-no-cache"]
    try:
        handle = nvjitlink.create(len(options), options)
    except Exception as error:  # the loader of the library raises its own kinds
        raise BuildError(
            "nvJitLink could not be loaded: install the CUDA extra, pip install 'jax_cubie[cuda13]' (or [cuda12]). "
            f"It said: {error}"
        ) from error
    try:
        try:
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx, len(ptx), "jax_cubie")
            nvjitlink.complete(handle)
        except nvjitlink.nvJitLinkError as error:
            log = bytearray(nvjitlink.get_error_log_size(handle))
            nvjitlink.get_error_log(handle, log)
            said = f"{error} {log.decode(errors='replace')}"
            raise BuildError(f"nvJitLink refused the PTX for {target}: {said}") from error
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
        return bytes(cubin), log.decode(errors="replace").strip("\x00")
    finally:
        nvjitlink.destroy(handle)


def read_resources(log: str, ptx: str) -> Resources:
    """The assembler's report as numbers. It leaves out static shared memory, which the PTX declares."""

    def number(pattern: str) -> int:
        return sum(int(found) for found in re.findall(pattern, log))

    shared = 0
    for alignment, size in re.findall(r"^(?:\.visible )?\.shared \.align (\d+) \.b8 \S+\[(\d+)\];", ptx, re.MULTILINE):
        shared = -(-shared // int(alignment)) * int(alignment) + int(size)
    frames = re.findall(r"Function properties for (\S+)\s+.*?(\d+) bytes stack frame", log)
    own = sum(int(size) for name, size in frames if name == ENTRY_SYMBOL)
    return Resources(
        registers=number(r"Used (\d+) registers"),
        # While the entry calls one function, it calls no other; what those call in turn is left out, and small.
        stack_bytes=own + max((int(size) for name, size in frames if name != ENTRY_SYMBOL), default=0),
        spill_bytes=number(r"(\d+) bytes spill (?:stores|loads)"),
        shared_bytes=shared,
    )
