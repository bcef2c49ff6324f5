"""`kernel_call`: a kernel written for numba.cuda as a JAX operation."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jaxtyping import Array, PyTree

from . import cache
from .content import Content, function_content, plain_function
from .custom_call import lower_on
from .partition import Batched, lower_batched, result_avals, vary_alike
from .target import BuildError, Image, Target, default_targets, join_images

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
_ADVICE = {
    "float16": "store the array as float32",
    "bfloat16": "store the array as float32",
    "complex64": "pass the real and the imaginary part as two arrays",
    "complex128": "pass the real and the imaginary part as two arrays",
}

_GRID_LIMITS = (2**31 - 1, 65535)
_BLOCK_LIMITS = (1024, 1024, 64)
_THREADS_OF_A_BLOCK = 1024

Scalar = np.generic


def kernel_call(
    kernel: Callable[..., None],
    *operands: Array | np.ndarray,
    out_shape: PyTree[jax.ShapeDtypeStruct],
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    shared_bytes: int = 0,
    scalars: Sequence[Scalar] = (),
    host_kernel: Callable[..., None] | None = None,
) -> PyTree[Array]:
    """Runs a kernel written for `numba.cuda` as a JAX operation.

    It works in `jax.jit`, `jax.lax.scan`, `jax.lax.cond` and the like. Under `jax.vmap`, nested at will and over
    any axis of any operand, it stays one launch; an operand without the axis is read in place. A batch that is sharded
    over devices is run where it lies; if it does not divide evenly, also for elements in excess, whose operands may hold
    anything.

    Parameters
    ----------
    kernel
        A Python function that Numba-CUDA can compile, or a `numba.cuda.jit` dispatcher of one. Its parameters are a
        pointer to global memory for each operand, a pointer for each result, then the scalars. A pointer is indexed
        flat, `x[i]`, in row-major order. Results are not initialised. It may use `threadIdx`, `blockIdx`,
        `blockDim`, `gridDim`, shared memory (`cuda.shared.array(0, dtype)` is the dynamic one), `syncthreads` and
        functions made by `cuda.jit(device=True)`. Products and sums may be contracted to fma, as in Numba-CUDA.
    operands
        JAX or NumPy arrays of any shape; bool, (u)int8 to (u)int64, float32 or float64. No pytrees.
    out_shape
        A `jax.ShapeDtypeStruct`, or a pytree of them: shape and dtype of the results of one launch, not batched.
        The kernel takes them in the order of `jax.tree.leaves`, which sorts the keys of a dict.
    grid
        Blocks, one or two numbers; 0, which launches nothing, only where results have no elements. The third dimension is
        the batch of `jax.vmap`: `blockIdx.z` and `gridDim.z` are not for the kernel.
    block
        Threads of a block, one to three numbers; at most 1024 in all.
    shared_bytes
        Bytes of dynamic shared memory of a block.
    scalars
        Static NumPy scalars, as in `(np.int32(3), np.float32(0.5))`. Another value builds no second image. A traced
        value is an operand of shape `()` instead.
    host_kernel
        What runs on the CPU: `host_kernel(start, stop, *pointers, *scalars)`, compiled by `numba.njit`, does the
        work of the threads `start` to `stop - 1` of one launch; there are `grid * block` of them. Ranges run side
        by side on several CPU threads and hold whole blocks. What Numba raises there by itself, as for an index beyond a
        tuple, becomes the error of the computation.

    Returns
    -------
    PyTree[Array]
        The results, in the structure of `out_shape`.

    Raises
    ------
    TypeError
        An operand, a scalar, `out_shape` or a kernel of the wrong kind; an unsupported dtype; a traced value where
        a static one is due.
    ValueError
        A wrong number of kernel parameters; a grid, block or `shared_bytes` that CUDA refuses; a grid of 0 for results
        that have elements; a kernel that raises or
        asserts (nothing would say so at run time); a 64-bit result without `jax_enable_x64`.
    BuildError
        At lowering: Numba or a part of the toolchain refuses the code; a kernel returns a value; the CPU is asked
        for with no `host_kernel`.
    NotImplementedError
        On differentiation. Wrap the call in `jax.custom_jvp` or `jax.custom_vjp`.

    Notes
    -----
    A kernel is known by its content: bytecode, constants, closure cells and globals, functions it calls included. A
    freshly defined equal function, another batch size or another scalar builds no second image. A global that has no
    content to tell (an object of the user's own class, an intrinsic, a plain function, for which Numba may know an
    overload) is known by its identity, and the image then stays out of the disk cache; so it does where a function made by
    `njit` that reads a global number was compiled before: Numba keeps what the number was then.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from numba import cuda
    >>> def saxpy(x, y, out, n, a):
    ...     i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    ...     if i < n:
    ...         out[i] = a * x[i] + y[i]
    >>> def saxpy_host(start, stop, x, y, out, n, a):
    ...     for i in range(start, min(stop, n)):
    ...         out[i] = a * x[i] + y[i]
    >>> x, y = jnp.arange(5, dtype=jnp.float32), jnp.ones(5, jnp.float32)
    >>> kernel_call(
    ...     saxpy, x, y, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), grid=1, block=32,
    ...     scalars=(np.int64(x.size), np.float32(2)), host_kernel=saxpy_host,
    ... )
    Array([1., 3., 5., 7., 9.], dtype=float32)
    """
    name = _name(kernel, "kernel")
    options = getattr(kernel, "targetoptions", {})
    if options.get("link"):
        raise ValueError(f"kernel_call of {name}: its jit has link=; code from other files cannot be linked in")
    fastmath = bool(options.get("fastmath"))
    for number, operand in enumerate(operands):
        _check_operand(name, number, operand)
    leaves, structure = jax.tree.flatten(out_shape)
    results = tuple(_result(name, leaf) for leaf in leaves)
    if not results:
        raise ValueError(f"kernel_call of {name}: out_shape holds no result; a kernel writes at least one")
    typed_scalars = _check_scalars(name, scalars)
    grid_sizes = _sizes(name, "grid", grid, _GRID_LIMITS, least=0)
    if 0 in grid_sizes and (unwritten := [shape for shape, _ in results if 0 not in shape]):
        raise ValueError(
            f"kernel_call of {name}: grid={grid!r} launches nothing, and so a result of shape {unwritten[0]} would be "
            "written by nobody: take a block at least, or do without the call where there is nothing to do"
        )
    if math.prod(block_sizes := _sizes(name, "block", block, _BLOCK_LIMITS, least=1)) > _THREADS_OF_A_BLOCK:
        raise ValueError(
            f"kernel_call of {name}: block={block!r} has {math.prod(block_sizes)} threads; "
            f"CUDA allows {_THREADS_OF_A_BLOCK}"
        )
    bytes_shared = _static_int(name, "shared_bytes", shared_bytes)
    if bytes_shared < 0:
        raise ValueError(f"kernel_call of {name}: shared_bytes={bytes_shared} is negative")

    counts = (len(operands), len(results), len(typed_scalars))
    _check_parameters(name, kernel, counts, range_parameters=False)
    if host_kernel is not None:
        _check_parameters(_name(host_kernel, "host_kernel"), host_kernel, counts, range_parameters=True)
    arrays = [jax.numpy.asarray(operand) for operand in operands]
    call = KernelCall(
        name=name,
        content=function_content(plain_function(kernel), name=name, extra=fastmath),
        host_content=None if host_kernel is None else function_content(plain_function(host_kernel), name=name),
        fastmath=fastmath,
        operands=tuple(_Operand(array.shape, array.dtype.name) for array in arrays),
        results=results,
        scalars=typed_scalars,
        grid=(*grid_sizes, 1)[:2],
        block=(*block_sizes, 1, 1)[:3],
        shared_bytes=bytes_shared,
        levels=0,
        kernel=kernel,
        host_kernel=host_kernel,
    )
    return jax.tree.unflatten(structure, kernel_call_p.bind(*vary_alike(arrays), call=call))


@dataclasses.dataclass(frozen=True)
class _Operand:
    """One batch element's shape and dtype.

    `axes` has an entry for each level of vmap, innermost first: where that level's axis stands in the whole array,
    None if the array does not have it.
    """

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[int | None, ...] = ()

    def batch(self, axis: int | None) -> _Operand:
        moved = tuple(a if a is None or axis is None or a < axis else a + 1 for a in self.axes)
        return dataclasses.replace(self, axes=(*moved, axis))

    @property
    def mask(self) -> tuple[bool, ...]:
        return tuple(axis is not None for axis in self.axes)

    def layout(self) -> tuple[int, ...]:
        """Its dimensions from fastest to slowest: an element's own, last first, then the batch, innermost first."""
        batch = [axis for axis in self.axes if axis is not None]
        own = [axis for axis in range(len(self.shape) + len(batch)) if axis not in batch]
        return (*reversed(own), *batch)


@dataclasses.dataclass(frozen=True)
class KernelCall:
    """Everything static about one call. Compared by content: the functions themselves do not count."""

    name: str
    content: Content
    host_content: Content | None
    fastmath: bool
    operands: tuple[_Operand, ...]
    results: tuple[tuple[tuple[int, ...], str], ...]
    scalars: tuple[tuple[str, int], ...]  # dtype, bits
    grid: tuple[int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    levels: int
    kernel: Callable = dataclasses.field(compare=False, repr=False)
    host_kernel: Callable | None = dataclasses.field(compare=False, repr=False)

    def batch(self, axes: Sequence[int | None]) -> KernelCall:
        """The call under one more vmap."""
        operands = tuple(operand.batch(axis) for operand, axis in zip(self.operands, axes, strict=True))
        return dataclasses.replace(self, operands=operands, levels=self.levels + 1)

    def arrays(self) -> tuple[list[Batched], list[Batched]]:
        """How the elements of the batch lie in the operands and in the results."""
        levels = self.levels
        taken = [Batched(one.shape, one.dtype, one.axes, one.layout()) for one in self.operands]
        in_front = tuple(reversed(range(levels)))
        given = [
            Batched(shape, dtype, in_front, tuple(reversed(range(levels + len(shape))))) for shape, dtype in self.results
        ]
        return taken, given

    @property
    def threads(self) -> int:
        """Threads of one batch element."""
        return math.prod(self.grid) * math.prod(self.block)

    def image(self, target: Target) -> Image:
        """The machine code: from memory, from disk, or built now."""
        on_host = target.platform == "cpu"
        function = self.host_kernel if on_host else self.kernel
        content = self.host_content if on_host else self.content
        if function is None or content is None:
            raise BuildError(
                f"kernel_call of {self.name} has no kernel for the CPU: give host_kernel=, a function "
                "(start, stop, *pointers, *scalars) that does a range of threads' work, or run it on a CUDA device"
            )
        pointers = [(operand.dtype, operand.mask) for operand in self.operands]
        pointers += [(dtype, None) for _, dtype in self.results]
        scalars = tuple(dtype for dtype, _ in self.scalars)
        threads = math.prod(self.block)
        host: tuple = ()
        if on_host:
            from .host_object import processor

            host = processor()
        key = cache.content_key(
            target,
            "kernel_call",
            host,
            content.digest,
            tuple(pointers),
            scalars,
            self.levels,
            None if on_host else threads,
            self.fastmath and not on_host,
        )

        def build(dump: cache.Dump) -> Image:
            from . import call_entry

            plain = plain_function(function)
            if function_content(plain, name=self.name, extra=None if on_host else self.fastmath) != content:
                raise BuildError(
                    f"kernel_call of {self.name}: what the kernel refers to (a global, a closure's variable) has "
                    "changed since it was traced; trace it again, and do not change it in between"
                )
            return call_entry.build(
                plain,
                target,
                name=self.name,
                pointers=pointers,
                scalars=scalars,
                levels=self.levels,
                block=threads,
                fastmath=self.fastmath,
                dump=dump,
            )

        return cache.image(key, f"kernel_call of {self.name}", build, lasting=content.lasting)

    def words(self, target: Target) -> list[int]:
        """The launch's words behind the batch's sizes; `call_entry.build` says what they are."""
        words = [bits for _, bits in self.scalars]
        if self.levels:
            arrays = [(one.shape, one.dtype) for one in self.operands if any(one.mask)] + list(self.results)
            words += [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays]
        if target.platform == "cpu":
            words.append(self.threads)
        return words

    def launch(self, target: Target) -> list[int]:
        """The launch's numbers for the handler."""
        if target.platform == "cpu":
            return [self.threads, math.prod(self.block)]
        return [*self.grid, -1 if self.levels else 1, *self.block, self.shared_bytes, 0]


kernel_call_p = Primitive("jax_cubie_kernel_call")
kernel_call_p.multiple_results = True


@kernel_call_p.def_abstract_eval
def _abstract(*avals: Any, call: KernelCall) -> list[Any]:
    return result_avals(avals, *call.arrays())


def _bind(*arrays: Any, call: KernelCall) -> Any:
    return kernel_call_p.bind(*arrays, call=call)


_bind.__qualname__ = "jax_cubie.kernel_call"
_bind._apply_primitive = True  # with jax.debug_nans, JAX looks no deeper than here
_compiled = jax.jit(_bind, static_argnames="call")


@kernel_call_p.def_impl
def _eager(*arrays: Any, call: KernelCall) -> Any:
    with jax.disable_jit(False):
        return _compiled(*arrays, call=call)


def _batch(arrays: Any, axes: Any, *, call: KernelCall) -> Any:
    results = kernel_call_p.bind(*arrays, call=call.batch(tuple(axes)))
    return results, [0] * len(results)


batching.primitive_batchers[kernel_call_p] = _batch


def _refuse(what: str, call: KernelCall) -> Any:
    raise NotImplementedError(
        f"kernel_call of {call.name} has no derivative ({what} was asked for): JAX cannot see into a kernel. Wrap the "
        "call in a function with jax.custom_jvp or jax.custom_vjp and say there what the derivative is"
    )


def _refuse_jvp(primals: Any, tangents: Any, *, call: KernelCall) -> Any:
    _refuse("jvp", call)


def _refuse_transpose(cotangents: Any, *operands: Any, call: KernelCall) -> Any:
    _refuse("a transpose", call)


ad.primitive_jvps[kernel_call_p] = _refuse_jvp
ad.primitive_transposes[kernel_call_p] = _refuse_transpose


def _lower(context: Any, *values: Any, call: KernelCall, platform: str) -> Any:
    targets = default_targets(platform)
    target = targets[0]
    taken, given = call.arrays()
    return lower_batched(
        context,
        values,
        join_images([call.image(one) for one in targets]),
        operands=taken,
        results=given,
        words=call.words(target),
        launch=call.launch(target),
    )


lower_on(kernel_call_p, lambda platform: functools.partial(_lower, platform=platform))


def _name(function: Any, parameter: str) -> str:
    plain = plain_function(function)
    if not isinstance(plain, FunctionType):
        raise TypeError(
            f"kernel_call: {parameter} is {function!r}; expected a Python function or one that numba has jitted"
        )
    return plain.__name__


def _check_operand(name: str, number: int, operand: Any) -> None:
    where = f"kernel_call of {name}: operand {number}"
    if not isinstance(operand, (jax.Array, np.ndarray, np.generic)):
        if isinstance(operand, (bool, int, float, complex)):
            hint = "pass an array, as in jnp.float32(x), or a static NumPy scalar through scalars="
        else:
            hint = "operands are single arrays; hand over the leaves of a pytree one by one"
        raise TypeError(f"{where} is of type {type(operand).__name__}: {hint}")
    _check_dtype(where, operand.dtype)


def _check_dtype(where: str, dtype: Any) -> str:
    name = getattr(dtype, "name", str(dtype))
    if name not in DTYPES:
        advice = f"; {_ADVICE[name]}" if name in _ADVICE else ""
        raise TypeError(f"{where} has dtype {name}; a kernel knows {', '.join(DTYPES)}{advice}")
    return name


def _result(name: str, leaf: Any) -> tuple[tuple[int, ...], str]:
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        raise TypeError(
            f"kernel_call of {name}: out_shape holds {leaf!r}; its leaves are jax.ShapeDtypeStruct(shape, dtype)"
        )
    dtype = _check_dtype(f"kernel_call of {name}: a result", leaf.dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != np.dtype(dtype):
        raise ValueError(
            f"kernel_call of {name}: a result of dtype {dtype} needs jax.config.update('jax_enable_x64', True)"
        )
    return tuple(_static_int(name, "out_shape", size) for size in leaf.shape), dtype


def _check_scalars(name: str, scalars: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(scalars, (tuple, list)):
        raise TypeError(f"kernel_call of {name}: scalars is of type {type(scalars).__name__}; expected a tuple")
    typed = []
    for number, scalar in enumerate(scalars):
        where = f"kernel_call of {name}: scalar {number}"
        if isinstance(scalar, jax.core.Tracer):
            raise TypeError(
                f"{where} is traced, and scalars are static: pass it as an operand of shape () and read it as x[0]"
            )
        if not isinstance(scalar, np.generic):
            more = "; an array is an operand" if isinstance(scalar, (jax.Array, np.ndarray)) else ""
            raise TypeError(
                f"{where} is {scalar!r} of type {type(scalar).__name__}: give it its type, as in np.int32(3) or "
                f"np.float32(0.5){more}"
            )
        dtype = _check_dtype(where, scalar.dtype)
        typed.append((dtype, int.from_bytes(scalar.tobytes().ljust(8, b"\0"), "little", signed=True)))
    return tuple(typed)


def _static_int(name: str, what: str, value: Any) -> int:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"kernel_call of {name}: {what} is traced, and it has to be a Python int: take it from shapes, or make it "
            "static with jax.jit(..., static_argnames=...)"
        )
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"kernel_call of {name}: {what} is {value!r}; expected an int")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"kernel_call of {name}: {what} is {value!r}; expected an int") from None


def _sizes(name: str, what: str, value: Any, limits: tuple[int, ...], *, least: int) -> tuple[int, ...]:
    given = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    sizes = tuple(_static_int(name, what, size) for size in given)
    if not 1 <= len(sizes) <= len(limits):
        more = "; the third dimension is the batch of jax.vmap" if what == "grid" and len(sizes) == 3 else ""
        raise ValueError(
            f"kernel_call of {name}: {what}={value!r} has {len(sizes)} dimensions; it has 1 to {len(limits)}{more}"
        )
    for size, limit in zip(sizes, limits, strict=False):
        if not least <= size <= limit:
            raise ValueError(f"kernel_call of {name}: {what}={value!r}: {size} is not from {least} to {limit}")
    return sizes


def _check_parameters(name: str, function: Any, counts: tuple[int, int, int], *, range_parameters: bool) -> None:
    parameters = inspect.signature(plain_function(function)).parameters.values()
    wanted = sum(counts) + (2 if range_parameters else 0)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    most = math.inf if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
    if not required <= wanted <= most:
        parts = ["start, stop"] if range_parameters else []
        parts += [f"{count} {word}{'' if count == 1 else 's'}" for count, word in zip(counts, _PARTS, strict=True)]
        takes = f"{len(positional)} parameters" if most == len(positional) else f"at least {required} parameters"
        raise ValueError(f"kernel_call of {name}: it takes {takes}, and gets {wanted}: {', '.join(parts)}")


_PARTS = ("operand", "result", "scalar")
