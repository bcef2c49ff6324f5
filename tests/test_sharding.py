"""Several devices: lanes stay where they lie. Most of the tests are in `eight_devices.py`, for a process that has eight."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from solve_helpers import python

EIGHT = "--xla_force_host_platform_device_count=8"


def run_there(**environment):
    """That file's tests in a process that sees other devices, with the images of this one."""
    settings = {**os.environ, "JAX_CUBIE_TEST_CACHE": os.environ["JAX_CUBIE_CACHE"], **environment}
    settings.pop("PYTEST_XDIST_WORKER", None)
    file = Path(__file__).with_name("eight_devices.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    finished = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stdout[-8000:] + finished.stderr[-2000:]
    assert " passed" in finished.stdout


def test_eight_host_devices():
    run_there(JAX_PLATFORMS="cpu", XLA_FLAGS=EIGHT)


def gpus():
    try:
        return len(jax.devices("cuda"))
    except RuntimeError:
        return 0


@pytest.mark.skipif("gpus() < 2", reason="needs two CUDA devices")
def test_gpus():
    run_there(JAX_PLATFORMS="cuda,cpu")


AGAIN = """
import os, sys
import jax, jax.export
import jax.numpy as jnp
import numpy as np
from jax._src import monitoring
from jax.sharding import NamedSharding, PartitionSpec as P
from jax_cubie import solve

folder = sys.argv[1]
jax.config.update("jax_compilation_cache_dir", folder)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
events = []
monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))

mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
rate = jax.device_put(np.linspace(1, 2, 24, dtype=np.float32), NamedSharding(mesh, P("x")))
run = jax.jit(jax.vmap(lambda rate: solve(lambda t, y, rate: -rate * y, 0.0, 1.0, jnp.ones(2, jnp.float32), rate).ys))
sharded = run.lower(rate).compile()
print(events.count("cache_hits"), "all-gather" in sharded.as_text())
file = os.path.join(folder, "exported")
if not os.path.exists(file):
    checks = [jax.export.DisabledSafetyCheck.custom_call("jax_cubie_host_2")]
    with open(file, "wb") as opened:
        opened.write(jax.export.export(run, disabled_checks=checks)(rate).serialize())
with open(file, "rb") as opened:
    again = jax.export.deserialize(bytearray(opened.read()))
called = jax.jit(again.call).lower(rate).compile()
print("all-gather" in called.as_text(), called(rate).sharding.spec)
print(np.asarray(sharded(rate)).tobytes().hex())
print(np.asarray(called(rate)).tobytes().hex())
print(np.asarray(run(np.asarray(rate))).tobytes().hex())
"""


def test_jax_s_cache_and_export_of_a_sharded_solve(tmp_path):
    """A second process finds the executable in JAX's cache, and what the first one exported: split as it was, same bits."""
    pytest.importorskip("flatbuffers")
    first, second = [python(AGAIN, str(tmp_path), XLA_FLAGS=EIGHT).split("\n") for _ in range(2)]
    assert first[0] == "0 False" and second[0] == "1 False"
    assert first[1:] == second[1:] and first[1].startswith("False") and "'x'" in first[1]
    assert first[2] == first[3] == first[4]
