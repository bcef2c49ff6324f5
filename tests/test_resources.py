"""What an image takes on a GPU, read from the PTX and from the assembler's report. No GPU is needed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import ADAPTIVE, KINDS, lorenz

from jax_cubie import SaveAt, Solver, solve


def polynomial(t, y, args):
    """Products and sums: each component times its neighbour, a cubic term, time."""
    return args * (jnp.roll(y, 1) * y - 0.5 * y * y * y) + t


def inspect(method, size, *, target="cuda:90", f=polynomial, dtype="float32", **settings):
    y0 = np.zeros(size, dtype)
    dt0 = None if method in ADAPTIVE else np.float32(0.01)
    saveat = settings.pop("saveat", SaveAt(t0=True, ts=np.array([0.5], dtype), t1=True))
    return Solver(method, **settings).inspect(f, 0.0, 1.0, y0, y0, dt0=dt0, saveat=saveat, target=target)


def assert_lean(found, what):
    assert ".f64" not in found.ptx, f"{what}: {[line for line in found.ptx.splitlines() if '.f64' in line][:3]}"
    assert (found.stack_bytes, found.spill_bytes) == (0, 0), what
    assert ".local" not in found.ptx, what
    assert 0 < found.registers <= 255


@pytest.mark.parametrize("method", [*KINDS, "dop853"])
def test_no_float64_no_stack_no_spill(method):
    """Polynomial right-hand sides in float32, up to eight components, saving inside of steps as well."""
    registers = {}
    for size in (3, 8):
        found = inspect(method, size)
        assert_lean(found, f"{method}, {size} components")
        registers[size] = found.registers
    print("registers", method, json.dumps(registers))
    assert list(registers.values()) == sorted(registers.values())


@pytest.mark.parametrize("method", ["rosenbrock23", "rodas5p", "radau_iia_5"])
def test_linear_systems_in_registers(method):
    """Of up to four components, with pivoting."""
    for size in (1, 3, 4):
        assert_lean(inspect(method, size), f"{method}, {size} components")


@pytest.mark.parametrize("method", ["rk4", "tsit5"])
def test_steps_and_functions(method):
    """Saving steps, and a function of the state."""
    fn = lambda t, y, args: (y * t, jnp.sum(y * y), args[0] > 0)  # noqa: E731
    for what in (dict(steps=True, t0=True), dict(steps=2, ts=np.array([0.5], np.float32), t1=True, fn=fn)):
        assert_lean(inspect(method, 8, saveat=SaveAt(**what), max_steps=100), f"{method}, {what}")


@pytest.mark.parametrize("target", ["cuda:80", "cuda:100"])
def test_other_architectures(target):
    found = inspect("tsit5", 8, target=target)
    assert_lean(found, target)
    assert found.target == target and f"sm_{target[5:]}" in found.ptx


def test_lorenz_with_tsit5():
    """The benchmark's kernel: few enough registers that 8 blocks of 128 lanes run at once on a multiprocessor."""
    found = Solver().inspect(lorenz, 0.0, 1.0, np.zeros(3, np.float32), np.float32(28), target="cuda:90")
    assert_lean(found, "Lorenz")
    assert found.registers <= 64
    print("registers", found.registers)


def test_float64_where_it_is_asked_for(x64):
    """The tests above can fail: in float64 the same image is full of it, and a large system has a stack."""
    found = inspect("tsit5", 3, dtype="float64")
    assert ".f64" in found.ptx and found.stack_bytes == 0
    large = inspect("bosh3", 40, unroll=16)
    assert large.stack_bytes > 0 and ".f64" not in large.ptx


def test_shared_memory_is_what_the_layout_says():
    found = inspect("tsit5", 8, stage_rhs_location="shared", error_location="shared")
    assert found.shared_bytes == found.block * 4 * (7 * 8 + 8)
    assert ".shared" in found.ptx and ".f64" not in found.ptx
    assert found.buffers["stage_rhs"] == ("shared", 56) and found.buffers["error"] == ("shared", 8)
    assert (found.stack_bytes, found.spill_bytes) == (0, 0)


def test_host_report():
    found = Solver().inspect(lorenz, 0.0, 1.0, np.zeros(3, np.float32), np.float32(28))
    assert found.target == "cpu" and found.ptx == "" and found.image_bytes > 1000
    assert (found.registers, found.spill_bytes, found.shared_bytes) == (0, 0, 0) and 0 < found.stack_bytes < 10_000
    assert "mul" in found.program and found.buffers["parameters"] == ("local", 1)
    assert found.block >= 1 and len(found.key) == 64


def test_what_is_batched():
    """inspect builds for the arguments that have a lane axis: those of y0 and args unless it is told."""
    common = {"f": polynomial, "t0": 0.0, "t1": 1.0, "y0": np.zeros(3, np.float32), "args": np.zeros(3, np.float32)}
    both, only_state = Solver().inspect(**common), Solver().inspect(**common, batched=("y0",))
    assert both.buffers["parameters"][1] == 3 and only_state.buffers["parameters"][1] == 0
    assert len({found.key for found in (both, only_state, Solver().inspect(**common, batched=("y0", "args", "rtol")))}) == 3

    def closing(t, y, args):
        assert args[0] == "label"
        return args[1] * y + np.float32(0) * shift

    shift = jnp.ones(3)
    found = Solver().inspect(closing, 0.0, 1.0, np.zeros(3, np.float32), ("label", np.zeros(3, np.float32)))
    assert found.buffers["parameters"][1] == 3  # the label is no array, and the array that is closed over has no lanes


@pytest.mark.parametrize("shared", [False, True])
def test_what_a_derivative_takes(shared, builds):
    """inspect's images are the very ones that jax.grad and jax.jvp of a batch run; a lane's checkpoints have the bytes told."""

    def field(t, y, rate):  # no other test has its images
        return 0.71 * rate * polynomial(t, y, rate)

    lanes, y0, rate = 5, np.zeros(3, np.float32), np.float32(0.5)
    batched = "y0" if shared else ("y0", "args")
    forwards = Solver().inspect(field, 0.0, 1.0, y0, rate, batched=batched, derivative="jvp")
    backwards = Solver().inspect(field, 0.0, 1.0, y0, rate, batched=batched, derivative="vjp")
    assert builds.new() == 3
    assert (forwards.derivative, forwards.checkpoint_bytes, forwards.recording) == ("jvp", 0, None)
    assert forwards.buffers["state"][1] == 2 * backwards.buffers["state"][1] == 6
    assert 4 * backwards.buffers["checkpoint_window"][1] <= backwards.stack_bytes
    assert backwards.recording.program in backwards.program and "\nf_vjp\n" in backwards.program

    with jax.default_device(jax.devices("cpu")[0]):
        states, rates = jnp.ones((lanes, 3), jnp.float32), jnp.full(() if shared else lanes, rate)
        run = jax.vmap(lambda y, rate: solve(field, 0.0, 1.0, y, rate).ys, in_axes=(0, None if shared else 0))
        found, back = jax.vjp(run, states, rates)
        back(jnp.ones_like(found))
        jax.jit(lambda *tangents: jax.jvp(run, (states, rates), tangents))(states, rates)
    assert builds.count == 0
    kept = [leaf for leaf in jax.tree.leaves(back) if leaf.dtype == np.uint32]
    assert sum(leaf.nbytes for leaf in kept) == lanes * backwards.checkpoint_bytes
