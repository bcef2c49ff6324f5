"""Writes typed scalar operations as LLVM IR with an llvmlite ``IRBuilder``.

On "cpu" operations are LLVM intrinsics, the formulas of `functions.py` and, where there are none or the processor has no
fused multiply-add, libm functions. On "cuda" they are plain instructions and libdevice
functions only, because below sm_100 libNVVM reads LLVM 7: no ``fneg``, no ``freeze``, no ``llvm.maximum``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llvmlite.ir as ir
import numpy as np

from . import functions
from .numbers import kept, tables_scope
from .scalar import Scalar

Value = Any
"""An LLVM value; llvmlite's own types are too loose to check anything."""

FLOATS = ("float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")

I1, I64 = ir.IntType(1), ir.IntType(64)

LLVM_TYPES: dict[str, Any] = {
    "bool": I1,
    "float32": ir.FloatType(),
    "float64": ir.DoubleType(),
    **{f"{u}int{n}": ir.IntType(n) for n in (8, 16, 32, 64) for u in ("", "u")},
}

# Name on the CPU (float64; float32 appends f), name in libdevice without the prefix.
_LIBRARY: dict[str, tuple[str, str]] = {
    **{name: (name, name) for name in (
        "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "exp", "exp2",
        "expm1", "log", "log1p", "log2", "cbrt", "erf", "erfc", "lgamma", "pow", "atan2", "nextafter")},
    "rem": ("fmod", "fmod"),
}
# LLVM intrinsic on the CPU, libdevice.
_INTRINSICS: dict[str, tuple[str, str]] = {
    "sqrt": ("llvm.sqrt", "sqrt"),
    "floor": ("llvm.floor", "floor"),
    "ceil": ("llvm.ceil", "ceil"),
    "rint": ("llvm.rint", "rint"),
    "round": ("llvm.round", "round"),
    "abs": ("llvm.fabs", "fabs"),
    "copysign": ("llvm.copysign", "copysign"),
}
_FAST_FLOAT32 = frozenset({"sin", "cos", "tan", "exp", "log", "pow"})
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def memory_type(dtype: str) -> Any:
    """How a scalar lies in memory: a bool is a byte."""
    return ir.IntType(8) if dtype == "bool" else LLVM_TYPES[dtype]


class Emitter:
    """Typed scalar operations. The dtype that a method asks for is the one the operation works in."""

    def __init__(self, builder: ir.IRBuilder, platform: str, *, fma: bool = True, fastmath: bool = False,
                 keeps_numbers: bool = False) -> None:
        self.builder: Any = builder
        self.platform = platform
        self.use_fma = fma
        self.fastmath = fastmath
        # Not "fast": that also promises that there are no NaN and infinities, by which a failing lane is known.
        self._flags = ("reassoc", "nsz", "arcp", "contract", "afn") if fastmath else ()
        self._functions: dict[str, ir.Function] = {}
        self.in_loop = False  # whether the builder's place is in one of counted turns
        self.keeps_numbers = keeps_numbers  # whether the constants of `Scalar`s stand in an array of the function's

    # -- constants and arithmetic -----------------------------------------------------------------------------

    def constant(self, dtype: str, value: Any) -> Value:
        """A constant of exactly this dtype."""
        if dtype in FLOATS:
            return ir.Constant(LLVM_TYPES[dtype], float(np.float32(value) if dtype == "float32" else value))
        return ir.Constant(LLVM_TYPES[dtype], int(value))

    def place(self, index: Value | int) -> Value:
        """An index, a Python int or an int64 value, as the latter."""
        return self.constant("int64", index) if isinstance(index, int) else index

    def number(self, dtype: str, value: Any) -> Value:
        """A constant of a `Scalar`'s."""
        constant = self.constant(dtype, value)
        apart = self.keeps_numbers and not self.in_loop and dtype in FLOATS and value != 0
        return kept(self, constant, dtype) if apart else constant

    def add(self, dtype: str, a: Value, b: Value) -> Value:
        if dtype in FLOATS:
            return self.builder.fadd(a, b, flags=self._flags)
        return self.builder.add(a, b)

    def sub(self, dtype: str, a: Value, b: Value) -> Value:
        if dtype in FLOATS:
            return self.builder.fsub(a, b, flags=self._flags)
        return self.builder.sub(a, b)

    def mul(self, dtype: str, a: Value, b: Value) -> Value:
        if dtype in FLOATS:
            return self.builder.fmul(a, b, flags=self._flags)
        return self.builder.mul(a, b)

    def div(self, dtype: str, a: Value, b: Value) -> Value:
        """Integers: towards zero; by zero all bits are set, and the lowest by -1 stays."""
        if dtype in FLOATS:
            return self.builder.fdiv(a, b, flags=self._flags)
        zero, one, ones = (self.constant(dtype, v) for v in (0, 1, -1))
        by_zero = self.builder.icmp_unsigned("==", b, zero)
        if dtype in UNSIGNED:
            quotient = self.builder.udiv(a, self.builder.select(by_zero, one, b))
            return self.builder.select(by_zero, ones, quotient)
        by_minus = self.builder.icmp_unsigned("==", b, ones)
        safe = self.builder.select(self.builder.or_(by_zero, by_minus), one, b)
        quotient = self.builder.sdiv(a, safe)
        quotient = self.builder.select(by_minus, self.builder.sub(zero, a), quotient)
        return self.builder.select(by_zero, ones, quotient)

    def rem(self, dtype: str, a: Value, b: Value) -> Value:
        """The sign is the dividend's; integers by zero give the dividend."""
        if dtype in FLOATS:
            return self._library("rem", dtype, a, b)
        zero, one, ones = (self.constant(dtype, v) for v in (0, 1, -1))
        by_zero = self.builder.icmp_unsigned("==", b, zero)
        if dtype in UNSIGNED:
            remainder = self.builder.urem(a, self.builder.select(by_zero, one, b))
        else:
            by_minus = self.builder.icmp_unsigned("==", b, ones)
            safe = self.builder.select(self.builder.or_(by_zero, by_minus), one, b)
            remainder = self.builder.srem(a, safe)
        return self.builder.select(by_zero, a, remainder)

    def fma(self, dtype: str, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once where the target can."""
        if not self.use_fma:
            return self.add(dtype, self.mul(dtype, a, b), c)
        return self._intrinsic("llvm.fma", dtype, a, b, c)

    def neg(self, dtype: str, a: Value) -> Value:
        if dtype not in FLOATS:
            return self.builder.sub(self.constant(dtype, 0), a)
        if self.platform == "cpu":
            return self.builder.fneg(a)
        return self.builder.fsub(self.constant(dtype, -0.0), a)

    def abs(self, dtype: str, a: Value) -> Value:
        if dtype in FLOATS:
            return self._either("abs", dtype, a)
        if dtype not in SIGNED:
            return a
        negative = self.builder.icmp_signed("<", a, self.constant(dtype, 0))
        return self.builder.select(negative, self.neg(dtype, a), a)

    def _extremum(self, op: str, dtype: str, a: Value, b: Value) -> Value:
        if dtype not in FLOATS:
            first = self.compare("gt" if op == "max" else "lt", dtype, a, b)
            return self.builder.select(first, a, b)
        if self.platform == "cpu":
            return self._intrinsic("llvm.maximum" if op == "max" else "llvm.minimum", dtype, a, b)
        unordered = self.builder.fcmp_unordered("uno", a, b)
        return self.builder.select(unordered, self.builder.fadd(a, b), self._libdevice("f" + op, dtype, a, b))

    def max(self, dtype: str, a: Value, b: Value) -> Value:
        """The larger; a NaN wins, and +0 is larger than -0."""
        return self._extremum("max", dtype, a, b)

    def min(self, dtype: str, a: Value, b: Value) -> Value:
        """The smaller; a NaN wins, and -0 is smaller than +0."""
        return self._extremum("min", dtype, a, b)

    def sqrt(self, dtype: str, a: Value) -> Value:
        return self._either("sqrt", dtype, a)

    def rsqrt(self, dtype: str, a: Value) -> Value:
        if self.platform == "cuda":
            return self._libdevice("rsqrt", dtype, a)
        return self.builder.fdiv(self.constant(dtype, 1), self.sqrt(dtype, a), flags=self._flags)

    # -- logic ------------------------------------------------------------------------------------------------

    def compare(self, op: str, dtype: str, a: Value, b: Value) -> Value:
        """``op`` is one of eq, ne, lt, le, gt, ge; gives an i1."""
        sign = _COMPARE[op]
        if dtype in FLOATS:
            if op == "ne":
                return self.builder.fcmp_unordered(sign, a, b)
            return self.builder.fcmp_ordered(sign, a, b)
        if dtype in SIGNED:
            return self.builder.icmp_signed(sign, a, b)
        return self.builder.icmp_unsigned(sign, a, b)

    def is_finite(self, dtype: str, a: Value) -> Value:
        infinity = self.constant(dtype, float("inf"))
        return self.builder.fcmp_ordered("<", self.abs(dtype, a), infinity)

    def select(self, condition: Value, if_true: Value, if_false: Value) -> Value:
        return self.builder.select(condition, if_true, if_false)

    def logical_and(self, a: Value, b: Value) -> Value:
        return self.builder.and_(a, b)

    def logical_or(self, a: Value, b: Value) -> Value:
        return self.builder.or_(a, b)

    def logical_xor(self, a: Value, b: Value) -> Value:
        return self.builder.xor(a, b)

    def logical_not(self, a: Value) -> Value:
        return self.builder.xor(a, ir.Constant(a.type, -1 if a.type.width > 1 else 1))

    def _shift(self, op: str, dtype: str, a: Value, b: Value) -> Value:
        """A shift by the width or more leaves zero, or the sign."""
        width = LLVM_TYPES[dtype].width
        inside = self.builder.icmp_unsigned("<", b, self.constant(dtype, width))
        if op == "shift_right_arithmetic":
            return self.builder.ashr(a, self.builder.select(inside, b, self.constant(dtype, width - 1)))
        safe = self.builder.select(inside, b, self.constant(dtype, 0))
        shifted = self.builder.shl(a, safe) if op == "shift_left" else self.builder.lshr(a, safe)
        return self.builder.select(inside, shifted, self.constant(dtype, 0))

    # -- conversion -------------------------------------------------------------------------------------------

    def cast(self, value: Value, from_dtype: str, to_dtype: str) -> Value:
        """Convert with XLA's rules: floats to integers go towards zero and saturate, NaN gives 0."""
        if from_dtype == to_dtype:
            return value
        b, target = self.builder, LLVM_TYPES[to_dtype]
        if to_dtype == "bool":
            return self.compare("ne", from_dtype, value, self.constant(from_dtype, 0))
        if from_dtype in FLOATS and to_dtype in FLOATS:
            return b.fptrunc(value, target) if to_dtype == "float32" else b.fpext(value, target)
        if from_dtype in FLOATS:
            return self._float_to_int(value, from_dtype, to_dtype)
        if to_dtype in FLOATS:
            return b.sitofp(value, target) if from_dtype in SIGNED else b.uitofp(value, target)
        if target.width < value.type.width:
            return b.trunc(value, target)
        if target.width == value.type.width:
            return value
        return b.sext(value, target) if from_dtype in SIGNED else b.zext(value, target)

    def _float_to_int(self, value: Value, from_dtype: str, to_dtype: str) -> Value:
        b, target = self.builder, LLVM_TYPES[to_dtype]
        info = np.iinfo(to_dtype)
        signed = to_dtype in SIGNED
        # Both limits are powers of two (or zero), so that they are exact in the float type.
        above = self.compare("ge", from_dtype, value, self.constant(from_dtype, float(int(info.max) + 1)))
        below = self.compare("le", from_dtype, value, self.constant(from_dtype, float(info.min)))
        nan = b.fcmp_unordered("uno", value, value)
        outside = b.or_(b.or_(above, below), nan)
        safe = b.select(outside, self.constant(from_dtype, 0), value)
        result = b.fptosi(safe, target) if signed else b.fptoui(safe, target)
        result = b.select(above, ir.Constant(target, int(info.max)), result)
        return b.select(below, ir.Constant(target, int(info.min)), result)

    def bitcast(self, value: Value, to_dtype: str) -> Value:
        target = LLVM_TYPES[to_dtype]
        return value if value.type == target else self.builder.bitcast(value, target)

    # -- functions --------------------------------------------------------------------------------------------

    def _declare(self, name: str, dtype: str, count: int) -> ir.Function:
        function = self._functions.get(name)
        if function is None:
            module, scalar = self.builder.module, LLVM_TYPES[dtype]
            function = module.globals.get(name)
            if function is None:
                function = ir.Function(module, ir.FunctionType(scalar, [scalar] * count), name)
                function.attributes.add("nounwind")
                function.attributes.add("readnone")
            self._functions[name] = function
        return function

    def _intrinsic(self, name: str, dtype: str, *args: Value) -> Value:
        suffix = "f32" if dtype == "float32" else "f64"
        return self.builder.call(self._plain(f"{name}.{suffix}", dtype, len(args)), args)

    def _plain(self, name: str, dtype: str, count: int) -> ir.Function:
        function = self._functions.get(name)
        if function is None:
            module, scalar = self.builder.module, LLVM_TYPES[dtype]
            function = module.globals.get(name)
            if function is None:
                function = ir.Function(module, ir.FunctionType(scalar, [scalar] * count), name)
            self._functions[name] = function
        return function

    def _libdevice(self, name: str, dtype: str, *args: Value) -> Value:
        suffix = "f" if dtype == "float32" else ""
        return self.builder.call(self._declare(f"__nv_{name}{suffix}", dtype, len(args)), args)

    def _either(self, op: str, dtype: str, *args: Value) -> Value:
        intrinsic, device = _INTRINSICS[op]
        if self.platform == "cuda":
            return self._libdevice(device, dtype, *args)
        return self._intrinsic(intrinsic, dtype, *args)

    def _library(self, op: str, dtype: str, *args: Value) -> Value:
        host, device = _LIBRARY[op]
        if self.platform == "cuda":
            fast = self.fastmath and dtype == "float32" and op in _FAST_FLOAT32
            return self._libdevice("fast_" + device if fast else device, dtype, *args)
        if op in functions.OPERATIONS and self.use_fma:
            name, part = functions.OPERATIONS[op]
            # A loop with a call can't be vectorised, so its body holds the formula; elsewhere it stands once in the module.
            result = self._formula(name, dtype, args) if self.in_loop else self._call_formula(name, dtype, args)
            return result[part]
        return self.builder.call(self._declare(host + ("f" if dtype == "float32" else ""), dtype, len(args)), args)

    def _formula(self, name: str, dtype: str, args: Sequence[Value]) -> list[Value]:
        """The results of a formula, which fast math does not change."""
        plain = Emitter(self.builder, self.platform)
        plain.in_loop, plain.keeps_numbers = self.in_loop, self.keeps_numbers
        found = functions.FUNCTIONS[name](*[Scalar(plain, dtype, value) for value in args])
        return [number.value for number in (found if isinstance(found, tuple) else (found,))]

    def _call_formula(self, name: str, dtype: str, args: Sequence[Value]) -> list[Value]:
        module, scalar, symbol = self.builder.module, LLVM_TYPES[dtype], f"jax_cubie.{name}.{dtype}"
        count = sum(owner == name for owner, _ in functions.OPERATIONS.values())
        function = module.globals.get(symbol)
        if function is None:
            kind = ir.LiteralStructType([scalar] * count)
            function = ir.Function(module, ir.FunctionType(kind, [scalar] * len(args)), symbol)
            function.linkage = "linkonce_odr"  # modules are linked, and one is enough
            for attribute in ("nounwind", "readnone", "noinline"):
                function.attributes.add(attribute)
            builder = ir.IRBuilder(function.append_basic_block())
            result = ir.Constant(kind, ir.Undefined)
            own = Emitter(builder, self.platform, keeps_numbers=True)
            for part, value in enumerate(own._formula(name, dtype, function.args)):
                result = builder.insert_value(result, value, part)
            builder.ret(result)
        result = self.builder.call(function, args)
        return [self.builder.extract_value(result, part) for part in range(count)]

    def _count_bits(self, op: str, dtype: str, a: Value) -> Value:
        name = f"llvm.{'ctpop' if op == 'population_count' else 'ctlz'}.i{a.type.width}"
        types = [a.type] if op == "population_count" else [a.type, I1]
        function = self.builder.module.globals.get(name)
        if function is None:
            function = ir.Function(self.builder.module, ir.FunctionType(a.type, types), name)
        return self.builder.call(function, [a] if op == "population_count" else [a, ir.Constant(I1, 0)])

    def apply(self, op: str, dtype: str, *values: Value) -> Value:
        """Any operation of a program by its name; ``dtype`` is the one it works in."""
        method = _METHODS.get(op)
        if method is not None:
            return method(self, dtype, *values)
        if op in _COMPARE:
            return self.compare(op, dtype, *values)
        if op in _LIBRARY:
            return self._library(op, dtype, *values)
        if op in _INTRINSICS:
            return self._either(op, dtype, *values)
        raise KeyError(f"the emitter has no operation {op!r}")

    # -- memory and control -----------------------------------------------------------------------------------

    def alloca(self, dtype: str, size: int) -> Value:
        """A local array; in the function's entry block, so that a loop does not grow the stack."""
        with self.builder.goto_entry_block():
            return self.builder.alloca(memory_type(dtype), size=ir.Constant(ir.IntType(32), size))

    def _address(self, pointer: Value, index: Value | int) -> Value:
        return self.builder.gep(pointer, [ir.Constant(I64, index) if isinstance(index, int) else index])

    def load(self, pointer: Value, index: Value | int, dtype: str) -> Value:
        value = self.read(self._address(pointer, index))
        return self.builder.trunc(value, I1) if dtype == "bool" else value

    def load_several(self, pointer: Value, index: Value | int, count: int, dtype: str, aligned: bool = False) -> Value:
        """So many numbers that follow one another, as a vector; `aligned` in memory to its size."""
        kind = ir.PointerType(ir.VectorType(LLVM_TYPES[dtype], count), pointer.type.addrspace)
        place = self.builder.bitcast(self._address(pointer, index), kind)
        value = self.builder.load(place, align=(4 if dtype == "float32" else 8) * (count if aligned else 1))
        return self._no_table(value)

    def store(self, pointer: Value, index: Value | int, value: Value, dtype: str) -> None:
        if dtype == "bool":
            value = self.builder.zext(value, ir.IntType(8))
        self.write(value, self._address(pointer, index))

    def read(self, address: Value) -> Value:
        return self._no_table(self.builder.load(address))

    def write(self, value: Value, address: Value) -> None:
        self._no_table(self.builder.store(value, address))

    def _no_table(self, access: Value) -> Value:
        """Says that a load or store is not of a function's table."""
        if self.platform == "cpu":
            access.set_metadata("noalias", self._tables_scope)
        return access

    @functools.cached_property
    def _tables_scope(self) -> Any:
        return tables_scope(self.builder.module)

    @contextmanager
    def loop(self, extent: int, copies: int | None = None) -> Iterator[Value]:
        """A counted loop of at least one turn; gives the i64 index.

        The compiler unrolls as it likes, or makes at most so many ``copies`` of the body.
        """
        b = self.builder
        before = b.block
        head, end = b.append_basic_block("loop"), b.append_basic_block("end")
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(ir.Constant(I64, 0), before)
        outside, self.in_loop = self.in_loop, True
        yield index
        self.in_loop = outside
        following = b.add(index, ir.Constant(I64, 1))
        index.add_incoming(following, b.block)
        back = b.cbranch(b.icmp_unsigned("<", following, ir.Constant(I64, extent)), head, end)
        if copies is not None:
            back.set_metadata("llvm.loop", _unrolling(b.module, copies))
        b.position_at_end(end)

    def repeat_while(self, condition: Callable[[], Value], body: Callable[[], None]) -> None:
        """Writes `body` in a loop that goes on as long as `condition`, written in front of it, is true."""
        b = self.builder
        head, inside, end = (b.append_basic_block(name) for name in ("while", "do", "end"))
        b.branch(head)
        b.position_at_end(head)
        b.cbranch(condition(), inside, end)
        b.position_at_end(inside)
        body()
        b.branch(head)
        b.position_at_end(end)


def _unrolling(module: ir.Module, copies: int) -> Any:
    """A loop's own metadata, whose first operand has to be itself."""
    if copies == 1:
        advice = [ir.MetaDataString(module, "llvm.loop.unroll.disable")]
    else:
        advice = [ir.MetaDataString(module, "llvm.loop.unroll.count"), ir.IntType(32)(copies)]
    name = str(len(module.metadata))
    node = ir.MDValue(module, [], name=name)
    node.operands = (node, module.add_metadata(advice))
    return node


_METHODS: dict[str, Callable[..., Value]] = {
    "add": Emitter.add,
    "sub": Emitter.sub,
    "mul": Emitter.mul,
    "div": Emitter.div,
    "rem": Emitter.rem,
    "fma": Emitter.fma,
    "neg": Emitter.neg,
    "abs": Emitter.abs,
    "max": Emitter.max,
    "min": Emitter.min,
    "sqrt": Emitter.sqrt,
    "rsqrt": Emitter.rsqrt,
    "is_finite": Emitter.is_finite,
    "select": lambda e, dtype, c, x, y: e.select(c, x, y),
    "and": lambda e, dtype, x, y: e.logical_and(x, y),
    "or": lambda e, dtype, x, y: e.logical_or(x, y),
    "xor": lambda e, dtype, x, y: e.logical_xor(x, y),
    "not": lambda e, dtype, x: e.logical_not(x),
    "population_count": lambda e, dtype, x: e._count_bits("population_count", dtype, x),
    "clz": lambda e, dtype, x: e._count_bits("clz", dtype, x),
    **{op: (lambda e, dtype, x, y, op=op: e._shift(op, dtype, x, y))
       for op in ("shift_left", "shift_right_logical", "shift_right_arithmetic")},
}

OPERATIONS: frozenset[str] = frozenset({*_METHODS, *_COMPARE, *_LIBRARY, *_INTRINSICS})
"""Every operation that ``Emitter.apply`` knows."""
