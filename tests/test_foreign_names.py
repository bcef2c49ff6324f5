"""Names of other libraries: each is either ours, too, or an error that says what to write instead."""

import copy
import inspect
import re

import diffrax
import jax.experimental.ode
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from jax_cubie import RESULTS, SaveAt, Solver, SubSaveAt, methods, solve, solve_ivp
from jax_cubie.foreign_names import METHODS, NAMES
from jax_cubie.methods import DIRK, EXPLICIT, FIRK, ROSENBROCK

EVERY = {**EXPLICIT, **ROSENBROCK, **DIRK, **FIRK}

Y0 = np.array([1.0, 0.5], np.float32)


def decay(t, y, args):
    return -y


DOORS = {
    "solve": lambda **k: solve(decay, 0.0, 1.0, Y0, **k),
    "Solver": Solver,
    "Solver.update": lambda **k: Solver().update(**k),
    "Solver.solve": lambda **k: Solver().solve(decay, 0.0, 1.0, Y0, **k),
    "Solver.inspect": lambda **k: Solver().inspect(decay, 0.0, 1.0, Y0, **k),
    "solve_ivp": lambda **k: solve_ivp(lambda t, y: -y, (0.0, 1.0), Y0, **k),
}
FUNCTIONS = {
    "solve": solve, "Solver": Solver.__init__, "Solver.update": Solver.update, "Solver.solve": Solver.solve,
    "Solver.inspect": Solver.inspect, "solve_ivp": solve_ivp,
}  # fmt: skip
_INTEGRATORS = [scipy.integrate._ode.find_integrator(name).__init__ for name in ("vode", "lsoda", "dopri5", "dop853")]
SIGNATURES = [
    diffrax.diffeqsolve, diffrax.PIDController, diffrax.ClipStepSizeController, scipy.integrate.solve_ivp,
    scipy.integrate.odeint, scipy.integrate.RK45, scipy.integrate.BDF, scipy.integrate.Radau, scipy.integrate.LSODA,
    jax.experimental.ode.odeint, *_INTEGRATORS,
]  # fmt: skip
# What is no argument of a solve: SciPy's solvers are objects, with a bound in place of an end.
_NOT_OF_A_SOLVE = {"self", "args", "kwargs", "extraneous", "options", "t_bound", "controller"}


def theirs():
    names = {name for function in SIGNATURES for name in inspect.signature(function).parameters}
    return sorted(name for name in names - _NOT_OF_A_SOLVE if not name.startswith("_"))


@pytest.mark.parametrize("door", DOORS)
def test_every_name_of_theirs(door):
    """It is an argument here, a setting, or refused with what to write; and never reaches the list of all settings."""
    ours = {*inspect.signature(FUNCTIONS[door]).parameters, *Solver().settings()}
    tried = [name for name in theirs() if name not in ours]
    assert len(tried) > 40
    for name in tried:
        with pytest.raises(ValueError, match=rf"^{door} has no {name}: \w+") as caught:
            DOORS[door](**{name: None})
        assert "SaveAt" not in str(caught.value) or door != "solve_ivp" or "jax_cubie.solve" in str(caught.value), name


def test_names_of_theirs_are_none_of_ours():
    """The table is asked first, so it must not have a setting of ours."""
    every = {name for method in methods() for name in Solver(method["name"]).settings()} | set(Solver("rk4").settings())
    assert not every & NAMES.keys()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"event": None}, r"use events= in solve, which takes jax_cubie.Event\(cond, ...\) and jax_cubie.steady_state\(\)"),
        ({"tstops": Y0}, "use step_ts= in solve"),
        ({"adjoint": diffrax.RecursiveCheckpointAdjoint()}, "jax.grad, jax.jvp and what is made of them"),
        ({"stepsize_controller": diffrax.PIDController(rtol=1e-3, atol=1e-6)}, "use controller='pid' with rtol="),
        ({"terms": diffrax.ODETerm(decay)}, "give the vector field"),
        ({"max_step": 0.1}, "use dtmax="),
        ({"root_finder": None}, "use newton_rtol=, newton_atol= and newton_max_steps="),
        ({"root_find_max_steps": 5}, "use newton_max_steps="),
        ({"lband": 1}, "use jac_sparsity="),
        ({"linsolve": None}, "use linear_solver="),
        ({"first_step": 0.1}, "use dt0="),
        ({"t_eval": Y0}, r"use saveat=SaveAt\(ts=...\)"),
        ({"abstol": 1e-3}, "use atol="),
        ({"maxiters": 10}, "use max_steps="),
        ({"ts": Y0}, r"use saveat=SaveAt\(ts=...\)"),
    ],
)
def test_what_is_said(given, words):
    with pytest.raises(ValueError, match=rf"^solve has no {next(iter(given))}: .*{words}"):
        DOORS["solve"](**given)


def test_arguments_of_solve_are_no_settings_of_a_solver():
    for name in ("dt0", "saveat", "throw", "y0", "args", "jump_ts", "step_ts"):
        with pytest.raises(ValueError, match=f"Solver has no {name}: it is no setting of a Solver, but an argument of solve"):
            Solver(**{name: None})


def test_save_at():
    theirs = set(inspect.signature(diffrax.SaveAt).parameters) - set(inspect.signature(SaveAt).parameters)
    assert theirs == {"solver_state", "controller_state", "made_jump"}
    for name in sorted(theirs):
        with pytest.raises(ValueError, match=f"^SaveAt has no {name}: "):
            SaveAt(t1=True, **{name: True})
    with pytest.raises(ValueError, match="SubSaveAt has no dense: it is SaveAt that has subs= and dense="):
        SubSaveAt(t1=True, dense=True)
    with pytest.raises(ValueError, match="SubSaveAt has no t_eval: use ts="):
        SubSaveAt(t_eval=[0.5])
    with pytest.raises(TypeError, match="that is diffrax's SaveAt: jax_cubie has a SaveAt of its own"):
        solve(decay, 0.0, 1.0, Y0, saveat=diffrax.SaveAt(t1=True))


def test_attributes_of_their_solutions():
    """Each attribute of diffrax's and SciPy's solutions is one of ours, or says what to use; other names just are not there."""
    found = solve(decay, 0.0, 1.0, Y0)
    theirs = {*inspect.signature(diffrax.Solution).parameters, "evaluate", "derivative"}
    theirs |= set(scipy.integrate.solve_ivp(lambda t, y: -y, (0.0, 1.0), Y0))
    ours = {"t0", "t1", "ts", "ys", "stats", "result", "interpolation", "evaluate", "derivative"}
    for name in ("t_events", "event_mask"):
        with pytest.raises(AttributeError, match="use solution.events, whose records have"):
            getattr(found, name)
    assert ours < theirs and len(theirs - ours) > 12
    for name in sorted(theirs - ours):
        with pytest.raises(AttributeError, match=f"a Solution has no '{name}': \\w+"):
            getattr(found, name)
    assert not hasattr(found, "colour") and not hasattr(found, "__array__")
    with pytest.raises(AttributeError, match="^a Solution has no 'colour'$"):
        _ = found.colour
    with pytest.raises(AttributeError, match="RESULTS has no 'dt_max_reached'; it has successful, max_steps_reached"):
        _ = RESULTS.dt_max_reached
    assert copy.deepcopy(found).ts == found.ts


def _their_solvers():
    kinds = [kind for kind in vars(diffrax).values() if isinstance(kind, type) and issubclass(kind, diffrax.AbstractSolver)]
    return [kind for kind in kinds if not kind.__name__.startswith("Abstract")]


@pytest.mark.parametrize("kind", _their_solvers(), ids=lambda kind: kind.__name__)
def test_solvers_of_diffrax(kind):
    """Those with a counterpart name it, whose tableau it is; the others say why there is none."""
    for call in (lambda: Solver(kind), lambda: solve(decay, 0.0, 1.0, Y0, solver=kind)):
        with pytest.raises((ValueError, TypeError), match=f"diffrax's {kind.__name__}") as caught:
            call()
        said = str(caught.value)
        if "write method=" not in said:
            imex = issubclass(kind, (diffrax.AbstractImplicitSolver, diffrax.Sil3))
            assert ("write one f, and method='esdirk54'" if imex else "has no counterpart here") in said
            continue
        own = EVERY[said.partition("write method='")[2].rstrip("'")]
        plain = {diffrax.Euler: [1.0], diffrax.ImplicitEuler: [0.0, 1.0]}  # they have no tableau
        weights = plain[kind] if kind in plain else kind.tableau.b_sol
        np.testing.assert_allclose([float(b) for b in own.b], weights, atol=1e-14)


def test_objects_of_others():
    with pytest.raises(ValueError, match=r"diffrax's PIDController: write rtol=0.001, atol=1e-06, pcoeff=0.3, dtmax=\.\.\.$"):
        Solver(controller=diffrax.PIDController(rtol=1e-3, atol=1e-6, pcoeff=0.3, dtmax=jnp.float32(1)))
    with pytest.raises(ValueError, match="ConstantStepSize: write controller='fixed' and dt0="):
        Solver(controller=diffrax.ConstantStepSize())
    with pytest.raises(ValueError, match="StepTo: write controller='given' and step_ends="):
        Solver(controller=diffrax.StepTo(ts=jnp.array([0.0, 1.0])))
    clipped = diffrax.PIDController(rtol=1e-3, atol=1e-6, step_ts=[0.5], jump_ts=[0.7])
    with pytest.raises(ValueError, match="ClipStepSizeController: give solve jump_ts=... and step_ts=...; .*: write rtol="):
        Solver(controller=clipped)
    with pytest.raises(TypeError, match=r"expected a jax_cubie.Solver; .*PIDController: write rtol=0.1, atol=0.2"):
        solve(decay, 0.0, 1.0, Y0, solver=diffrax.PIDController(rtol=0.1, atol=0.2))
    with pytest.raises(ValueError, match="the method is SciPy's RK45: give its name, method='rk45'"):
        solve_ivp(lambda t, y: -y, (0.0, 1.0), Y0, scipy.integrate.RK45)
    with pytest.raises(ValueError, match="the method is SciPy's Radau: give its name, method='radau'"):
        Solver(scipy.integrate.Radau)
    with pytest.raises(ValueError, match="SciPy's BDF is of several steps, .* write method='rodas5p' or 'kvaerno5'"):
        Solver(scipy.integrate.BDF)
    for call in (
        lambda: solve(diffrax.ODETerm(decay), diffrax.Tsit5(), 0.0, 1.0, 0.1, Y0),  # as diffeqsolve is called
        lambda: solve(f=diffrax.ODETerm(decay), t0=0.0, t1=1.0, y0=Y0),
    ):
        with pytest.raises(TypeError, match="solve is given diffrax's ODETerm: give the vector field"):
            call()


def refusals(name):
    """What is said of a method's name at each place that takes one."""
    calls = (lambda: Solver(name), lambda: Solver().update(method=name), lambda: solve(decay, 0.0, 1.0, Y0, method=name))
    for call in (*calls, lambda: solve_ivp(lambda t, y: -y, (0.0, 1.0), Y0, name)):
        with pytest.raises(ValueError, match=f"^method '{re.escape(name)}' ") as caught:
            call()
        yield str(caught.value)


@pytest.mark.parametrize(
    ("words", "names"),
    {
        "is of several steps, and methods here are of one: for a stiff system write method='rodas5p' or 'kvaerno5'": "BDF vode "
        "zvode FBDF QNDF() CVODE_BDF ode15s ode15i IDA gear",
        "is of several steps, and methods here are of one: write method='vern7'": "adams implicit_adams VCABM ode113",
        "changes between methods": "LSODA lsodar AutoTsit5(Rosenbrock23())",
        "treats a part of f as stiff": "KenCarp4() kencarp3 Sil3 imex_euler ARK324",
        "is not here: for a stiff system write": "Cash4-SDIRK seulex RosShamp4 gauss_legendre radau7 stiff",
    }.items(),
    ids=lambda value: value.split()[0],
)
def test_kinds_of_methods_that_are_not_here(words, names):
    for name in names.split():
        assert all(words in said for said in refusals(name)), name
        with pytest.raises(TypeError, match=f"solver is '{re.escape(name)}' .*expected a jax_cubie.Solver; method '"):
            solve(decay, 0.0, 1.0, Y0, solver=name)


def test_other_names_of_methods():
    """Those of the table, and our own in another spelling."""
    found = {"ode23tb": "trbdf2", "Rodas5P()": "rodas5p", "ImplicitEuler": "implicit_euler", "RADAU": "radau_iia_5"}
    for name, ours in (found | {name.upper(): ours for name, ours in METHODS.items()}).items():
        assert ours in EVERY
        with pytest.raises(ValueError, match=f"^method '{re.escape(name)}' is called '{ours}' here: write method='{ours}'"):
            Solver(name)


def test_our_own_names_are_not_taken_for_implicit_ones():
    for method in methods():
        for name in (method["name"], *method["aliases"]):
            assert Solver(name).method == method["name"]
    for name in ("tsit6", "rk46", "vern", "heuns", "euler2", "bosh"):
        with pytest.raises(ValueError, match=f"unknown method '{name}'.*Did you mean"):
            Solver(name)
