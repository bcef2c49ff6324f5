"""Images by content: what builds one and what does not; equal bytes in every process; threads; export; caches on disk."""

import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from perturbations import perturbations
from solve_helpers import assert_same_bits, lorenz, python

from jax_cubie import SaveAt, Solver, solve
from jax_cubie.kernel.target import Target
from jax_cubie.plan import Plan
from jax_cubie.problem import make_request

Y0 = np.array([1.0, 0.0, 0.0], np.float32)
RHO = np.linspace(0, 28, 5).astype(np.float32)


def batch(size=5, rho_factor=1.0, y0=Y0, **settings):
    """A solve of a lambda that is traced anew at each call."""
    given = {"dt0": settings.pop("dt0")} if "dt0" in settings else {}
    saveat = settings.pop("saveat", SaveAt(t1=True))
    t1 = settings.pop("t1", 0.2)
    rho = np.resize(RHO, size) * np.float32(rho_factor)
    f = lambda t, y, args: lorenz(t, y, args) + 0 * t  # noqa: E731
    return jax.vmap(lambda r: solve(f, 0.0, t1, y0, r, saveat=saveat, **given, **settings))(rho)


def test_what_builds_an_image(platform, builds):
    """Numbers, batch sizes and times never build; choices build once, and not again on the way back."""
    batch()
    assert builds.new() == 1
    for same in (
        {}, {"size": 1}, {"size": 77}, {"size": 0}, {"rho_factor": 0.5}, {"rtol": 1e-3}, {"rtol": np.float32(0.1), "atol": 0.1},
        {"max_steps": 7}, {"safety": 0.5}, {"t1": 0.1}, {"t1": -0.1}, {"y0": Y0 + 1}, {"icoeff": 0.7},
        {"factormin": 0.1, "factormax": 3.0}, {"controller": "pid"}, {"state_location": "local"},
    ):  # fmt: skip
        batch(**same)
        assert builds.new() == 0, same
    for other in (
        {"dt0": 0.01}, {"state_location": "shared"}, {"method": "bosh3"}, {"saveat": SaveAt(t0=True, t1=True)},
    ):  # fmt: skip
        batch(**other)
        assert builds.new() == 1, other
        batch(**other)
        batch()
        assert builds.new() == 0, other
    # Numbers that are plainly absent from the controller are left out of the kernel; once there, their values are free.
    for first, others in (
        ({"dtmax": 0.1}, [{"dtmax": 0.2}, {"dtmin": 1e-3}, {"dtmin": np.float32(0), "dtmax": np.float32(np.inf)}]),
        ({"pcoeff": 0.1}, [{"pcoeff": 0.2, "dcoeff": 0.1}, {"dcoeff": 0.05}, {"pcoeff": np.float32(0)}]),
        ({"dt0": 0.01}, [{"dt0": 0.02}, {"dt0": np.float32(0.03)}]),
    ):
        batch(**first)
        assert builds.new() <= 1
        for other in others:
            batch(**other)
            assert builds.new() == 0, other


def test_traced_known_and_nested_share_an_image(platform, builds):
    """jit or not, scan, an outer vmap over nothing new: one image while the masks of axes are the same."""

    def one(rho):
        return solve(lorenz, 0.0, 0.2, Y0, rho).ys

    expected = jax.vmap(one)(RHO)
    assert builds.new() == 1
    assert_same_bits(jax.jit(jax.vmap(one))(RHO), expected)
    assert_same_bits(jax.lax.map(jax.vmap(one), jnp.stack([jnp.asarray(RHO)] * 2))[1], expected)
    assert_same_bits(jax.vmap(one, in_axes=0, out_axes=1)(RHO).swapaxes(0, 1), expected)
    jax.jit(lambda rho, tolerance: jax.vmap(lambda r: solve(lorenz, 0.0, 0.2, Y0, r, rtol=tolerance).ys)(rho))(RHO, 1e-3)
    assert builds.new() == 0


def test_disk_holds_what_memory_forgot(platform, builds):
    from jax_cubie.kernel import cache

    expected = batch()
    assert builds.new() == 1
    cache.forget()
    jax.clear_caches()
    assert_same_bits(batch().ys, expected.ys)
    assert builds.new() == 0


SOURCE = """
import sys, hashlib
import jax, jax.numpy as jnp, numpy as np
from jax_cubie import Solver, SaveAt, solve
from solve_helpers import lorenz
if sys.argv[1] == "other first":  # counters and tables of the compilers are not where they are in the other process
    Solver("bosh3", stage_rhs_location="shared").inspect(lambda t, y, a: y * jnp.sin(t), 0.0, 1.0, np.ones(2, np.float32))
    Solver("heun").inspect(lambda t, y, a: -y, 0.0, 1.0, np.ones(2, np.float32), target="cuda:90")
from jax_cubie.kernel import cache
y0, saveat = np.ones(3, np.float32), SaveAt(t0=True, ts=np.array([0.5], np.float32), t1=True)
for target in ("cpu", "cuda:90"):  # f is called, and has a name in there
    found = Solver(inline_f=False, error_location="shared").inspect(
        lambda t, y, a: lorenz(t, y, a["rho"]) + jnp.exp(-y) * a["shift"], 0.0, 1.0, y0,
        {"shift": y0, "rho": np.float32(28)}, saveat=saveat, target=target)
    print(target, found.key, hashlib.sha256(cache._images[found.key].data).hexdigest())
"""


def test_equal_bytes_in_every_process():
    """Another hash seed, another order of compilation: the same keys, and the same machine code to the byte."""
    one = python(SOURCE, "nothing first", PYTHONHASHSEED="1", JAX_CUBIE_CACHE="")
    two = python(SOURCE, "other first", PYTHONHASHSEED="4711", JAX_CUBIE_CACHE="")
    assert one == two and len({line.split()[2] for line in one.splitlines()}) == 2


def test_threads(platform, builds):
    """Two threads that trace, build and run at once, the same and different solves."""
    results, errors = {}, []

    def work(number):
        try:
            for turn in range(3):
                method = ("tsit5", "heun")[(number + turn) % 2]
                with jax.default_device(jax.devices(platform)[0]):
                    ys = jax.jit(lambda method=method: batch(method=method, rtol=1e-3).ys)()
                    results[number, turn] = (method, np.asarray(ys))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert builds.count == 2
    for method in ("tsit5", "heun"):
        expected = np.asarray(batch(method=method, rtol=1e-3).ys)
        found = [ys for name, ys in results.values() if name == method]
        assert len(found) == 6
        for ys in found:
            assert_same_bits(ys, expected)


EXPORTED = """
import sys, logging
import numpy as np
logging.basicConfig(level=logging.INFO)
import jax, jax.export
import jax_cubie
with open(sys.argv[1], "rb") as file:
    again = jax.export.deserialize(bytearray(file.read()))
rho, t1 = np.load(sys.argv[2]).values()
np.save(sys.argv[3], again.call(rho, t1))
print(sorted(name for name in ("numba", "llvmlite.ir", "diffrax") if name in sys.modules))
"""


def test_export(tmp_path):
    """A jitted, vmapped solve in another process, whatever the batch there: only jax_cubie is imported, and no Numba."""
    pytest.importorskip("flatbuffers")
    from jax_cubie.kernel.custom_call import FFI_TARGETS

    saveat = SaveAt(t0=True, t1=True)
    f = jax.jit(jax.vmap(lambda rho, t1: solve(lorenz, 0.0, t1, Y0, rho, saveat=saveat).ys, in_axes=(0, None)))
    exported = jax.export.export(
        f, platforms=["cpu"], disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(FFI_TARGETS["cpu"])]
    )(jax.ShapeDtypeStruct(jax.export.symbolic_shape("lanes"), RHO.dtype), np.float32(0.2))
    (tmp_path / "solve").write_bytes(exported.serialize())
    np.savez(tmp_path / "in.npz", rho=RHO, t1=np.float32(0.15))
    said = python(
        EXPORTED, str(tmp_path / "solve"), str(tmp_path / "in.npz"), str(tmp_path / "out.npy"), JAX_CUBIE_CACHE="",
        PYTHONHASHSEED="3",
    )  # fmt: skip
    with jax.default_device(jax.devices("cpu")[0]):
        assert_same_bits(np.load(tmp_path / "out.npy"), f(RHO, np.float32(0.15)))
    assert "'numba'" not in said


PERSISTENT = """
import sys, logging
import numpy as np, jax
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
hits = []
from jax._src import monitoring
monitoring.register_event_listener(lambda name, **_: hits.append(name))
class Builds(logging.Handler):
    count = 0
    def emit(self, record):
        Builds.count += record.getMessage().startswith("built an image")
logging.getLogger("jax_cubie").setLevel(logging.INFO)
logging.getLogger("jax_cubie").addHandler(Builds())
from jax_cubie import solve
from solve_helpers import lorenz
f = jax.jit(jax.vmap(lambda rho: solve(lorenz, 0.0, 0.2, np.ones(3, np.float32), rho).ys))
ys = np.asarray(f(np.linspace(0, 28, 5, dtype=np.float32)))
print(ys.tobytes().hex(), sum("cache_hits" in name for name in hits), Builds.count, "numba" in sys.modules)
"""


def test_caches_of_jax_and_our_own(tmp_path):
    """The second process finds the executable in JAX's cache and the image in ours: same bits, no build, no Numba."""
    first = python(PERSISTENT, str(tmp_path / "jax"), JAX_CUBIE_CACHE=str(tmp_path / "own")).split()
    second = python(PERSISTENT, str(tmp_path / "jax"), JAX_CUBIE_CACHE=str(tmp_path / "own")).split()
    assert first[0] == second[0]
    assert first[1:] == ["0", "1", "True"]
    assert int(second[1]) >= 1 and second[2:] == ["0", "False"]
    # With a JAX cache of another folder, the image alone is found.
    third = python(PERSISTENT, str(tmp_path / "jax2"), JAX_CUBIE_CACHE=str(tmp_path / "own")).split()
    assert third == [first[0], "0", "0", "False"]


def test_import_is_light():
    """`import jax_cubie` itself, an inspection's key, and a refused solve need no Numba."""
    said = python(
        """
        import sys
        import numpy as np, jax, jax_cubie
        from jax_cubie import solve, Solver
        jax.eval_shape(lambda y: solve(lambda t, y, a: -y, 0.0, 1.0, y), np.ones(3, np.float32))
        try:
            solve(lambda t, y, a: y[:2], 0.0, 1.0, np.ones(3, np.float32))
        except ValueError:
            print(sorted(name for name in sys.modules if name in ("numba", "diffrax", "scipy.integrate")))
        """
    )
    assert said.strip() == "[]"


@pytest.mark.parametrize("target", ["cpu", "cuda:90"])
def test_process_with_a_part_of_numba(target):
    """A solve's build loads no more of Numba than it needs; a kernel of a user's has all of it, before and after a solve."""
    said = python(
        """
        import cmath, math, sys
        import numpy as np, jax, jax_cubie
        from numba import cuda
        from jax_cubie import Solver, kernel_call

        target = sys.argv[1]
        package, rest = ("numba", "np.arraymath") if target == "cpu" else ("numba.cuda", "fp16")
        parts = (rest, "bf16", "np.arraymath", "experimental.jitclass.base", "cpython.heapq")

        def inspect():
            rate = np.float32(2)
            return Solver().inspect(lambda t, y, a: rate * -y, 0.0, 1.0, np.ones(3, np.float32), target=target)

        def kernel(x, out):
            i = cuda.grid(1)
            half = np.float16(x[i])
            out[i] = math.lgamma(np.float32(half))

        def host_kernel(start, stop, x, out):
            for i in range(start, stop):
                out[i] = cmath.exp(complex(0.0, x[i])).real

        def call():
            x = jax.ShapeDtypeStruct((8,), np.float32)
            operation = jax.jit(lambda x: kernel_call(kernel, x, out_shape=x, grid=1, block=8, host_kernel=host_kernel))
            return operation.trace(x).lower(lowering_platforms=(target.partition(":")[0],)).as_text()

        from jax_cubie.kernel import cache
        def image(build):
            build()
            (found,) = cache._images.values()
            cache.forget()
            return found.data

        solve = image(inspect)
        print([name for name in parts if f"{package}.{name}" in sys.modules])
        called = image(call)
        print(f"{package}.{rest}" in sys.modules)
        print(image(inspect) == solve, image(call) == called)
        """,
        target,
        JAX_CUBIE_CUDA_TARGET="cuda:90",
        JAX_CUBIE_CACHE="",
    )
    assert said.split("\n")[:3] == ["[]", "True", "True True"]


def test_dump(tmp_path, monkeypatch, builds):
    """Every stage of a build, for one who asks."""
    monkeypatch.setenv("JAX_CUBIE_DUMP", str(tmp_path / "dump"))
    Solver().inspect(lorenz, 0.0, 1.0, Y0, np.float32(28))
    Solver().inspect(lorenz, 0.0, 1.0, Y0, np.float32(28), target="cuda:90")
    kinds = {name.split(".", 1)[1] for name in os.listdir(tmp_path / "dump")}
    assert kinds == {"jaxpr", "program", "ll", "ptx", "resources"}
    for path in (tmp_path / "dump").glob("*.jaxpr"):
        assert "sub" in path.read_text() and path.read_text().startswith("{ lambda"), path.read_text()


@pytest.mark.parametrize("target", ["cpu", "cuda:90"])
def test_each_thing_that_code_depends_on_is_in_the_key(target):
    """Every field of a plan, down to numbers and text, but for those that say that they are none of the key's business."""
    saveat = SaveAt(t0=True, ts=jnp.linspace(0, 1, 3), fn=lambda t, y, args: (y, args))
    solver = Solver("bosh3", dtmax=0.5, stage_rhs_location="shared")
    request = make_request(solver, lambda t, y, args: -args * y, 0.0, 1.0, jnp.ones(2), jnp.float32(2), saveat, None)
    operands = tuple(operand.batch(0 if operand.name == "y0" else None) for operand in request.problem.operands)
    plan = Plan(request.problem, operands, 1, Target.parse(target))
    changed = refused = 0
    for path, other in perturbations(plan):
        if path == "Plan.target.architecture" and target == "cpu":
            continue  # it has none
        try:
            key = other.key
        except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError, ZeroDivisionError):
            refused += 1  # a plan that can't be
            continue
        changed += 1
        assert key != plan.key, path
    assert changed > 150 and refused < changed / 4
