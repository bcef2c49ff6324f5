"""The handlers: what they run, what they refuse, and what they say."""

import base64
import ctypes
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import llvmlite.binding as llvm
import numpy as np
import pytest
from solve_helpers import has_cuda

from jax_cubie.kernel import custom_call, library
from jax_cubie.kernel.library import Blob

# out[i] = 2 * x[i] + word, and a chunk must start at a multiple of 8 (else -1).
ENTRY = """
define i32 @jax_cubie_entry(i64 %start, i64 %stop, i64* %arguments) {
head:
  %xa = load i64, i64* %arguments
  %x = inttoptr i64 %xa to float*
  %op = getelementptr i64, i64* %arguments, i64 1
  %oa = load i64, i64* %op
  %o = inttoptr i64 %oa to float*
  %wp = getelementptr i64, i64* %arguments, i64 2
  %wi = load i64, i64* %wp
  %wt = trunc i64 %wi to i32
  %w = bitcast i32 %wt to float
  %low = and i64 %start, 7
  %aligned = icmp eq i64 %low, 0
  br label %test
test:
  %i = phi i64 [ %start, %head ], [ %next, %body ]
  %more = icmp slt i64 %i, %stop
  br i1 %more, label %body, label %done
body:
  %xp = getelementptr float, float* %x, i64 %i
  %v = load float, float* %xp
  %two = fmul float %v, 2.0
  %sum = fadd float %two, %w
  %kept = select i1 %aligned, float %sum, float -1.0
  %p = getelementptr float, float* %o, i64 %i
  store float %kept, float* %p
  %next = add i64 %i, 1
  br label %test
done:
  ret i32 0
}
"""

WORD = int(np.frombuffer(np.float32(3.5).tobytes() + bytes(4), np.int64)[0])


@pytest.fixture(scope="module")
def entry():
    """The address of a compiled entry, good as long as the module's tests run."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(ENTRY.replace("i64*", "ptr").replace("float*", "ptr"))
    engine = llvm.create_mcjit_compiler(module, llvm.Target.from_default_triple().create_target_machine())
    engine.finalize_object()
    yield engine.get_function_address(library.ENTRY_SYMBOL)


@pytest.fixture(autouse=True)
def on_the_cpu():
    """Also where the default device is a GPU."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield


@pytest.fixture(autouse=True, scope="module")
def registered():
    library.register()
    library.register()
    yield
    # Tests here put their own loaders in; the images of other tests want the real one.
    library.set_host_loader(custom_call._load_host)


def call(
    x, image: bytes, count=None, grain=8, *, key=None, text=None, batch=None, launch=None, target=library.HOST_TARGET
):
    own_key, own_text = library.encode(image)
    attributes = {
        "key": own_key if key is None else key,
        "image": own_text if text is None else text,
        "batch": np.zeros(0, np.int64) if batch is None else np.array(batch, np.int64),
        "filled": np.zeros(0, np.int64),
        "words": np.array([WORD], np.int64),
        "launch": np.array(
            [x.size if count is None else count, grain] if launch is None else launch, np.int64
        ),
    }
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    x = jax.device_put(x, jax.devices("cuda" if target == library.CUDA_TARGET else "cpu")[0])
    return jax.jit(lambda x: jax.ffi.ffi_call(target, result)(x, **attributes))(x)


def known(entry: int, image: bytes) -> bytes:
    library.add_host_entry(library.encode(image)[0], entry)
    return image


def message(function, *arguments, **keywords) -> str:
    with pytest.raises(Exception) as caught:
        jax.block_until_ready(function(*arguments, **keywords))
    return str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 100_001])
@pytest.mark.parametrize("grain", [1, 8, 1 << 40])
def test_sizes(entry, size, grain):
    x = jnp.arange(size, dtype=jnp.float32)
    # Grain 1 lets chunks start anywhere, which this entry shows as -1.
    got = np.asarray(call(x, known(entry, b"sizes"), grain=grain))
    want = 2 * np.arange(size, dtype=np.float32) + np.float32(3.5)
    if grain == 1:
        assert ((got == want) | (got == -1)).all()
    else:
        np.testing.assert_array_equal(got, want)


def test_every_lane_once_and_chunks_at_grains():
    """Counted by a callback: the chunks cover the lanes, each once."""
    chunks = []
    signature = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)

    @signature
    def record(start, stop, arguments):
        chunks.append((start, stop))
        return 0

    address = ctypes.cast(record, ctypes.c_void_p).value
    jax.block_until_ready(call(jnp.zeros(8), known(address, b"record"), count=1001, grain=32))
    chunks.sort()
    assert chunks[0][0] == 0 and chunks[-1][1] == 1001
    assert all(start % 32 == 0 for start, _ in chunks)
    assert all(one[1] == two[0] for one, two in zip(chunks, chunks[1:], strict=False))
    if (os.cpu_count() or 1) > 1:
        assert len(chunks) > 1
    chunks.clear()
    jax.block_until_ready(call(jnp.zeros(8), b"record", count=0))
    assert chunks == []


def test_no_words_no_operands(entry):
    """An empty list of words, and a call with no operand, reach the entry."""
    seen = []
    signature = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64))

    @signature
    def fill(start, stop, arguments):
        seen.append((start, stop))
        ctypes.cast(arguments[0], ctypes.POINTER(ctypes.c_int32))[0] = 7
        return 0

    image = known(ctypes.cast(fill, ctypes.c_void_p).value, b"fill")
    key, text = library.encode(image)
    attributes = {
        "key": key,
        "image": text,
        "batch": np.zeros(0, np.int64),
        "filled": np.zeros(0, np.int64),
        "words": np.zeros(0, np.int64),
        "launch": np.array([1, 1], np.int64),
    }
    result = jax.ShapeDtypeStruct((1,), jnp.int32)
    assert jax.jit(lambda: jax.ffi.ffi_call(library.HOST_TARGET, result)(**attributes))()[0] == 7
    assert seen == [(0, 1)]


def test_loader(entry):
    asked = []

    def load(key, image):
        asked.append((key, image))
        return entry, 0

    library.set_host_loader(load)
    image = b"unknown until now"
    for x in (jnp.ones(5, jnp.float32), jnp.ones(6, jnp.float32)):
        np.testing.assert_array_equal(call(x, image), np.full(x.shape, 5.5, np.float32))
    assert asked == [(hashlib.sha256(image).hexdigest(), image)]


def test_loader_errors(entry):
    def load(key, image):
        raise RuntimeError("unresolved symbol: nonsense")

    library.set_host_loader(load)
    said = message(call, jnp.ones(3), b"not loadable")
    assert "RuntimeError: unresolved symbol: nonsense" in said
    library.set_host_loader(lambda key, image: (0, 0))
    assert "no address" in message(call, jnp.ones(3), b"not loadable")
    library.set_host_loader(lambda key, image: (entry, 0))
    assert "hash" in message(call, jnp.ones(3), b"a", key=library.encode(b"b")[0])
    assert "64 hex digits" in message(call, jnp.ones(3), b"a", key="short")


@pytest.mark.parametrize(
    ("text", "why"), [("AAA", "multiple of 4"), ("AA?=", "character 2"), ("A===", "character 1")]
)
def test_damaged_base64(text, why):
    library.set_host_loader(lambda key, image: (0, 0))
    said = message(call, jnp.ones(3), b"damaged", text=text)
    assert "damaged" in said and why in said


@pytest.mark.parametrize("launch", [[1], [1, 1, 1], [-1, 1], [4, 0]])
def test_wrong_host_launch(entry, launch):
    assert "host launch" in message(call, jnp.ones(4), known(entry, b"launch"), launch=launch)


def test_lanes_are_counted_in_the_operands():
    """A launch is told of no size: the handler reads them, and leaves the operands in front out."""
    seen = []
    signature = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64))

    @signature
    def record(start, stop, arguments):
        seen.append((stop - start, arguments[2:6], arguments[0] != arguments[1]))
        return 0

    image = known(ctypes.cast(record, ctypes.c_void_p).value, b"lanes")
    jax.block_until_ready(call(jnp.zeros((4, 5, 3)), image, batch=[0, 0, 2, 0, 1], launch=[2, 1 << 40]))
    assert seen == [(2 * 15, [15, 3, 5, WORD], True)]
    seen.clear()
    key, text = library.encode(image)
    none = np.zeros(0, np.int64)
    attributes = {"key": key, "image": text, "batch": np.array([1, 0, 0]), "filled": none, "words": none}
    two = jax.ffi.ffi_call(library.HOST_TARGET, jax.ShapeDtypeStruct((), jnp.float32))
    with jax.enable_x64(True):
        jax.jit(lambda x, y: two(x, y, launch=np.array([1, 8]), **attributes))(jnp.zeros(7), jnp.zeros(2))
    assert [count for count, _, _ in seen] == [7] and seen[0][1][0] == 7


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        ([0, 0], "pairs"),
        ([-1], "the first -1"),
        ([2], "the first 2"),
        ([0, 0, 1], "dimension 1 of operand 0, which has 1"),
        ([0, 0, -1], "dimension -1"),
        ([0, 1, 0], "out of range"),
        ([0, -1, 0], "out of range"),
    ],
)
def test_wrong_batch(entry, batch, why):
    assert why in message(call, jnp.ones(4), known(entry, b"batch"), batch=batch)


def filled_call(image, contents, filled, aliases):
    """The call of an entry without operands of its own, whose results are filled with `contents`."""
    key, text = library.encode(image)
    none = np.zeros(0, np.int64)
    results = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in contents]
    made = jax.ffi.ffi_call(library.HOST_TARGET, results, input_output_aliases=aliases)
    attributes = dict(key=key, image=text, batch=none, filled=np.array(filled, np.int64), words=none, launch=np.array([1, 1]))
    return jax.jit(lambda *contents: made(*contents, **attributes))(*contents)


@pytest.mark.parametrize("alias", [True, False])
def test_results_are_filled_before_the_launch(alias):
    """The entry is handed the results alone; they hold the contents of the operands that `filled` gives them, whether XLA has
    made one buffer of the two or has not."""
    signature = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64))

    @signature
    def add(start, stop, arguments):
        for number in range(2):  # the second element of each: what the first ones hold is not the kernel's business
            ctypes.cast(arguments[number], ctypes.POINTER(ctypes.c_int32))[1] += 10 * (number + 1)
        return 0

    image = known(ctypes.cast(add, ctypes.c_void_p).value, b"filled")
    contents = [np.array([1, 2, 3], np.int32), np.array([4, 5, 6], np.int32)]
    first, second = filled_call(image, contents, [1, 0], {0: 1, 1: 0} if alias else {})
    assert np.array_equal(first, [4, 15, 6]) and np.array_equal(second, [1, 22, 3])
    first, second = filled_call(image, contents, [0, 1], {0: 0} if alias else {})
    assert np.array_equal(first, [1, 12, 3]) and np.array_equal(second, [4, 25, 6])


@pytest.mark.parametrize(
    ("filled", "why"), [([0, 1, 0], "3 results are to be filled, and there are 2 operands"), ([2, 0], "out of range"),
                        ([-1, 0], "out of range"), ([1, 0], "result 1 has 8 bytes, and what is to fill it 12")],
)  # fmt: skip
def test_wrong_fillings(entry, filled, why):
    contents = [np.zeros(3, np.int32), np.zeros(2, np.int32)]
    assert why in message(filled_call, known(entry, b"fillings"), contents, filled, {})


def test_no_loader():
    """A process that runs an image without having imported the package is told to import it."""
    script = f"""
import ctypes, jax, numpy as np, jax.numpy as jnp
lib = ctypes.CDLL({library.library()._name!r})
jax.ffi.register_ffi_target("t", jax.ffi.pycapsule(lib.jax_cubie_host_execute), platform="cpu")
x, none = jnp.ones(4), np.zeros(0, np.int64)
try:
    jax.jit(lambda x: jax.ffi.ffi_call("t", jax.ShapeDtypeStruct(x.shape, x.dtype))(
        x, key="0" * 64, image="AAAA", batch=none, filled=none, words=none, launch=np.array([4, 1])))(x)
except Exception as error:
    print(error)
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment
    )
    assert "import jax_cubie in this process before running" in done.stdout, done.stdout + done.stderr


def test_threads(entry):
    """Several threads at once, of which the first ones load the image."""
    library.set_host_loader(lambda key, image: (entry, 0))
    xs = [jnp.arange(20_000 + i, dtype=jnp.float32) for i in range(4)]
    wrong = []

    def run(x):
        for _ in range(20):
            got = np.asarray(call(x, b"threads"))
            if not np.array_equal(got, 2 * np.asarray(x) + np.float32(3.5)):
                wrong.append(x.size)

    threads = [threading.Thread(target=run, args=(x,)) for x in xs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_many_in_one_computation(entry):
    """Independent calls that XLA may run side by side do not wait for each other."""
    image = known(entry, b"many")
    xs = [jnp.full(5_000 + i, float(i), jnp.float32) for i in range(16)]
    key, text = library.encode(image)

    @jax.jit
    def every(xs):
        return [
            jax.ffi.ffi_call(library.HOST_TARGET, jax.ShapeDtypeStruct(x.shape, x.dtype))(
                x,
                key=key,
                image=text,
                batch=np.zeros(0, np.int64),
                filled=np.zeros(0, np.int64),
                words=np.array([WORD], np.int64),
                launch=np.array([x.size, 8], np.int64),
            )
            for x in xs
        ]

    for _ in range(20):
        for i, got in enumerate(every(xs)):
            np.testing.assert_array_equal(got, np.full(got.shape, 2 * i + 3.5, np.float32))


def test_bad_keys():
    with pytest.raises(ValueError, match="64 hex digits"):
        library.add_host_entry("short", 1)
    with pytest.raises(ValueError, match="address"):
        library.add_host_entry("0" * 64, 0)


def test_encode():
    key, text = library.encode(b"image")
    assert key == hashlib.sha256(b"image").hexdigest()
    assert base64.b64decode(text) == b"image"


def test_api_version():
    assert library._runtime_api_version() is not None
    library._check_api_version(3, 3)
    library._check_api_version(3, None)
    with pytest.raises(ImportError, match="0.5.*has 0.3"):
        library._check_api_version(5, 3)


# --- CUDA's container


BLOBS = [Blob("cubin", 90, b"\x7fELF...", 400), Blob("ptx", 75, b".version 8.0\n")]


def test_container():
    image = library.pack_blobs(BLOBS, 3)
    assert image[:8] == b"JAXCUBIE" and struct.unpack_from("<II", image, 8) == (2, 2)
    assert library.unpack_blobs(image) == BLOBS
    for bad in (b"", image[:20], image[:-1], image + b"x", b"X" + image[1:], image[:8] + b"\1" + image[9:]):
        with pytest.raises(ValueError, match="damaged CUDA image"):
            library.unpack_blobs(bad)
    with pytest.raises(ValueError, match="at least one"):
        library.pack_blobs([], 3)
    with pytest.raises(ValueError, match="cubin, ptx"):
        library.pack_blobs([Blob("elf", 90, b"x")], 3)
    with pytest.raises(ValueError, match="empty"):
        library.pack_blobs([Blob("cubin", 90, b"")], 3)


@pytest.fixture(scope="module")
def instantiate_target():
    """The CUDA handler's first stage on the CPU: there it can be seen what it refuses, with no GPU."""
    name = "jax_cubie_test_cuda_instantiate"
    handle = library.library()
    jax.ffi.register_ffi_target(
        name,
        {
            "instantiate": jax.ffi.pycapsule(handle.jax_cubie_cuda_instantiate),
            "execute": jax.ffi.pycapsule(handle.jax_cubie_cuda_execute),
        },
        platform="cpu",
    )
    return name


CUDA_LAUNCH = [1, 1, 1, 32, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda image: b"", "magic"),
        (lambda image: b"X" + image[1:], "magic"),
        (lambda image: image[:10], "cut off"),
        (lambda image: image[:20], "cut off"),
        (lambda image: image[:8] + b"\1" + image[9:], "version 1"),
        (lambda image: image[:12] + b"\0" * 8, "no code"),
        (lambda image: image[:12] + b"\xff\xff\xff\xff" + image[16:], "blobs"),
        (lambda image: image[:20] + b"\7" + image[21:], "unknown kind 7"),
        (lambda image: image[:36] + b"\xff" * 8 + image[44:], "are left"),
        (lambda image: image[:-1], "are left"),
        (lambda image: image + b"x", "too many"),
    ],
)
def test_damaged_container(instantiate_target, damage, why):
    image = damage(library.pack_blobs(BLOBS, 3))
    said = message(call, jnp.ones(4), image, target=instantiate_target, launch=CUDA_LAUNCH)
    assert "damaged" in said and why in said


@pytest.mark.parametrize(
    "launch", [[1], [1] * 7, [1, 1, 1, 1, 1, 1, -1, 0], [1, 1, 1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0, -1]]
)
def test_wrong_cuda_launch(instantiate_target, launch):
    said = message(call, jnp.ones(4), b"", target=instantiate_target, launch=launch)
    assert "CUDA launch" in said


FAKE_DRIVER = """
#include <stddef.h>
#include <string.h>
#define OK(name) int name() { return 0; }
OK(cuInit) OK(cuCtxGetDevice) OK(cuCtxPushCurrent_v2) OK(cuCtxPopCurrent_v2) OK(cuStreamGetCtx)
OK(cuLibraryUnload) OK(cuKernelGetFunction) OK(cuKernelGetAttribute) OK(cuKernelSetAttribute)
OK(cuLaunchKernel) OK(cuMemcpyDtoDAsync_v2) OK(cuDeviceTotalMem_v2)
int cuDriverGetVersion(int* v) { *v = 13000; return 0; }
int cuGetErrorName(int e, const char** s) {
  *s = e == 222 ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" : "CUDA_ERROR_NO_BINARY_FOR_GPU"; return 0; }
int cuGetErrorString(int e, const char** s) { *s = "the driver's own words"; return 0; }
int cuDeviceGet(int* d, int i) { *d = i; return i == 0 ? 0 : 101; }
int cuDeviceGetAttribute(int* v, int a, int d) { *v = a == 75 ? 9 : 0; return 0; }
int cuLibraryLoadData(void** library, const char* code, int* options, void** values, unsigned n,
                      void* a, void* b, unsigned c) {
  if (n) strcpy(values[0], "ptxas says no\\n");
  *library = !strcmp(code, "good") ? (void*)1 : n ? (void*)2 : (void*)3;
  return *library == (void*)3 ? 209 : 0; }
int cuLibraryGetKernel(void** kernel, void* library, const char* name) {
  *kernel = (void*)1; return strcmp(name, "jax_cubie_entry") ? 500 : library == (void*)2 ? 222 : 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_driver_errors(tmp_path):
    """A driver that refuses code is quoted by name (the one here is a fake), and so is a missing one."""
    (tmp_path / "fake.c").write_text(FAKE_DRIVER)
    fake = ["cc", "-shared", "-fPIC", "-w", "-o", str(tmp_path / "libcuda.so.1"), str(tmp_path / "fake.c")]
    subprocess.run(fake, check=True)
    script = f"""
import ctypes, jax, numpy as np, jax.numpy as jnp
from jax_cubie.kernel import library
lib = library.library()
stages = {{s: jax.ffi.pycapsule(lib["jax_cubie_cuda_" + s]) for s in ("instantiate", "execute")}}
jax.ffi.register_ffi_target("t", stages, platform="cpu")
x = jnp.ones(4)
for ptx in (b"old", b"good"):
    blobs = [library.Blob("cubin", 90, b"bad"), library.Blob("ptx", 75, ptx)]
    key, text = library.encode(library.pack_blobs(blobs, 3))
    none = np.zeros(0, np.int64)
    settings = dict(key=key, image=text, batch=none, filled=none, words=none, launch=np.array({CUDA_LAUNCH}))
    call = jax.ffi.ffi_call("t", jax.ShapeDtypeStruct(x.shape, x.dtype))
    try:
        jax.jit(lambda x: call(x, **settings)).lower(x).compile()
        print("LOADED")
    except Exception as error:
        print(error)
"""
    outputs = []
    for folder in (tmp_path, None):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        if folder is not None:
            environment["LD_LIBRARY_PATH"] = str(folder)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment
        )
        outputs.append(done.stdout + done.stderr)
    said, without = outputs
    assert "cubin for sm_90 (3 bytes): cuLibraryLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU (209)" in said
    assert "built for another architecture" in said
    assert "PTX for sm_75 (3 bytes): cuLibraryGetKernel: CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222)" in said
    assert "ptxas says no" in said and "driver is too old" in said
    assert "GPUs here: sm_90; the driver supports CUDA 13.0" in said
    assert said.count("LOADED") == 1  # the second image's second blob
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert without.count("no NVIDIA driver: libcuda.so.1") == 2


# --- The file


def tool(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_links_no_cuda_and_no_cxx_runtime():
    needed = re.findall(r"NEEDED.*\[(.*?)\]", tool("readelf", "-d", library.library()._name))
    assert needed and not [name for name in needed if re.search("cuda|nv|stdc|gcc|python", name)]


def test_exports_only_ours():
    lines = tool("nm", "-D", "--defined-only", library.library()._name).split("\n")
    names = {line.split()[-1] for line in lines if line.strip()}
    assert names == {
        "jax_cubie_add_host_entry",
        "jax_cubie_cuda_execute",
        "jax_cubie_cuda_initialize",
        "jax_cubie_cuda_instantiate",
        "jax_cubie_ffi_api_version",
        "jax_cubie_host_execute",
        "jax_cubie_set_host_loader",
    }


# --- A GPU, where there is one


PTX = """.version 7.0
.target sm_80
.address_size 64
.extern .shared .align 4 .b8 scratch[];
.visible .entry jax_cubie_entry(.param .u64 x, .param .u64 o, .param .f32 w)
{
  .reg .u32 %r<5>;
  .reg .u64 %a<6>;
  .reg .f32 %f<4>;
  ld.param.u64 %a0, [x];
  ld.param.u64 %a1, [o];
  ld.param.f32 %f0, [w];
  mov.u32 %r0, %ctaid.x;
  mov.u32 %r1, %ntid.x;
  mov.u32 %r2, %tid.x;
  mad.lo.u32 %r3, %r0, %r1, %r2;
  mul.wide.u32 %a2, %r3, 4;
  add.u64 %a3, %a0, %a2;
  add.u64 %a4, %a1, %a2;
  ld.global.f32 %f1, [%a3];
  fma.rn.f32 %f2, %f1, 0f40000000, %f0;
  st.global.f32 [%a4], %f2;
  ret;
}
"""


@pytest.mark.skipif(not has_cuda(), reason="needs a CUDA device")
@pytest.mark.parametrize("shared", [0, 1024, 64 * 1024, 200 * 1024])
def test_cuda_launch(shared):
    image = library.pack_blobs([Blob("cubin", 90, b"no code"), Blob("ptx", 80, PTX.encode())], 3)
    launch = [8, 1, 1, 64, 1, 1, shared, 0]
    with jax.default_device(jax.devices("cuda")[0]):
        x = jnp.arange(512, dtype=jnp.float32)
        for _ in range(3):
            got = call(x, image, target=library.CUDA_TARGET, launch=launch)
            np.testing.assert_array_equal(got, 2 * np.arange(512, dtype=np.float32) + np.float32(3.5))


@pytest.mark.skipif(not has_cuda(), reason="needs a CUDA device")
def test_cuda_in_a_graph():
    """A chain long enough for XLA to make a CUDA graph of it, run often."""
    key, text = library.encode(library.pack_blobs([Blob("ptx", 80, PTX.encode())], 3))
    words, launch = np.array([WORD], np.int64), np.array([8, 1, 1, 64, 1, 1, 0, 0], np.int64)
    none = np.zeros(0, np.int64)

    def chain(x):
        for _ in range(10):
            call = jax.ffi.ffi_call(library.CUDA_TARGET, jax.ShapeDtypeStruct(x.shape, x.dtype))
            x = call(x, key=key, image=text, batch=none, filled=none, words=words, launch=launch) / 2
        return x

    with jax.default_device(jax.devices("cuda")[0]):
        x = jnp.zeros(512, jnp.float32)
        run = jax.jit(chain).lower(x).compile({"xla_gpu_graph_min_graph_size": 1})
        for _ in range(5):
            np.testing.assert_array_equal(run(x), np.full(512, 17.5, np.float32))


@pytest.mark.skipif(not has_cuda(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("launch", "why"),
    [
        ([1, 1, 1, 32, 1, 1, 1 << 20, 0], "too much shared memory"),
        ([1, 1, 1, 2048, 1, 1, 0, 0], "block is too large in x: 2048"),
        ([1, 1, 1, 64, 64, 1, 0, 0], "4096 threads"),
        ([1, 1 << 20, 1, 32, 1, 1, 0, 0], "grid is too large in y"),
    ],
)
def test_cuda_refuses(launch, why):
    image = library.pack_blobs([Blob("ptx", 80, PTX.encode())], 3)
    with jax.default_device(jax.devices("cuda")[0]):
        said = message(call, jnp.ones(4), image, target=library.CUDA_TARGET, launch=launch)
    assert why in said and "the device allows" in said


@pytest.mark.skipif(not has_cuda(), reason="needs a CUDA device")
def test_cuda_bad_code_and_empty_grid():
    with jax.default_device(jax.devices("cuda")[0]):
        x = jnp.ones(4)
        image = library.pack_blobs(
            [Blob("cubin", 90, b"no code"), Blob("ptx", 70, b".version 99.9\n.target sm_70\n")], 3
        )
        said = message(call, x, image, target=library.CUDA_TARGET, launch=CUDA_LAUNCH)
        assert "cubin for sm_90" in said and "CUDA_ERROR" in said and "PTX for sm_70" in said
        good = library.pack_blobs([Blob("ptx", 80, PTX.encode())], 3)
        jax.block_until_ready(call(x, good, target=library.CUDA_TARGET, launch=[0, 1, 1, 64, 1, 1, 0, 0]))
