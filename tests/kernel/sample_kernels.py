"""Kernels that several tests use: each for CUDA, and what it is on the host."""

import jax
import numba
import numpy as np
from numba import cuda, float32, int32

from jax_cubie.kernel.call import kernel_call, kernel_call_p
from jax_cubie.kernel.target import Target


def call_of(function, *arguments):
    """The `KernelCall` in what `function` traces to."""
    closed = jax.make_jaxpr(function)(*arguments)
    (call,) = [equation.params["call"] for equation in closed.eqns if equation.primitive is kernel_call_p]
    return call


def cuda_image(function, *arguments, target="cuda:90"):
    """The CUDA image of the one kernel_call in `function`, built with no GPU."""
    return call_of(function, *arguments).image(Target.parse(target))


def saxpy_kernel(x, y, out, n, a):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if i < n:
        out[i] = a * x[i] + y[i]


def saxpy_host(start, stop, x, y, out, n, a):
    for i in range(start, min(stop, n)):
        out[i] = a * x[i] + y[i]


def saxpy(x, y, a=2.0, block=64):
    """a * x + y"""
    return kernel_call(
        saxpy_kernel,
        x,
        y,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=-(-x.size // block),
        block=block,
        scalars=(np.int64(x.size), x.dtype.type(a)),
        host_kernel=saxpy_host,
    )


TILE = 8
SIDE = TILE + 2  # Numba wants the shape of a shared array as constants


def stencil_kernel(u, out, rows, columns):
    tile = cuda.shared.array((SIDE, SIDE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    i = cuda.blockIdx.y * TILE + ty
    j = cuda.blockIdx.x * TILE + tx
    for dy in range(ty, SIDE, TILE):
        for dx in range(tx, SIDE, TILE):
            r = (cuda.blockIdx.y * TILE + dy - 1 + rows) % rows
            c = (cuda.blockIdx.x * TILE + dx - 1 + columns) % columns
            tile[dy, dx] = u[r * columns + c]
    cuda.syncthreads()
    if i < rows and j < columns:
        around = tile[ty, tx + 1] + tile[ty + 2, tx + 1] + tile[ty + 1, tx] + tile[ty + 1, tx + 2]
        out[i * columns + j] = around - float32(4) * tile[ty + 1, tx + 1]


def stencil_host(start, stop, u, out, rows, columns):
    across = (columns + TILE - 1) // TILE
    for thread in range(start, stop):
        tile, inner = thread // (TILE * TILE), thread % (TILE * TILE)
        i = tile // across * TILE + inner // TILE
        j = tile % across * TILE + inner % TILE
        if i < rows and j < columns:
            up, down = (i + rows - 1) % rows, (i + 1) % rows
            left, right = (j + columns - 1) % columns, (j + 1) % columns
            around = u[up * columns + j] + u[down * columns + j] + u[i * columns + left] + u[i * columns + right]
            out[i * columns + j] = around - np.float32(4) * u[i * columns + j]


def stencil(u):
    """The periodic five-point Laplacian, by tiles in shared memory."""
    rows, columns = u.shape
    return kernel_call(
        stencil_kernel,
        u,
        out_shape=jax.ShapeDtypeStruct(u.shape, u.dtype),
        grid=(-(-columns // TILE), -(-rows // TILE)),
        block=(TILE, TILE),
        scalars=(np.int32(rows), np.int32(columns)),
        host_kernel=stencil_host,
    )


@cuda.jit(device=True)
def halved(width):
    return width // 2


@cuda.jit(device=True, inline="always")
def larger(a, b):
    return a if a > b else b


def reduce_kernel(x, peaks, sums, count):
    sum_of = cuda.shared.array(0, float32)
    peak_of = cuda.shared.array(64, float32)
    t, width = cuda.threadIdx.x, cuda.blockDim.x
    i = cuda.blockIdx.x * width + t
    sum_of[t] = x[i] if i < count else float32(0)
    peak_of[t] = x[i] if i < count else float32(-np.inf)
    cuda.syncthreads()
    half = halved(width)
    while half > 0:
        if t < half:
            sum_of[t] += sum_of[t + half]
            peak_of[t] = larger(peak_of[t], peak_of[t + half])
        cuda.syncthreads()
        half = halved(half)
    if t == 0:
        sums[cuda.blockIdx.x] = sum_of[0]
        peaks[cuda.blockIdx.x] = int32(peak_of[0])


@numba.njit
def larger_host(a, b):
    return a if a > b else b


def reduce_host(start, stop, x, peaks, sums, count):
    for first in range(start, stop, 64):  # ranges hold whole blocks
        total, peak = np.float32(0), np.float32(-np.inf)
        for i in range(first, min(first + 64, count)):
            total += x[i]
            peak = larger_host(peak, x[i])
        sums[first // 64] = total
        peaks[first // 64] = np.int32(peak)


def reduce(x):
    """The sum and the peak (as an integer) of each 64 elements. A dict's leaves come in the order of its keys."""
    blocks = -(-x.size // 64)
    return kernel_call(
        reduce_kernel,
        x,
        out_shape={
            "sum": jax.ShapeDtypeStruct((blocks,), np.float32),
            "peak": jax.ShapeDtypeStruct((blocks,), np.int32),
        },
        grid=blocks,
        block=64,
        shared_bytes=64 * 4,
        scalars=(np.int64(x.size),),
        host_kernel=reduce_host,
    )
