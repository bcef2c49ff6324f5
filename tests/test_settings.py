"""One flat namespace of settings, alike at every front door; static and dynamic; a Solver is an equinox module like any."""

import dataclasses
import pickle
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import ADAPTIVE, EXPLICIT_METHODS, LOCATIONS, METHODS, all_are, assert_same_bits, lorenz

import jax_cubie
from jax_cubie import ButcherTableau, Doses, Driver, Event, Resets, SaveAt, Solver, SubSaveAt, Summary, solve, solve_ivp
from jax_cubie import steady_state as steady
from jax_cubie.controllers import CONTROLLERS
from jax_cubie.methods import DIRK, EXPLICIT, ROSENBROCK
from jax_cubie.settings import check_choice

Y0 = np.array([1.0, 0.5, 0.0], np.float32)
# Every setting of an adaptive solver, with a value that is not its default.
VALUES = {
    "rtol": 1e-4, "atol": 1e-5, "pcoeff": 0.2, "icoeff": 0.4, "dcoeff": 0.1, "safety": 0.8, "factormin": 0.3, "factormax": 5.0,
    "dtmin": 1e-4, "dtmax": 0.3, "force_dtmin": False, "max_steps": 1000, "fastmath": True, "unroll": 16, "inline_f": False,
    "schedule": "queue",
    "block": 32, "checkpoints": 8, "directions": 4, **dict.fromkeys(LOCATIONS, "shared"),
}  # fmt: skip


def field(t, y, args):
    return lorenz(t, y, args[0])


def flat_field(t, y, rho):
    return lorenz(t, y, rho)


# The five ways to say a setting; each runs the same solve.
WAYS = {
    "solve_ivp": lambda **s: solve_ivp(flat_field, (0.0, 0.2), Y0, args=(28.0,), t_eval=[0.2], **{"method": "tsit5", **s}),
    "Solver": lambda **s: Solver(**s).solve(field, 0.0, 0.2, Y0, (28.0,)),
    "Solver.solve": lambda **s: Solver().solve(field, 0.0, 0.2, Y0, (28.0,), **s),
    "Solver.update": lambda **s: Solver().update(**s).solve(field, 0.0, 0.2, Y0, (28.0,)),
    "solve": lambda **s: solve(field, 0.0, 0.2, Y0, (28.0,), **s),
    "solve with a solver": lambda **s: solve(field, 0.0, 0.2, Y0, (28.0,), solver=Solver(), **s),
}


def test_every_setting_is_tried_here():
    assert set(Solver().settings()) == {"method", "controller", *VALUES}
    for name, value in VALUES.items():
        assert Solver().settings()[name] != value


def test_defaults():
    expected = {
        "method": "tsit5", "controller": "pid", "rtol": 1e-6, "atol": 1e-6, "max_steps": 100_000, "pcoeff": 0, "icoeff": 1,
        "dcoeff": 0, "safety": 0.9, "factormin": 0.2, "factormax": 10, "dtmin": 0, "dtmax": np.inf, "force_dtmin": True,
        "fastmath": False, "unroll": "auto", "inline_f": "auto", "schedule": "auto", "block": "auto",
        "checkpoints": 32, "directions": 8, **dict.fromkeys(LOCATIONS, "local"),
    }  # fmt: skip
    assert Solver().settings() == expected
    for method in METHODS:
        settings = Solver(method).settings()
        assert settings["controller"] == ("pid" if method in ADAPTIVE else "fixed")
        assert set(LOCATIONS) <= settings.keys() or method not in EXPLICIT_METHODS


@pytest.mark.parametrize("name", VALUES)
def test_solver_keeps_what_it_is_given(name):
    """Through the constructor and through update; nothing else moves; what was there before is as it was."""
    solver = Solver()
    given, updated = Solver(**{name: VALUES[name]}), solver.update(**{name: VALUES[name]})
    for new in (given, updated):
        assert new.settings() == {**solver.settings(), name: VALUES[name]}
    assert solver.settings()[name] != VALUES[name]
    assert given == updated or isinstance(VALUES[name], float)
    assert updated.update(method="dopri5").settings() == {**updated.settings(), "method": "dopri5"}


def test_every_way_says_the_same(platform):
    """All settings together, at every front door: the same solution to the bit. And each door hands on each setting."""
    solutions = {way: run(**VALUES) for way, run in WAYS.items()}
    for way, solution in solutions.items():
        assert all_are(solution, "successful")
        assert_same_bits(solution.ys, solutions["Solver"].ys, way)
        assert_same_bits(solution.stats, solutions["Solver"].stats, way)
    for way, run in WAYS.items():
        assert int(run(method="bosh3").stats["nfev"]) != int(run().stats["nfev"]), way
        assert all_are(run(max_steps=2), "max_steps_reached"), way


@pytest.mark.parametrize("way", WAYS)
def test_every_way_knows_every_setting(way):
    """A value of no use is refused by whoever owns the setting, so it arrived there; nobody drops a name."""
    for name in VALUES:
        with pytest.raises((TypeError, ValueError), match=rf"\b{re.escape(name)}\b"):
            WAYS[way](**{name: object()})


@pytest.mark.parametrize("way", WAYS)
def test_unknown_settings(way):
    for wrong, meant in {
        "rtoll": "rtol", "max_step_size": "max_steps", "state_locatoin": "state_location", "atols": "atol", "Safety": "safety",
        "stage_rhs": "stage_rhs_location",
    }.items():  # fmt: skip
        if way == "solve_ivp" and wrong == "max_step":
            continue
        with pytest.raises(ValueError, match=f"unknown setting '{wrong}'.*Did you mean .*'{meant}'.*\\?"):
            WAYS[way](**{wrong: 1})
    with pytest.raises(ValueError, match="unknown setting 'colour'. The settings here are: .*atol.*state_location"):
        WAYS[way](colour=1)
    with pytest.raises(ValueError, match="unknown method 'tsit6'. Did you mean 'tsit5'"):
        WAYS[way](method="tsit6")


# --- Locations: three stories


def test_location_story_at_each_call(platform):
    """One call asks for a place, the next does not: neither remembers the other."""
    results = [solve(field, 0.0, 0.2, Y0, (28.0,), **s) for s in ({}, {"state_location": "shared"}, {})]
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])
    solver = Solver()
    solver.solve(field, 0.0, 0.2, Y0, (28.0,), state_location="shared")
    assert solver.settings()["state_location"] == "local"


def test_location_story_of_a_solver():
    """A solver has a place for each buffer, and update moves one; the old one stays where it was."""
    solver = Solver(state_location="shared", stage_rhs_location="shared")
    moved = solver.update(state_location="local")
    assert (solver.settings()["state_location"], moved.settings()["state_location"]) == ("shared", "local")
    assert moved.settings()["stage_rhs_location"] == "shared"
    assert moved.update(state_location="shared").settings() == solver.settings()
    assert jax.tree.structure(moved) != jax.tree.structure(solver)
    assert jax.tree.structure(moved.update(state_location="shared")) == jax.tree.structure(solver)
    inspected = solver.inspect(field, 0.0, 1.0, Y0, (28.0,), target="cuda:90")
    assert {name for name, (region, _) in inspected.buffers.items() if region == "shared"} == {"state", "stage_rhs"}
    assert inspected.shared_bytes == inspected.block * 4 * (3 + 7 * 3)


def test_location_story_of_a_change_of_method():
    """Places move along where the new method has the buffer; a size of 0 is no reason to refuse one."""
    solver = Solver("rk4", **dict.fromkeys(LOCATIONS, "shared"))
    for method in EXPLICIT_METHODS:
        moved = solver.update(method=method)
        assert all(moved.settings()[name] == "shared" for name in LOCATIONS)
    inspected = solver.inspect(lambda t, y, a: -y, 0.0, 1.0, Y0, dt0=0.1)
    assert inspected.buffers["error"][1] == 0


def test_locations_in_traced_code():
    def run(place):
        return solve(field, 0.0, 0.2, Y0, (28.0,), stage_rhs_location=place).ys

    for transform in (jax.jit, jax.vmap, jax.grad):
        with pytest.raises(TypeError, match="stage_rhs_location is a traced value.*has to be static.*outside of jit"):
            transform(run)(jnp.ones(3) if transform is jax.vmap else 1.0)
    for way in WAYS.values():
        with pytest.raises(TypeError, match="error_location is a traced value"):
            jax.jit(lambda place, way=way: way(error_location=place).ys)(1)
    # A location that is not traced is fine inside of traced code.
    assert_same_bits(jax.jit(lambda r: solve(field, 0.0, 0.2, Y0, (r,), state_location="shared").ys)(28.0), run("local"))


@pytest.mark.parametrize("value", ["Shared", "global", "", None, 1, True, b"shared"])
def test_location_values(value):
    with pytest.raises(ValueError, match="state_location=.*expected 'local' or 'shared'"):
        Solver(state_location=value)


def test_location_names_stand_nowhere():
    """No list of them is kept by hand: the string occurs where names are made, and in no code but that."""
    package = Path(jax_cubie.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        text = path.read_text()
        text = re.sub(r'""".*?"""', "", text, flags=re.S)  # docstrings may speak of them
        text = re.sub(r"#.*", "", text)
        if "_location" in text:
            found.add(path.relative_to(package).parts[0])
    assert found == {"buffers"}


# --- Changes of method and controller


def test_update_of_the_method():
    solver = Solver("tsit5", max_steps=50, state_location="shared")
    assert solver.update(method="dopri5").settings() == {**solver.settings(), "method": "dopri5"}
    fixed = solver.update(method="rk4")
    assert fixed.settings()["controller"] == "fixed" and fixed.settings()["max_steps"] == 50
    assert fixed.settings()["state_location"] == "shared"
    assert "safety" not in fixed.settings()
    back = fixed.update(method="bosh3")
    assert back.settings()["controller"] == "pid" and back.settings()["safety"] == 0.9
    # Settings that the user had given are not dropped in silence.
    with pytest.raises(ValueError, match="safety was set, but method 'rk4' with controller 'fixed' has no such setting"):
        Solver(safety=0.7).update(method="rk4")
    with pytest.raises(ValueError, match="dtmax is a setting of controller 'pid'.*'fixed'"):
        Solver().update(method="rk4", dtmax=0.1)
    assert Solver(controller="fixed").update(method="bosh3").settings()["controller"] == "fixed"
    with pytest.raises(ValueError, match="controller='pid' needs an error estimate.*'euler' has none"):
        Solver("euler", controller="pid")
    with pytest.raises(ValueError, match="controller='pid' needs an error estimate"):
        Solver(controller="pid").update(method="euler")


def test_methods_say_whether_they_are_for_stiff_systems():
    """All that are not explicit; the tests of their tableaus prove that these are A-stable."""
    stiff = {row["name"]: row["family"] for row in jax_cubie.methods() if row["stiff"]}
    assert set(stiff) >= {*ROSENBROCK, *DIRK} and not set(stiff) & set(EXPLICIT)
    assert {stiff[name] for name in ROSENBROCK} == {"Rosenbrock"} and {stiff[name] for name in DIRK} == {"DIRK"}


def test_methods_by_their_other_names():
    for row in jax_cubie.methods():
        for alias in row["aliases"]:
            assert Solver(alias) == Solver(row["name"]) and Solver(alias).settings()["method"] == row["name"]
            assert Solver().update(method=alias).method == row["name"]
    for scipys, ours in {"RK23": "bosh3", "RK45": "dopri5", "DOP853": "dop853", "Tsit5": "tsit5"}.items():
        found = solve_ivp(flat_field, (0.0, 0.2), Y0, scipys, args=(28.0,), max_steps=1)
        same = solve(field, 0.0, 0.2, Y0, (28.0,), method=ours, max_steps=1, rtol=1e-3, atol=1e-6)
        assert_same_bits(found.stats, same.stats)


# Heun's method by its numbers; Kutta's of third order, with the midpoint rule to estimate its error.
HEUN = dict(order=2, a=[[1]], b=[0.5, 0.5], b_embedded=[1, 0], embedded_order=1)
OWN = ButcherTableau("own", order=3, a=[["1/2"], [-1, 2]], b=["1/6", "2/3", "1/6"], b_embedded=[0, 1, 0], embedded_order=2)


def test_tableau_as_method(platform, builds):
    solver = Solver(OWN, rtol=1e-3)
    assert solver.settings()["method"] is OWN and solver.settings()["controller"] == "pid"
    assert Solver(ButcherTableau("mine", order=1, a=[], b=[1])).settings()["controller"] == "fixed"
    assert solver.update(method="rk45").method == "dopri5" and Solver("rk45").update(method=OWN).method is OWN
    hash(jax.tree.structure(solver))
    assert jax.tree.structure(solver) == jax.tree.structure(Solver(pickle.loads(pickle.dumps(OWN)), rtol=1e-3))
    with pytest.raises(ValueError, match="needs an error estimate, and method 'mine' has none"):
        Solver(ButcherTableau("mine", order=1, a=[], b=[1]), controller="pi")
    # The same numbers are the same image, whatever they are called; other numbers are another.
    heun = [solve(field, 0.0, 0.2, Y0, (28.0,), method=ButcherTableau(name, **HEUN)) for name in ("mine", "yours")]
    named = solve(field, 0.0, 0.2, Y0, (28.0,), method="heun")
    assert builds.new() == 1
    for solution in heun:
        assert_same_bits(solution, named)
    ivp = solve_ivp(flat_field, (0.0, 0.2), Y0, OWN, args=(28.0,), t_eval=[0.2])
    assert builds.new() == 1 and bool(ivp.success)
    np.testing.assert_allclose(ivp.y[:, 0], named.ys[-1], rtol=1e-2)
    traced = jax.jit(lambda rho: Solver(OWN).solve(field, 0.0, 0.2, Y0, (rho,), saveat=SaveAt(ts=np.array([0.2]))).ys)
    np.testing.assert_allclose(traced(28.0)[0], ivp.ys[0], rtol=1e-2)


def test_named_controllers():
    """Sets of coefficients; what the user says besides has precedence, and stays when the name changes."""
    expected = {
        "pid": (0, 1, 0), "i": (0, 1, 0), "pi": (0.4, 0.3, 0), "pi30": (0, 1 / 3, 0), "pi33": (1 / 3, 1 / 3, 0),
        "pi34": (0.4, 0.3, 0), "pi42": (0.2, 0.4, 0), "h211pi": (-1 / 6, 1 / 3, 0), "h312pid": (-2 / 9, 2 / 9, 1 / 18),
    }  # fmt: skip
    assert set(CONTROLLERS) == {"fixed", "even", "given", "gustafsson", *expected}
    assert all(CONTROLLERS[name].source for name in ("gustafsson", *expected))

    def coefficients(solver):
        return tuple(solver.settings()[name] for name in ("pcoeff", "icoeff", "dcoeff"))

    for name, values in expected.items():
        for solver in (Solver(controller=name), Solver("bosh3").update(controller=name), Solver("rk4").update(
            method="dopri5", controller=name
        )):  # fmt: skip
            assert coefficients(solver) == values
            assert solver.settings() == {
                **Solver(solver.method).settings(), "controller": name,
                **dict(zip(("pcoeff", "icoeff", "dcoeff"), values, strict=True)),
            }  # fmt: skip
        assert coefficients(Solver(controller=name, icoeff=0.7)) == (values[0], 0.7, values[2])
        assert coefficients(Solver(icoeff=0.7).update(controller=name)) == (values[0], 0.7, values[2])
        assert coefficients(Solver(controller="h312pid").update(controller=name)) == values
    # Of Soederlind's exponents: beta1 = p + i + d, beta2 = -(p + 2 d), beta3 = d.
    for name, betas in {"h211pi": (1 / 6, 1 / 6, 0), "h312pid": (1 / 18, 1 / 9, 1 / 18), "pi42": (0.6, -0.2, 0)}.items():
        p, i, d = expected[name]
        np.testing.assert_allclose([p + i + d, -(p + 2 * d), d], betas, rtol=1e-14)


def test_changes_of_a_named_controller():
    solver = Solver(controller="pi42", safety=0.8, dtmax=0.5)
    assert solver.update(method="bosh3").settings() == {**solver.settings(), "method": "bosh3"}
    assert solver.update(rtol=1e-3).settings() == {**solver.settings(), "rtol": 1e-3}
    other = solver.update(controller="pid").settings()
    assert (other["safety"], other["dtmax"], other["pcoeff"], other["icoeff"]) == (0.8, 0.5, 0.0, 1.0)
    # So it does where the other controller is one of another kind, as long as that has such a setting.
    predictive = Solver(controller="pi", safety=0.8, dtmax=0.5, force_dtmin=False).update(controller="gustafsson")
    assert (predictive.safety, predictive.dtmax, predictive.force_dtmin, predictive.factormax) == (0.8, 0.5, False, 8.0)
    assert predictive.update(controller="pi").settings()["factormax"] == 10.0
    with pytest.raises(ValueError, match="pcoeff was set, but .*controller 'gustafsson' has no such setting"):
        Solver(pcoeff=0.3).update(controller="gustafsson")
    # What was set through the tree stays.
    tighter = eqx.tree_at(lambda s: s.rtol, Solver(), 1e-9)
    assert tighter.update(controller="pi").settings()["rtol"] == 1e-9
    with pytest.raises(ValueError, match="controller='pi42' needs an error estimate, and method 'rk4' has none"):
        solver.update(method="rk4")
    with pytest.raises(ValueError, match="dtmax was set, but method 'rk4' with controller 'fixed' has no such setting"):
        solver.update(method="rk4", controller="fixed")
    with pytest.raises(ValueError, match="rtol is a setting of controller 'pid'.*this solver's is 'fixed'"):
        Solver(controller="fixed", rtol=1e-3)


def test_named_controllers_take_their_steps(platform):
    """A name is its coefficients, in the steps that are taken."""
    y0 = np.array([2.0, 0.0], np.float32)

    def van_der_pol(t, y, mu):
        return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])

    def steps(**settings):
        stats = solve(van_der_pol, 0.0, 10.0, y0, 5.0, rtol=1e-4, atol=1e-4, **settings).stats
        return int(stats["num_accepted_steps"]), int(stats["num_rejected_steps"])

    counts = {name: steps(controller=name) for name in ("pid", "i", "pi42", "h211pi", "h312pid")}
    assert counts["pid"] == counts["i"] == steps() and len(set(counts.values())) == 4
    assert counts["pi42"] == steps(pcoeff=0.2, icoeff=0.4)
    assert counts["h312pid"] == steps(pcoeff=-2 / 9, icoeff=2 / 9, dcoeff=1 / 18)


def test_update_of_nothing_and_of_everything():
    solver = Solver("bosh3", rtol=1e-3)
    assert solver.update() == solver
    everything = {**VALUES, "method": "dopri5", "controller": "pid"}
    assert solver.update(**everything).settings() == everything == Solver(**everything).settings()


# --- Tracers


@pytest.mark.parametrize("name", ["method", "controller", "force_dtmin", "fastmath", "unroll", "inline_f", "schedule", "block"])
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
def test_static_settings_refuse_tracers(name):
    with pytest.raises(TypeError, match=rf"{name} is a traced value.*has to be static.*outside of jit"):
        jax.jit(lambda value: solve(field, 0.0, 0.2, Y0, (28.0,), **{name: value}).ys)(1)


def test_dynamic_settings_take_tracers(platform):
    names = [
        "rtol", "atol", "pcoeff", "icoeff", "dcoeff", "safety", "factormin", "factormax", "dtmin", "dtmax", "max_steps",
    ]  # fmt: skip
    run = jax.jit(lambda values: solve(field, 0.0, 0.2, Y0, (28.0,), **values))
    traced = run({name: VALUES[name] for name in names})
    plain = solve(field, 0.0, 0.2, Y0, (28.0,), **{name: VALUES[name] for name in names})
    np.testing.assert_allclose(traced.ys, plain.ys, rtol=1e-5)
    assert_same_bits(traced.stats, plain.stats)


# --- equinox


def test_solver_is_a_pytree_of_numbers():
    solver = Solver(rtol=jnp.array(1e-3), pcoeff=0.3)
    leaves = jax.tree.leaves(solver)
    assert len(leaves) == 11  # the controller's ten numbers and max_steps
    assert Solver(state_location="shared") == Solver(state_location="shared") != Solver()
    hash(jax.tree.structure(solver))
    assert jax.tree.map(lambda leaf: leaf, solver) == solver


def test_filter_jit_and_partition(platform):
    solver = Solver("bosh3", rtol=jnp.array(1e-3), atol=jnp.array(1e-4), stage_rhs_location="shared")

    @eqx.filter_jit
    def run(solver, rho):
        return solver.solve(field, 0.0, 0.2, Y0, (rho,))

    expected = solver.solve(field, 0.0, 0.2, Y0, (28.0,))
    assert_same_bits(run(solver, 28.0).ys, expected.ys)
    dynamic, static = eqx.partition(solver, eqx.is_array)
    assert_same_bits(jax.jit(lambda d: eqx.combine(d, static).solve(field, 0.0, 0.2, Y0, (28.0,)).ys)(dynamic), expected.ys)
    tighter = eqx.tree_at(lambda s: (s.rtol, s.atol), solver, (jnp.array(1e-6), jnp.array(1e-6)))
    assert tighter.rtol == np.float32(1e-6) and solver.rtol == np.float32(1e-3)
    assert_same_bits(tighter.solve(field, 0.0, 0.2, Y0, (28.0,)).ys, run(tighter, 28.0).ys)
    assert int(run(tighter, 28.0).stats["num_steps"]) > int(expected.stats["num_steps"])


def test_tree_at_by_the_properties():
    """rtol and atol are found where a user looks for them, on the solver."""
    solver = eqx.tree_at(lambda s: (s.rtol, s.atol), Solver(), (1e-3, 1e-4))
    assert (solver.rtol, solver.atol) == (1e-3, 1e-4) and solver.settings()["rtol"] == 1e-3


def condition(t, y, args):
    return y[0]


TS = np.array([0.0, 1.0, 3.0])
# What can be changed by dataclasses.replace, with a field and another value of it.
REPLACED = {
    "SaveAt": (SaveAt(t1=True), "t0", True),
    "ts": (SaveAt(ts=TS, fn=condition), "steps", 2),
    "left": (SubSaveAt(ts=TS, side="left"), "t1", True),
    "right": (SaveAt(ts=TS, side="right"), "t1", True),
    "sides": (SaveAt(ts=TS, side=[True, False, True]), "dense", True),
    "subs": (SaveAt(subs={"ends": SubSaveAt(t1=True), "ts": SubSaveAt(ts=TS)}), "dense", True),
    "dense": (SaveAt(dense=True), "t1", True),
    "Driver": (Driver(TS, TS), "kind", "previous"),
    "even": (Driver(values=TS, t0=0.0, dt=1.0), "dt", 2.0),
    "Doses": (Doses(TS, 1.0, into=condition), "lag", TS),
    "infusions": (Doses(TS, 1.0, into=condition, rate=2.0, order=[2, 1, 0]), "rate", None),
    "Resets": (Resets(TS), "order", np.arange(3, dtype=np.int32)),
    "Event": (Event(condition, direction=1, record=3), "terminal", False),
    "steady_state": (steady(), "rtol", 1e-3),
    "ButcherTableau": (EXPLICIT["tsit5"], "source", "elsewhere"),
    "ImplicitTableau": (DIRK["kvaerno3"], "source", "elsewhere"),
    "RosenbrockTableau": (ROSENBROCK["rodas5p"], "source", "elsewhere"),
    **{type(one).__name__: (one, None, None) for method in ("kvaerno3", "rk4") for one in Solver(method).components},
    "Predictive": (Solver(controller="gustafsson").control, "safety", 0.8),
}  # fmt: skip


@pytest.mark.parametrize("name", REPLACED)
def test_replace(name):
    """dataclasses.replace takes the fields as they are kept, and leaves what is not changed."""
    value, field, other = REPLACED[name]

    def same(one, two):
        flat = jax.tree.flatten(one), jax.tree.flatten(two)
        return flat[0][1] == flat[1][1] and all(np.array_equal(*leaves) for leaves in zip(flat[0][0], flat[1][0], strict=True))

    assert same(dataclasses.replace(value), value)
    if field is not None:
        changed = dataclasses.replace(value, **{field: other})
        assert np.array_equal(getattr(changed, field), other) and (field == "source" or not same(changed, value))
        assert same(dataclasses.replace(changed, **{field: getattr(value, field)}), value)


@pytest.mark.parametrize(
    ("value", "words"),
    [(Solver(), r"use solver.update\(...\) in place of"), (Summary.max(), "made anew, by its constructor, as Summary.max")],
)
def test_replace_is_refused(value, words):
    """By what has another way to be made."""
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(value)


# What takes static numbers, made of integers by i and of booleans by b.
STATIC = {
    "Event": lambda i, b: (Event(condition, direction=i(1), record=i(3)), Event(condition, terminal=b(True))),
    "occurrence": lambda i, b: Event(condition, terminal=i(2)),
    "SaveAt": lambda i, b: (SaveAt(t1=b(True), steps=i(2), dense=b(True)), SubSaveAt(t0=b(True)), SaveAt(steps=b(True))),
    "Summary": lambda i, b: (Summary.peaks(i(3), derivative=i(1)), Summary.crossings(direction=i(-1))),
    "Doses": lambda i, b: Doses(TS, 1.0, into=condition).repeat(24.0, i(2)),
    "steps": lambda i, b: Solver("kvaerno3", jacobian_reuse=b(True), force_dtmin=b(False)),
    "predictive": lambda i, b: Solver("kvaerno3", controller="gustafsson", force_dtmin=b(False)),
    "Krylov": lambda i, b: Solver("kvaerno3", linear_solver="gmres", krylov_dimension=i(3)),
    "Neumann": lambda i, b: Solver("ros3p", linear_solver="gmres", preconditioner="neumann", neumann_degree=i(3)),
    "code": lambda i, b: Solver(fastmath=b(True), unroll=i(4), inline_f=b(True), block=i(64)),
    "derivatives": lambda i, b: Solver(checkpoints=i(4), directions=i(2)),
    "choice": lambda i, b: (check_choice("throw", b(True), (True, False)), check_choice("derivative", i(1), (0, 1))),
    "tableau": lambda i, b: ButcherTableau(name="midpoint", order=i(2), a=[["1/2"]], b=[0, 1]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", STATIC)
def test_static_numbers_of_numpy(name):
    """They are Python's, be they NumPy's or JAX's."""
    kinds = ((int, bool), (np.int64, np.bool_), (np.asarray, np.asarray), (jnp.asarray, jnp.asarray))
    plain, *others = (STATIC[name](*one) for one in kinds)
    leaves, structure = jax.tree.flatten(plain)
    for other in others:
        assert jax.tree.structure(other) == structure and repr(other) == repr(plain)
        assert all(map(np.array_equal, leaves, jax.tree.leaves(other)))


def test_numbers_that_are_no_booleans():
    for refused in (lambda one: Event(condition, record=one), lambda one: Solver(directions=one), Summary.peaks):
        with pytest.raises(ValueError, match="expected"):
            refused(np.bool_(True))
    with pytest.raises(ValueError, match="expected one of True, False"):
        SaveAt(t1=np.int64(1))


def test_solver_in_a_users_module(platform):
    class Model(eqx.Module):
        rate: jax.Array
        solver: Solver
        network: eqx.nn.MLP

        def __call__(self, y0, t1):
            def field(t, y, args):
                return -self.rate * y + 0.1 * self.network(y)

            return self.solver.solve(field, 0.0, t1, y0, saveat=SaveAt(t1=True)).ys[0]

    network = eqx.nn.MLP(3, 3, 8, 1, activation=jnp.tanh, key=jax.random.key(0))
    model = Model(jnp.array(0.5), Solver("bosh3", rtol=1e-4), network)
    ends = jnp.array([0.1, 0.5, 1.0])
    batch = eqx.filter_jit(eqx.filter_vmap(model, in_axes=(None, 0)))(Y0, ends)
    for lane in range(3):
        np.testing.assert_allclose(batch[lane], model(Y0, ends[lane]), rtol=1e-5)
    other = eqx.tree_at(lambda m: m.solver, model, model.solver.update(state_location="shared"))
    assert_same_bits(other(Y0, ends[2]), model(Y0, ends[2]))
    models = eqx.filter_vmap(lambda rate: eqx.tree_at(lambda m: m.rate, model, rate))(ends)
    many = eqx.filter_vmap(lambda m: m(Y0, 0.5), in_axes=(eqx.if_array(0),))(models)
    assert many.shape == (3, 3) and len({row.tobytes() for row in np.asarray(many)}) == 3
