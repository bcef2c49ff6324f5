"""Which lane a thread takes changes no bit of a solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from llvmlite import ir
from solve_helpers import assert_same_bits, code

from jax_cubie import SaveAt, Solver
from jax_cubie.kernel import cache, queue, warp
from jax_cubie.plan import Plan
from jax_cubie.solution import CODES

LANES = 333


@pytest.fixture
def queued(platform, monkeypatch):
    """Where there is no GPU, the queue's code runs on the host, in warps of one thread."""
    if platform == "cpu":
        from kernel.sample_lanes import draw_alone, vote_alone

        monkeypatch.setattr(queue, "_ballot", vote_alone)
        monkeypatch.setattr(queue, "_tickets", draw_alone)
        monkeypatch.setattr(Plan, "queued", property(lambda plan: plan.problem.schedule == "queue"))


def stiffness(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def lanes():
    """Short and long lanes, some that have nothing to do, some that fail in one way or another."""
    rng = np.random.default_rng(3)
    mu = np.exp(rng.uniform(np.log(0.1), np.log(100), LANES)).astype(np.float32)
    t1 = rng.uniform(0.1, 12, LANES).astype(np.float32)
    t1[::17], t1[5::31], mu[7::29] = 0, -3, np.nan
    return mu, t1


CASES = {
    "t1": dict(),
    "ts": dict(saveat=lambda t1: SaveAt(t0=True, ts=t1 * jnp.linspace(0, 1, 5))),
    "steps": dict(saveat=lambda t1: SaveAt(steps=3, t1=True), max_steps=90),
    "fn": dict(saveat=lambda t1: SaveAt(t0=True, ts=t1 * jnp.linspace(0, 1, 5), fn=lambda t, y, mu: (t, y[0] > 0))),
    "few steps": dict(max_steps=70),
    "dtmin": dict(dtmin=2e-3, force_dtmin=False, controller="pi42"),
    "not fsal": dict(method="dopri8", dt0=0.01, saveat=lambda t1: SaveAt(ts=t1 * jnp.linspace(0, 1, 5))),
    "fixed": dict(method="rk4", dt0=0.01, saveat=lambda t1: SaveAt(ts=t1 * jnp.linspace(0, 1, 5))),
}


def solved(case: str, schedule: str):
    settings = dict(CASES[case])
    saveat, dt0 = settings.pop("saveat", lambda t1: SaveAt(t1=True)), settings.pop("dt0", None)
    solver = Solver(settings.pop("method", "tsit5"), **{"max_steps": 5000, **settings})

    def solve(mu, t1):
        step = None if dt0 is None else jnp.where(t1 < 0, -dt0, dt0)
        chosen = solver.update(schedule=schedule)
        return chosen.solve(stiffness, 0.0, t1, jnp.array([2.0, 0.0], jnp.float32), mu, saveat=saveat(t1), dt0=step)

    return jax.jit(jax.vmap(solve))(*lanes())


@pytest.mark.parametrize("case", CASES)
def test_same_bits(platform, queued, case):
    static, queue = (solved(case, schedule) for schedule in ("static", "queue"))
    assert_same_bits(static, queue, case)
    codes = code(static)
    assert (codes == CODES["successful"]).any() and (codes != CODES["successful"]).any()


def some_or_others(emitter, condition):
    """Three times out of four where the condition does not hold: by the processor's clock."""
    builder = emitter.builder
    clock = builder.module.declare_intrinsic("llvm.readcyclecounter", (), ir.FunctionType(ir.IntType(64), ()))
    bits = builder.lshr(builder.mul(builder.call(clock, ()), ir.IntType(64)(0x9E3779B97F4A7C15)), ir.IntType(64)(62))
    return builder.or_(condition, builder.icmp_unsigned("!=", bits, ir.IntType(64)(0)))


@pytest.mark.parametrize("case", ["ts", "few steps", "dtmin", "not fsal", "fixed"])
def test_steps_that_are_taken_together(platform, builds, monkeypatch, tmp_path, case):
    """Where there is no GPU, by one thread that goes on at random, as if others did. What takes steps together is not in an
    image's key: f's products are."""
    alone = solved(case, "static")
    for name in ("in_step", "in_warps"):
        monkeypatch.setattr(Plan, name, True)
    if platform == "cpu":
        monkeypatch.setattr(warp, "some", some_or_others)
    monkeypatch.setenv("JAX_CUBIE_CACHE", str(tmp_path / "others"))
    cache.forget()
    jax.clear_caches()
    assert_same_bits(solved(case, "static"), alone, case)
    assert builds.count == 2


def test_each_launch_has_a_queue_of_its_own(platform, queued):
    """The turns of a scan, lanes of a nested vmap."""

    def solve(y0, mu):
        return Solver(schedule="queue").solve(stiffness, 0.0, 2.0, y0, mu).ys[0]

    mu = jnp.linspace(0.5, 5, 6, dtype=jnp.float32)
    y0 = jnp.tile(jnp.array([2.0, 0.0], jnp.float32), (3, 6, 1))
    both = jax.vmap(lambda y0: jax.vmap(solve)(y0, mu))
    last, _ = jax.jit(lambda y0: jax.lax.scan(lambda y, _: (both(y), None), y0, None, length=4))(y0)
    for _ in range(4):
        y0 = both(y0)
    np.testing.assert_array_equal(last, y0)


def test_schedule_by_itself():
    """On a GPU lanes whose steps are chosen end at different times; the host's threads take chunks in any case."""

    def words(target, **settings):
        found = Solver(**settings).inspect(
            stiffness, 0.0, 1.0, np.ones(2, np.float32), np.float32(1), dt0=0.1, target=target, batched="args"
        )
        return found.key

    keys = {s: words("cuda:90", schedule=s) for s in ("auto", "queue", "static")}
    assert keys["auto"] == keys["queue"] != keys["static"]
    keys = {s: words("cuda:90", schedule=s, method="rk4") for s in ("auto", "queue", "static")}
    assert keys["auto"] == keys["static"] != keys["queue"]
    assert len({words("cpu", schedule=s) for s in ("auto", "queue", "static")}) == 1
