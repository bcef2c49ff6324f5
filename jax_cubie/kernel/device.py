"""How the code of one image is written: ordinary functions that Numba compiles, and bodies that emit LLVM IR."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir

from .backend import backend_of
from .emitter import LLVM_TYPES, Emitter
from .numba_types import Slice, Struct, numba_type, types
from .target import Target


class View:
    """A slice inside an emitter's body: typed elements at a static stride."""

    def __init__(self, emitter: Emitter, pointer: Any, slice_type: Slice):
        self.emitter, self.pointer, self.type = emitter, pointer, slice_type
        self.size, self.dtype = slice_type.size, slice_type.dtype

    def part(self, offset: Any, size: int) -> View:
        """`size` elements from `offset` on, a Python int, or an int64 value."""
        if isinstance(offset, int):
            assert 0 <= offset <= self.size - size, f"elements {offset} to {offset + size} of {self.size}"
        kind = Slice(self.dtype, size, self.type.stride, self.type.space)
        return View(self.emitter, self._address(offset) if size else self.pointer, kind)

    def load(self, index: Any) -> Any:
        """Element `index`: a Python int, or an int64 value."""
        return self.emitter.read(self._address(index))

    def store(self, index: Any, value: Any) -> None:
        """Writes element `index`: a Python int, or an int64 value."""
        self.emitter.write(value, self._address(index))

    def _address(self, index: Any) -> Any:
        integer = LLVM_TYPES["int64"]
        if isinstance(index, int):
            assert 0 <= index < self.size, f"element {index} of {self.size}"
            offset = integer(index * self.type.stride)
        elif self.type.stride == 1:
            offset = index
        else:
            offset = self.emitter.builder.mul(index, integer(self.type.stride))
        return self.emitter.builder.gep(self.pointer, [offset])


class Members:
    """The members of a struct inside an emitter's body, by attribute: slices as `View`s, structs as this, the rest as llvmlite
    values. value: the struct itself.

    One is taken out where it is first asked for: a lane has dozens, a body looks at a few, and each costs compile time.
    """

    def __init__(self, emitter: Emitter, value: Any, struct_type: Struct):
        self.value = value
        self._emitter, self._kinds, self._block = emitter, struct_type.members, emitter.builder.block

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._kinds:
            raise AttributeError(f"no member is called {name!r}")
        builder = self._emitter.builder
        # At the end of the block that the body began in: whatever comes later, in whichever branch, can use it.
        with contextlib.nullcontext() if builder.block is self._block else builder.goto_block(self._block):
            raw = builder.extract_value(self.value, list(self._kinds).index(name))
            member = _argument(self._emitter, self._kinds[name], raw)
        setattr(self, name, member)
        return member


def _argument(emitter: Emitter, kind: types.Type, value: Any) -> Any:
    if isinstance(kind, Slice):
        return View(emitter, value, kind)
    return Members(emitter, value, kind) if isinstance(kind, Struct) else value


def make_struct(emitter: Emitter, struct_type: Struct, members: Mapping[str, Any]) -> ir.Value:
    """A struct from its members' llvmlite values."""
    values = [members[name] for name in struct_type.members]
    result = ir.Constant(ir.LiteralStructType([value.type for value in values]), ir.Undefined)
    for number, value in enumerate(values):
        result = emitter.builder.insert_value(result, value, number)
    return result


def each(emitter: Emitter, size: int, unroll: int, body: Callable[[Any], None]) -> None:
    """Runs `body(index)` for every index below `size`: unrolled where that is at most `unroll`, else as a loop."""
    if size <= unroll:
        for index in range(size):
            body(index)
    else:
        with emitter.loop(size) as index:
            body(index)


class Device:
    """What a kernel's parts are made with, for one target. `fma` is False on a processor without the instruction."""

    def __init__(self, target: Target):
        self.target = target
        self.backend = backend_of(target)
        if target.platform == "cpu":
            from .host_object import has_fma

            self.fma = has_fma()
        else:
            self.fma = True

    def function(self, function: Callable) -> Callable:
        """`function`, compiled by Numba, for other device functions to call."""
        return self.backend.device(function)

    def emitted(self, result: Any = "void") -> Callable[[Callable], Callable]:
        """Decorates `body(emitter, *arguments)`, which writes LLVM IR, as a device function.

        Slices arrive as `View`s, structs as `Members`, scalars and tuples as llvmlite values. `result` names the scalar
        type of what the body returns ("void" for nothing); it may be a tuple `(name, length)`, a `Slice`, a `Struct`, or a
        function from the argument types to one of these.
        """

        def decorate(body: Callable) -> Callable:
            def codegen(builder, argument_types, values):
                emitter = self.emitter(builder)
                arguments = map(_argument, itertools.repeat(emitter), argument_types, values)
                return body(emitter, *arguments)

            codegen.__name__ = body.__name__
            fixed = isinstance(result, types.Type) or not callable(result)  # Numba's types are callable, too
            kind = _result_type(result) if fixed else lambda *arguments: _result_type(result(*arguments))

            def emit(emitter, *arguments):
                value = body(emitter, *arguments)
                made = kind if fixed else kind(*(view.type for view in arguments))
                return View(emitter, value, made) if isinstance(made, Slice) else value

            intrinsic = self.backend.intrinsic(codegen, kind)
            intrinsic.emit = emit
            return intrinsic

        return decorate

    def emitter(self, builder: Any) -> Emitter:
        """An emitter at the builder's place."""
        return Emitter(builder, self.target.platform, fma=self.fma)


def _result_type(result: Any) -> Any:
    if isinstance(result, (Slice, Struct)):
        return result
    if result == "void":
        return types.void
    if isinstance(result, tuple):
        name, length = result
        return types.UniTuple(numba_type(name), length)
    return numba_type(result)
