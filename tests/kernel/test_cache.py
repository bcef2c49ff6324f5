"""Images by content: what makes two kernels one, and what the disk keeps."""

import enum
import functools
import gc
import logging
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
import types
from typing import NamedTuple

import jax
import numba
import numpy as np
import pytest
from numba import cuda
from sample_kernels import call_of, saxpy

from jax_cubie.kernel import cache, disk
from jax_cubie.kernel.call import kernel_call
from jax_cubie.kernel.content import function_content
from jax_cubie.kernel.target import Image, Resources, Target

SHAPE = jax.ShapeDtypeStruct((4,), np.float32)
X = np.arange(4, dtype=np.float32)


# --- Content


def content(function):
    return function_content(function, name=function.__name__)


class Mode(enum.IntEnum):
    SLOW = 0
    FAST = 1


class Pair(NamedTuple):
    a: float
    b: float


class Opaque:
    pass


def closing_over(value):
    def kernel(x, out):
        out[0] = x[0] * value

    return kernel


def calling(value, jit):
    @jit
    def helper(x):
        return x + value

    def kernel(x, out):
        out[0] = helper(x[0])

    return kernel


def with_nested(value):
    def kernel(x, out):
        def inner(y):
            return y * value

        out[0] = inner(x[0])

    return kernel


@pytest.mark.parametrize("make", [closing_over, with_nested, lambda v: calling(v, cuda.jit(device=True))])
def test_freshly_defined_equals(make):
    assert content(make(2.5)) == content(make(2.5))
    assert content(make(2.5)) != content(make(3.5))
    assert content(make(2.5)).lasting


UNEQUAL = [
    1,
    True,
    1.0,
    -1.0,
    0.0,
    -0.0,
    math.nan,
    np.float32(1),
    np.float64(1),
    np.int64(1),
    "1",
    b"1",
    None,
    (1, 2),
    (1, 2.0),
    Pair(1, 2),
    np.arange(3),
    np.arange(3.0),
    np.arange(4),
    np.arange(4).reshape(2, 2),
    np.arange(4).reshape(2, 2).T,
    np.asfortranarray(np.arange(4).reshape(2, 2)),
    Mode.SLOW,
    Mode.FAST,
    Mode,
    np.float32,
    numba.float32,
    numba.types.UniTuple(numba.int32, 2),
    math.sin,
    math,
    cuda.threadIdx,
    cuda.blockIdx,
    len,
    max,
]


def test_values_told_apart():
    seen = [content(closing_over(value)) for value in UNEQUAL]
    assert all(one.lasting for one in seen)
    assert len({one.digest for one in seen}) == len(seen)
    assert seen == [content(closing_over(value)) for value in UNEQUAL]


def test_what_has_no_content_is_known_by_identity():
    one, other = Opaque(), Opaque()
    assert content(closing_over(one)) == content(closing_over(one)) != content(closing_over(other))
    assert not content(closing_over(one)).lasting


def test_compiled_before():
    """Numba keeps what a number was when it compiled: that may not go onto the disk under what it is now."""
    assert content(calling(2.5, numba.njit)).lasting
    assert not content(calling(2.5, numba.njit("float64(float64)"))).lasting


def test_plain_functions_are_known_by_identity():
    """An overload may stand for it, which the function itself does not show."""

    def same(f):
        return f

    kernel = calling(2.0, same)
    assert not content(kernel).lasting and content(kernel) == content(kernel)
    assert content(calling(2.0, lambda f: f)) != content(calling(2.0, lambda f: f))


def test_modules_are_followed():
    module = types.ModuleType("user_module")
    module.constant = 2.0

    def kernel(x, out):
        out[0] = x[0] * module.constant + math.pi

    first = content(kernel)
    assert first.lasting and content(kernel) == first
    module.constant = 3.0
    assert content(kernel) != first


def recursive(x, out):
    recursive(x, out)


def test_recursion_ends():
    assert content(recursive) == content(recursive)


def test_jit_options_count():
    assert content(calling(2.0, cuda.jit(device=True))) != content(calling(2.0, cuda.jit(device=True, inline="always")))


# --- Builds


def doubling(factor):
    def host(start, stop, x, out, more):
        for i in range(start, stop):
            out[i] = factor * x[i] + more

    def kernel(x, out, more):
        i = cuda.grid(1)
        out[i] = factor * x[i] + more

    def run(x, more=0.0, grid=1):
        scalars = (np.float32(more),)
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return kernel_call(kernel, x, out_shape=shape, grid=grid, block=4, scalars=scalars, host_kernel=host)

    return run


def test_builds(platform, builds):
    """One image for every batch size, scalar, shape, grid and equal kernel; a new one for a new constant."""
    np.testing.assert_array_equal(doubling(2)(X), 2 * X)
    assert builds.new() == 1
    np.testing.assert_array_equal(doubling(2)(X, 5.0), 2 * X + 5)
    np.testing.assert_array_equal(jax.jit(doubling(2))(X + 1), 2 * X + 2)
    np.testing.assert_array_equal(doubling(2)(np.tile(X, 3), grid=3), np.tile(2 * X, 3))
    assert builds.new() == 0
    np.testing.assert_array_equal(doubling(3)(X), 3 * X)
    assert builds.new() == 1
    for batch in (3, 5):
        xs = np.tile(X, (batch, 1))
        np.testing.assert_array_equal(jax.vmap(doubling(2))(xs), 2 * xs)
        np.testing.assert_array_equal(jax.jit(jax.vmap(doubling(2), 1, 1))(xs.T), 2 * xs.T)
    assert builds.new() == 1
    jax.eval_shape(doubling(7), X)
    jax.make_jaxpr(jax.vmap(doubling(8)))(X[None])
    assert builds.new() == 0


def test_a_changed_kernel_of_one_name_is_traced_anew(platform, builds):
    """JAX keeps what it compiled by our content: a later kernel of the same name is another."""
    for factor in (2, 3, 2):
        np.testing.assert_array_equal(doubling(factor)(X), factor * X)
    assert builds.count == 2


def test_host_and_cuda_kernels_are_apart(builds):
    def run(host_factor):
        def kernel(x, out):
            out[0] = x[0]

        def host(start, stop, x, out):
            out[0] = host_factor * x[0]

        call = call_of(lambda x: kernel_call(kernel, x, out_shape=SHAPE, grid=1, block=4, host_kernel=host), X)
        return call.image(Target("cpu")).data, call.image(Target("cuda", 90)).data

    assert run(2.0)[1] == run(3.0)[1]
    assert builds.count == 3


def test_identity_stays_off_the_disk(builds, tmp_path):
    def helper(x):
        return 3 * x

    registered = numba.extending.register_jitable(helper)

    def host(start, stop, x, out):
        for i in range(start, stop):
            out[i] = registered(x[i])

    def run(x):
        return kernel_call(lambda x, out: None, x, out_shape=SHAPE, grid=1, block=4, host_kernel=host)

    with jax.default_device(jax.devices("cpu")[0]):
        np.testing.assert_array_equal(run(X), 3 * X)
    assert builds.count == 1 and not list((tmp_path / "images").glob("*.image"))


# --- The disk


def build_numbered(number=7):
    return lambda dump: Image(Target("cpu"), f"code {number}".encode(), Resources(number))


KEY = "ab" * 32


def test_disk(builds, tmp_path):
    first = cache.image(KEY, "a test", build_numbered())
    cache.forget()
    assert cache.image(KEY, "a test", build_numbered(8)) == first == Image(Target("cpu"), b"code 7", Resources(7))
    assert builds.titles == ["a test"]
    assert [path.name for path in (tmp_path / "images").iterdir()] == [f"{KEY}.image"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"foreign",
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:30],
        lambda content: content[:-1] + b"9",
        lambda content: content.replace(KEY.encode(), b"cd" * 32),
        lambda content: content.replace(b'"registers"', b'"regosters"'),
        lambda content: content.replace(b'{"key"', b'["key"'),
        lambda content: content[: content.index(b"\n") + 1] + b"null\nx",
        lambda content: content[: content.index(b"\n") + 1] + b"\xff\xfe\n",
    ],
)
def test_damaged_entries_are_built_again(builds, tmp_path, caplog, damage):
    good = cache.image(KEY, "a test", build_numbered())
    path = tmp_path / "images" / f"{KEY}.image"
    path.write_bytes(damage(path.read_bytes()))
    cache.forget()
    assert cache.image(KEY, "a test", build_numbered()) == good
    assert "is damaged" in caplog.text and str(path) in caplog.text
    assert builds.count == 2
    cache.forget()
    cache.image(KEY, "a test", build_numbered(8))
    assert builds.count == 2  # mended


def test_damaged_entry_of_a_kernel(platform, builds, tmp_path, caplog):
    run = doubling(11)
    run(X)
    (path,) = (tmp_path / "images").glob("*.image")
    path.write_bytes(path.read_bytes()[:-100])
    cache.forget()
    jax.clear_caches()
    np.testing.assert_array_equal(run(X), 11 * X)
    assert builds.count == 2 and "is damaged" in caplog.text


def test_unwritable_folder(builds, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("JAX_CUBIE_CACHE", str(tmp_path / "file" / "images"))
    assert cache.image(KEY, "a test", build_numbered()).data == b"code 7"
    assert "could not be kept" in caplog.text and "Set JAX_CUBIE_CACHE" in caplog.text
    assert cache.image(KEY, "a test", build_numbered(8)).data == b"code 7"  # the process remembers


def test_no_disk(builds, monkeypatch):
    monkeypatch.setenv("JAX_CUBIE_CACHE", "")
    for _ in range(2):
        cache.image(KEY, "a test", build_numbered())
        cache.forget()
    assert builds.count == 2 and disk.directory() is None


def test_threads_build_once(builds):
    gate = threading.Barrier(4)
    found = []

    def slow(dump):
        time.sleep(0.1)
        return build_numbered()(dump)

    def ask():
        gate.wait()
        found.append(cache.image(KEY, "a test", slow))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds.count == 1 and found == [found[0]] * 4


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_as_before(builds, enabled):
    """No thread's build stops the collector for good, nor one that fails, nor starts it for who stopped it."""
    inside, met = [], threading.Barrier(3)

    def build(dump, number):
        inside.append(gc.isenabled())
        met.wait(30)
        if number == 2:
            raise ValueError("no build")
        return build_numbered(number)(dump)

    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        def attempt(number):
            try:
                cache.image(f"{number}", "a test", functools.partial(build, number=number))
            except ValueError:
                pass

        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert inside == [False] * 3
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_failed_build_is_not_kept(builds):
    def fails(dump):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.image(KEY, "a test", fails)
    assert cache.image(KEY, "a test", build_numbered()).data == b"code 7"


def test_slow_builds_are_seen(builds, monkeypatch, caplog):
    monkeypatch.setattr(cache, "_SLOW_BUILD", -1.0)
    with caplog.at_level(logging.WARNING, "jax_cubie"):
        cache.image(KEY, "a test", build_numbered())
    assert "built an image for cpu in" in caplog.text and "a test" in caplog.text


def test_dump(builds, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_CUBIE_DUMP", str(tmp_path / "dump"))
    call = call_of(saxpy, X, X)
    call.image(Target("cuda", 90))
    call.image(Target("cpu"))
    names = {path.suffix for path in (tmp_path / "dump").iterdir()}
    assert names == {".ll", ".ptx", ".resources"}


def test_next_process_reads_the_disk(builds, tmp_path):
    """With every image on disk a process builds nothing and never imports Numba's compiler."""
    script = """
        import logging, sys
        import jax, numpy as np
        logging.basicConfig(level=logging.INFO)
        from jax_cubie.kernel.call import kernel_call
        def kernel(x, out): out[0] = x[0]
        def host(start, stop, x, out):
            for i in range(start, stop):
                out[i] = 2 * x[i]
        x = np.arange(4, dtype=np.float32)
        shape = jax.ShapeDtypeStruct((4,), np.float32)
        np.testing.assert_array_equal(kernel_call(kernel, x, out_shape=shape, grid=1, block=4, host_kernel=host), 2 * x)
        print("numba" in sys.modules)
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_CUBIE_CACHE": str(tmp_path / "images")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    said = []
    for seed in ("1", "2"):
        environment["PYTHONHASHSEED"] = seed
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        said.append((done.stdout.strip(), done.stderr.count("built an image")))
    assert said == [("True", 1), ("False", 0)]
