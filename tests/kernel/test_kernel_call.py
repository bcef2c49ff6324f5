"""kernel_call: what it computes under each transformation, and what it refuses."""

import os
import re
import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
from numba import cuda
from sample_kernels import call_of, cuda_image, reduce, reduce_host, saxpy, saxpy_host, saxpy_kernel, stencil

from jax_cubie.kernel.backend import backend_of
from jax_cubie.kernel.call import kernel_call
from jax_cubie.kernel.target import BuildError, Target

F32 = jnp.float32


def numbers(*shape, dtype=np.float32, seed=0):
    """Small whole numbers, so that every order of sums gives the same bits."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(dtype)


# --- What it computes


@pytest.mark.parametrize("size", [1, 63, 64, 65, 10_001])
def test_eager_and_jit(platform, size):
    x, y = numbers(size), numbers(size, seed=1)
    np.testing.assert_array_equal(saxpy(jnp.asarray(x), jnp.asarray(y)), 2 * x + y)
    got = jax.jit(lambda x, y: saxpy(x + 1, y, a=3.0) * 2)(x, y)
    np.testing.assert_array_equal(got, 2 * (3 * (x + 1) + y))


def test_numpy_operands_and_no_jit(platform):
    x, y = numbers(70), numbers(70, seed=1)
    np.testing.assert_array_equal(saxpy(x, y), 2 * x + y)
    with jax.disable_jit():
        np.testing.assert_array_equal(saxpy(x, y), 2 * x + y)


def laplacian(u):
    return sum(np.roll(u, s, a) for s in (1, -1) for a in (-2, -1)) - 4 * u


def test_stencil_in_shared_memory(platform):
    u = numbers(19, 30)
    np.testing.assert_array_equal(stencil(u), laplacian(u))
    batch = numbers(5, 19, 30)
    np.testing.assert_array_equal(jax.vmap(stencil)(batch), laplacian(batch))
    image = cuda_image(jax.vmap(stencil), batch)
    assert image.resources.shared_bytes == 10 * 10 * 4 and image.resources.spill_bytes == 0


def test_reduction_with_two_results(platform):
    x = numbers(300)
    got = jax.jit(reduce)(x)
    padded = np.pad(x, (0, 20)).reshape(5, 64)
    np.testing.assert_array_equal(got["sum"], padded.sum(1))
    np.testing.assert_array_equal(got["peak"], padded.max(1))
    assert got["peak"].dtype == np.int32
    batch = numbers(7, 300, seed=2)
    together = jax.vmap(reduce)(batch)
    for lane in range(7):
        for name, value in reduce(batch[lane]).items():
            np.testing.assert_array_equal(together[name][lane], value)


def test_structures(platform):
    def two(x, first, second, n):
        i = cuda.grid(1)
        if i < n:
            first[i] = -x[i]
            second[i] = 2 * x[i]

    def two_host(start, stop, x, first, second, n):
        for i in range(start, min(stop, n)):
            first[i] = -x[i]
            second[i] = 2 * x[i]

    x = numbers(2, 3)
    shape = jax.ShapeDtypeStruct((2, 3), np.float32)

    def call(out_shape):
        keywords = dict(grid=1, block=32, scalars=(np.int32(6),), host_kernel=two_host)
        return kernel_call(two, x, out_shape=out_shape, **keywords)

    first, second = call((shape, shape))
    np.testing.assert_array_equal(first, -x)
    np.testing.assert_array_equal(second, 2 * x)
    nested = call([shape, {"inner": (shape, None)}])
    assert jax.tree.structure(nested) == jax.tree.structure([0, {"inner": (0, None)}])
    np.testing.assert_array_equal(nested[1]["inner"][0], 2 * x)


def fill(out, a, b, c, d, e, f, g, h, i, j, k):
    if cuda.grid(1) == 0:
        out[0], out[1], out[2], out[3], out[4], out[5] = a, b, c, d, e, f
        out[6], out[7], out[8], out[9], out[10] = g, h, i, j, 1 if k else 0


def fill_host(start, stop, out, a, b, c, d, e, f, g, h, i, j, k):
    if start == 0:
        out[0], out[1], out[2], out[3], out[4], out[5] = a, b, c, d, e, f
        out[6], out[7], out[8], out[9], out[10] = g, h, i, j, 1 if k else 0


def test_scalars_of_each_type(platform):
    scalars = (
        np.int8(-5),
        np.int16(-300),
        np.int32(-(2**31)),
        np.int64(-(2**40)),
        np.uint8(250),
        np.uint16(65535),
        np.uint32(2**32 - 1),
        np.uint64(2**50),
        np.float32(-0.1),
        np.float64(-1e-300),
        np.True_,
    )
    with jax.enable_x64(True):
        shape = jax.ShapeDtypeStruct((11,), np.float64)
        got = kernel_call(fill, out_shape=shape, grid=1, block=1, scalars=scalars, host_kernel=fill_host)
        np.testing.assert_array_equal(got, np.array([float(s) for s in scalars]))


def twice(x, out, n):
    i = cuda.grid(1)
    if i < n:
        out[i] = x[i] + x[i]


def twice_host(start, stop, x, out, n):
    for i in range(start, min(stop, n)):
        out[i] = x[i] + x[i]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float64"])
def test_dtypes(platform, dtype):
    x = np.array([3, 100, 27, 0], dtype)
    with jax.enable_x64(True):
        shape = jax.ShapeDtypeStruct((4,), dtype)
        got = kernel_call(twice, x, out_shape=shape, grid=1, block=4, scalars=(np.int32(4),), host_kernel=twice_host)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, x + x)


def logic(a, x, both, count):
    i = cuda.grid(1)
    both[i] = a[i] and x[i] > 0
    count[i] = not a[i]


def logic_host(start, stop, a, x, both, count):
    for i in range(start, stop):
        both[i] = a[i] and x[i] > 0
        count[i] = not a[i]


def test_bool(platform):
    a, x = np.array([True, False, True, False]), np.array([1, 1, -1, -1], np.float32)
    shapes = (jax.ShapeDtypeStruct((4,), bool), jax.ShapeDtypeStruct((4,), np.int32))
    both, count = kernel_call(logic, a, x, out_shape=shapes, grid=1, block=4, host_kernel=logic_host)
    assert both.dtype == bool
    np.testing.assert_array_equal(both, a & (x > 0))
    np.testing.assert_array_equal(count, ~a)


def test_jitted_kernels_and_two_block_dimensions(platform):
    @cuda.jit
    def index(out):
        i = cuda.threadIdx.x + cuda.blockDim.x * (cuda.threadIdx.y + cuda.blockDim.y * cuda.threadIdx.z)
        threads = cuda.blockDim.x * cuda.blockDim.y * cuda.blockDim.z
        block = cuda.blockIdx.x + cuda.gridDim.x * cuda.blockIdx.y
        out[block * threads + i] = block * threads + i

    @numba.njit
    def index_host(start, stop, out):
        for i in range(start, stop):
            out[i] = i

    shape = jax.ShapeDtypeStruct((2 * 3 * 24,), np.int32)
    got = kernel_call(index, out_shape=shape, grid=(2, 3), block=(2, 3, 4), host_kernel=index_host)
    np.testing.assert_array_equal(got, np.arange(144))


# --- Transformations


@pytest.mark.parametrize(
    ("x_axis", "y_axis", "out_axis"), [(0, 0, 0), (1, 0, 1), (2, None, 0), (None, 1, 2), (-1, 0, -1), (0, None, 1)]
)
def test_vmap_axes(platform, x_axis, y_axis, out_axis):
    x, y = numbers(3, 4, seed=1), numbers(3, 4, seed=2)
    xs = x if x_axis is None else np.moveaxis(numbers(5, 3, 4, seed=3), 0, x_axis)
    ys = y if y_axis is None else np.moveaxis(numbers(5, 3, 4, seed=4), 0, y_axis)
    got = jax.vmap(saxpy, (x_axis, y_axis), out_axis)(xs, ys)
    front_x = x if x_axis is None else np.moveaxis(xs, x_axis, 0)
    front_y = y if y_axis is None else np.moveaxis(ys, y_axis, 0)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(got), out_axis, 0), 2 * front_x + front_y)


NESTS = [
    # For each level, outermost first: the axis of x and of y.
    [(0, 0), (0, 0)],
    [(1, None), (0, 0)],
    [(None, 0), (1, None)],
    [(2, 1), (0, None)],
    [(0, None), (None, 0), (1, 0)],
    [(2, 0), (1, None), (None, 1)],
    [(None, 1), (0, 0), (1, None)],
    [(3, None), (2, None), (1, 0)],
]


@pytest.mark.parametrize("levels", NESTS)
def test_vmap_nested(platform, levels):
    sizes = (2, 3, 4)[: len(levels)]

    def whole(which, seed):
        array = numbers(6, seed=seed)
        letters, kept = list("z"), []
        for level in reversed(range(len(levels))):  # innermost first, so that outer axes count over inner ones
            axis = levels[level][which]
            if axis is not None:
                array = np.stack([array * (k + 1) + k for k in range(sizes[level])], axis)
                letters.insert(axis, "abc"[level])
                kept.append("abc"[level])
        return array, "".join(letters)

    (x, x_letters), (y, y_letters) = whole(0, 1), whole(1, 2)
    run = saxpy
    for axes in reversed(levels):
        run = jax.vmap(run, axes)
    out = "abc"[: len(levels)] + "z"

    def spread(array, letters):
        array = np.einsum(f"{letters}->{''.join(c for c in out if c in letters)}", array)
        return array.reshape([n if c in letters else 1 for c, n in zip(out, (*sizes, 6), strict=True)])

    want = 2 * spread(x, x_letters) + spread(y, y_letters)
    np.testing.assert_array_equal(run(x, y), want)
    np.testing.assert_array_equal(jax.jit(run)(x, y), want)


def test_batch_is_one_call_in_place():
    """No copies, no broadcasts, no transposes: one custom call on the operands as they are."""
    run = jax.jit(jax.vmap(jax.vmap(saxpy, (1, None)), (0, None)))
    text = run.trace(numbers(2, 70, 3), numbers(70, seed=1)).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("stablehlo.custom_call @jax_cubie_host_2") == 1
    assert "broadcast" not in text and "transpose" not in text


@pytest.mark.parametrize("batch", [0, 1, 31, 33, 70_000])
def test_batch_sizes(platform, batch):
    """70,000 is more than the grid's third dimension holds."""
    x, y = numbers(batch, 3), numbers(3, seed=1)
    got = jax.vmap(saxpy, (0, None))(x, y)
    assert got.shape == (batch, 3)
    np.testing.assert_array_equal(got, 2 * x + y)


def test_shared_memory_over_many_turns(platform):
    """A block that takes several batch elements in turn uses its shared memory again."""
    x = numbers(70_000, 5)
    got = jax.jit(jax.vmap(reduce))(x)
    np.testing.assert_array_equal(got["sum"][:, 0], x.sum(1))


def test_empty_operands_and_grids(platform):
    assert saxpy(np.zeros(0, np.float32), np.zeros(0, np.float32)).shape == (0,)
    assert jax.vmap(saxpy)(np.zeros((4, 0), np.float32), np.zeros((4, 0), np.float32)).shape == (4, 0)


def test_scan_cond_while(platform):
    x, y = numbers(65), numbers(65, seed=1)

    @jax.jit
    def run(x, y, flag):
        total, steps = jax.lax.scan(lambda c, _: (saxpy(c, y, a=1.0), c[0]), x, length=4)
        picked = jax.lax.cond(flag, lambda: saxpy(x, y), lambda: y)
        looped = jax.lax.fori_loop(0, 3, lambda i, c: saxpy(c, y, a=1.0), x)
        return total, steps, picked, looped

    for flag in (True, False):
        total, steps, picked, looped = run(x, y, flag)
        np.testing.assert_array_equal(total, x + 4 * y)
        np.testing.assert_array_equal(steps, x[0] + np.arange(4) * y[0])
        np.testing.assert_array_equal(picked, 2 * x + y if flag else y)
        np.testing.assert_array_equal(looped, x + 3 * y)
    xs = numbers(3, 65)
    got = jax.vmap(run, (0, None, 0))(xs, y, np.array([True, False, True]))[2]
    np.testing.assert_array_equal(got, np.stack([2 * xs[0] + y, y, 2 * xs[2] + y]))


def test_shard_map_keeps_varying_axes():
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:1]), ("lanes",))
    spec = jax.sharding.PartitionSpec("lanes")
    run = jax.shard_map(jax.vmap(saxpy, (0, None)), mesh=mesh, in_specs=(spec, None), out_specs=spec)
    x, y = numbers(4, 3), numbers(3, seed=1)
    with jax.default_device(jax.devices("cpu")[0]):
        np.testing.assert_array_equal(jax.jit(run)(x, y), 2 * x + y)


@pytest.mark.parametrize(
    "transform", [jax.grad, lambda f: jax.jit(jax.jacfwd(f)), lambda f: lambda x: jax.jvp(f, (x,), (x,))]
)
def test_derivatives_are_refused(transform):
    x = numbers(3)
    with pytest.raises(NotImplementedError, match=r"kernel_call of saxpy_kernel .*jax\.custom_jvp or jax\.custom_vjp"):
        transform(lambda x: saxpy(x, x).sum())(x)


def test_custom_vjp(platform):
    @jax.custom_vjp
    def f(x, y):
        return saxpy(x, y)

    f.defvjp(lambda x, y: (saxpy(x, y), None), lambda _, g: (2 * g, g))
    gx, gy = jax.grad(lambda x, y: f(x, y).sum(), (0, 1))(numbers(3), numbers(3))
    np.testing.assert_array_equal(gx, np.full(3, 2.0))
    np.testing.assert_array_equal(gy, np.ones(3))


def test_threads(platform):
    """First calls, and later ones, from several threads at once."""
    wrong = []

    def run(number):
        for turn in range(20):
            x, y = numbers(65 + number, seed=turn), numbers(65 + number)
            if not np.array_equal(saxpy(x, y, a=number + 0.5), (number + 0.5) * x + y):
                wrong.append((number, turn))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_export(tmp_path):
    """Exported here, run in a process that never saw the kernel, nor Numba."""
    from jax import export

    checks = [export.DisabledSafetyCheck.custom_call("jax_cubie_host_2")]
    shape = jax.ShapeDtypeStruct((5, 70), np.float32)
    run = jax.jit(jax.vmap(saxpy, (0, None)))
    exported = export.export(run, platforms=["cpu"], disabled_checks=checks)(shape, jax.ShapeDtypeStruct((70,), F32))
    (tmp_path / "saxpy").write_bytes(exported.serialize())
    script = f"""
        import sys, jax, numpy as np
        from jax import export
        from jax_cubie.kernel.custom_call import register
        register()
        run = export.deserialize(open({str(tmp_path / "saxpy")!r}, "rb").read())
        x = np.arange(350, dtype=np.float32).reshape(5, 70)
        np.testing.assert_array_equal(run.call(x, x[1]), 2 * x + x[1])
        print("numba" in sys.modules, "same")
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.stdout.strip() == "False same", done.stdout + done.stderr


# --- What it refuses

SHAPE = jax.ShapeDtypeStruct((4,), np.float32)
X = np.arange(4, dtype=np.float32)


def negate(x, out):
    out[cuda.grid(1)] = -x[cuda.grid(1)]


def negate_host(start, stop, x, out):
    for i in range(start, stop):
        out[i] = -x[i]


def call(*operands, kernel=negate, **changed):
    keywords = dict(out_shape=SHAPE, grid=1, block=4, host_kernel=negate_host) | changed
    return kernel_call(kernel, *(operands or (X,)), **keywords)


def raising(x, out):
    if x[0] < 0:
        raise ValueError("negative")
    out[0] = x[0]


def asserting(x, out):
    assert x[0] > 0
    out[0] = x[0]


@cuda.jit(device=True)
def raising_device(x):
    if x < 0:
        raise ValueError("negative")
    return x


def calls_raising(x, out):
    out[0] = raising_device(x[0])


def reads_batch(x, out):
    out[0] = x[cuda.blockIdx.z]


def raising_host(start, stop, x, out):
    raise ValueError("no")


def test_call():
    np.testing.assert_array_equal(call(), -X)


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (lambda: call(X, X), ValueError, "negate: it takes 2 parameters, and gets 3: 2 operands, 1 result, 0 scalars"),
        (lambda: call(scalars=(np.int32(1),)), ValueError, "gets 3: 1 operand, 1 result, 1 scalar"),
        (lambda: call(host_kernel=negate), ValueError, "takes 2 parameters, and gets 4: start, stop, 1 operand"),
        (lambda: call([X]), TypeError, "operand 0 is of type list: operands are single arrays"),
        (lambda: call({"a": X}), TypeError, "single arrays"),
        (lambda: call(None), TypeError, "operand 0 is of type NoneType"),
        (lambda: call(1.0), TypeError, "operand 0 is of type float: pass an array"),
        (lambda: call(X.astype(np.complex64)), TypeError, "dtype complex64;.*imaginary part"),
        (lambda: call(X.astype(np.float16)), TypeError, "dtype float16;.*as float32"),
        (lambda: call(jnp.asarray(X, jnp.bfloat16)), TypeError, "dtype bfloat16;.*as float32"),
        (lambda: call(jax.random.key(0)), TypeError, "dtype key<"),
        (lambda: call(np.array(["a"])), TypeError, "operand 0 has dtype str"),
        (lambda: call(out_shape=jax.ShapeDtypeStruct((4,), np.complex64)), TypeError, "a result has dtype complex64"),
        (lambda: call(out_shape=jax.ShapeDtypeStruct((4,), np.float64)), ValueError, "needs jax.config.*x64"),
        (lambda: call(out_shape=4), TypeError, "out_shape holds 4"),
        (lambda: call(out_shape=()), ValueError, "out_shape holds no result"),
        (lambda: call(grid=(1, 1, 1)), ValueError, "3 dimensions.*batch of jax.vmap"),
        (lambda: call(grid=()), ValueError, "0 dimensions"),
        (lambda: call(grid=-1), ValueError, "-1 is not from 0"),
        (lambda: call(grid=(4, 0)), ValueError, r"grid=\(4, 0\) launches nothing, and so a result of shape \(4,\)"),
        (lambda: call(grid=(1, 70_000)), ValueError, "70000 is not from 0 to 65535"),
        (lambda: call(grid=1.5), TypeError, "grid is 1.5; expected an int"),
        (lambda: call(grid=True), TypeError, "grid is True"),
        (lambda: call(block=0), ValueError, "0 is not from 1 to 1024"),
        (lambda: call(block=-4), ValueError, "-4 is not from 1"),
        (lambda: call(block=1025), ValueError, "1025 is not from 1 to 1024"),
        (lambda: call(block=(64, 32)), ValueError, "2048 threads; CUDA allows 1024"),
        (lambda: call(block=(1, 1, 65)), ValueError, "65 is not from 1 to 64"),
        (lambda: call(block=(1, 1, 1, 1)), ValueError, "4 dimensions"),
        (lambda: call(shared_bytes=-1), ValueError, "shared_bytes=-1 is negative"),
        (lambda: call(shared_bytes="1"), TypeError, "shared_bytes is '1'"),
        (lambda: call(scalars=(3,)), TypeError, r"scalar 0 is 3 of type int: give it its type, as in np.int32\(3\)"),
        (lambda: call(scalars=(0.5,)), TypeError, "scalar 0 is 0.5 of type float"),
        (lambda: call(scalars=(np.float32(1), True)), TypeError, "scalar 1 is True of type bool"),
        (lambda: call(scalars=(jnp.float32(1),)), TypeError, "an array is an operand"),
        (lambda: call(scalars=(np.complex64(1),)), TypeError, "scalar 0 has dtype complex64"),
        (lambda: call(scalars=np.float32(1)), TypeError, "scalars is of type float32; expected a tuple"),
        (lambda: jax.jit(lambda n: call(grid=n))(1), TypeError, "grid is traced.*static_argnames"),
        (lambda: jax.jit(lambda n: call(block=(n, 1)))(1), TypeError, "block is traced"),
        (lambda: jax.jit(lambda n: call(shared_bytes=n))(1), TypeError, "shared_bytes is traced"),
        (lambda: jax.jit(lambda n: call(scalars=(n,)))(1), TypeError, "scalar 0 is traced.*operand of shape"),
        (lambda: call(kernel=3), TypeError, "kernel is 3; expected a Python function"),
        (lambda: call(host_kernel=print), TypeError, "host_kernel is .*; expected a Python function"),
        (lambda: call(kernel=raising), ValueError, "of raising: line .* write a status into a result"),
        (lambda: call(kernel=asserting), ValueError, "so does an assert"),
        (lambda: call(kernel=calls_raising), ValueError, "of calls_raising: line"),
        (lambda: call(host_kernel=raising_host), ValueError, "raises"),
        (lambda: call(kernel=reads_batch), ValueError, "reads_batch reads blockIdx.z.*batch of jax.vmap"),
        (lambda: call(kernel=cuda.jit(link=["other.cu"])(negate)), ValueError, "link="),
    ],
)
def test_refused_when_called(make, error, why):
    with pytest.raises(error, match=f"(?s)kernel_call.*{why}"):
        make()


def returns(start, stop, x, out):
    return x[0]


def untyped(start, stop, x, out):
    out[0] = x.shape


def _asks(statement, first):
    """A kernel with one statement about its pointers x and out."""
    namespace = {"np": np, "cuda": cuda}
    exec(f"def asks({first}x, out):\n    i = 1\n    {statement}\n", namespace)
    return namespace["asks"]


POINTERS = [
    ("out[i, i] = x[i, i]", "one index, in row-major order: write u[i * columns + j] for u[i, j]"),
    ("out[0] = x[i, 0]", "one index, in row-major order"),
    ("out[0] = x[i][0]", "an element of a pointer is a number, which has no index"),
    ("out[0:2] = x[0:2]", "a pointer has no slices"),
    ("out[...] = 0.0", "a pointer has no slices"),
    ("out[0] = x[0.5]", "a pointer's index is an integer"),
    ("out[0] = x.size", "a pointer knows no shape"),
    ("out[0] = len(x)", "a pointer knows no shape"),
    ("for value in x: out[0] = value", "a pointer knows no shape"),
    ("out[0] = np.sum(x)", "a pointer knows no shape"),
    ("out[0] = (x * 2)[0]", "a pointer is no array"),
    ("out[0] = np.sin(x)[0]", "a pointer is no array"),
]


@pytest.mark.parametrize(("statement", "said"), POINTERS, ids=[row[0] for row in POINTERS])
def test_pointers_are_no_arrays(statement, said):
    host, kernel = _asks(statement, "start, stop, "), _asks(statement, "")
    said = re.escape(said)
    with jax.default_device(jax.devices("cpu")[0]), pytest.raises(BuildError, match=f"^kernel_call of negate: .*{said}"):
        call(host_kernel=host)
    with pytest.raises(BuildError, match=f"^kernel_call of asks: .*{said}"):
        cuda_image(lambda x: call(x, kernel=kernel), X)


def undefined(start, stop, x, out):
    out[0] = no_such_function(x[0])  # noqa: F821


@pytest.mark.parametrize(
    ("host_kernel", "why"),
    [
        (None, r"kernel_call of negate has no kernel for the CPU: give host_kernel=.*or run it on a CUDA device"),
        (returns, r"it returns a value \(float32\)"),
        (untyped, r"a pointer knows no shape .*pass the sizes in scalars=, and count \(at .*test_kernel_call\.py:\d+\)"),
        (undefined, r"Numba cannot compile it for cpu: .*NameError: name 'no_such_function' is not defined"),
    ],
)
def test_refused_at_lowering(host_kernel, why):
    """Traced without a complaint, and refused where the platform is known."""

    def run(x):
        return call(x, host_kernel=host_kernel)

    assert jax.eval_shape(run, X).shape == (4,)
    with jax.default_device(jax.devices("cpu")[0]), pytest.raises(BuildError, match=f"(?s){why}") as caught:
        jax.jit(run)(X)
    assert "negate" in str(caught.value) and len(str(caught.value)) < 1000


def returns_device(x, out):
    return x[0]


def untyped_device(x, out):
    out[0] = x.shape


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (returns_device, r"kernel_call of returns_device: it returns a value \(float32\)"),
        (untyped_device, "kernel_call of untyped_device: a pointer knows no shape .*pass the sizes in scalars="),
    ],
)
def test_refused_for_cuda(kernel, why):
    with pytest.raises(BuildError, match=f"(?s){why}") as caught:
        cuda_image(lambda x: call(x, kernel=kernel), X)
    assert len(str(caught.value)) < 1000


def test_changed_between_trace_and_build():
    scale = {"value": 2.0}

    def make():
        factor = scale["value"]

        def host(start, stop, x, out):
            for i in range(start, stop):
                out[i] = factor * x[i]

        def change():
            nonlocal factor
            factor = 3.0

        return host, change

    host, change = make()
    traced = call_of(lambda x: call(x, host_kernel=host), X)
    change()
    from jax_cubie.kernel.target import Target

    with pytest.raises(BuildError, match="has changed since it was traced"):
        traced.image(Target("cpu"))


def test_shared_objects_are_what_they_seem():
    """The samples' host kernels stand for the same work as the CUDA ones; a wrong pairing is a wrong test."""
    assert saxpy_kernel.__code__.co_varnames[:5] == saxpy_host.__code__.co_varnames[2:7]
    assert reduce_host.__code__.co_varnames[2:6] == ("x", "peaks", "sums", "count")


def test_debug_nans():
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="jax_cubie.kernel_call"):
        saxpy(np.full(4, np.inf, F32), np.full(4, -np.inf, F32))


# --- What a host kernel calls


def unused_kernel(x, out):
    pass


def on_host(host_kernel, x=(1.0, 2.0, 3.0)):
    """What `host_kernel(start, stop, x, out)` makes of x."""
    x = jnp.asarray(x, F32)
    with jax.default_device(jax.devices("cpu")[0]):
        return np.asarray(kernel_call(unused_kernel, x, out_shape=x, grid=1, block=x.size, host_kernel=host_kernel))


def times(helper):
    def host(start, stop, x, out):
        for i in range(start, stop):
            out[i] = helper(x[i])

    return host


def test_helpers_made_in_another_way():
    """One function with other signatures, or other types of its variables, is another helper."""

    def third(v):
        w = v * 0.3
        return w

    kinds = (
        numba.njit("float64(float64)")(third),
        numba.njit("int64(float64)")(third),
        numba.njit(third),
        numba.njit(locals={"w": numba.int32})(third),
    )
    found = [on_host(times(helper), (4.0, 8.0)) for helper in kinds]
    for got, want in zip(found, ([1.2, 2.4], [1, 2], [1.2, 2.4], [1, 2]), strict=True):
        np.testing.assert_array_equal(got, np.asarray(want, np.float32))


def test_two_kernels_with_one_helper():
    """Both are traced before the first is built, which compiles the helper."""
    factor = 2.0

    @numba.njit
    def scaled(v):
        return v * factor

    def call(x):
        return kernel_call(unused_kernel, x, out_shape=x, grid=1, block=3, host_kernel=times(scaled))

    with jax.default_device(jax.devices("cpu")[0]):
        one, several = jax.jit(lambda x, y: (call(x), jax.vmap(call)(y)))(numbers(3), numbers(2, 3))
    np.testing.assert_array_equal(one, 2 * numbers(3))
    np.testing.assert_array_equal(several, 2 * numbers(2, 3))


def test_an_overload_written_again():
    def cell(factor):
        def stub(v):
            return v

        @numba.extending.overload(stub)
        def _(v):
            return lambda v: v * factor

        return on_host(times(stub))

    assert cell(2.0).tolist() == [2, 4, 6] and cell(3.0).tolist() == [3, 6, 9]


HELPED = """
    import math, sys
    import numpy as np, jax, jax.numpy as jnp, numba
    from jax_cubie import kernel_call

    def kernel(x, out):
        pass

    def frexp(start, stop, x, out):
        array = np.ones(2)
        for i in range(start, stop):
            out[i] = math.frexp(x[i])[1] * array[i % 2]

    factor = np.float32(sys.argv[1])

    @numba.njit
    def scaled(v):
        return v * factor

    if sys.argv[2] == "compiled before":
        scaled(np.float32(1))
        factor = np.float32(7)

    def host(start, stop, x, out):
        for i in range(start, stop):
            out[i] = scaled(x[i])

    x = jnp.asarray([1, 2, 4], jnp.float32)
    for function in (frexp, host):
        print(kernel_call(kernel, x, out_shape=x, grid=1, block=3, host_kernel=function).tolist())
"""


def test_helpers_in_another_process(tmp_path):
    """What Numba brings into a process is there in one that loads the image; what Numba froze early is kept from the disk."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_CUBIE_CACHE": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))

    def run(*arguments):
        command = [sys.executable, "-c", textwrap.dedent(HELPED), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    exponents = "[1.0, 2.0, 3.0]"
    assert run("5", "compiled before") == [exponents, "[5.0, 10.0, 20.0]"]
    assert run("7", "") == [exponents, "[7.0, 14.0, 28.0]"]
    assert run("7", "") == [exponents, "[7.0, 14.0, 28.0]"]


def test_errors_of_numba_reach_the_caller():
    table = (1.0, 2.0, 3.0)

    def host(start, stop, x, out):
        for i in range(start, stop):
            out[i] = table[int(x[i])]

    assert on_host(host, (2.0, 0.0)).tolist() == [3, 1]
    with pytest.raises(Exception, match="the host kernel raised an error of Numba's"):
        on_host(host, (2.0, 7.0))


def test_arrays_of_a_host_kernel():
    def host(start, stop, x, out):
        x, out = numba.carray(x, (3,)), numba.carray(out, (3,))
        for i in range(start, stop):
            out[i] = 2 * x[i]

    def sliced(start, stop, x, out):
        numba.carray(out, (3,))[start:stop] = np.sin(numba.carray(x, (3,))[start:stop])

    assert on_host(host).tolist() == [2, 4, 6]
    with pytest.raises(BuildError, match=r"kernel_call of unused_kernel: .* write a loop over elements"):
        on_host(sliced)


@pytest.mark.parametrize("name", ["NUMBA_DISABLE_JIT", "NUMBA_ENABLE_CUDASIM"])
def test_numba_told_to_compile_nothing(name, monkeypatch):
    monkeypatch.setattr(numba.config, name.removeprefix("NUMBA_"), 1)
    with pytest.raises(BuildError, match=f"unset {name}"):
        backend_of(Target.parse("cpu" if name == "NUMBA_DISABLE_JIT" else "cuda:90"))
