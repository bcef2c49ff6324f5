"""Images for CUDA and the host, built with no GPU: their code and resources, and that they are the same everywhere."""

import builtins
import os
import re
import subprocess
import sys
import textwrap
import threading

import jax
import numba
import numpy as np
import pytest
from numba import cuda
from sample_kernels import call_of, cuda_image, reduce, saxpy, stencil

from jax_cubie.kernel import cache, numba_cuda
from jax_cubie.kernel.call import kernel_call
from jax_cubie.kernel.library import unpack_blobs
from jax_cubie.kernel.target import BuildError, Resources, Target, supported_architecture

X = np.zeros((3, 300), np.float32)
SHAPE = jax.ShapeDtypeStruct((4,), np.float32)


def ptx_of(image) -> str:
    cubin, ptx = unpack_blobs(image.data)
    assert cubin.code.startswith(b"\x7fELF")
    return ptx.code.decode()


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_architectures(architecture):
    image = cuda_image(jax.vmap(reduce), X, target=f"cuda:{architecture}")
    blobs = [(blob.kind, blob.arch) for blob in unpack_blobs(image.data)]
    assert blobs == [("cubin", architecture), ("ptx", architecture)]
    ptx = ptx_of(image)
    assert f".target sm_{architecture}" in ptx and ".visible .entry jax_cubie_entry(" in ptx
    assert ".extern .func" not in ptx and re.search(r"\.maxntid 64\b", ptx)
    spaces = set(re.findall(r"\b(?:ld|st)\.(\w+)", ptx))
    assert spaces == {"param", "global", "shared"}  # none is generic
    assert 0 < image.resources.registers <= 64
    assert image.resources == Resources(image.resources.registers, shared_bytes=64 * 4)  # no stack, no spills


def test_without_vmap_there_is_no_batch():
    plain = ptx_of(cuda_image(saxpy, X[0], X[0]))
    assert ".param .u64 jax_cubie_entry_param_6" not in plain  # three pointers, the number of lanes, two scalars
    assert "%ctaid.z" not in plain
    assert "%ctaid.z" in ptx_of(cuda_image(jax.vmap(saxpy), X, X))


def multiply_add(x, out):
    i = cuda.grid(1)
    out[i] = x[i] * x[i + 1] + x[i] / x[i + 1]


def as_call(kernel):
    return lambda x: kernel_call(kernel, x, out_shape=SHAPE, grid=1, block=4)


def test_contraction_and_fastmath():
    """As in Numba-CUDA: contraction is on, fastmath where the jit says so."""
    ptx = ptx_of(cuda_image(as_call(multiply_add), X[0]))
    assert "fma.rn.f32" in ptx and "div.rn.f32" in ptx
    assert "div.rn.f32" not in ptx_of(cuda_image(as_call(cuda.jit(fastmath=True)(multiply_add)), X[0]))


def scaled(factor, jit):
    @jit
    def scale(x):
        return x * factor

    return scale


def test_functions_of_one_name(platform):
    """Two functions from one factory have one name and one signature, and are two functions all the same."""
    first, second = scaled(np.float32(3.0), cuda.jit(device=True)), scaled(np.float32(5.0), cuda.jit(device=True))
    first_host, second_host = scaled(np.float32(3.0), numba.njit), scaled(np.float32(5.0), numba.njit)

    def kernel(x, out):
        i = cuda.grid(1)
        out[i] = first(x[i]) + second(second(x[i]))

    def host(start, stop, x, out):
        for i in range(start, stop):
            out[i] = first_host(x[i]) + second_host(second_host(x[i]))

    x = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(kernel_call(kernel, x, out_shape=SHAPE, grid=1, block=4, host_kernel=host), 28 * x)
    ptx = ptx_of(cuda_image(as_call(kernel), x))
    assert "0f40400000" in ptx and "0f40A00000" in ptx


DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def test_every_dtype():
    """As an operand, as a result and as a scalar, in one image."""

    def kernel(a, b, c, d, e, f, g, h, i, j, flag, out_a, out_b, out_c, out_h, out_j, out_flag, *scalars):
        n = cuda.grid(1)
        if flag[n] and scalars[10]:
            out_a[n], out_b[n], out_c[n] = a[n] + scalars[0], b[n] + scalars[1], c[n] + d[n] + scalars[2] + scalars[3]
        out_h[n] = e[n] + f[n] + g[n] + h[n] + scalars[4] + scalars[5] + scalars[6] + scalars[7]
        out_j[n] = i[n] * scalars[8] + j[n] * scalars[9]
        out_flag[n] = not flag[n]

    with jax.enable_x64(True):
        operands = [np.ones((3, 4), dtype) for dtype in (*DTYPES, "bool")]
        shapes = [jax.ShapeDtypeStruct((4,), t) for t in ("int8", "uint8", "int16", "uint64", "float64", "bool")]
        scalars = tuple(np.dtype(dtype).type(1) for dtype in (*DTYPES, "bool"))
        image = cuda_image(
            jax.vmap(lambda *xs: kernel_call(kernel, *xs, out_shape=shapes, grid=1, block=4, scalars=scalars)),
            *operands,
        )
    ptx = ptx_of(image)
    assert set(re.findall(r"ld\.global\.[usf](\d+)", ptx)) == {"8", "16", "32", "64"}
    assert len(re.findall(r"\bst\.global\.", ptx)) == 6


def test_several_shared_arrays():
    """Shared arrays are numbered by the image, not by the process; each stays an array of its own."""

    def kernel(x, out):
        a = cuda.shared.array(4, numba.float32)
        b = cuda.shared.array(4, numba.float32)
        i = cuda.threadIdx.x
        a[i], b[i] = x[i], -x[i]
        cuda.syncthreads()
        out[i] = a[3 - i] * b[i]

    image = cuda_image(as_call(kernel), X[0])
    assert image.resources.shared_bytes == 32
    assert sorted(set(re.findall(r"_cudapy_smem_\d+", ptx_of(image)))) != []


SAME = """
    import hashlib, sys
    import jax, numba, numpy as np
    from numba import cuda, types
    sys.path.insert(0, {folder!r})
    if {first}:
        @cuda.jit(device=True)
        def other(x):
            return cuda.shared.array(4, types.int32)[x]
        from jax_cubie.kernel import numba_cuda, numba_host
        from jax_cubie.kernel.target import Target
        def entry(words):
            other(words[0])
        numba_cuda.compile_entry(entry, Target("cuda", 80), words=1, foreign=True, dump=lambda *_: None)
        import sample_kernels
        halved = sample_kernels.halved
        def another(words):
            halved(words[0])
        numba_cuda.compile_entry(another, Target("cuda", 90), words=1, foreign=True, dump=lambda *_: None)
        numba.njit(lambda x: x + 1)(2.0)
    from sample_kernels import call_of, reduce, stencil
    from jax_cubie.kernel.target import Target
    x = np.zeros((3, 20, 300), np.float32)
    calls = [call_of(jax.vmap(reduce), x[0]), call_of(jax.vmap(stencil), x)]
    for call in calls:
        for target in ("cuda:90", "cpu"):
            print(hashlib.sha256(call.image(Target.parse(target)).data).hexdigest())
"""


def test_same_bytes_in_every_process():
    """Whatever the seed of Python's hashes, and whatever was compiled before."""
    running = []
    for seed, first in (("1", False), ("77", True)):
        script = textwrap.dedent(SAME.format(folder=os.path.dirname(__file__), first=first))
        environment = {**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu", "JAX_CUBIE_CACHE": ""}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", script],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    (one, why), (other, also) = [process.communicate(timeout=200) for process in running]
    assert len(one.split()) == 4, why
    assert one == other, also


def test_architectures_side_by_side(monkeypatch):
    """Two threads that build for two architectures do not get in each other's way."""
    monkeypatch.setenv("JAX_CUBIE_CACHE", "")
    cache.forget()
    images = {}
    original = numba_cuda.numba.cuda.dispatcher.get_current_device

    def build(target):
        images[target] = cuda_image(jax.vmap(stencil), np.zeros((3, 20, 20), np.float32), target=target)

    threads = [threading.Thread(target=build, args=(target,)) for target in ("cuda:80", "cuda:90", "cuda:100")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {target: f".target sm_{target[5:]}" in ptx_of(image) for target, image in images.items()} == {
        "cuda:80": True,
        "cuda:90": True,
        "cuda:100": True,
    }
    assert numba_cuda.numba.cuda.dispatcher.get_current_device is original
    cache.forget()


# --- What can be wrong


def test_nvjitlink_missing(monkeypatch):
    real = builtins.__import__

    def without(name, globals=None, locals=None, fromlist=(), level=0):
        if name == "cuda.bindings" and "nvjitlink" in (fromlist or ()):
            raise ImportError("cannot import name 'nvjitlink' from 'cuda.bindings'")
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BuildError, match=r"nvJitLink is missing: .*pip install 'jax_cubie\[cuda13\]'"):
        numba_cuda.assemble(b"", Target("cuda", 90))


def test_nvjitlink_not_loadable(monkeypatch):
    from cuda.bindings import nvjitlink

    def create(*_):
        raise RuntimeError("libnvJitLink.so is not found")

    monkeypatch.setattr(nvjitlink, "create", create)
    with pytest.raises(BuildError, match=r"(?s)could not be loaded.*libnvJitLink.so is not found"):
        numba_cuda.assemble(b"", Target("cuda", 90))


def test_nvjitlink_refuses():
    with pytest.raises(BuildError, match=r"(?s)nvJitLink refused the PTX for cuda:90: .*no_such_instruction"):
        numba_cuda.assemble(
            b".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry e() { no_such_instruction; ret; }\n",
            Target("cuda", 90),
        )


def test_unresolved_function():
    def kernel(x, out):
        out[0] = outside(x[0])

    outside = cuda.declare_device("no_such_device_function", "float32(float32)")
    with pytest.raises(BuildError, match=r"(?s)calls functions that nothing defines: .*no_such_device_function"):
        cuda_image(as_call(kernel), X[0])


def test_targets():
    assert str(Target.parse("cuda:90")) == "cuda:90" and Target.parse("cpu") == Target("cpu")
    for wrong in ("gpu", "cuda", "cuda:91", "cuda:9", None):
        with pytest.raises(ValueError, match="unknown target .*'cuda:80'"):
            Target.parse(wrong)
    assert [supported_architecture(a) for a in (75, 86, 88, 90, 101, 130)] == [75, 86, 87, 90, 100, 121]
    with pytest.raises(BuildError, match="oldest supported is 7.5"):
        supported_architecture(70)


def test_host_image_is_for_one_processor():
    from jax_cubie.kernel import host_object

    data = call_of(saxpy, X[0], X[0]).image(Target("cpu")).data
    with pytest.raises(RuntimeError, match="damaged"):
        host_object.load("0" * 64, data[1:])
    with pytest.raises(RuntimeError, match=r"\['no-such-feature'\].*build the function again on this machine"):
        host_object.load("1" * 64, data.replace(b'"features": [', b'"features": ["no-such-feature", '))


def test_host_image_loaded_twice_at_once(monkeypatch):
    """Where a second thread loads an image while a first one does, both get the code that stays."""
    from jax_cubie.kernel import host_object, numba_host

    data = numba_host.compile_entry(lambda start, stop, words: None, Target.parse("cpu"), dump=lambda *_: None).data
    compiler, addresses = host_object.llvm.create_mcjit_compiler, []

    def meanwhile(*arguments):
        monkeypatch.setattr(host_object.llvm, "create_mcjit_compiler", compiler)
        addresses.append(host_object.load("loaded twice", data))
        return compiler(*arguments)

    monkeypatch.setattr(host_object.llvm, "create_mcjit_compiler", meanwhile)
    addresses.append(host_object.load("loaded twice", data))
    kept = host_object._ENGINES.pop("loaded twice").get_function_address(host_object.ENTRY_SYMBOL)
    assert [address for address, _ in addresses] == [kept, kept]
