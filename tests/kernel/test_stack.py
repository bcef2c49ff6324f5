"""The stack that host code takes: measured, carried by the image, and there when it runs, whatever thread runs it."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import llvmlite.binding as llvm
import numpy as np
import pytest

from jax_cubie import Solver
from jax_cubie.kernel import cache, host_object, library

FRAME = """
declare void @use(ptr)
define void @f(ptr %x) {{
  %array = alloca [{size} x i8]{more}
  call void @use(ptr %array)
  ret void
}}
define void @g(ptr %x) {{
  %array = alloca [1000 x i8]
  call void @use(ptr %array)
  call void @f(ptr %x)
  ret void
}}
"""


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("size", [8, 200, 5_000, 20_000_000])
@pytest.mark.parametrize("more", ["", ", align 64"])
def test_frames_are_measured(machine, size, more):
    """Those of all functions together, to a few registers' worth."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(f"{machine}-linux-gnu")
    except RuntimeError:
        pytest.skip(f"this llvmlite makes no code for {machine}")
    module = llvm.parse_assembly(FRAME.format(size=size, more=more))
    code = target.create_target_machine(opt=3, codemodel="jitdefault", jit=True).emit_object(module)
    sections = [section.data() for section in llvm.ObjectFileRef.from_data(code).sections() if section.is_text()]
    total = sum(host_object._frames(section, machine) for section in sections)
    assert size + 1000 <= total <= size + 1000 + 256


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the code is x86-64's")
def test_other_ways_to_take_a_frame():
    lea = b"\x48\x8d\xa4\x24" + (-4096).to_bytes(4, "little", signed=True) + b"\x48\x8d\x64\x24\xf8"
    back = b"\x48\x8d\xa4\x24" + (4096).to_bytes(4, "little") + b"\x48\x8d\x64\x24\x08" + b"\x48\x83\xec\x80"
    assert host_object._frames(lea + back, "x86_64") == 4096 + 8
    with pytest.raises(Exception, match="x86-64 and aarch64, and this processor is riscv64"):
        host_object._frames(b"", "riscv64")


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_runs_and_threads(tmp_path):
    """What the handler is made of: small stacks, threads that can't be made, helpers that can't be scheduled."""
    here = Path(__file__)
    program, sources = str(tmp_path / "run_test"), str(here.parent.parent.parent / "ffi")
    compiler = ["c++", "-std=c++17", "-O1", "-pthread", "-I", sources, str(here.with_name("run_test.cc")), "-o", program]
    subprocess.run(compiler, check=True)
    for environment in ({}, {f"LONG_{number}": 1000 * "x" for number in range(200)}):  # it lies on the first stack, too
        done = subprocess.run([program], capture_output=True, text=True, timeout=120, env=environment)
        assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


def test_no_thread_has_so_much():
    """An error says so, where the process would end."""
    called = []

    @ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    def entry(start, stop, arguments):
        called.append((start, stop))
        return 0

    key, text = library.encode(b"an image with an absurd frame")
    library.register()
    library.add_host_entry(key, ctypes.cast(entry, ctypes.c_void_p).value, 1 << 60)
    none = np.zeros(0, np.int64)
    attributes = dict(key=key, image=text, batch=none, filled=none, words=none, launch=np.array([100, 1], np.int64))
    with jax.default_device(jax.devices("cpu")[0]):
        run = jax.ffi.ffi_call(library.HOST_TARGET, jax.ShapeDtypeStruct((3,), np.float32))
        with pytest.raises(Exception, match=r"a lane takes 1152921504606846976 bytes of stack.*could not be made"):
            jax.block_until_ready(jax.jit(lambda: run(**attributes))())
    assert called == []


STATES = 100_000
SOLVE = f"""
    import jax, jax.numpy as jnp, numpy as np
    from jax_cubie import solve

    def decay(t, y, rate):
        return -y * rate

    def one(rate):
        return solve(decay, 0.0, 1.0, jnp.ones({STATES}, jnp.float32), rate, method="rk4", dt0=0.125).ys[-1, :2]

    several, RATES = jax.jit(jax.vmap(one)), np.linspace(0, 1, 5, dtype=np.float32)
"""
WAYS = """
    import logging, os, resource, sys, threading

    class NoBuilds(logging.Handler):
        def emit(self, record):
            raise SystemExit(record.getMessage())

    def lower(size):
        resource.setrlimit(resource.RLIMIT_STACK, (size, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    def check(what, run):
        right = np.allclose(run(RATES), np.exp(-RATES)[:, None] * np.ones(2), rtol=1e-3)
        print(what, "right" if right else "WRONG", flush=True)

    def on_a_thread(size):
        def body():
            check(f"a thread of {size} bytes", several)

        threading.stack_size(size)
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        threading.stack_size(0)

    logging.getLogger("jax_cubie").addHandler(NoBuilds(logging.INFO))
    logging.getLogger("jax_cubie").setLevel(logging.INFO)
    hits = []
    jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
    for way in sys.argv[1:]:
        jax.clear_caches()
        if way == "thread":
            on_a_thread(1024 * 1024)
            on_a_thread(256 * 1024)
        elif way == "setrlimit":
            lower(1024 * 1024)
            check(way, several)
        elif way == "exported":
            lower(1024 * 1024)
            check(way, jax.export.deserialize(open(os.environ["EXPORTED"], "rb").read()).call)
        elif way == "cached by JAX":
            lower(1024 * 1024)
            check(way, several)
            assert any(name.endswith("cache_hits") for name in hits), hits
"""


def test_every_way_to_a_small_stack(builds, tmp_path):
    """Code built where a stack is large is run where it is small: the process lives, and the results are right."""
    namespace: dict = {}
    exec(textwrap.dedent(SOLVE), namespace)
    script = textwrap.dedent(SOLVE) + textwrap.dedent(WAYS)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "EXPORTED": str(tmp_path / "exported")}
    environment["JAX_CUBIE_CACHE"] = str(tmp_path / "images")

    def run(*ways, limit="true"):
        shell = ["bash", "-c", f'{limit}; exec "$0" "$@"', sys.executable, "-c", script, *ways]
        done = subprocess.run(shell, capture_output=True, text=True, timeout=200, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    with jax.default_device(jax.devices("cpu")[0]):
        jax.block_until_ready(namespace["several"](namespace["RATES"]))
        (image,) = cache._images.values()
        assert 6 * 4 * STATES < image.resources.stack_bytes < 10 * 4 * STATES  # more than the smaller stacks below
        safe = [jax.export.DisabledSafetyCheck.custom_call(library.HOST_TARGET)]
        exported = jax.export.export(namespace["several"], disabled_checks=safe, platforms=["cpu"])(namespace["RATES"])
    (tmp_path / "exported").write_bytes(exported.serialize())

    kept = dict(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "jax"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    environment |= kept | dict(JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="0")
    threads = ["a thread of 1048576 bytes right", "a thread of 262144 bytes right"]
    assert run("thread", "setrlimit", "exported") == [*threads, "setrlimit right", "exported right"]
    small = run("thread", "exported", "cached by JAX", limit="ulimit -s 1024")
    assert small == [*threads, "exported right", "cached by JAX right"]
    assert builds.count == 1


def test_more_than_code_can_address():
    def large(t, y, args):
        return y + jnp.sum(jnp.cumsum(jnp.cumsum(jnp.ones((2**14, 2**14)) * y[0]))) * jnp.arange(3)

    with pytest.raises(ValueError, match=r"the arrays inside of f \([\d,]+ bytes\)"):
        Solver("rk4").inspect(large, 0.0, 1.0, np.zeros(3, np.float32), dt0=0.1)
