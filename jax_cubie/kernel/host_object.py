"""Host images: an object file with the processor features it was built for, loaded by llvmlite alone."""

from __future__ import annotations

import functools
import json
import platform
import re
from collections.abc import Sequence

import llvmlite.binding as llvm
import numpy as np

from .library import ENTRY_SYMBOL
from .target import BuildError

_MAGIC = b"JAXCUBIE-HOST-2\n"
_ENGINES: dict[str, llvm.ExecutionEngine] = {}  # by content hash; code stays mapped while the process lives

# How x86-64 code takes a frame: sub rsp, imm32; sub rsp, imm8; lea rsp, [rsp + disp32]; lea rsp, [rsp + disp8].
_FRAMES = re.compile(rb"\x48(?:\x81\xec(.{4})|\x83\xec(.)|\x8d\xa4\x24(.{4})|\x8d\x64\x24(.))", re.DOTALL)

_LONG = re.compile(r"<(?:16 x (?:float|i32)|8 x (?:double|i64))>")  # vectors of 512 bits


@functools.cache
def _native() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def host_features() -> frozenset[str]:
    """The features of this machine's processor, as LLVM names them."""
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def processor() -> tuple[str, ...]:
    """What host code depends on: the machine, the processor it is tuned for, and its features."""
    return (platform.machine(), llvm.get_host_cpu_name(), *sorted(host_features()))


def has_long_vectors() -> bool:
    """Whether vectors of 512 bits are the better ones: where a processor has them, and does not run slower for their sake, as
    Intel's first did, before the extension that is asked for here."""
    return "avx512vbmi2" in host_features()


def tuned(features: str) -> str:
    """A processor's features in LLVM's words, with vectors as long as pay; LLVM by itself is content with 256 bits."""
    return f"{features},-prefer-256-bit" if has_long_vectors() else features


def has_fma() -> bool:
    """Whether the processor has a fused multiply-add; without one an emitter writes product and sum."""
    return "fma" in host_features() or platform.machine() in ("aarch64", "arm64")


def target_machine(*, long_vectors: bool = True) -> llvm.TargetMachine:
    """The machine that host images are assembled for: this one."""
    _native()
    target, features = llvm.Target.from_default_triple(), llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=tuned(features) if long_vectors else features,
        opt=3,
        reloc="default",
        codemodel="jitdefault",
        jit=True,
    )


def stack_bytes(object_code: bytes) -> int:
    """An upper bound of the stack that an object's code takes: all its functions' frames, as if each called the next.

    Read from the instructions, since the compiler's own report of frames is not to be had through llvmlite. What looks like
    such an instruction and is none makes it larger, which does no harm: a run may then get a thread of its own.
    """
    machine, total = platform.machine(), 0
    for section in llvm.ObjectFileRef.from_data(object_code).sections():
        if section.is_text():
            total += _frames(section.data(), machine)
    return total


def _frames(code: bytes, machine: str) -> int:
    if machine in ("aarch64", "arm64"):  # sub sp, sp, #number, or that times 4096; by way of x9 where the frame is aligned
        words = np.frombuffer(code, "<u4", len(code) // 4)
        to, of = words & 31, words >> 5 & 31
        words = words[(words >> 23 == 0b110100010) & ((to == 31) | (to == 9)) & ((of == 31) | (of == 9))].astype(np.int64)
        return int(((words >> 10 & 0xFFF) << np.where(words >> 22 & 1, 12, 0)).sum())
    if machine != "x86_64":
        raise BuildError(f"host images are made for x86-64 and aarch64, and this processor is {machine}")
    total = 0
    for found in _FRAMES.finditer(code):
        which = found.lastindex or 0
        number = int.from_bytes(found[which], "little", signed=True)
        total += max(number if which <= 2 else -number, 0)
    return total


def assemble(module: llvm.ModuleRef) -> tuple[bytes, int]:
    """An image from optimised LLVM IR, and the bytes of stack that its code takes."""
    values = (*module.functions, *module.global_variables)
    symbols = sorted(value.name for value in values if value.is_declaration and not value.name.startswith("llvm."))
    # Where no loop has long vectors, a copy by them would read what shorter ones have just written, and wait for it.
    object_code = target_machine(long_vectors=bool(_LONG.search(str(module)))).emit_object(module)
    stack = stack_bytes(object_code)
    return pack(object_code, symbols, stack), stack


def pack(object_code: bytes, symbols: Sequence[str], stack: int) -> bytes:
    """An image from an object file: a line that says what it needs, then the code. `symbols`: what it calls by name."""
    header = {"machine": platform.machine(), "features": sorted(host_features()), "symbols": list(symbols), "stack": stack}
    return _MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n" + object_code


def _resolve(symbols: Sequence[str]) -> None:
    """Makes sure of each symbol: a call of an unknown one would be a call of address 0."""
    if all(map(llvm.address_of_symbol, symbols)):
        return
    # A user's kernel may call helpers that Numba brings into a process: arrays of its own, frexp, random numbers.
    from numba.core.registry import cpu_target
    from numba.core.runtime import rtsys

    rtsys.initialize(cpu_target.target_context)
    unknown = [name for name in symbols if not llvm.address_of_symbol(name)]
    if unknown:
        raise RuntimeError(f"the host image calls {', '.join(unknown)}, unknown in this process: build the function again here")


def load(key: str, data: bytes) -> tuple[int, int]:
    """Maps the image into this process. Returns its entry's address, and the bytes of stack that its code takes.

    Needs llvmlite, and Numba only for its helpers. Raises RuntimeError where the image is damaged, was built for another
    processor, or has an unresolved symbol.
    """
    if not data.startswith(_MAGIC):
        raise RuntimeError("the host image is damaged, or not one of jax_cubie: build the function again")
    header_line, _, object_code = data[len(_MAGIC) :].partition(b"\n")
    header = json.loads(header_line)
    if key in _ENGINES:
        return _ENGINES[key].get_function_address(ENTRY_SYMBOL), header["stack"]
    missing = sorted(set(header["features"]) - host_features())
    if header["machine"] != platform.machine() or missing:
        raise RuntimeError(
            f"the host image was built for {header['machine']} with {missing or 'the same features'}, and this "
            f"processor is {platform.machine()} without them: build the function again on this machine"
        )
    _native()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine())
    _resolve(header["symbols"])  # an engine is what makes the process's own symbols known
    object_file = llvm.ObjectFileRef.from_data(object_code)
    engine.add_object_file(object_file)
    engine.finalize_object()
    if not engine.get_function_address(ENTRY_SYMBOL):
        raise RuntimeError(f"the host image has no entry {ENTRY_SYMBOL!r}: it is damaged; build the function again")
    # Another thread may have loaded it meanwhile. The first one stays: it may be running, and an engine let go is unmapped.
    return _ENGINES.setdefault(key, engine).get_function_address(ENTRY_SYMBOL), header["stack"]
