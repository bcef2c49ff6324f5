"""Bad calls: the text says what was given, what is expected, and what to do."""

import math
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numba
import numpy as np
import pytest
import scipy.interpolate
import scipy.special
from jax.dtypes import float0
from solve_helpers import lorenz

from jax_cubie import BuildError, Doses, Driver, Event, SaveAt, Solver, check_successful, solve, solve_ivp
from jax_cubie.translate import UnsupportedPrimitiveError

Y0 = np.array([1.0, 0.0, 0.0], np.float32)
NAN, INF = float("nan"), float("inf")


def run(f=lorenz, t0=0.0, t1=1.0, y0=Y0, args=28.0, ts=None, **settings):
    saveat = SaveAt(t1=True) if ts is None else SaveAt(ts=ts)
    return solve(f, t0, t1, y0, args, saveat=settings.pop("saveat", saveat), **settings)


def ivp(**changes):
    given = {"fun": lambda t, y: -y, "t_span": (0.0, 1.0), "y0": Y0, **changes}
    return solve_ivp(given.pop("fun"), given.pop("t_span"), given.pop("y0"), **given)


def traced(**settings):
    """The same with every setting traced."""
    return jax.jit(lambda values: run(**values).ys)(settings)


def unsupported(t, y, args):
    return jnp.linalg.eigh(jnp.outer(y, y))[0]  # the line that is named


def annotated(t: float, y: "jax.Array", rate: float = 1.0, *, key: int) -> "jax.Array":
    return -rate * y


VALUE = [
    # f
    ("three", lambda: run(f=lambda t, y, a: y[:2]), r"what f returns has a leaf of shape \(2,\) where y0 has \(3,\)"),
    ("tuple", lambda: run(f=lambda t, y, a: (y,)), "what f returns is a tuple of 1, but y0 is one array: give what is in it"),
    ("list", lambda: run(f=lambda t, y, a: [y[1], y[0], t]), r"what f returns is a list of 3, .* one array of it, jnp.stack\("),
    ("list y0", lambda: run(f=lambda t, y, a: jnp.ones(3), y0=[1.0, 2.0]), r"one array, but y0 is a list of 2.*jnp.array\("),
    ("none", lambda: run(f=lambda t, y, a: None), "what f returns has the structure None, but y0 has .*is a return missing"),
    ("dict", lambda: run(f=lambda t, y, a: {"b": y["a"]}, y0={"a": Y0}), r"structure {'b': \*}, but y0 has {'a': \*}, where"),
    ("complex", lambda: run(f=lambda t, y, a: y * 1j), r"what f returns has a leaf of dtype complex64; expected real numbers"),
    ("float0", lambda: run(f=lambda t, y, a: np.zeros(3, float0)), "what f returns has a leaf of dtype float0 .the derivative"),
    ("bool", lambda: run(f=lambda t, y, a: y > 0), r"what f returns has a leaf of dtype bool; expected real numbers"),
    # y0
    ("no components", lambda: run(y0=jnp.zeros(0)), "y0 has no components .*nothing to integrate"),
    ("no leaves", lambda: run(y0={}), "y0 has no components"),
    ("None", lambda: run(y0=None), "y0 has no components"),
    ("complex y0", lambda: run(y0=Y0 * 1j), "y0 has dtype complex64: expected float32 or float64 .*real and imaginary parts"),
    ("bool y0", lambda: run(y0=jnp.array([True])), "y0 has dtype bool: expected float32 or float64"),
    ("float0 y0", lambda: run(y0={"a": Y0, "b": np.zeros(3, float0)}), "y0 has a leaf of dtype float0 .the derivative by an"),
    ("half y0", lambda: run(y0=Y0.astype(np.float16)), "y0 has dtype float16: expected float32 or float64"),
    ("bfloat16 y0", lambda: run(y0=jnp.asarray(Y0, "bfloat16")), "y0 has dtype bfloat16"),
    ("records", lambda: run(y0=np.zeros(1, [("a", float)])), r"y0 has a leaf of dtype \[.*\]: expected real numbers"),
    ("big endian", lambda: run(y0=np.ones(3, ">f8")), r"dtype >f8, its bytes in the other order: give y0.astype\('float64'\)"),
    # times
    ("t1 is many", lambda: run(t1=np.ones(3)), r"t1 has shape \(3,\): expected a scalar.*jax.vmap of it takes many"),
    ("t0 nan", lambda: run(t0=NAN), "t0=nan: expected a finite number"),
    ("t1 inf", lambda: run(t1=INF), "t1=inf: expected a finite number"),
    ("dt0 backwards", lambda: run(dt0=-0.5), "dt0=-0.5: expected a step from t0=0.0 towards t1=1.0, so of the sign of t1 - t0"),
    ("dt0 forwards", lambda: run(t1=-1.0, dt0=0.5), "dt0=0.5: expected a step from t0=0.0 towards t1=-1.0"),
    ("dt0 zero", lambda: run(dt0=0.0), "dt0=0.0: expected a step"),
    ("dt0 nan", lambda: run(dt0=NAN), "dt0=nan: expected a finite number"),
    ("no dt0", lambda: run(method="rk4"), "dt0 is None, but the controller is 'fixed' .*'rk4'.*give dt0"),
    ("no dt0, fixed", lambda: run(controller="fixed"), "dt0 is None, but the controller is 'fixed' .*give dt0"),
    ("dt0 is many", lambda: run(dt0=np.ones(2)), r"dt0 has shape \(2,\): expected a scalar"),
    ("t1 too large", lambda: run(t1=1e300), "t1=1e\\+300: expected a finite number of float32"),
    ("one time", lambda: run(t0=0.0, t1=1e-60), "t0=0.0 and t1=1e-60 are 0 apart in float32, y0's dtype"),
    # saved times
    ("nothing", lambda: SaveAt(), r"saves nothing: give t0=True, t1=True, steps=True or ts=\[...\] with one time"),
    ("steps < 0", lambda: SaveAt(steps=-1), r"SaveAt\(steps=-1\): expected True, False, or n > 0 for every n-th step"),
    ("steps float", lambda: SaveAt(steps=2.0), r"SaveAt\(steps=2.0\): expected True, False, or n > 0"),
    ("steps array", lambda: SaveAt(steps=np.array([1, 2])), r"SaveAt\(steps=array\(\[1, 2\]\)\): expected True, False"),
    ("t1 beyond floats", lambda: run(t1=10**400), r"t1=10{400}"),
    ("dt0 is 0 in float32", lambda: run(dt0=1e-60), "dt0=1e-60 is 0 in float32, y0's dtype"),
    ("tolerances are 0 in float32", lambda: run(rtol=1e-60, atol=1e-60), "rtol and atol are both 0 .in float32"),
    ("list for an array", lambda: run(atol=[1e-3, 1e-3]), r"atol is a list of 2, .* make one array of it, jnp.stack\("),
    ("f gives text", lambda: solve(lambda t, y, a: "abc", 0.0, 1.0, np.ones(2)), "what f returns has a leaf 'abc'; expected"),
    ("longdouble", lambda: run(y0=np.ones(3, np.longdouble)), "y0 has a leaf of dtype float128"),
    ("fixed has no rtol", lambda: Solver("rk4", rtol=1e-3), "rtol is a setting of controller 'pid'.*leave it out, or take"),
    ("batched", lambda: Solver().inspect(lorenz, 0.0, 1.0, Y0, 28.0, batched=("y",)), "batched names 'y'; .*Did you mean 'y0'"),
    ("steps alone", lambda: run(saveat=SaveAt(steps=True)), r"SaveAt\(steps=...\) keeps room .* left at 100,000: give max_"),
    ("no row", lambda: run(saveat=SaveAt(steps=9), max_steps=8), r"SaveAt\(steps=9\) has no row with max_steps=8"),
    ("fn saves nothing", lambda: run(saveat=SaveAt(t1=True, fn=lambda t, y, a: None)), "fn=.* returns no arrays.*nothing to"),
    ("fn float0", lambda: run(saveat=SaveAt(t1=True, fn=lambda t, y, a: np.zeros(3, float0))), "fn=.*float0.*leave it out"),
    ("no times", lambda: SaveAt(ts=[]), r"SaveAt\(ts=\[\]\) saves nothing"),
    ("beyond", lambda: run(ts=[0.5, 2.0]), "runs from 0.5 to 2.0: expected times between t0=0.0 and t1=1.0"),
    ("before", lambda: run(ts=[-0.5, 0.5]), "runs from -0.5 to 0.5: expected times between t0=0.0 and t1=1.0"),
    ("disorder", lambda: run(ts=[0.5, 0.25]), "not in order: expected it non-decreasing"),
    ("disorder back", lambda: run(t1=-1.0, ts=[-0.5, -0.25]), "not in order: expected it non-increasing, since t1 < t0"),
    ("two axes", lambda: run(ts=np.ones((2, 3))), r"one-dimensional array of times, got shape \(2, 3\).*vmap a function"),
    ("a number", lambda: run(ts=0.5), r"one-dimensional array of times, got shape \(\)"),
    ("ts nan", lambda: run(ts=[0.5, NAN]), "times that are not finite"),
    ("ts text", lambda: run(ts=["a"]), "takes real times, got dtype"),
    ("ts complex", lambda: run(ts=[1j]), "takes real times, got dtype complex128"),
    ("ts spans", lambda: run(ts=np.ones(1, "m8[s]")), "takes real times, got dtype timedelta64"),
    ("ts ragged", lambda: run(ts=[[1.0], [2.0, 3.0]]), "takes an array of times"),
    ("t1 is a time", lambda: SaveAt(t1=1.0), r"SaveAt\(t1=...\)=1.0: expected one of True, False"),
    # tolerances
    ("rtol < 0", lambda: run(rtol=-1e-3), "rtol=-0.001: expected a number at least 0"),
    ("atol nan", lambda: run(atol=NAN), "atol=nan: expected a number at least 0"),
    ("one < 0", lambda: run(atol=np.array([1.0, -1.0, 1.0])), r"atol=\[ 1. -1.  1.\]: expected a number at least 0"),
    ("both 0", lambda: run(rtol=0, atol=0), "rtol and atol are both 0 .*, which no step can meet: give at least one"),
    ("one both 0", lambda: run(rtol=0, atol=np.array([1.0, 0.0, 1.0])), "rtol and atol are both 0"),
    ("rtol of two", lambda: run(rtol=np.ones(2)), r"rtol has a leaf of shape \(2,\) where y0 has \(3,\)"),
    ("atol dict", lambda: run(atol={"a": 1.0}), r"atol has the structure .*'a'.*y0 has"),
    # the controller's numbers
    ("safety < 0", lambda: run(safety=-1), "safety=-1: expected a number above 0 and at most 1"),
    ("safety > 1", lambda: run(safety=1.5), "safety=1.5: expected a number above 0 and at most 1"),
    ("factormin 0", lambda: run(factormin=0.0), "factormin=0.0: expected a number above 0 and at most 1"),
    ("of a solver", lambda: Solver(dtmax=-1.0), "dtmax=-1.0: expected a number above 0"),
    ("of an update", lambda: Solver().update(rtol=NAN), "rtol=nan: expected a number at least 0"),
    ("infinite", lambda: run(pcoeff=INF), "pcoeff=inf: expected a finite number"),
    ("factormax", lambda: run(factormax=0.5), "factormax=0.5: expected a number at least 1"),
    ("dtmin < 0", lambda: run(dtmin=-1.0), "dtmin=-1.0: expected a finite number at least 0"),
    ("dtmin > dtmax", lambda: run(dtmin=1.0, dtmax=0.1), "dtmin=1.0 and dtmax=0.1 leave no step size: .*dtmin <= dtmax"),
    ("dtmax 0", lambda: run(dtmax=0.0), "dtmax=0.0: expected a number above 0"),
    ("nan", lambda: run(icoeff=NAN), "icoeff=nan: expected a finite number"),
    ("many", lambda: run(pcoeff=np.ones(2)), r"pcoeff has shape \(2,\): expected a scalar.*jax.vmap"),
    ("max_steps 0", lambda: run(max_steps=0), "max_steps=0: expected an integer of at least 1"),
    ("max_steps float", lambda: run(max_steps=1e3), "max_steps=1000.0: expected an integer"),
    ("max_steps huge", lambda: run(max_steps=2**40), "max_steps=1099511627776: expected an integer .*at most 2147483647"),
    ("max_steps many", lambda: run(max_steps=np.array([3, 4])), r"max_steps has shape \(2,\): expected a scalar"),
    ("max_steps None", lambda: run(max_steps=None), "max_steps=None: expected an integer"),
    # choices
    ("method", lambda: run(method="tsit6"), r"unknown method 'tsit6'. Did you mean 'tsit5'\?"),
    ("method None", lambda: run(method=None), r"unknown method None\. Expected .*:\n  explicit Runge-Kutta: euler, heun"),
    ("setting", lambda: run(rtoll=1), "unknown setting 'rtoll'. Did you mean 'rtol'.* The settings here are: .*atol"),
    ("linear", lambda: run(linear_solver="dense"), "linear_solver is a setting of methods like 'rodas5p', .*'tsit5'"),
    ("newton", lambda: run(method="rodas5p", newton_rtol=1), "newton_rtol is a setting of methods like 'kvaerno5', "),
    ("location", lambda: run(state_location="sharde"), "state_location='sharde': expected 'local' or .*Did you mean 'shared'"),
    ("method alias", lambda: run(method="rk46"), "unknown method 'rk46'. Did you mean .*'rk45'.*jax_cubie.ButcherTableau, "),
    ("controller", lambda: run(controller="pdi"), "controller='pdi': expected one of 'fixed', 'pid', .*Did you mean .*'pid'"),
    ("controller None", lambda: run(controller=None), "controller=None: expected one of"),
    ("controllers", lambda: run(controller="h211b"), "controller='h211b': expected one of .*Did you mean 'h211pi'"),
    ("pi42 on rk4", lambda: run(method="rk4", controller="pi42"), "controller='pi42' needs an error estimate.*'rk4' has none"),
    ("pid on euler", lambda: run(method="euler", controller="pid"), "needs an error estimate.*'euler' has none: use .*'tsit5'"),
    ("of another", lambda: run(method="rk4", dtmax=0.1), "dtmax is a setting of controller 'pid'.*this solver's is 'fixed'"),
    ("fastmath", lambda: run(fastmath=1), "fastmath=1: expected one of True, False"),
    ("unroll", lambda: run(unroll=0), "unroll=0: expected an integer of at least 1"),
    ("unroll text", lambda: run(unroll="all"), "unroll='all': expected an integer of at least 1, or 'auto'"),
    ("unroll float", lambda: run(unroll=8.0), "unroll=8.0: expected an integer"),
    ("block 0", lambda: run(block=0), "block=0: expected an integer of at least 1"),
    ("block", lambda: run(block=2048), "block=2048: expected at most 1024, the most threads of a CUDA block"),
    ("block text", lambda: run(block="big"), "block='big': expected an integer of at least 1, or 'auto'"),
    ("schedule", lambda: run(schedule="dynamic"), "schedule='dynamic': expected one of 'auto', 'static', 'queue'"),
    ("inline_f", lambda: run(inline_f="yes"), "inline_f='yes': expected one of True, False, 'auto'"),
    ("throw", lambda: run(throw="yes"), "throw='yes': expected one of True, False"),
    ("target", lambda: Solver().inspect(lorenz, 0.0, 1.0, Y0, 28.0, target="cuda:33"), "unknown target 'cuda:33': expected"),
    ("derivative", lambda: Solver().inspect(lorenz, 0.0, 1.0, Y0, 28.0, derivative="grad"),
     "derivative='grad': expected one of None, 'jvp', 'vjp'"),
    ("args int", lambda: run(args=2**80), f"args has the integer {2**80}, which int32 does not hold: use a float"),
    ("batched text", lambda: Solver().inspect(lorenz, 0.0, 1.0, Y0, 28.0, batched="y"), "batched names 'y'.*expected some of"),
    ("batched", lambda: Solver().inspect(lorenz, 0.0, 1.0, Y0, 28.0, batched=("y",)), "batched names 'y'.*expected some of"),
    # solve_ivp
    ("first_step", lambda: ivp(first_step=-0.1), "first_step=-0.1: expected a finite number above 0"),
    ("max_step", lambda: ivp(max_step=0.0), "max_step=0.0: expected a number above 0"),
    ("max_step, fixed", lambda: ivp(method="RK4", max_step=1.0), "max_step is set, but 'RK4' takes fixed steps.*leave max_st"),
    ("max_step twice", lambda: ivp(max_step=1.0, dtmax=1.0), "max_step and dtmax are two names of one setting"),
    ("dt0", lambda: ivp(dt0=0.1), "solve_ivp has no dt0: use first_step="),
    ("saveat", lambda: ivp(saveat=SaveAt(t1=True)), "solve_ivp has no saveat: use t_eval=, or jax_cubie.solve"),
    ("fun of one", lambda: ivp(fun=lambda t, y: y[:1]), r"what fun returns has shape \(1,\) where y0 has \(3,\)"),
    ("event", lambda: ivp(event=lambda t, y: y[0]), r"solve_ivp has no event: use events=, a function event\(t, y, \*args\)"),
    ("jump_ts", lambda: ivp(jump_ts=[0.5]), "solve_ivp has no jump_ts: call jax_cubie.solve, which has jump_ts="),
    ("dense_output", lambda: ivp(dense_output=1), "dense_output=1: expected one of True, False"),
    ("dense", lambda: ivp(dense=True), r"solve_ivp has no dense: use dense_output=True, for result.sol\(t\)"),
    ("vectorized", lambda: ivp(vectorized=True), "solve_ivp has no vectorized: leave it out: .* use jax.vmap"),
    ("t_span", lambda: ivp(t_span=1.0), r"t_span is 1.0: expected a pair \(t0, t1\)"),
    ("t_span of three", lambda: ivp(t_span=(0, 1, 2)), r"t_span is \(0, 1, 2\): expected a pair"),
    ("y0 matrix", lambda: ivp(y0=np.ones((2, 2))), r"y0 has shape \(2, 2\): solve_ivp takes a one-dimensional state; solve"),
    ("y0 number", lambda: ivp(y0=1.0), r"y0 has shape \(\): solve_ivp takes a one-dimensional state"),
    ("fun number", lambda: ivp(fun=lambda t, y: 1.0), r"what fun returns has shape \(\)"),
    ("t_eval", lambda: ivp(t_eval=[2.0]), "t_eval runs from 2.0 to 2.0: expected times between t0=0.0 and t1=1.0"),
    ("t_eval none", lambda: ivp(t_eval=[], dense_output=True), "t_eval has no times: give one at least, or None for both ends"),
    ("t_eval shape", lambda: ivp(t_eval=0.5), "t_eval takes a one-dimensional array of times"),
    ("method of SciPy", lambda: ivp(method="LSODA"), "method 'LSODA' changes between methods"),
]  # fmt: skip
TYPE = [
    ("f", lambda: run(f=3), r"f is 3 of type int: expected a function f\(t, y, args\)"),
    ("a class", lambda: run(f=type("Field", (), {})), r"Field\(\) is called as f\(.*; it is a class: give an object of it"),
    ("names alone", lambda: run(f=lambda *, t, y, args: y), r"<lambda>\(\*, t, y, args\) is called as f"),
    ("annotated", lambda: run(f=annotated), r"annotated\(t, y, rate=1\.0, \*, key\) is called as f"),
    ("f of two", lambda: run(f=lambda t, y: y), r"<lambda>\(t, y\) is called as f\(t, y, args\): it has to take 3 arguments$"),
    ("f of four", lambda: run(f=lambda t, y, a, b: y), r"called as f\(t, y, args\): .*3 arguments, several parameters in args"),
    ("fn of one", lambda: run(saveat=SaveAt(t1=True, fn=lambda y: y)), r"<lambda>\(y\) is called as fn\(t, y, args\)"),
    ("fun of two", lambda: ivp(args=(1, 2)), r"<lambda>\(t, y\) is called as fun\(t, y, \*args\): it has to take 4 arguments"),
    ("no fun", lambda: ivp(fun=3), r"fun is 3 of type int: expected a function fun\(t, y, \*args\)"),
    ("too few", lambda: solve(lorenz, 0.0, Y0), r"solve: missing a required argument: 'y0'. Expected solve\(f, t0, t1, y0"),
    ("too many", lambda: SaveAt(True), r"SaveAt: too many positional arguments. Expected SaveAt\(\*, t0=False, t1=False"),
    ("y0 text", lambda: run(y0="a"), "y0 has a leaf of type str: expected arrays and numbers"),
    ("y0 bool", lambda: run(y0=True), "y0 has a leaf of type bool: expected arrays and numbers"),
    ("y0 function", lambda: run(y0={"a": Y0, "b": max}), "y0 has a leaf of type builtin_function_or_method"),
    ("t1 None", lambda: run(t1=None), "t1 is None of type NoneType: expected a number"),
    ("t1 a span", lambda: run(t0=0, t1=np.timedelta64(1)), "t1 is np.timedelta64.1. of type timedelta64: expected a number"),
    ("t1 complex", lambda: run(t1=1j), "t1 is 1j of type complex: expected a number"),
    ("dt0 text", lambda: run(dt0="auto"), "dt0 is 'auto' of type str: expected a number"),
    ("rtol text", lambda: run(rtol="tight"), "rtol is 'tight' of type str: expected a number"),
    ("atol None", lambda: run(atol=None), "atol is None of type NoneType: expected a number"),
    ("dtmin None", lambda: run(dtmin=None), "dtmin is None of type NoneType: expected a number"),
    ("saveat", lambda: run(saveat=[0.5]), r"saveat is \[0.5\]: expected a jax_cubie.SaveAt"),
    ("saved times", lambda: run(saveat=np.ones(2)), r"saveat is array\(.*expected a jax_cubie.SaveAt; write saveat=SaveAt\("),
    ("solver", lambda: run(solver="tsit5"), "'tsit5' of type str: expected a jax_cubie.Solver; write method='tsit5', or "),
    ("args", lambda: ivp(args=3), r"args is 3: solve_ivp calls fun\(t, y, \*args\), so args is a tuple"),
    ("y0 dict", lambda: ivp(y0={"a": 1.0}), "y0 is {'a': 1.0}: expected a one-dimensional array; solve takes any pytree"),
    ("fn", lambda: SaveAt(t1=True, fn=3), r"SaveAt\(fn=...\) is 3 of type int: expected a function fn\(t, y, args\)"),
    ("fn text", lambda: run(saveat=SaveAt(t1=True, fn=lambda t, y, a: "y")), "fn=.* returns has a leaf of type str: exp"),
    # tracers where machine code is chosen
    ("max_steps traced", lambda: jax.jit(lambda n: run(max_steps=n).ys)(9.0), "max_steps has dtype float32: expected an int"),
    ("steps", lambda: jax.jit(lambda n: SaveAt(steps=n).steps)(3), r"SaveAt\(steps=...\) is a traced value"),
    (
        "max_steps and steps",
        lambda: jax.jit(lambda n: run(saveat=SaveAt(steps=True), max_steps=n).ys)(3),
        r"SaveAt\(steps=...\) needs max_steps as a Python int.*here it is traced.*outside of jit",
    ),
    ("traced bool", lambda: jax.jit(lambda n: run(max_steps=n))(True), r"max_steps is a traced array, bool\[\]: expected"),
    ("throw traced", lambda: jax.jit(lambda n: run(throw=n))(True), "throw is a traced value here.*static_argnames of jit"),
    ("event alone", lambda: run(events=lambda t, y, a: y[0]), r"events has <function .*expected a .*; write Event\(cond\)"),
    ("f array", lambda: run(f=jnp.ones(2)), r"f is an array, float32\[2\]: expected a function"),
    ("location", lambda: traced(state_location=1), "state_location is a traced value .*has to be static.*outside of jit"),
    ("method", lambda: traced(method=1), "method is a traced value .*has to be static.*outside of jit"),
    ("block", lambda: traced(block=32), "block is a traced value .*outside of jit"),
    ("t1", lambda: jax.jit(lambda x: SaveAt(t1=x).t1)(True), r"SaveAt\(t1=...\) is a traced value"),
    ("in jit", lambda: jax.jit(lambda t1: check_successful(run(t1=t1)))(1.0), "^check_successful needs the results now.*call "),
    ("in vmap", lambda: jax.vmap(lambda t1: check_successful(run(t1=t1)))(np.ones(2)), "^check_successful needs.*comes out of"),
    ("text in jit", lambda: jax.jit(lambda k: len(ivp(y0=k).message))(Y0), "message is a text, .* or read status"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text"), [row[1:] for row in VALUE], ids=[row[0] for row in VALUE])
def test_wrong_values(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize(("call", "text"), [row[1:] for row in TYPE], ids=[row[0] for row in TYPE])
def test_wrong_types(call, text):
    with pytest.raises(TypeError, match=text):
        call()


def stored(t, y, args):
    dy = np.zeros(3, np.float32)
    dy[0] = y[1]
    return dy


CURVE = scipy.interpolate.CubicSpline([0.0, 0.5, 1.0], [1.0, 2.0, 1.0])


def sliced(t, y, args):
    dy = np.zeros(3, np.float32)
    dy[:2] = y[1:]
    return dy


@pytest.mark.parametrize(
    ("f", "written", "instead"),
    [
        (lambda t, y, a: np.sin(y), "np.sin(y)", "write jnp.sin in place of np.sin"),
        (lambda t, y, a: y + np.sqrt(np.abs(t)), "np.abs(t)", "write jnp.abs in place of np.abs"),
        (lambda t, y, a: np.array([y[1], y[0], t]), "np.array([y[1], y[0], t])", "write jnp.array in place of np.array"),
        (lambda t, y, a: np.stack([y[1], y[0], t]), "np.stack([y[1], y[0], t])", "write jnp.stack in place of np.stack"),
        (lambda t, y, a: np.linalg.norm(y) * y, "np.linalg.norm(y)", "write jnp.linalg.norm in place of np.linalg.norm"),
        (lambda t, y, a: jax.jit(lambda z: np.exp(z))(y), "np.exp(z)", "write jnp.exp in place of np.exp"),
        (lambda t, y, a: scipy.special.expit(y), "scipy.special.expit(y)", "write jax.scipy.special.expit in place of scipy."),
        (lambda t, y, a: y * math.sin(t), "math.sin(t)", "write jnp.sin in place of math.sin"),
        (lambda t, y, a: y * math.erf(t), "math.erf(t)", "write jax.scipy.special.erf in place of math.erf"),
        (lambda t, y, a: y * max(y[0], t), "max(y[0], t)", "write jnp.maximum in place of max"),
        (lambda t, y, a: y * max(y), "max(y)", "write jnp.max in place of max"),
        (lambda t, y, a: y * CURVE(t), "CURVE(t)", "give solve drivers=jax_cubie.Driver(ts, values, kind='linear')"),
        (lambda t, y, a: y * jnp.ones(jnp.int32(t)).sum(), "jnp.ones(jnp.int32(t))", "a Python number that f closes over"),
        (lambda t, y, a: float(y[0]) * y, "float(y[0])", "leave out float(), int(), .item() and .tolist()"),
        (lambda t, y, a: y[0].item() * y, "y[0].item()", "leave out float(), int(), .item() and .tolist()"),
        (lambda t, y, a: y if t > 1 else -y, "t > 1", "write jnp.where(condition, a, b) or jax.lax.cond in place of if"),
        (lambda t, y, a: jnp.where(y > 0 and y < 1, y, t), "y > 0 and y < 1", "&, | and ~ in place of and, or and not"),
        (lambda t, y, a: y * [1, 2][jnp.int32(t)], "[1, 2][jnp.int32(t)]", "index a jnp.array in place of a list"),
        (lambda t, y, a: sum(y for _ in range(jnp.int32(t))), "range(jnp.int32(t))", "count with jax.lax.fori_loop"),
        (lambda t, y, a: y[y > 0], "y[y > 0]", "write jnp.where(mask, array, other)"),
        (lambda t, y, a: {1.0: y}[t], "{1.0: y}[t]", "a traced value is no key of a dict"),
        (stored, "dy[0] = ...", "stack the components, jnp.stack([...]), or begin with jnp.zeros"),
        (sliced, "dy[:2] = ...", "stack the components, jnp.stack([...]), or begin with jnp.zeros"),
    ],
)  # fmt: skip
def test_values_that_are_not_there_yet(f, written, instead):
    """The user's line, what stands there, what to write; for every function of the user's; and the way there is kept."""
    where = rf"at {re.escape(__file__)}:(\d+) \(.*\), `{re.escape(written)}`"
    said = re.compile(rf" is traced, so that its arrays .* {where}. Instead: .*{re.escape(instead)}")
    for call in (
        lambda: run(f=f),
        lambda: run(saveat=SaveAt(t1=True, fn=f)),
        lambda: ivp(fun=lambda t, y: f(t, y, None)),
        lambda: jax.vmap(lambda y: run(f=f, y0=y).ys)(np.ones((2, 3), np.float32)),
    ):
        with pytest.raises(TypeError, match=said) as caught:
            call()
        line = int(said.search(str(caught.value))[1])
        assert written.removesuffix("...").strip() in Path(__file__).read_text().splitlines()[line - 1]
        assert any(entry.frame.code.raw is f.__code__ for entry in caught.traceback)


@pytest.mark.parametrize(
    ("f", "args", "said", "instead"),
    [
        (lambda t, y, a: -y * a, None, "for *: an array and 'NoneType'", "what is used there is None: give args="),
        (lambda t, y, a: -y * a["k"], None, "'NoneType' object is not subscriptable", "what is used there is None"),
        (lambda t, y, a: -y * a, [1.0, 2.0], "for *: an array and 'list'", "give one array, jnp.array([...])"),
        (lambda t, y, a: -a, [1.0, 2.0], "bad operand type for unary -: 'list'", "a list in y0 or args is one in f, too"),
        (lambda t, y, a: y * -a, {"k": 1.0}, "unary -: 'dict'", "a dict in y0 or args is one in f, too: take an item"),
        (lambda t, y, a: -y * a(t), 2.0, "an array is not callable", "an array or a number is no function"),
        (lambda t, y, a: y.numpy(), None, "an array has no attribute numpy", "functions of jax.numpy"),
        (lambda t, y, a: y * jnp.stack([*a]), 2.0, "iteration over a 0-d array", "a scalar has no items"),
        (lambda t, y, a: y < "a", None, "between instances of an array and 'str'", "these are for arrays and numbers"),
        (numba.njit(lambda t, y, a: -y), None, "Numba can't compile", "leave numba's decorators out"),
        (lambda t, y, a: numba.njit(lambda y: -y)(y), None, "Numba can't compile", "leave numba's decorators out"),
    ],
)
def test_operands_that_an_operation_cannot_have(f, args, said, instead):
    with pytest.raises(TypeError, match=rf"^f fails.*: .*{re.escape(said)}.*\. Instead: .*{re.escape(instead)}"):
        run(f=f, args=args)


def test_from_numpy_imported_by_name():
    from numpy import sin
    from scipy.special import expit

    with pytest.raises(TypeError, match="write jnp.sin in place of sin"):
        run(f=lambda t, y, a: sin(y))
    with pytest.raises(TypeError, match="use functions of jax.numpy in place of NumPy's"):
        run(f=lambda t, y, a: expit(y))


def pendulum(z, s, damping):
    angle, speed = z
    return jnp.stack([speed, -damping * speed - jnp.sin(angle)])


@pytest.mark.parametrize("f", [pendulum, lambda z, s, a: jnp.stack([z[1], -z[0]]), lambda z, s, a: -a * z])
def test_state_first(f):
    """As odeint has it: f fails or gives something else, and the other way round it is a derivative of y0."""
    y0 = np.array([0.5, 0.0], np.float32)
    with pytest.raises(TypeError, match=r"f\(t, y, args\) fails .*other way round it gives .*derivative of y0.*odeint, "):
        run(f=f, y0=y0, args=0.1)
    with pytest.raises(TypeError, match=r"fun\(t, y, \*args\) fails .*other way round.*odeint, state first"):
        ivp(fun=f, y0=y0, args=(0.1,))
    with pytest.raises(TypeError, match=r"f\(t, y, args\) fails .*other way round"):
        run(f=lambda s, t, a: {"a": -s["a"]}, y0={"a": y0})


def test_state_first_by_its_names():
    """Where shapes say nothing, the names do; a function that is right, or of other names, is left alone."""
    for f in (lambda y, t, args: -y, lambda u, p, t: -u, jax.jit(lambda state, time, args: -state)):
        with pytest.raises(TypeError, match=r"\(.*\) takes the state first, but is called as f\(t, y, args\): put the "):
            run(f=f, y0=jnp.float32(1))
    with pytest.raises(TypeError, match=r"takes the state first, but is called as fun\(t, y, \*args\)"):
        ivp(fun=lambda y, t: -y)
    for f in (lambda x, t, args: x * t, lambda *given: -given[1], lambda t, y, args, rate=2.0: -rate * y):
        assert run(f=f, y0=jnp.float32(1)).ys.shape == (1,)


def test_a_wrong_function_keeps_its_own_error():
    """No talk of the order of arguments where the other order is no better."""
    for f in (lambda t, y, a: y[:2], lambda t, y, a: jnp.sum(y), lambda t, y, a: y @ jnp.ones((2, 2))):
        with pytest.raises((ValueError, TypeError)) as caught:
            run(f=f)
        assert "other way round" not in str(caught.value)
    with pytest.raises(ZeroDivisionError):
        run(f=lambda t, y, a: y * (1 / 0))


def test_unsupported_operation_names_itself_and_the_line():
    with pytest.raises(NotImplementedError, match=r"`eigh` cannot be translated.*test_errors\.py:\d+.*unsupported") as caught:
        run(f=unsupported)
    line = int(str(caught.value).partition("test_errors.py:")[2].partition(":")[0])
    with open(__file__) as file:
        assert "the line that is named" in file.readlines()[line - 1]
    assert "Instead: use jnp.linalg.solve" in str(caught.value)
    for f, said in (
        (lambda t, y, a: jax.pure_callback(np.sin, y, y), "cannot call back into Python"),
        (lambda t, y, a: jnp.fft.fft(y).real, "keep the real and the imaginary part as two real arrays"),
        (lambda t, y, a: y * jax.random.normal(jax.random.key(0), (3,)), "draw the numbers outside the solve"),
    ):
        with pytest.raises(NotImplementedError, match=said):
            run(f=f)


def test_solvers_of_other_packages_inside_of_f(platform):
    """Named by what the user called, with what to write: which works."""
    import diffrax
    import lineax
    import optimistix

    def residual(z, y):
        return z**3 + z - y

    newton, fixed = optimistix.Newton(1e-5, 1e-5), optimistix.FixedPointIteration(1e-5, 1e-5)
    for f, said in (
        (lambda t, y, a: -optimistix.root_find(residual, newton, y, y).value, r"optimistix.root_find brings.*write Newton's"),
        (lambda t, y, a: optimistix.fixed_point(lambda z, y: jnp.cos(z), fixed, y, y).value,
         r"optimistix.fixed_point brings.*write the iteration with jax.lax.fori_loop"),
        (lambda t, y, a: lineax.linear_solve(lineax.DiagonalLinearOperator(y), y).value, "lineax.linear_solve brings.*linalg"),
        (lambda t, y, a: diffrax.diffeqsolve(diffrax.ODETerm(lorenz), diffrax.Tsit5(), 0.0, 1.0, 0.1, y, a).ys[0],
         "diffrax.diffeqsolve brings.*a solve inside of f is not there"),
    ):  # fmt: skip
        with pytest.raises(NotImplementedError, match=rf"which {said}"):
            run(f=f)

    def as_it_says(t, y, args):
        g = lambda z: residual(z, y)  # noqa: E731
        return -jax.lax.fori_loop(0, 8, lambda _, z: z - jnp.linalg.solve(jax.jacfwd(g)(z), g(z)), y)

    def held(t, y, args):
        solve_root = lambda g, z: jax.lax.fori_loop(0, 8, lambda _, z: z - g(z) / (3 * z**2 + 1), z)  # noqa: E731
        return -jax.lax.custom_root(lambda z: residual(z, y), y, solve_root, lambda g, y: y / g(jnp.ones_like(y)))

    y0 = np.array([1.0, 0.5], np.float32)
    np.testing.assert_allclose(run(f=as_it_says, y0=y0).ys, run(f=held, y0=y0).ys, rtol=1e-5)


def test_errors_come_at_trace_time_and_build_nothing(builds):
    with pytest.raises(NotImplementedError, match="eigh"):
        jax.eval_shape(lambda y: run(f=unsupported, y0=y), Y0)
    with pytest.raises(ValueError, match="rtol and atol are both 0"):
        jax.jit(lambda y: run(y0=y, rtol=0.0, atol=0.0).ys)(Y0)
    assert builds.count == 0


def test_shared_memory_that_does_not_fit():
    """Names the largest buffers, what they take, what there is, and what to do. Nothing is built first."""
    locations = {"stage_rhs_location": "shared", "state_location": "shared", "proposed_state_location": "shared"}
    y0 = jax.ShapeDtypeStruct((600,), "float32")
    with pytest.raises(ValueError) as caught:
        Solver(**locations).inspect(lambda t, y, a: -y, 0.0, 1.0, y0, target="cuda:90")
    text = str(caught.value)
    assert "691,200 bytes" in text and "232,448" in text and "cuda:90" in text
    assert "stage_rhs (4200 words), state (600 words), proposed_state (600 words)" in text
    assert 'stage_rhs_location="local"' in text
    assert "float32" not in text  # no advice to use what is used
    with pytest.raises(ValueError, match=r"block=1024: its shared buffers take 884,736 bytes.*232,448.*block='auto'"):
        Solver(block=1024, **locations).inspect(lambda t, y, a: -y, 0.0, 1.0, jnp.ones(24), target="cuda:90")
    with jax.default_device(jax.devices("cpu")[0]), pytest.raises(ValueError, match="a block of 1 lanes.*and cpu has"):
        solve(lambda t, y, a: -y, 0.0, 1.0, jnp.ones(100_000), state_location="shared")


@pytest.mark.parametrize(("target", "size"), [("cpu", 300_000_000), ("cuda:90", 200_000)])
def test_arrays_larger_than_a_threads_memory(target, size, builds):
    """What no compiler could make: buffers, and arrays inside of f."""
    said = rf"a lane needs [\d,]+ bytes of its thread's own memory, and {target} has [\d,]+ for it.*stage_rhs \([\d,]+ byte"
    with pytest.raises(ValueError, match=said):
        Solver().inspect(lambda t, y, a: -y, 0.0, 1.0, jax.ShapeDtypeStruct((size,), "float32"), target=target)
    with pytest.raises(ValueError, match=r"The largest: the arrays inside of f \([\d,]+ bytes"):
        large = jax.ShapeDtypeStruct((size,), "float32")
        Solver().inspect(lambda t, y, a: -y * jnp.sort(jnp.cumsum(a * y[0]))[7], 0.0, 1.0, Y0, large, target=target)
    assert builds.count == 0


def test_a_gradient_that_does_not_fit():
    """The window of checkpoints, in a thread's own memory and in a block's; and what to do instead."""
    y0 = jax.ShapeDtypeStruct((2000,), "float32")
    with pytest.raises(ValueError) as caught:
        Solver().inspect(lambda t, y, a: -y, 0.0, 1.0, y0, target="cuda:90", derivative="vjp")
    text = str(caught.value)
    assert re.match(r"a lane's gradient needs [\d,]+ bytes of its thread's own memory, and cuda:90 has", text)
    assert re.search(r"The largest: checkpoint_window \([\d,]+ bytes\)", text)
    assert "use fewer states (these are 96 checkpoints), max_steps of at most 1,024 (32 of them), or derivatives" in text
    shared = r"The shared buffers do not fit.*The largest: checkpoint_window .*checkpoint_window_location=\"local\""
    loss = lambda y: jnp.sum(solve(lambda t, y, a: -y, 0.0, 1.0, y, checkpoint_window_location="shared").ys)  # noqa: E731
    with jax.default_device(jax.devices("cpu")[0]), pytest.raises(ValueError, match=shared):
        jax.grad(loss)(jnp.ones(1000, jnp.float32))


def test_float64_is_not_switched_on():
    """Without x64 a NumPy float64 is a float32, as it is anywhere in JAX; the flag stays where it was."""
    solution = run(y0=np.array([1.0, 0.0, 0.0]), t1=0.1)
    assert solution.ys.dtype == np.float32 and not jax.config.jax_enable_x64
    inspected = Solver().inspect(lorenz, 0.0, 1.0, jax.ShapeDtypeStruct((3,), "float64"), 28.0)
    assert "float32" in inspected.program and "float64" not in inspected.program


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")  # JAX, where it gives the gradient y0's dtype
def test_arrays_of_float64_where_it_is_off():
    """They come from where it was on, and are float32 as NumPy's are; those of integers, and what is closed over, too."""
    with jax.enable_x64(True):
        y0, rate, power = jnp.array([1.0, 2.0]), jnp.array(2.0), jnp.array([1, 1])
    f = lambda t, y, args: -jnp.sin(rate) * args[0] * y ** args[1][0]  # noqa: E731
    loss = lambda y: solve(f, 0.0, 1.0, y, (rate, power)).ys.sum()  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(loss))(y0)
    assert value.dtype == np.float32
    np.testing.assert_allclose(slope, np.full(2, np.exp(-2 * np.sin(2.0))), rtol=1e-5)
    np.testing.assert_allclose(value, 3 * slope[0], rtol=1e-5)


def test_throw(platform):
    run(t1=0.1, throw=True)
    text = r"^The solve failed. max_steps_reached: .*Give a larger max_steps"
    with pytest.raises(RuntimeError, match=text):
        run(max_steps=3, throw=True)
    limits, rho = np.array([3, 1000, 1000, 2]), np.array([28.0, 28.0, np.nan, 28.0], np.float32)
    solution = jax.vmap(lambda limit, rho: run(max_steps=limit, args=rho))(limits, rho)
    text = r"3 of 4 lanes failed. 2 x max_steps_reached: .* \(lanes 0, 3\) 1 x not_finite: .*\(lane 2\)$"
    with pytest.raises(RuntimeError, match=text):
        check_successful(solution)
    grid = jax.vmap(jax.vmap(lambda limit: run(max_steps=limit)))(np.full((3, 4), 2))
    with pytest.raises(RuntimeError, match=r"12 of 12 lanes .*\(lanes \(0, 0\), \(0, 1\), \(0, 2\), \(0, 3\), \(1, 0\), ..."):
        check_successful(grid)
    check_successful(jax.tree.map(lambda leaf: leaf[1:2], solution))
    # Under jit, vmap and grad, where it runs.
    thrown = jax.jit(jax.vmap(lambda limit, rho: run(max_steps=limit, args=rho, throw=True).ys))
    assert thrown(limits[1:2], rho[1:2]).shape == (1, 1, 3)
    with pytest.raises(Exception, match=r"3 of 4 lanes failed.*\(lanes 0, 3\).*\(lane 2\)"):
        jax.block_until_ready(thrown(limits, rho))
    gradient = jax.jit(jax.grad(lambda rho, limit: run(max_steps=limit, args=rho, throw=True).ys.sum()))
    assert np.isfinite(gradient(np.float32(28), 1000))
    with pytest.raises(Exception, match=r"The solve failed. max_steps_reached"):
        jax.block_until_ready(gradient(np.float32(28), 3))
    with pytest.raises(RuntimeError, match="dt_min_reached.*force_dtmin is False"):
        run(dtmin=0.1, force_dtmin=False, throw=True, rtol=1e-9, atol=1e-9)
    with pytest.raises(RuntimeError, match="invalid_input.*dt0"):
        check_successful(jax.jit(lambda dt0: run(dt0=dt0))(-1.0))


def test_no_device_for_a_target():
    from jax_cubie.kernel.target import default_targets

    if not any(device.platform == "gpu" for device in jax.devices()):
        with pytest.raises(BuildError, match="no CUDA device is present"):
            default_targets("cuda")


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_debug_nans(wrap):
    run = wrap(lambda y: solve(lambda t, y, args: y**2, 0.0, 1.0, y).ys)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="jax_cubie.solve"):
        run(jnp.full(2, 3.0))


def test_leaves_of_args_that_f_never_reads():
    """Those that no kernel can hold are refused only where f reads them."""
    args = {"rate": 1.0, "key": jax.random.key(0), "half": jnp.ones(2, jnp.bfloat16), "names": np.array(["a", "b"])}
    y0 = np.ones(2, np.float32)
    decay = lambda t, y, args: -args["rate"] * y  # noqa: E731
    np.testing.assert_array_equal(solve(decay, 0.0, 1.0, y0, args).ys, solve(decay, 0.0, 1.0, y0, {"rate": 1.0}).ys)
    with pytest.raises(UnsupportedPrimitiveError, match="key<fry>.*outside the solve"):
        solve(lambda t, y, args: -y * jax.random.uniform(args["key"]), 0.0, 1.0, y0, args)
    with pytest.raises(UnsupportedPrimitiveError, match="bfloat16.*use float32"):
        solve(lambda t, y, args: -y * args["half"], 0.0, 1.0, y0, args)


def test_booleans_in_args_choose_what_f_does():
    """Python's are handed on as they are, as by equinox.filter_jit; complex numbers that f never reads are no error."""
    y0 = np.ones(2, np.float32)
    f = lambda t, y, args: args["dropped"](-y) if args["damped"] else y  # noqa: E731
    args = {"damped": True, "dropped": eqx.nn.Dropout(inference=True), "other": 1 + 2j}
    np.testing.assert_allclose(solve(f, 0.0, 1.0, y0, args).ys[-1], np.exp(-y0), rtol=1e-5)
    np.testing.assert_allclose(solve(f, 0.0, 1.0, y0, args | {"damped": False}).ys[-1], np.exp(y0), rtol=1e-5)


def test_leaks_nothing():
    """What is traced around a solve may end; the solve's problem, which jit keeps, holds nothing of it."""
    y0 = np.ones(2, np.float32)

    def run(k):
        event = Event(lambda t, y, a: y[0] - k / 4)
        return solve(lambda t, y, a: -k * y, 0.0, 1.0, y0, saveat=SaveAt(t1=True, fn=lambda t, y, a: k * y), events=event).ys

    with jax.checking_leaks():
        jax.make_jaxpr(jax.vmap(run))(jnp.ones(2))
        jax.make_jaxpr(jax.grad(lambda k: run(k).sum()))(1.0)


def test_sizes_that_an_export_leaves_open():
    """That of a batch may be; those of a lane's own arrays are part of the machine code."""
    y0 = np.ones(2, np.float32)
    for said, run in (
        ("y0", lambda n: solve(lambda t, y, a: -y, 0.0, 1.0, n)),
        (r"SaveAt\(ts=...\)", lambda n: solve(lambda t, y, a: -y, 0.0, 1.0, y0, saveat=SaveAt(ts=n))),
        (r"args\['k'\]", lambda n: solve(lambda t, y, a: -y, 0.0, 1.0, y0, {"k": n})),
        ("an array that the function closes over", lambda n: solve(lambda t, y, a: -y * n.sum(), 0.0, 1.0, y0)),
        ("jump_ts", lambda n: solve(lambda t, y, a: -y, 0.0, 1.0, y0, jump_ts=n)),
        (r"Doses\(ts=...\)", lambda n: solve(lambda t, y, a: -y, 0.0, 1.0, y0, doses=Doses(n, 1.0, into=lambda y: y[0]))),
        ("step_ends", lambda n: solve(lambda t, y, a: -y, 0.0, 1.0, y0, controller="given", step_ends=n)),
        ("Driver's values", lambda n: Driver(jnp.arange(3.0), n)),
        ("Driver's ts", lambda n: Driver(n, jnp.arange(3.0))),
    ):
        open_size = jax.ShapeDtypeStruct(jax.export.symbolic_shape("size"), np.float32)
        with pytest.raises(ValueError, match=rf"^{said} has a size that is symbolic, in \(size\): .* Leave that of the batch"):
            jax.eval_shape(run, open_size)


def test_platforms_without_kernels(builds):
    safe = [jax.export.DisabledSafetyCheck.custom_call("jax_cubie_host_2")]
    run = lambda y: solve(lambda t, y, a: -y, 0.0, 1.0, y).ys.sum()  # noqa: E731
    for platforms, said in ((["tpu"], "tpu"), (["rocm"], "rocm")):
        with pytest.raises(NotImplementedError, match=f"machine code for CPUs .* compiled for {said}: run it on one of these"):
            jax.export.export(jax.jit(jax.grad(run)), platforms=platforms, disabled_checks=safe)(np.ones(2, np.float32))
    assert builds.count == 0
