"""Around a user's kernel: the entry that finds each batch element's pointers and calls it. Imports Numba."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numba.core.imputils as host_imputils
import numba.cuda.extending as cuda_extending
from llvmlite import ir
from numba import cuda
from numba.core import errors, types
from numba.core.datamodel import models as host_models
from numba.extending import register_model

from .backend import backend_of
from .emitter import LLVM_TYPES
from .numba_types import numba_type
from .target import BuildError, Image, Target

_WORD, _BYTE = ir.IntType(64), ir.IntType(8)


class BoolPointer(types.CPointer):
    """A pointer to booleans, each a byte in memory; Numba's own loads the byte and takes it for the value."""

    def __init__(self) -> None:
        super().__init__(types.boolean)
        self.name = "bool*"


register_model(BoolPointer)(host_models.PointerModel)
cuda_extending.register_model(BoolPointer)(cuda_extending.core_models.PointerModel)


def _load_bool(context, builder, signature, arguments):
    pointer, index = arguments
    return builder.icmp_unsigned("!=", builder.load(builder.gep(pointer, [index])), _BYTE(0))


def _store_bool(context, builder, signature, arguments):
    pointer, index, value = arguments
    value = context.cast(builder, value, signature.args[2], types.boolean)
    builder.store(builder.zext(value, _BYTE), builder.gep(pointer, [index]))


for _lower in (host_imputils.lower_builtin, cuda_extending.lower_builtin):
    _lower(operator.getitem, BoolPointer, types.Integer)(_load_bool)
    _lower(operator.setitem, BoolPointer, types.Integer, types.Any)(_store_bool)


def build(
    function: Callable,
    target: Target,
    *,
    name: str,
    pointers: Sequence[tuple[str, tuple[bool, ...] | None]],
    scalars: Sequence[str],
    levels: int,
    block: int,
    fastmath: bool,
    dump: Callable[[str, str], None],
) -> Image:
    """The image that runs `function` for every element of a batch.

    pointers: dtype of each operand and result, and which of the `levels` of vmap it has (None for a result: all).
    The words of a launch are: an address each, the number of batch elements, the size of each level (innermost first), the
    scalars' bits, with levels the bytes of one element for each pointer that has some, and on the host the threads of one
    element.
    """
    backend, on_host = backend_of(target), target.platform == "cpu"
    pointer_types = [BoolPointer() if dtype == "bool" else types.CPointer(numba_type(dtype)) for dtype, _ in pointers]
    result = types.BaseTuple.from_types([*pointer_types, *map(numba_type, scalars)])
    total = len(pointers)
    first_scalar = total + 1 + levels
    first_stride = first_scalar + len(scalars)
    count = first_stride + (sum(mask is None or any(mask) for _, mask in pointers) if levels else 0)
    space = backend.GLOBAL_SPACE

    def codegen(builder, _, values):
        words, element = values

        def word(index):
            if on_host:
                return builder.load(builder.gep(words, [_WORD(index)]))
            return builder.extract_value(words, index)

        sizes = [word(total + 1 + level) for level in range(levels)]
        indices, rest = [], element
        for level, size in enumerate(sizes):
            last = level == levels - 1
            indices.append(rest if last else builder.urem(rest, size))
            rest = rest if last else builder.udiv(rest, size)

        def position(mask):  # which of a pointer's elements; None where there is one for all
            if mask is None:
                return element if levels else None
            found = None
            for level in reversed(range(levels)):
                if mask[level]:
                    outer = None if found is None else builder.mul(found, sizes[level])
                    found = indices[level] if outer is None else builder.add(outer, indices[level])
            return found

        members, stride = [], first_stride
        for number, (dtype, mask) in enumerate(pointers):
            address = word(number)
            if (index := position(mask)) is not None:
                address = builder.add(address, builder.mul(index, word(stride)))
                stride += 1
            pointee = _BYTE if dtype == "bool" else LLVM_TYPES[dtype]
            pointer = builder.inttoptr(address, ir.PointerType(pointee, space))
            if space:  # the compiler remembers the space, and loads and stores are global ones
                pointer = builder.addrspacecast(pointer, ir.PointerType(pointee))
            members.append(pointer)
        for number, dtype in enumerate(scalars):
            members.append(_from_bits(builder, word(first_scalar + number), dtype))
        kinds = [member.type for member in members]
        uniform = isinstance(result, types.UniTuple)
        aggregate = ir.ArrayType(kinds[0], len(kinds)) if uniform else ir.LiteralStructType(kinds)
        packed = ir.Constant(aggregate, ir.Undefined)
        for number, member in enumerate(members):
            packed = builder.insert_value(packed, member, number)
        return packed

    arguments = backend.intrinsic(codegen, result)
    kernel = backend.device(function, foreign=True) if on_host else backend.device(function)

    def host_entry(start, stop, words):
        threads = words[count]
        while start < stop:
            element = start // threads
            first = element * threads
            last = min(stop, first + threads)
            kernel(start - first, last - first, *arguments(words, element))
            start = last

    def cuda_entry(words):
        kernel(*arguments(words, 0))

    def cuda_batch_entry(words):
        batch, element, step = words[total], cuda.blockIdx.z + 0, cuda.gridDim.z + 0
        while element < batch:
            kernel(*arguments(words, element))
            element += step
            if element < batch:
                cuda.syncthreads()  # the next turn uses the same shared memory

    try:
        if on_host:
            image = backend.compile_entry(host_entry, target, foreign=True, dump=dump)
        else:
            image = backend.compile_entry(
                cuda_batch_entry if levels else cuda_entry,
                target,
                words=count,
                block=block,
                fastmath=fastmath,
                foreign=True,
                dump=dump,
            )
    except BuildError as error:
        raise BuildError(f"kernel_call of {name}: {error}") from error
    except errors.NumbaError as error:
        said = _about_pointers(error) or f"Numba cannot compile it for {target}: {_shortened(error)}"
        raise BuildError(f"kernel_call of {name}: {said}") from error
    for compiled in kernel.overloads.values():
        if compiled.signature.return_type != types.none:
            raise BuildError(
                f"kernel_call of {name}: it returns a value ({compiled.signature.return_type}); a kernel returns "
                "nothing and writes through its pointers"
            )
    return image


def _from_bits(builder: Any, bits: Any, dtype: str) -> Any:
    kind = LLVM_TYPES[dtype]
    if kind == _WORD:
        return bits
    if isinstance(kind, ir.IntType):
        return builder.trunc(bits, kind)
    return builder.bitcast(bits if dtype == "float64" else builder.trunc(bits, ir.IntType(32)), kind)


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOISE = re.compile(
    r"^(Failed in .* pipeline|During: Pass|This error may|To see|Enable|If you think|<source elided>|\s*$|\s*-{3,}|"
    r"For more information|https?://|Unknown attribute rejection|- Resolution failure for (non-)?literal)"
)


# What is asked of a pointer that only an array has, as Numba puts it, and what to write instead.
_POINTER_ERRORS = (
    (r"[gs]etitem\(\w+\*, (Uni)?Tuple", "a pointer has one index, in row-major order: write u[i * columns + j] for u[i, j]"),
    (r"[gs]etitem\(\w+\*, (slice|\.\.\.)", "a pointer has no slices: take its elements in a loop"),
    (r"[gs]etitem\(\w+\*, float", "a pointer's index is an integer: write u[int(x)]"),
    (
        r"[gs]etitem\((bool(ean)?|u?int\d+|float\d+), ",
        "an element of a pointer is a number, which has no index: write u[i * columns + j] for u[i][j]",
    ),
    (r"Unknown attribute '\w+' of type \w+\*|\b(len|iter|getiter|sum|max|min)\b.*\(\w+\*\)",
     "a pointer knows no shape and no size, and can't be looped over: pass the sizes in scalars=, and count"),
    (
        r"(operator|ufunc|built-in function).*>>> \w+\((\w+\*, .*|.*, \w+\*|\w+\*)\)",
        "a pointer is no array, so that nothing can be computed with the whole of it: take its elements, u[i]",
    ),
)


def _about_pointers(error: errors.NumbaError) -> str:
    """What is wrong where a pointer is used as an array, with the line if it is known; "" for any other error."""
    text = _COLOUR.sub("", str(error))
    advice = next((words for pattern, words in _POINTER_ERRORS if re.search(pattern, text.replace("\n", " "))), "")
    lines = [f"{file}:{line}" for file, line in re.findall(r"^During: .* at (.+) \((\d+)\)$", text, re.M) if file != __file__]
    return f"{advice} (at {lines[0]})" if advice and lines else advice  # numba-cuda does not always say where


def _shortened(error: BaseException) -> str:
    """Numba's message without the layers around it: at most the 12 lines that say most."""
    lines = [line.rstrip() for line in _COLOUR.sub("", str(error)).split("\n")]
    own = __file__
    kept = [line for line in lines if not _NOISE.match(line.strip()) and own not in line]
    if len(kept) > 12:
        kept = [*kept[:6], "  ...", *kept[-6:]]
    return "\n".join(kept)
