"""Builds a program: numbers scalars, shares equal ones, folds constants, drops what nobody reads.

Rules call the typed operations here. All scalars are ints (numbers); a scalar known at trace time is a number in
``Builder.constants`` too, so that index arithmetic folds away whatever the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from .lifetimes import share
from .program import (
    DTYPES,
    FLOATS,
    PREDICATES,
    UNSIGNED,
    Instruction,
    Memory,
    Program,
    Region,
    Sums,
    local_reads,
    regions_of,
)

Scalar = int

_COMMUTATIVE = frozenset({"add", "mul", "min", "max", "and", "or", "xor", "eq", "ne"})
_BITS = {d: 1 if d == "bool" else int(d.lstrip("uintfloa")) for d in DTYPES}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
_MATH: dict[str, Callable[..., float]] = {
    name: getattr(math, name) for name in (
        "sqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p", "log2", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
        "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "pow", "atan2")
}


def bits(dtype: str) -> int:
    """Width of a dtype; 1 for bool."""
    return _BITS[dtype]


def wrap(dtype: str, value: Any) -> Any:
    """``value`` as a constant of ``dtype``: bool, a Python int in range, or a NumPy float."""
    if dtype == "bool":
        return bool(value)
    if dtype == "float32":
        return np.float32(value)
    if dtype == "float64":
        return np.float64(value)
    width = _BITS[dtype]
    value = int(value) & ((1 << width) - 1)
    if dtype not in UNSIGNED and value >> (width - 1):
        value -= 1 << width
    return value


def _plain(dtype: str, value: Any) -> Any:
    return float(value).hex() if dtype in FLOATS else value


def saturating_int(dtype: str, value: float) -> int:
    """A float as an integer, as XLA converts it: towards zero, held in range, NaN is 0."""
    info = np.iinfo(dtype)
    if math.isnan(value):
        return 0
    if math.isinf(value):
        return int(info.max if value > 0 else info.min)
    return max(int(info.min), min(int(info.max), int(value)))


class Builder:
    """Typed scalar operations that append to the innermost open region."""

    def __init__(self, structural_zeros: bool = False) -> None:
        """structural_zeros: a known zero means that nothing is there. Its product with anything is zero, though that be
        infinite, and added to anything, it leaves no trace."""
        self.structural_zeros = structural_zeros
        self.types: list[str] = []
        self.constants: dict[Scalar, Any] = {}
        # Constants, input elements at known places and allocations go in front of everything else, because a
        # scalar first met inside a loop may be met again outside it.
        self._prelude: list[Instruction] = []
        self._regions: list[list[Instruction]] = [[]]
        self._scopes: list[dict[Any, Scalar]] = [{}]
        self._constant_numbers: dict[Any, Scalar] = {}
        self._locals = 0
        self._groups: dict[Scalar, tuple[Scalar, list[Scalar]]] = {}

    # -- the ground -------------------------------------------------------------------------------------------

    def _number(self, dtype: str) -> Scalar:
        self.types.append(dtype)
        return len(self.types) - 1

    def emit(self, op: str, dtype: str, args: tuple[Scalar, ...], attribute: Any = None, *, result: str = "") -> Scalar:
        """Append an operation, or find the equal one that is already in scope."""
        key_args = tuple(sorted(args)) if op in _COMMUTATIVE else args
        key = (op, dtype, key_args, attribute)
        for scope in self._scopes:
            found = scope.get(key)
            if found is not None:
                return found
        in_front = op == "load" and attribute[0] == "input" and args[0] in self.constants
        dest = self._number(result or ("bool" if op in PREDICATES else dtype))
        (self._prelude if in_front else self._regions[-1]).append((dest, op, dtype, args, attribute))
        self._scopes[0 if in_front else -1][key] = dest
        return dest

    def const(self, dtype: str, value: Any) -> Scalar:
        """A constant of exactly this dtype."""
        value = wrap(dtype, value)
        plain = _plain(dtype, value)
        key = (dtype, plain)
        number = self._constant_numbers.get(key)
        if number is None:
            number = self._constant_numbers[key] = self._number(dtype)
            self.constants[number] = value
            self._prelude.append((number, "const", dtype, (), plain))
        return number

    def index(self, value: int) -> Scalar:
        """An int64 constant."""
        return self.const("int64", value)

    def known(self, *args: Scalar) -> bool:
        return all(a in self.constants for a in args)

    # -- memory and regions -----------------------------------------------------------------------------------

    def alloc(self, dtype: str, size: int) -> Memory:
        """Memory of the trajectory's own."""
        number = self._locals
        self._locals += 1
        self._prelude.append((-1, "alloc", dtype, (), (number, size)))
        return ("local", number)

    def load(self, memory: Memory, dtype: str, index: Scalar, *, fresh: bool = False) -> Scalar:
        """Read memory. ``fresh``: it may have changed since this region last read it."""
        if fresh:
            dest = self._number(dtype)
            self._regions[-1].append((dest, "load", dtype, (index,), memory))
            return dest
        return self.emit("load", dtype, (index,), memory)

    def store(self, memory: Memory, index: Scalar, value: Scalar) -> None:
        self._regions[-1].append((-1, "store", self.types[value], (index, value), memory))

    def sums(self, dtype: str, args: tuple[Scalar, ...], sums: Sums) -> None:
        """Elements of a product of a matrix and a vector."""
        self._regions[-1].append((-1, "sums", dtype, args, sums))

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """What ``compute`` gives, computed once where it is in scope."""
        for scope in self._scopes:
            if key in scope:
                return scope[key]
        result = self._scopes[-1][key] = compute()
        return result

    @contextmanager
    def group(self, begin: Scalar, indices: list[Scalar]) -> Iterator[None]:
        """Elements that are asked for together, at indices that follow on ``begin``."""
        before = self._groups
        self._groups = dict.fromkeys(indices, (begin, indices))
        try:
            yield
        finally:
            self._groups = before

    def group_of(self, index: Scalar) -> tuple[Scalar, list[Scalar]]:
        """The first and all of those that are asked for together with an index."""
        return self._groups.get(index, (index, [index]))

    @contextmanager
    def region(self) -> Iterator[list[Instruction]]:
        """Collect what is appended inside; the caller puts it into an instruction."""
        body: list[Instruction] = []
        self._regions.append(body)
        self._scopes.append({})
        try:
            yield body
        finally:
            self._regions.pop()
            self._scopes.pop()

    @contextmanager
    def loop(self, extent: int) -> Iterator[Scalar]:
        """A counted loop; gives the int64 index. One turn needs no loop."""
        if extent == 1:
            yield self.index(0)
            return
        index = self._number("int64")
        with self.region() as body:
            yield index
        self.append((index, "for", "int64", (), (extent, tuple(body))))

    def append(self, instruction: Instruction) -> None:
        self._regions[-1].append(instruction)

    # -- arithmetic -------------------------------------------------------------------------------------------

    def _fold(self, dtype: str, compute: Callable[..., Any], *args: Scalar) -> Scalar:
        with np.errstate(all="ignore"):
            return self.const(dtype, compute(*(self.constants[a] for a in args)))

    def _is(self, a: Scalar, value: float) -> bool:
        """Whether ``a`` is this constant; zero means +0."""
        c = self.constants.get(a)
        return c is not None and c == value and not (value == 0 and math.copysign(1, c) < 0)

    def is_nothing(self, a: Scalar) -> bool:
        """Whether ``a`` is a zero that may be left out of sums: of integers, or a structural one."""
        return (self.structural_zeros or self.types[a] not in FLOATS) and self.constants.get(a) == 0

    def add(self, a: Scalar, b: Scalar) -> Scalar:
        dtype = self.types[a]
        if dtype == "bool":
            return self.logical_or(a, b)
        if self.known(a, b):
            return self._fold(dtype, lambda x, y: x + y, a, b)
        if self.is_nothing(a):
            return b
        if self.is_nothing(b):
            return a
        return self.emit("add", dtype, (a, b))

    def sub(self, a: Scalar, b: Scalar) -> Scalar:
        dtype = self.types[a]
        if self.known(a, b):
            return self._fold(dtype, lambda x, y: x - y, a, b)
        if self._is(b, 0) or self.is_nothing(b):
            return a
        if self.structural_zeros and self.is_nothing(a):
            return self.neg(b)
        return self.emit("sub", dtype, (a, b))

    def mul(self, a: Scalar, b: Scalar) -> Scalar:
        dtype = self.types[a]
        if dtype == "bool":
            return self.logical_and(a, b)
        if self.known(a, b):
            return self._fold(dtype, lambda x, y: x * y, a, b)
        if self.is_nothing(a) or self.is_nothing(b):
            return self.const(dtype, 0)
        if self._is(a, 1):
            return b
        if self._is(b, 1):
            return a
        if dtype in FLOATS:
            if self._is(a, -1):
                return self.neg(b)
            if self._is(b, -1):
                return self.neg(a)
        return self.emit("mul", dtype, (a, b))

    def div(self, a: Scalar, b: Scalar) -> Scalar:
        dtype = self.types[a]
        if self._is(b, 1):
            return a
        if self.structural_zeros and self.is_nothing(a) and not self.known(b):
            return self.const(dtype, 0)
        if self.known(a, b):
            if dtype in FLOATS:
                return self._fold(dtype, lambda x, y: np.divide(x, y), a, b)
            if self.constants[b] != 0:
                return self._fold(dtype, lambda x, y: abs(x) // abs(y) * (-1 if (x < 0) != (y < 0) else 1), a, b)
        return self.emit("div", dtype, (a, b))

    def rem(self, a: Scalar, b: Scalar) -> Scalar:
        dtype = self.types[a]
        if dtype not in FLOATS and self.known(a, b) and self.constants[b] != 0:
            return self._fold(dtype, lambda x, y: abs(x) % abs(y) * (-1 if x < 0 else 1), a, b)
        return self.emit("rem", dtype, (a, b))

    def neg(self, a: Scalar) -> Scalar:
        dtype = self.types[a]
        if self.structural_zeros and self.is_nothing(a):
            return a
        if self.known(a):
            return self._fold(dtype, lambda x: -x, a)
        return self.emit("neg", dtype, (a,))

    def abs(self, a: Scalar) -> Scalar:
        dtype = self.types[a]
        if dtype in UNSIGNED:
            return a
        if self.known(a):
            return self._fold(dtype, lambda x: abs(x), a)
        return self.emit("abs", dtype, (a,))

    def _extremum(self, op: str, a: Scalar, b: Scalar) -> Scalar:
        dtype = self.types[a]
        if a == b:
            return a
        if dtype == "bool":
            return self.logical_or(a, b) if op == "max" else self.logical_and(a, b)
        if dtype not in FLOATS and self.known(a, b):
            return self._fold(dtype, max if op == "max" else min, a, b)
        return self.emit(op, dtype, (a, b))

    def max(self, a: Scalar, b: Scalar) -> Scalar:
        return self._extremum("max", a, b)

    def min(self, a: Scalar, b: Scalar) -> Scalar:
        return self._extremum("min", a, b)

    def unary(self, op: str, a: Scalar) -> Scalar:
        """An operation of the emitter's table with one operand."""
        return self._tabled(op, a)

    def binary(self, op: str, a: Scalar, b: Scalar) -> Scalar:
        """An operation of the emitter's table with two operands of one dtype."""
        return self._tabled(op, a, b)

    def _tabled(self, op: str, *args: Scalar) -> Scalar:
        dtype = self.types[args[0]]
        function = _MATH.get(op)
        if function is not None and self.known(*args):
            # JAX stages what it is given, so that jnp.log(2.0) arrives here, under x64 even in an fp32 function.
            try:
                value = function(*(float(self.constants[a]) for a in args))
            except (ValueError, OverflowError):
                value = math.nan
            if math.isfinite(value):
                return self._fold(dtype, lambda *_: value, *args)
        return self.emit(op, dtype, args)

    # -- logic ------------------------------------------------------------------------------------------------

    def compare(self, op: str, a: Scalar, b: Scalar) -> Scalar:
        if self.known(a, b):
            return self._fold("bool", _COMPARE[op], a, b)
        return self.emit(op, self.types[a], (a, b))

    def logical_and(self, a: Scalar, b: Scalar) -> Scalar:
        dtype = self.types[a]
        if self.known(a, b):
            return self._fold(dtype, lambda x, y: x & y, a, b)
        if dtype == "bool":
            for x, y in ((a, b), (b, a)):
                if x in self.constants:
                    return y if self.constants[x] else x
        return a if a == b else self.emit("and", dtype, (a, b))

    def logical_or(self, a: Scalar, b: Scalar) -> Scalar:
        dtype = self.types[a]
        if self.known(a, b):
            return self._fold(dtype, lambda x, y: x | y, a, b)
        if dtype == "bool":
            for x, y in ((a, b), (b, a)):
                if x in self.constants:
                    return x if self.constants[x] else y
        return a if a == b else self.emit("or", dtype, (a, b))

    def logical_xor(self, a: Scalar, b: Scalar) -> Scalar:
        if self.known(a, b):
            return self._fold(self.types[a], lambda x, y: x ^ y, a, b)
        return self.emit("xor", self.types[a], (a, b))

    def logical_not(self, a: Scalar) -> Scalar:
        dtype = self.types[a]
        if self.known(a):
            return self._fold(dtype, (lambda x: not x) if dtype == "bool" else (lambda x: ~x), a)
        return self.emit("not", dtype, (a,))

    def select(self, condition: Scalar, if_true: Scalar, if_false: Scalar) -> Scalar:
        if if_true == if_false:
            return if_true
        if self.known(condition):
            return if_true if self.constants[condition] else if_false
        return self.emit("select", self.types[if_true], (condition, if_true, if_false))

    def cast(self, a: Scalar, dtype: str) -> Scalar:
        """Convert, with XLA's rules."""
        source = self.types[a]
        if source == dtype:
            return a
        if self.known(a):
            if dtype == "bool":
                return self._fold(dtype, lambda x: x != 0, a)
            if dtype not in FLOATS and source in FLOATS:
                return self._fold(dtype, lambda x: saturating_int(dtype, float(x)), a)
            return self._fold(dtype, lambda x: x, a)
        if dtype == "bool":
            return self.compare("ne", a, self.const(source, 0))
        return self.emit("cast", source, (a,), dtype, result=dtype)

    def bitcast(self, a: Scalar, dtype: str) -> Scalar:
        if self.types[a] == dtype:
            return a
        return self.emit("bitcast", self.types[a], (a,), dtype, result=dtype)

    # -- the end ----------------------------------------------------------------------------------------------

    def finish(self, inputs: list[tuple[tuple[int, ...], str]], keep: int, outputs: list[tuple[tuple[int, ...], str]],
               own: int = 0) -> tuple[Program, list[int]]:
        """The canonical program, and which inputs beyond the first ``keep`` it reads, in its order of inputs.

        The first ``own`` outputs have the bits that they have in a program which gives them alone.
        """
        whole: Region = (*self._prelude, *self._regions[0])
        region = _drop_dead(whole)
        alone = _drop_dead(whole, own) if own else ()
        return _renumber(share(_contract(region, self, alone)), inputs, keep, outputs)

    def alone(self, outputs: int) -> Region:
        """What a program of so many first outputs does, before its arrays share memory."""
        return _contract(_drop_dead((*self._prelude, *self._regions[0]), outputs), self)


def _drop_dead(region: Region, outputs: int | None = None) -> Region:
    """What the outputs, or so many first ones, need, and nothing else."""
    definitions: dict[int, Instruction] = {}
    holders: dict[int, Instruction] = {}  # id of an instruction -> the instruction whose region holds it
    stores: dict[int, list[Instruction]] = {}
    work: list[Instruction] = []

    def survey(inner: Region, holder: Instruction | None) -> None:
        for instruction in inner:
            if holder is not None:
                holders[id(instruction)] = holder
            if instruction[0] >= 0:
                definitions[instruction[0]] = instruction
            if instruction[1] == "sums":
                stores.setdefault(instruction[4].out, []).append(instruction)
            elif instruction[1] == "store":
                if instruction[4][0] == "output":
                    if outputs is None or instruction[4][1] < outputs:
                        work.append(instruction)
                else:
                    stores.setdefault(instruction[4][1], []).append(instruction)
            elif instruction[1] == "alloc":
                stores.setdefault(instruction[4][0], []).append(instruction)
            for deeper in regions_of(instruction):
                survey(deeper, instruction)

    survey(region, None)
    live: set[int] = set()
    read: set[int] = set()
    while work:
        instruction = work.pop()
        if id(instruction) in live:
            continue
        live.add(id(instruction))
        work.extend(definitions[a] for a in instruction[3])
        if id(instruction) in holders:
            work.append(holders[id(instruction)])
        for number in local_reads(instruction):
            if number not in read:
                read.add(number)
                work.extend(stores[number])

    def keep(inner: Region) -> Region:
        kept = []
        for instruction in inner:
            if id(instruction) in live:
                dest, op, dtype, args, attribute = instruction
                if op == "for":
                    attribute = (attribute[0], keep(attribute[1]))
                elif op in ("while", "if"):
                    attribute = tuple(keep(r) for r in attribute)
                kept.append((dest, op, dtype, args, attribute))
        return tuple(kept)

    return keep(region)


def _contract(region: Region, builder: Builder, alone: Region = ()) -> Region:
    """Write fma where a product feeds one sum and nothing else, both in one region; nobody contracts later.

    ``alone`` is a part of the region, in which the uses in the rest do not count: there sums are what they are without it.
    """
    uses, uses_alone = _uses(region), _uses(alone)
    inside = {dest for dest in _defined(alone) if dest >= 0}

    def rewrite(inner: Region) -> Region:
        products: dict[int, tuple[int, int]] = {}
        eaten: set[int] = set()
        out: list[Instruction] = []

        def product(number: int, dest: int) -> tuple[int, int] | None:
            """The factors of a product that sum ``dest`` takes in."""
            found = products.get(number)
            counted = uses_alone if dest in inside else uses
            if found is None or counted.get(number) != 1:
                return None
            if uses.get(number) == 1:
                eaten.add(number)
            return found

        for instruction in inner:
            dest, op, dtype, args, attribute = instruction
            if op == "mul" and dtype in FLOATS:
                products[dest] = (args[0], args[1])
            elif op in ("add", "sub") and dtype in FLOATS:
                left, right = args
                # The later product goes in, so that a sum of products is a chain.
                if (factors := product(right, dest)) is not None:
                    x, y = factors
                    if op == "sub":
                        minus = builder._number(dtype)
                        out.append((minus, "neg", dtype, (x,), None))
                        x = minus
                    instruction = (dest, "fma", dtype, (x, y, left), None)
                elif (factors := product(left, dest)) is not None:
                    x, y = factors
                    if op == "sub":
                        minus = builder._number(dtype)
                        out.append((minus, "neg", dtype, (right,), None))
                        right = minus
                    instruction = (dest, "fma", dtype, (x, y, right), None)
            elif op == "for":
                instruction = (dest, op, dtype, args, (attribute[0], rewrite(attribute[1])))
            elif op in ("while", "if"):
                instruction = (dest, op, dtype, args, tuple(rewrite(r) for r in attribute))
            out.append(instruction)
        return tuple(i for i in out if i[0] not in eaten) if eaten else tuple(out)

    return rewrite(region)


def _uses(region: Region) -> dict[int, int]:
    """How often each scalar is an argument."""
    uses: dict[int, int] = {}

    def count(inner: Region) -> None:
        for instruction in inner:
            for a in instruction[3]:
                uses[a] = uses.get(a, 0) + 1
            for deeper in regions_of(instruction):
                count(deeper)

    count(region)
    return uses


def _defined(region: Region) -> Iterator[int]:
    for instruction in region:
        yield instruction[0]
        for inner in regions_of(instruction):
            yield from _defined(inner)


def _renumber(region: Region, inputs: list[tuple[tuple[int, ...], str]], keep: int,
              outputs: list[tuple[tuple[int, ...], str]]) -> tuple[Program, list[int]]:
    """Count everything in order of appearance."""
    numbers: dict[int, int] = {}
    local: dict[int, int] = {}
    read: dict[int, int] = {k: k for k in range(keep)}

    def number(dest: int) -> int:
        if dest < 0:
            return dest
        numbers[dest] = len(numbers)
        return numbers[dest]

    def place(memory: Memory) -> Memory:
        space, k = memory
        if space == "local":
            return space, local[k]
        return (space, read.setdefault(k, len(read))) if space == "input" else memory

    def go(inner: Region) -> Region:
        out: list[Instruction] = []
        for dest, op, dtype, args, attribute in inner:
            if op == "for":
                dest = number(dest)
                attribute = (attribute[0], go(attribute[1]))
            elif op in ("while", "if"):
                attribute = tuple(go(r) for r in attribute)
            elif op == "alloc":
                attribute = (local.setdefault(attribute[0], len(local)), attribute[1])
            elif op in ("load", "store"):
                attribute = place(attribute)
            elif op == "sums":
                vector = attribute.vector and place(attribute.vector)
                attribute = replace(attribute, out=local[attribute.out], matrix=place(attribute.matrix), vector=vector)
            args = tuple([numbers[a] for a in args])
            out.append((dest if op == "for" else number(dest), op, dtype, args, attribute))
        return tuple(out)

    instructions = go(region)
    order = sorted(read, key=lambda k: read[k])
    return (Program(tuple(inputs[k] for k in order), instructions, tuple(outputs)), order[keep:])
