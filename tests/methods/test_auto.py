"""Two methods in one: when they change, that nothing else comes of it, and derivatives through both."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are, assert_same_bits, lorenz

from jax_cubie import ImplicitTableau, SaveAt, Solver, solve, solve_ivp, steady_state
from jax_cubie.kernel import cache, warp
from jax_cubie.methods import EXPLICIT
from jax_cubie.methods.auto import AutoSwitch
from jax_cubie.methods.stiffness import stability_interval, stages_at_one_time
from jax_cubie.plan import Plan

IVP = json.loads((Path(__file__).parent.parent / "tables" / "ivp.json").read_text())
# An implicit method of each family: some have another order, keep f at the ends of a step elsewhere, or more than that.
PAIRS = [("tsit5", "rodas5p"), ("dopri5", "kvaerno3"), ("tsit5", "radau_iia_5"), ("vern7", "rosenbrock23")]


def van_der_pol(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0]])


# At t = 2000 for mu = 1000: Mazzia, Magherini, Test set for initial value problem solvers (2008), in its time t / mu.
END = np.array([1.706167732170483, -0.8928097010247975e-3])


def robertson(t, y, k):
    first, second, third = k[0] * y[0], k[1] * y[1] * y[1], k[2] * y[1] * y[2]
    return jnp.stack([third - first, first - third - second, second])


def counts(solution):
    names = ("num_explicit_steps", "num_implicit_steps", "num_steps")
    explicit, implicit, steps = (np.asarray(solution.stats[name]) for name in names)
    assert np.array_equal(explicit + implicit, steps)
    return explicit, implicit


# --- When methods change


@pytest.mark.usefixtures("x64")
def test_van_der_pol(platform):
    """Stiff but for the moments when it jumps, the first of which is at 807."""

    def run(t1):
        return solve(van_der_pol, 0.0, t1, np.array([2.0, 0.0]), 1000.0, method="auto", rtol=1e-6, atol=1e-8)

    before, behind, whole = map(run, (800.0, 820.0, 2000.0))
    for solution in (before, behind, whole):
        assert all_are(solution, "successful")
    explicit, implicit = zip(*map(counts, (before, behind, whole)), strict=True)
    assert 11 <= explicit[0] < 40 and implicit[0] > 30
    assert explicit[1] > explicit[0] + 40 and explicit[2] > explicit[1] + 40
    assert implicit[2] > implicit[1] > implicit[0]
    assert np.all(np.abs(whole.ys[0] - END) < 10 * (1e-8 + 1e-6 * np.abs(END)))
    stats = {name: int(value) for name, value in whole.stats.items()}
    own = stats["num_implicit_steps"]
    assert stats["num_jacobians"] == stats["num_factorisations"] == own and stats["num_linear_solves"] == 8 * own
    # The implicit one evaluates f at the end of steps that are accepted.
    evaluated = stats["nfev"] - 2 - 6 * stats["num_explicit_steps"] - 7 * own
    assert 0 < evaluated <= own


@pytest.mark.parametrize(("dtype", "pair"), [("float32", PAIRS[0]), ("float64", PAIRS[1])])
def test_what_is_not_stiff(platform, dtype, pair):
    """The very steps of the explicit method, and nothing but its work."""
    with jax.enable_x64(dtype == "float64"):
        y0, saveat = np.array([1.0, 2.0, 3.0], dtype), SaveAt(ts=np.linspace(0.1, 4.9, 7), t1=True)
        runs = [
            solve(lorenz, 0.0, 5.0, y0, 28.0, method=method, rtol=1e-5, atol=1e-5, saveat=saveat, **settings)
            for method, settings in (("auto", {"auto": pair}), (pair[0], {}))
        ]
        assert all_are(runs[0], "successful") and runs[0].ys.dtype == dtype
        assert_same_bits(runs[0].ys, runs[1].ys)
        assert {name: int(runs[0].stats[name]) for name in runs[1].stats} == {k: int(v) for k, v in runs[1].stats.items()}
        assert counts(runs[0])[1] == 0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("pair", PAIRS[:2])
def test_what_is_stiff(platform, pair):
    """Little more than the implicit method alone, whose orders control has to know for it."""
    given = IVP["robertson"]
    scale = np.array([1e-4, 1e-8, 1e-4])

    def run(method, rtol):
        settings = {"rtol": rtol, "atol": rtol * scale, **({"auto": pair} if method == "auto" else {})}
        y0, k = jnp.array(given["y0"], float), jnp.array(given["k"])
        return solve(robertson, 0.0, given["t1"], y0, k, method=method, **settings)

    for rtol in (1e-4, 1e-6):
        both, alone = run("auto", rtol), run(pair[1], rtol)
        assert all_are(both, "successful")
        assert int(both.stats["nfev"]) < 1.15 * int(alone.stats["nfev"])
        assert int(both.stats["num_rejected_steps"]) < int(alone.stats["num_rejected_steps"]) + 10
        assert int(both.stats["num_factorisations"]) <= int(alone.stats["num_factorisations"])
        error = np.abs(both.ys[0] - np.array(given["y"])) / (rtol * (scale + np.abs(np.array(given["y"]))))
        assert np.sqrt(np.mean(error**2)) < 10


@pytest.mark.usefixtures("x64")
def test_lanes_change_by_themselves(platform):
    one = functools.partial(solve, van_der_pol, 0.0, 60.0, np.array([2.0, 0.0]), method="auto", rtol=1e-5, atol=1e-7)
    pace = np.array([1.0, 50.0, 5.0, 1000.0, 30.0])
    together = jax.jit(jax.vmap(one))(pace)
    assert all_are(together, "successful")
    explicit, implicit = counts(together)
    assert list(implicit > 0) == [False, True, False, True, True] and np.all(explicit > 10)
    for number, mu in enumerate(pace):
        assert_same_bits(jax.tree.map(lambda leaf, number=number: leaf[number], together), one(mu), f"mu = {mu}")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("pair", PAIRS)
def test_pairs(platform, pair):
    """Each is as precise as it was asked to be, and there and back again."""
    rtol = 1e-5 if pair[1] == "rosenbrock23" else 1e-7
    saveat = SaveAt(ts=np.array([300.0, 807.3, 1700.0]), t1=True)
    args = (van_der_pol, 0.0, 2000.0, np.array([2.0, 0.0]), 1000.0)
    solution = solve(*args, method="auto", auto=pair, rtol=rtol, atol=rtol * 1e-2, saveat=saveat)
    precise = solve(*args, method="rodas5p", rtol=1e-10, atol=1e-13, saveat=saveat)
    assert all_are(solution, "successful") and all_are(precise, "successful")
    explicit, implicit = counts(solution)
    assert explicit > 80 and implicit > 80
    assert np.all(np.abs(solution.ys - precise.ys)[[0, 2, 3]] < 30 * rtol * (1e-2 + np.abs(precise.ys)[[0, 2, 3]]))


def test_float32(platform):
    solution = solve(van_der_pol, 0.0, 2000.0, np.array([2.0, 0.0], np.float32), 1000.0, method="auto", rtol=1e-4, atol=1e-6)
    assert all_are(solution, "successful") and solution.ys.dtype == "float32"
    explicit, implicit = counts(solution)
    assert 40 < explicit < 400 and 40 < implicit < 600
    np.testing.assert_allclose(solution.ys[0], END, rtol=5e-3)


def test_stability_intervals():
    """Those that OrdinaryDiffEq.jl has as numbers, `alg_stability_size`."""
    published = {"dopri5": 3.3066, "tsit5": 3.5068, "vern6": 4.8553, "vern7": 4.6400, "vern8": 5.8641, "vern9": 4.4762}
    for name, interval in published.items():
        assert abs(stability_interval(EXPLICIT[name]) - interval) < 1e-4
        assert stages_at_one_time(EXPLICIT[name]) is not None


# --- Where buffers lie

SMALL = ("tsit5", "ros3p")
# Every second buffer, the others, all: tests/test_placements.py puts those of each family into every pair of places.
LOCATIONS = tuple(Solver("auto", auto=SMALL).buffers.settings)
PLACES = [("float32", LOCATIONS[::2]), ("float32", LOCATIONS[1::2]), ("float64", LOCATIONS)]


def on_and_off(t, y, args):
    """Stiff for a while."""
    rate = 1 + 300 * jnp.exp(-50 * (t - 0.5) ** 2)
    return jnp.stack([y[1], -rate * (y[1] - jnp.cos(3 * t)) - y[0] / (1 + y[0] * y[0])])


@functools.cache
def solution_at(dtype, platform, places=()):
    saveat = SaveAt(t0=True, ts=np.linspace(0.1, 1.9, 6), t1=True, fn=lambda t, y, args: (y, t / (1 + y @ y)))
    with jax.enable_x64(dtype == "float64"):
        y0 = np.random.default_rng(7).normal(size=(37, 2)).astype(dtype)
        settings = {"auto": SMALL, "rtol": 1e-4, "atol": 1e-4, **dict(places)}
        return jax.jit(jax.vmap(lambda y0: solve(on_and_off, 0.0, 2.0, y0, method="auto", saveat=saveat, **settings)))(y0)


@pytest.mark.parametrize(("dtype", "shared"), PLACES, ids=["even", "odd", "all"])
def test_placements(platform, dtype, shared):
    places = dict.fromkeys(shared, "shared")
    reference = solution_at(dtype, platform)
    explicit, implicit = counts(reference)
    assert all_are(reference, "successful") and np.all(explicit > 20) and np.all(implicit > 5)
    assert_same_bits(solution_at(dtype, platform, tuple(places.items())), reference, str(places))


def test_live_buffers_share_no_word():
    rng = np.random.default_rng(0)
    for pair in PAIRS:
        registry = Solver("auto", auto=pair).buffers
        for _ in range(50):
            shared = {keyword: str(rng.choice(["local", "shared"])) for keyword in registry.settings}
            sizes = {buffer.name: int(rng.integers(0, 6)) for buffer in registry}
            assert registry.update(**shared)[0].resize(**sizes).layout().overlaps() == []


# --- Derivatives


def relaxing(t, y, args):
    """Its rates are 2 and, for steps of 0.1, now within what tsit5 is stable for and now nearly beyond."""
    rate = args[0] * (1 - jnp.cos(args[1] * t)) + 2
    return jnp.stack([-rate * (y[0] - jnp.cos(t * y[1])), -2 * y[1] + 0.1 * y[0] * y[0]])


SAVES = {
    "t1": SaveAt(t1=True),
    "ts": SaveAt(ts=np.array([0.02, 0.55, 2.93, 6.11, 6.12]), t0=True, t1=True, fn=lambda t, y, args: jnp.sin(y) * t),
}
CASES = [("fixed", "ts", PAIRS[0]), ("pid", "t1", PAIRS[0]), ("pid", "ts", PAIRS[1]), ("pid", "ts", PAIRS[2])]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("controller", "saves", "pair"), CASES)
def test_derivatives(platform, controller, saves, pair):
    """Forwards and backwards the same; and of steps whose sizes and methods stay as they are, differences, too."""
    settings: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4} if controller == "pid" else {}
    point: dict[str, Any] = {"y0": np.array([1.5, 0.7]), "args": np.array([15.0, 1.0]), "t0": 0.01, "t1": 12.7}
    if controller == "fixed":
        point["dt0"] = 0.1
    if SAVES[saves].ts is not None:
        point["ts"] = np.asarray(SAVES[saves].ts)

    def run(point):
        saveat = SAVES[saves] if "ts" not in point else SaveAt(ts=point["ts"], t0=True, t1=True, fn=SAVES[saves].fn)
        chosen = {"method": "auto", "auto": pair, "controller": controller, "dt0": point.get("dt0"), **settings}
        return solve(relaxing, point["t0"], point["t1"], point["y0"], point["args"], saveat=saveat, **chosen)

    point = jax.tree.map(jnp.asarray, point)
    weights = np.random.default_rng(3).normal(size=jax.eval_shape(run, point).ys.shape)

    def loss(point):
        solution = run(point)
        return jnp.vdot(solution.ys, weights), solution

    solved = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, solution), gradient = solved(point)
    explicit, implicit = counts(solution)
    assert all_are(solution, "successful") and explicit > 15 and implicit > 15, (explicit, implicit)
    forwards, _ = jax.jit(jax.jacfwd(loss, has_aux=True))(point)
    for name in point:
        np.testing.assert_allclose(gradient[name], forwards[name], rtol=1e-11, atol=1e-11 * np.abs(weights).sum())
    if controller != "fixed":
        return
    for name in ("y0", "args", "ts"):
        if name in point:
            way = np.random.default_rng(5).normal(size=point[name].shape)
            ahead, behind = (solved({**point, name: point[name] + sign * 1e-6 * way})[0][0] for sign in (1, -1))
            expected = float(ahead - behind) / 2e-6
            assert abs(float(jnp.vdot(gradient[name], way)) - expected) < 1e-6 * max(1.0, abs(expected)), name


@pytest.mark.usefixtures("x64")
def test_steps_with_a_tangent_are_the_same(platform):
    """Also of a method that needs other Jacobians for it."""
    for pair in PAIRS[:3]:

        def run(mu, pair=pair):
            solution = solve(van_der_pol, 0.0, 820.0, np.array([2.0, 0.0]), mu, method="auto", auto=pair, rtol=1e-5, atol=1e-7)
            return solution.ys, solution

        alone, (_, _, along) = run(1000.0)[1], jax.jit(lambda mu: jax.jvp(run, (mu,), (1.0,), has_aux=True))(1000.0)
        assert_same_bits(alone, along)
        assert min(counts(along)) > 20


@pytest.mark.usefixtures("x64")
def test_second_derivatives(platform):
    def end(args):
        y0 = np.array([1.5, 0.7])
        solution = solve(relaxing, 0.0, 7.0, y0, args, method="auto", auto=SMALL, controller="fixed", dt0=0.1)
        return jnp.sum(jnp.sin(solution.ys)), solution

    args = jnp.array([15.0, 1.0])
    value, gradient = lambda args: end(args)[0], jax.jit(jax.grad(end, has_aux=True))
    assert min(counts(gradient(args)[1])) > 15
    mixed = jax.jit(jax.jacfwd(jax.grad(value)))(args)
    np.testing.assert_allclose(mixed, jax.jit(jax.jacfwd(jax.jacfwd(value)))(args), rtol=1e-10, atol=1e-12)
    for number, way in enumerate(1e-5 * np.eye(2)):
        expected = (gradient(args + way)[0] - gradient(args - way)[0]) / 2e-5
        np.testing.assert_allclose(mixed[number], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_gradients_that_lanes_share(platform):
    """Large operands, whose cotangents the threads of a warp sum while they take steps back together, each by its method."""

    def field(t, y, args):
        weights, rate = args
        return -rate * (y - jnp.cos(t)) + 0.1 * jnp.tanh(weights @ y)

    def loss(weights, rates):
        def one(rate):
            return solve(field, 0.0, 2.0, jnp.ones(6), (weights, rate), method="auto", auto=SMALL, rtol=1e-5, atol=1e-5)

        solution = jax.vmap(one)(rates)
        return jnp.sum(solution.ys**2), solution

    weights, rates = np.random.default_rng(1).normal(size=(6, 6)), np.linspace(1.0, 200.0, 70)
    gradient, solution = jax.jit(jax.grad(lambda w: loss(w, rates), has_aux=True))(weights)
    assert 10 < np.count_nonzero(counts(solution)[1]) < 60
    forwards = jax.jit(lambda way: jax.jvp(lambda w: loss(w, rates)[0], (weights,), (way,))[1])
    for seed in range(2):
        way = np.random.default_rng(seed).normal(size=weights.shape)
        np.testing.assert_allclose(jnp.vdot(gradient, way), forwards(way), rtol=1e-10)


@pytest.mark.usefixtures("x64", "builds")
@pytest.mark.parametrize("pair", PAIRS[:3:2])
def test_lanes_that_go_along_are_not_disturbed(pair, monkeypatch):
    """Where the threads of a warp go back together, a lane goes through the transposed steps of both methods."""
    saveat = SaveAt(ts=np.array([0.02, 0.55, 2.93, 6.11]), t1=True)

    def loss(point):
        return jnp.sum(jnp.sin(solve(relaxing, 0.0, 6.5, *point, saveat=saveat, method="auto", auto=pair).ys))

    point = (jnp.array([1.5, 0.7]), jnp.array([15.0, 1.0]))
    alone = jax.jit(jax.grad(loss))(point)
    assert np.all(alone[1] != 0)
    cache.forget()
    jax.clear_caches()
    monkeypatch.setenv("JAX_CUBIE_CACHE", "")
    monkeypatch.setattr(Plan, "in_step", property(lambda plan: plan.problem.adjoint is not None))
    monkeypatch.setattr(warp, "some", lambda emitter, condition: condition)  # a warp of one
    takes_part = AutoSwitch._takes_part

    def always(self, lane):
        of = takes_part(self, lane)

        def along(implicit):
            own = of(implicit)

            @lane.emitted("bool")
            def told(b):
                return b.emitter.constant("bool", 1)

            @lane.function
            def takes_part(b):
                own(b)
                return told(b)

            return takes_part

        return along

    monkeypatch.setattr(AutoSwitch, "_takes_part", always)
    assert_same_bits(jax.jit(jax.grad(loss))(point), alone)


def test_the_gradient_builds_for_cuda():
    """Where the threads of a warp go back over their steps together, too."""
    found = Solver("auto", auto=SMALL).inspect(
        lambda t, y, args: -(args @ y), 0.0, 1.0, np.ones(6, np.float32), np.ones((6, 6), np.float32), batched=("y0",),
        target="cuda:90", derivative="vjp",
    )  # fmt: skip
    assert found.registers > 0


# --- Settings


def test_settings():
    solver = Solver("auto")
    assert repr(solver) == "Solver('auto')" and solver.auto == ("tsit5", "rodas5p") and "newton_rtol" not in solver.settings()
    other = solver.update(auto=("dopri5", "kvaerno5"), newton_rtol=1e-9, stage_increment_location="shared")
    assert repr(other) == (
        "Solver('auto', auto=('dopri5', 'kvaerno5'), newton_rtol=1e-09, stage_increment_location='shared')"
    )
    assert other.stepper.name == "auto (dopri5, kvaerno5)" and other.settings()["linear_solver"] == "auto"
    # Buffers of two methods in one have the larger size; those of transposed steps are each one's own.
    names = {buffer.name for buffer in solver.buffers}
    assert {"stage_rhs", "stage_store", "lu_factors", "stage_adjoint", "implicit_stage_adjoint"} <= names
    with pytest.raises(ValueError, match="newton_rtol was set, but method 'auto'"):
        other.update(auto=("tsit5", "rodas5p"))
    with pytest.raises(ValueError, match="auto was set, but method 'tsit5'"):
        other.update(method="tsit5")
    with pytest.raises(ValueError, match="Did you mean 'implicit_stage_adjoint_location'"):
        Solver("auto", implicit_stage_adjont_location="shared")
    assert isinstance(solve_ivp(lambda t, y: -y, (0, 1), [1.0], method="auto").nfev, (int, jax.Array, np.ndarray))


WRONG = {
    "one": ("rodas5p", "expected two methods"),
    "names": (("tsit", "rodas5p"), "unknown method 'tsit'"),
    "first": (("rodas4", "rodas5p"), "the first method, 'rodas4', is not explicit: expected an explicit"),
    "second": (("tsit5", "dopri5"), "the second method, 'dopri5', is explicit: expected a method for stiff systems"),
    "itself": (("tsit5", "auto"), "the second method, 'auto', is one of two itself"),
    "no error": (("rk4", "rodas5p"), "the first method, 'rk4', has no error estimate"),
    "no error of the second": (("tsit5", "gauss_legendre_4"), "the second method, 'gauss_legendre_4', has no error estimate"),
    "stages": (("bosh3", "rodas5p"), "the first method, 'bosh3', has no two stages at one time"),
    "tableau": (("tsit5", ImplicitTableau("mine", order=1, a=[[1]], b=[1])), "the second method, 'mine', has no error"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_pairs(wrong):
    pair, said = WRONG[wrong]
    with pytest.raises(ValueError, match=said):
        Solver("auto", auto=pair)


@pytest.mark.usefixtures("x64")
def test_a_steady_state(platform):
    """Seen at the end of steps of both methods."""

    def run(rate):
        event = steady_state(1e-3, 1e-3)
        settings = {"method": "auto", "rtol": 1e-6, "atol": 1e-6}
        return solve(lambda t, y, rate: jnp.array([y[1], -rate * y[1] - rate * y[0]]), 0.0, 1e5, jnp.ones(2), rate,
                     events=event, **settings)  # fmt: skip

    solution = jax.jit(jax.vmap(run))(np.array([2.0, 500.0]))
    assert all_are(solution, "event_occurred") and np.all(solution.ts < 50)
    assert list(counts(solution)[1] > 0) == [False, True]
    assert np.all(np.abs(solution.ys[:, 0]) < 3e-3)


@pytest.mark.usefixtures("x64")
def test_matrices_that_are_given(platform):
    args = (van_der_pol, 0.0, 30.0, np.array([2.0, 0.0]), 1000.0)
    own = lambda t, y, mu: jnp.array([[0.0, 1.0], [-2 * mu * y[0] * y[1] - 1, mu * (1 - y[0] * y[0])]])  # noqa: E731
    found, given = (solve(*args, method="auto", rtol=1e-5, atol=1e-7, **more) for more in ({}, {"jac": own}))
    np.testing.assert_allclose(given.ys, found.ys, rtol=1e-9)
    assert counts(given) == counts(found) and counts(given)[1] > 5
    with pytest.raises(ValueError, match="mass is given, but auto \\(tsit5, rodas5p\\) takes steps of an explicit method, too"):
        solve(*args, method="auto", mass=np.ones(2))


def test_pairs_of_no_use():
    with pytest.raises(ValueError, match="auto names the two methods of method='auto', and this solver's is 'tsit5'"):
        Solver("tsit5", auto=("tsit5", "rodas5p"))
    with pytest.raises(ValueError, match="write method='auto'"):
        Solver("LSODA")
