"""A machine's CUDA devices: the architectures that an image is built for, and what a device can't hold. No GPU is needed."""

import base64
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_kernels import saxpy

from jax_cubie import SaveAt, Solver, solve
from jax_cubie.build import plan_and_image
from jax_cubie.kernel import library, numba_cuda
from jax_cubie.kernel.library import Blob
from jax_cubie.kernel.target import BuildError, Image, Target, default_targets, join_images
from jax_cubie.problem import make_request


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_what_is_decided_for_a_device(tmp_path):
    here = Path(__file__)
    program, sources = str(tmp_path / "cuda_test"), str(here.parent.parent.parent / "ffi")
    folders = ["-I", sources, "-isystem", jax.ffi.include_dir()]
    compiler = ["c++", "-std=c++17", "-pthread", *folders, str(here.with_name("cuda_test.cc")), "-o", program, "-ldl"]
    subprocess.run(compiler, check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


def machine(*capabilities):
    """`jax.devices` of a machine with such devices."""
    return lambda platform: [SimpleNamespace(compute_capability=capability) for capability in capabilities]


def test_each_architecture_of_the_machine(monkeypatch):
    monkeypatch.delenv("JAX_CUBIE_CUDA_TARGET", raising=False)
    for capabilities, wanted in (
        (["9.0"], [90]),
        (["9.0"] * 8, [90]),
        (["9.0", "8.0", "9.0"], [80, 90]),
        (["8.6", "8.8"], [86, 87]),
    ):
        monkeypatch.setattr(jax, "devices", machine(*capabilities))
        assert [target.architecture for target in default_targets("cuda")] == wanted
    monkeypatch.setattr(jax, "devices", machine("9.0", ""))
    with pytest.raises(BuildError, match="does not say which compute capability"):
        default_targets("cuda")
    assert default_targets("cpu") == (Target("cpu"),)


def test_architectures_by_name(monkeypatch):
    for text, wanted in (("cuda:90", [90]), ("cuda:90, cuda:80", [80, 90]), ("cuda:80,cuda:80", [80])):
        monkeypatch.setenv("JAX_CUBIE_CUDA_TARGET", text)
        assert [target.architecture for target in default_targets("cuda")] == wanted
    for text in ("cpu", "cuda:90,cpu", "cuda:91", "cuda:90,"):
        monkeypatch.setenv("JAX_CUBIE_CUDA_TARGET", text)
        with pytest.raises(ValueError, match=r"JAX_CUBIE_CUDA_TARGET|unknown target"):
            default_targets("cuda")


def test_images_join():
    def image(arch, parameters=3):
        return Image(Target("cuda", arch), library.pack_blobs([Blob("cubin", arch, b"code", 8)], parameters))

    joined = join_images([image(80), image(90)])
    assert library.unpack_blobs(joined.data) == [Blob("cubin", 80, b"code", 8), Blob("cubin", 90, b"code", 8)]
    assert join_images([image(80)]) == image(80)
    with pytest.raises(ValueError, match="3, 4 parameters"):
        join_images([image(80), image(90, 4)])


def images_in(function, *arguments):
    """The architectures of each image in what a function is lowered to."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    found = re.findall(r'image = "([^"]+)"', text)
    return [[(blob.kind, blob.arch) for blob in library.unpack_blobs(base64.b64decode(image))] for image in found]


def test_code_for_each_device_is_in_the_computation(monkeypatch, builds):
    """Two devices of one architecture need one image; a second architecture needs another, beside it."""
    ninety = [("cubin", 90), ("ptx", 90)]
    real = jax.devices

    def decay(y):
        return solve(lambda t, y, a: -y, 0.0, 1.0, y, method="euler", dt0=0.1).ys

    monkeypatch.delenv("JAX_CUBIE_CUDA_TARGET", raising=False)
    for capabilities, wanted in ((("9.0", "9.0"), ninety), (("9.0", "8.0"), [("cubin", 80), ("ptx", 80), *ninety])):
        present = machine(*capabilities)("cuda")
        with monkeypatch.context() as changed:
            changed.setattr(jax, "devices", lambda name=None, present=present: present if name == "cuda" else real(name))
            assert images_in(decay, jnp.ones(2)) == [wanted]
            assert images_in(saxpy, np.ones(4, np.float32), np.ones(4, np.float32)) == [wanted]
        assert builds.new() == 2
        jax.clear_caches()


def test_one_block_for_all(builds):
    """The launch is one: where an architecture has less shared memory, its block is taken."""
    solver = Solver("euler", controller="fixed", state_location="shared", proposed_state_location="shared")
    y0 = jax.ShapeDtypeStruct((100,), "float32")
    problem = make_request(solver, lambda t, y, a: -y, 0.0, 1.0, y0, None, SaveAt(t1=True), 0.1).problem
    blocks = []
    for architectures in ((90,), (86, 90)):
        targets = [Target("cuda", architecture) for architecture in architectures]
        plan, image = plan_and_image(problem, problem.operands, 0, targets)
        blocks.append(plan.block)
        assert {blob.arch for blob in library.unpack_blobs(image.data)} == set(architectures)
    assert blocks[1] < blocks[0] and plan.window_bytes <= 99 * 1024


LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Function properties for jax_cubie_field
ptxas         .     2408 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Function properties for jax_cubie_output
ptxas         .     300 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'jax_cubie_entry' for 'sm_90'
ptxas info    : Function properties for jax_cubie_entry
ptxas         .     16976 bytes stack frame, 4140 bytes spill stores, 6740 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""


def test_the_assemblers_report():
    """Functions are called in turn, so that a thread needs the largest one's frame beside the entry's."""
    found = numba_cuda.read_resources(LOG, "")
    assert (found.registers, found.stack_bytes, found.spill_bytes) == (255, 16976 + 2408, 8 + 16 + 4140 + 6740)
    assert numba_cuda.read_resources(LOG.split("ptxas info    : Compiling")[1], "").stack_bytes == 16976
