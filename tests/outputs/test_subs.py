"""Several outputs of one solve, each with its own times and its own function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import assert_same_bits, code, lorenz

from jax_cubie import SaveAt, Solver, SubSaveAt, solve
from jax_cubie.solution import CODES

Y0 = np.array([1.0, 2.0, 3.0], np.float32)
TS, FEW = np.linspace(0, 0.8, 9, dtype=np.float32), np.array([0.0, 0.31, 0.31, 0.8], np.float32)
SETTINGS = dict(rtol=1e-4, atol=1e-4, max_steps=60)


def energy(t, y, rho):
    return {"energy": jnp.sum(y * y) * rho, "late": t > 0.4}


def moment(t, y, rho):
    return t * y[0], y[:2]


SUBS = {
    "end": dict(t1=True),
    "energy": dict(ts=TS, fn=energy),
    "moments": dict(t0=True, ts=FEW, t1=True, fn=moment),
    "states": dict(ts=FEW),
    "steps": dict(steps=2, t1=True),
    "times": dict(steps=3, ts=FEW, fn=lambda t, y, rho: t),
}


def several(wrap=SubSaveAt, **which):
    made = {name: wrap(**sub) for name, sub in SUBS.items()}
    return {"end": made.pop("end"), "rest": [made.pop("energy"), (made.pop("moments"),)], **made}


def run(saveat, t1=0.8, y0=Y0, rho=28.0, **settings):
    settings = settings if "controller" in settings else {**SETTINGS, **settings}
    return solve(lorenz, 0.0, t1, y0, rho, saveat=saveat, **settings)


def test_each_is_what_it_is_alone(platform):
    """To the bit, with the structure of the subs; nobody changes the steps."""
    solution = run(SaveAt(subs=several()))
    ours = jax.tree.leaves(several(), is_leaf=lambda x: isinstance(x, SubSaveAt))
    structure = jax.tree.structure(several(), is_leaf=lambda x: isinstance(x, SubSaveAt))
    assert structure.num_leaves == len(SUBS) == len(structure.flatten_up_to(solution.ts))
    for sub, ts, ys in zip(ours, structure.flatten_up_to(solution.ts), structure.flatten_up_to(solution.ys), strict=True):
        alone = run(SaveAt(t0=sub.t0, t1=sub.t1, ts=sub.ts, steps=sub.steps, fn=sub.fn))
        assert_same_bits((ts, ys), (alone.ts, alone.ys), repr(sub))
        assert int(alone.stats["num_steps"]) == int(solution.stats["num_steps"])
    assert solution.ys["rest"][0]["late"].dtype == bool and solution.ys["rest"][1][0][1].shape == (6, 2)


def test_lanes(platform):
    """Under vmap, times of each lane among them; jit changes nothing."""
    rhos, own = jnp.linspace(20, 30, 5, dtype=jnp.float32), np.sort(np.random.default_rng(0).uniform(0, 0.3, (5, 4)))
    own = jnp.asarray(own, jnp.float32)

    def lane(rho, ts):
        return run(SaveAt(subs=(SubSaveAt(ts=ts, fn=energy), SubSaveAt(ts=FEW), SubSaveAt(t1=True))), rho=rho)

    together = jax.jit(jax.vmap(lane))(rhos, own)
    for number in range(5):
        alone = lane(rhos[number], own[number])
        one = jax.tree.map(lambda leaf, n=number: leaf[n], together)
        assert_same_bits((one.ys, one.stats), (alone.ys, alone.stats))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["tsit5", "kvaerno3"])
def test_derivatives(method):
    """Those of a sum over all subs are the sums of those of each alone; forwards as backwards."""
    weights = np.random.default_rng(0)
    made = [SUBS[name] for name in ("energy", "moments", "states", "steps")]

    def floats(ys):
        leaves = [leaf for leaf in jax.tree.leaves(ys) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return [jnp.where(jnp.isfinite(leaf), leaf, 0) for leaf in leaves]

    factors = weights.normal(size=len(made))

    def loss(p, numbers):
        subs = []
        for number in numbers:
            sub = made[number]
            subs.append({**sub, "ts": p["ts"] * (number + 1)} if "ts" in sub else sub)
        several = len(subs) > 1
        saveat = SaveAt(subs=[SubSaveAt(**sub) for sub in subs]) if several else SaveAt(**subs[0])
        solution = run(saveat, y0=p["y0"], rho=p["rho"], t1=p["t1"], method=method, max_steps=200)
        saved = solution.ys if several else [solution.ys]
        return sum(
            jnp.sum(jnp.sin(leaf)) * factors[number]
            for number, ys in zip(numbers, saved, strict=True)
            for leaf in floats(ys)
        )

    point = {"y0": jnp.asarray(Y0, float), "rho": jnp.asarray(28.0), "t1": jnp.asarray(0.8), "ts": jnp.array([0.0, 0.1, 0.26])}
    way = jax.tree.map(lambda leaf: jnp.asarray(weights.normal(size=leaf.shape)), point)
    way["ts"] = way["ts"].at[0].set(0)
    every = range(len(made))

    def along(numbers):
        return jax.jit(lambda *at: jax.jvp(lambda p: loss(p, numbers), at[:1], at[1:])[1])(point, way)

    gradient, forwards = jax.jit(jax.grad(lambda p: loss(p, every)))(point), along(every)
    backwards = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, way)), strict=True))
    np.testing.assert_allclose(backwards, forwards, rtol=1e-9)
    if method == "tsit5":
        np.testing.assert_allclose(sum(along([number]) for number in every), forwards, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_second_derivatives():
    """Of two subs, one with a function, forwards over backwards: by differences of gradients."""

    def loss(p):
        subs = [SubSaveAt(ts=p["ts"], fn=moment), SubSaveAt(ts=2 * p["ts"])]
        solution = run(SaveAt(subs=subs), y0=p["y0"], t1=0.3, method="bosh3", controller="fixed", dt0=0.0123)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(solution.ys))

    point = {"y0": jnp.asarray(Y0, float), "ts": jnp.array([0.01, 0.05, 0.149])}
    way = {"y0": jnp.array([0.3, -1.0, 0.5]), "ts": jnp.array([0.2, -0.4, 0.1])}
    gradient = jax.jit(jax.grad(loss))
    found = jax.jit(lambda *at: jax.jvp(gradient, at[:1], at[1:])[1])(point, way)
    ahead, behind = (gradient(jax.tree.map(lambda x, d, s=s: x + s * d, point, way)) for s in (1e-5, -1e-5))
    for name in point:
        np.testing.assert_allclose(found[name], (ahead[name] - behind[name]) / 2e-5, rtol=1e-6, atol=1e-6)


def test_beside_a_function():
    """Subs and the solution as a function, of which each sub's rows are values."""
    solution = run(SaveAt(subs=[SubSaveAt(ts=FEW), SubSaveAt(ts=TS, fn=moment)], dense=True))
    np.testing.assert_allclose(solution.evaluate(FEW), solution.ys[0], rtol=1e-5)
    np.testing.assert_allclose(solution.evaluate(TS)[:, :2], solution.ys[1][1], rtol=1e-5)
    empty = run(SaveAt(subs={}, dense=True))
    assert empty.ts == {} and empty.ys == {}


def test_lanes_that_fail():
    """What was not reached is NaN in each, and infinite in rows of steps."""
    solution = run(SaveAt(subs=[SubSaveAt(ts=FEW), SubSaveAt(steps=True), SubSaveAt(t1=True, fn=moment)]), max_steps=5)
    assert code(solution) == CODES["max_steps_reached"]
    assert np.all(np.isfinite(solution.ys[0][0])) and np.all(np.isnan(solution.ys[0][-1]))
    assert np.isfinite(solution.ys[1]).any() and np.all(np.isnan(solution.ys[2][0]))


def test_what_is_said():
    sub = SubSaveAt(t1=True)
    assert repr(SaveAt(subs=[sub, SubSaveAt(steps=2)])) == "SaveAt(subs=[SubSaveAt(t1=True), SubSaveAt(steps=2)])"
    for wrong, kind, said in (
        (lambda: SubSaveAt(), ValueError, r"SubSaveAt\(\) saves nothing"),
        (lambda: SaveAt(subs=[]), ValueError, r"SaveAt\(\) saves nothing"),
        (lambda: SaveAt(subs=[sub], t1=True), ValueError, r"SaveAt\(subs=...\) is given beside t1: make that a SubSaveAt"),
        (lambda: SaveAt(subs=[sub], fn=moment), ValueError, r"SaveAt\(subs=...\) is given beside fn"),
        (lambda: SaveAt(subs=[SaveAt(t1=True)]), TypeError, r"SaveAt\(subs=...\) has SaveAt\(t1=True\).*expected SubSaveAts"),
        (lambda: SaveAt(subs=[1.0]), TypeError, "has 1.0 of type float: expected SubSaveAts"),
        (lambda: SaveAt(dense=True, fn=moment), ValueError, "saves nothing"),
        (lambda: SubSaveAt(ts=[[0.1]]), ValueError, r"SubSaveAt\(ts=...\) takes a one-dimensional array"),
        (lambda: SubSaveAt(t1=True, fn=3), TypeError, r"SubSaveAt\(fn=...\) is 3"),
        (lambda: run(sub), TypeError, "saveat is .* expected a jax_cubie.SaveAt"),
        (lambda: run(SaveAt(subs=[SubSaveAt(ts=[0.5, 0.4])])), ValueError, r"SubSaveAt\(ts=...\) is not in order"),
        (lambda: run(SaveAt(subs=[SubSaveAt(t1=True, fn=lambda *_: None)])), ValueError, r"SubSaveAt\(fn=...\) returns no"),
        (
            lambda: solve(lorenz, 0.0, 1.0, Y0, 28.0, saveat=SaveAt(subs=[SubSaveAt(steps=True)])), ValueError,
            r"SubSaveAt\(steps=...\) keeps room for max_steps",
        ),
    ):  # fmt: skip
        with pytest.raises(kind, match=said):
            wrong()


def test_images(builds):
    """Other times of as many points build nothing; a sub more does."""
    subs = [SubSaveAt(ts=TS), SubSaveAt(t1=True)]
    run(SaveAt(subs=subs))
    assert builds.new() == 1
    run(SaveAt(subs=[SubSaveAt(ts=0.5 * TS), SubSaveAt(t1=True)]))
    assert builds.new() == 0
    run(SaveAt(subs=[*subs, SubSaveAt(t0=True)]))
    assert builds.new() == 1


def test_inspection():
    saveat = SaveAt(subs=[SubSaveAt(ts=TS), SubSaveAt(ts=TS, fn=energy)], dense=True)
    shared, own = (
        Solver(max_steps=50).inspect(lorenz, 0.0, 1.0, Y0, 28.0, saveat=saveat, batched=batched)
        for batched in ("y0", ("y0", "ts"))
    )
    assert shared.key != own.key
