"""The Numba types of our own: a typed pointer with a static length, stride and address space; a value of named members."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from llvmlite import ir
from numba.core import types

from .emitter import LLVM_TYPES


class Slice(types.Type):
    """`size` elements of `dtype`, `stride` elements apart, in one of LLVM's address spaces.

    All four are part of the type, so that an emitter may unroll over a slice and no stride is computed at run time.
    """

    def __init__(self, dtype: str, size: int, stride: int = 1, space: int = 0):
        self.dtype, self.size, self.stride, self.space = dtype, size, stride, space
        super().__init__(name=f"Slice({dtype},{size},{stride},{space})")

    @property
    def pointer(self) -> ir.PointerType:
        return ir.PointerType(LLVM_TYPES[self.dtype], self.space)


class Struct(types.Type):
    """A value of named members. Only emitters look inside."""

    def __init__(self, members: Mapping[str, types.Type]):
        self.members = dict(members)
        written = ", ".join(f"{name}: {kind.name}" for name, kind in self.members.items())
        # By what is in it, yet short: it becomes a part of every symbol.
        super().__init__(name=f"Struct({hashlib.sha256(written.encode()).hexdigest()[:16]})")


def register_models(register, models) -> None:
    """Tells a backend, by its `register_model` and `models`, how they are represented: a slice as its pointer."""

    class SliceModel(models.PrimitiveModel):
        def __init__(self, manager, slice_type):
            super().__init__(manager, slice_type, slice_type.pointer)

    class StructModel(models.StructModel):
        def __init__(self, manager, struct_type):
            super().__init__(manager, struct_type, list(struct_type.members.items()))

    register(Slice)(SliceModel)
    register(Struct)(StructModel)


def numba_type(name: str) -> types.Type:
    """Numba's type of a scalar's name."""
    return types.boolean if name == "bool" else getattr(types, name)


def make_intrinsic(decorator, codegen, result):
    """A Numba intrinsic whose body `codegen(builder, argument_types, arguments)` writes.

    `result` is a Numba type, or a function from the argument types to one.
    """

    def declare(typing_context, *arguments):
        result_type = result(*arguments) if callable(result) and not isinstance(result, types.Type) else result

        def generate(context, builder, signature, values):
            (packed,) = values
            unpacked = [builder.extract_value(packed, index) for index in range(len(arguments))]
            value = codegen(builder, arguments, unpacked)
            return context.get_dummy_value() if signature.return_type == types.void else value

        # Numba hands `*arguments` over as one tuple, and its type has to say so.
        return result_type(types.StarArgTuple.from_types(arguments)), generate

    declare.__name__ = declare.__qualname__ = getattr(codegen, "__name__", "emitted")
    return decorator(declare)
