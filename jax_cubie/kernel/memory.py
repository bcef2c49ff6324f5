"""Global memory as emitters see it: addresses are 64-bit words."""

from __future__ import annotations

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


def load_global(emitter: Emitter, address: Any, dtype: str) -> ir.Value:
    """Reads a scalar that nothing writes while the kernel runs."""
    builder = emitter.builder
    value = builder.load(global_pointer(emitter, address, dtype))
    # Operands never change during a launch, so a compiler may move their loads out of the integration loop.
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return builder.trunc(value, LLVM_TYPES["bool"]) if dtype == "bool" else value


def store_global(emitter: Emitter, address: Any, dtype: str, value: Any) -> None:
    """Writes a scalar."""
    if dtype == "bool":
        value = emitter.builder.zext(value, _BYTE)
    emitter.builder.store(value, global_pointer(emitter, address, dtype))


def quick(emitter: Emitter, op: str, dtype: str, *values: Any) -> ir.Value:
    """log2, exp2 or div where the result only chooses step sizes: approximate in float32 on CUDA, exact elsewhere."""
    builder = emitter.builder
    if emitter.platform == "cpu":
        if op == "div":
            return emitter.div(dtype, *values)
        name = f"{op}{'f' if dtype == 'float32' else ''}"
    elif dtype == "float32":
        name = {"log2": "__nv_fast_log2f", "exp2": "__nv_fast_exp2f", "div": "__nv_fast_fdividef"}[op]
        if op == "exp2":  # libdevice has exp10 and exp in this fast form, but not exp2; its exp2f is one instruction, too
            name = "__nv_exp2f"
    else:
        if op == "div":
            return emitter.div(dtype, *values)
        name = f"__nv_{op}"
    function = builder.module.globals.get(name)
    if function is None:
        kind = LLVM_TYPES[dtype]
        function = ir.Function(builder.module, ir.FunctionType(kind, [kind] * len(values)), name)
        function.attributes.add("nounwind")
        function.attributes.add("readnone")
    return builder.call(function, values)
