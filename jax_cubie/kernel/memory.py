"""Global memory as emitters see it: addresses are 64-bit words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from .emitter import LLVM_TYPES

if TYPE_CHECKING:
    from .emitter import Emitter

_GLOBAL_SPACE = {"cpu": 0, "cuda": 1}
_BYTE = ir.IntType(8)


def undefined_words(count: int) -> ir.Value:
    """A tuple of `count` int64 to insert values into."""
    return ir.Constant(ir.ArrayType(LLVM_TYPES["int64"], count), ir.Undefined)


def global_pointer(emitter: Emitter, address: Any, dtype: str) -> ir.Value:
    """A pointer to global memory from an address; a bool is a byte there."""
    kind = _BYTE if dtype == "bool" else LLVM_TYPES[dtype]
    return emitter.builder.inttoptr(address, ir.PointerType(kind, _GLOBAL_SPACE[emitter.platform]))


def load_global(emitter: Emitter, address: Any, dtype: str, index: Any = None) -> ir.Value:
    """Reads a scalar that nothing writes while the kernel runs: element `index` of those from the address on.

    LLVM makes vectors of a loop over elements only where they are those of a pointer.
    """
    builder = emitter.builder
    pointer = global_pointer(emitter, address, dtype)
    value = emitter.read(pointer if index is None else builder.gep(pointer, [index]))
    # Operands never change during a launch, so a compiler may move their loads out of the integration loop.
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return builder.trunc(value, LLVM_TYPES["bool"]) if dtype == "bool" else value


def load_several_global(emitter: Emitter, address: Any, index: Any, count: int, dtype: str, aligned: bool) -> ir.Value:
    """Reads numbers that follow one another as a vector, which nothing writes while the kernel runs."""
    value = emitter.load_several(global_pointer(emitter, address, dtype), index, count, dtype, aligned)
    value.set_metadata("invariant.load", emitter.builder.module.add_metadata([]))
    return value


def look_up(emitter: Emitter, name: str, numbers: Sequence[int], index: Any) -> ir.Value:
    """Element `index` (int64) of a table of integers, as int64. name: what it is called in the code."""
    builder, kind = emitter.builder, ir.IntType(32)
    content = hashlib.sha256(repr(list(numbers)).encode()).hexdigest()[:16]
    symbol = f"jax_cubie_table_{name}_{content}"
    table = builder.module.globals.get(symbol)
    if table is None:
        space = _GLOBAL_SPACE[emitter.platform]
        table = ir.GlobalVariable(builder.module, ir.ArrayType(kind, len(numbers)), symbol, addrspace=space)
        table.linkage, table.global_constant = "internal", True
        table.initializer = ir.Constant(table.value_type, [kind(number) for number in numbers])
    return emitter.cast(builder.load(builder.gep(table, [ir.IntType(64)(0), index], inbounds=True)), "int32", "int64")


def barrier(emitter: Emitter) -> None:
    """On CUDA, all threads of a block wait for one another here."""
    module, name = emitter.builder.module, "llvm.nvvm.barrier0"
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), []), name)
    emitter.builder.call(function, [])


def store_global(emitter: Emitter, address: Any, dtype: str, value: Any) -> None:
    """Writes a scalar."""
    if dtype == "bool":
        value = emitter.builder.zext(value, _BYTE)
    emitter.write(value, global_pointer(emitter, address, dtype))


def add_global(emitter: Emitter, address: Any, dtype: str, value: Any) -> None:
    """On CUDA, adds to a float: nobody waits for what was there. In order, where one thread alone adds to it."""
    kind, suffix, constraint = LLVM_TYPES[dtype], *{"float32": ("f32", "f"), "float64": ("f64", "d")}[dtype]
    form = ir.FunctionType(ir.VoidType(), [LLVM_TYPES["int64"], kind])
    assembly = ir.InlineAsm(form, f"red.global.add.{suffix} [$0], $1;", f"l,{constraint}", True)
    emitter.builder.call(assembly, [address, value])


# In float32 on CUDA: one instruction of the special function unit, denormals flushed.
_QUICK_FLOAT32 = {
    "div": "llvm.nvvm.div.approx.ftz.f",
    "sqrt": "llvm.nvvm.sqrt.approx.ftz.f",
    "log2": "llvm.nvvm.lg2.approx.ftz.f",
    "exp2": "llvm.nvvm.ex2.approx.ftz.f",
    "max": "__nv_fmaxf",
}


def quick(emitter: Emitter, op: str, dtype: str, *values: Any) -> ir.Value:
    """div, sqrt, log2, exp2 or max where the result only chooses step sizes.

    On CUDA the first four are approximate in float32, and log2 and exp2 have float32's accuracy (2.4e-7) in float64, too:
    there they are a third of the loop's instructions for the Lorenz system. max ignores a NaN in its first argument.
    """
    if emitter.platform == "cpu":
        if op == "max":
            return emitter.select(emitter.compare("gt", dtype, *values), *values)
        if op == "log2":
            return _call(emitter, "log2f" if dtype == "float32" else "log2", dtype, *values)
        return emitter.apply(op, dtype, *values)
    if dtype == "float32":
        return _call(emitter, _QUICK_FLOAT32[op], dtype, *values)
    if op in ("log2", "exp2"):
        rounded = emitter.cast(values[0], "float64", "float32")
        return emitter.cast(_call(emitter, _QUICK_FLOAT32[op], "float32", rounded), "float32", "float64")
    if op == "div":
        return _divide(emitter, *values)
    if op == "max":
        return _call(emitter, "__nv_fmax", dtype, *values)
    return emitter.apply(op, dtype, *values)


def _divide(emitter: Emitter, a: Any, b: Any) -> ir.Value:
    """a / b in float64 by Newton's iteration: within an ulp or two, and without the branches that exact rounding takes."""
    fma, one = emitter.fma, emitter.constant("float64", 1)
    inverse = _call(emitter, "llvm.nvvm.rcp.approx.ftz.d", "float64", b)
    for _ in range(2):
        inverse = fma("float64", inverse, fma("float64", emitter.neg("float64", b), inverse, one), inverse)
    return emitter.mul("float64", a, inverse)


def _call(emitter: Emitter, name: str, dtype: str, *values: Any) -> ir.Value:
    module, kind = emitter.builder.module, LLVM_TYPES[dtype]
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(kind, [kind] * len(values)), name)
        if not name.startswith("llvm."):
            function.attributes.add("nounwind")
            function.attributes.add("readnone")
    return emitter.builder.call(function, values)


def opaque(emitter: Emitter, dtype: str, value: Any) -> ir.Value:
    """`value`, as something that the compiler knows nothing about.

    The CUDA compilers save a register by computing a cheap value again wherever it is used, also inside a loop.
    """
    if emitter.platform == "cpu":
        return value
    kind = LLVM_TYPES[dtype]
    move, constraint = {"float32": ("mov.b32", "f"), "float64": ("mov.b64", "d")}[dtype]
    assembly = ir.InlineAsm(ir.FunctionType(kind, [kind]), f"{move} $0, $1;", f"={constraint},{constraint}", True)
    return emitter.builder.call(assembly, [value])
