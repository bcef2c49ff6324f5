"""Names of other libraries, and what to write in their place: the one table that every front door asks.

They are the arguments, solvers and controllers of diffrax, of SciPy's `solve_ivp`, `odeint` and `ode`, of JAX's `odeint`, of
DifferentialEquations.jl and MATLAB.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

_F = TypeVar("_F", bound=Callable[..., Any])

_EVENTS = "use events= in solve, which takes jax_cubie.Event(cond, ...) and jax_cubie.steady_state()"
_TIMES = "use saveat=SaveAt(ts=...) with the times at which the solution is wanted"
_DENSE = "use saveat=SaveAt(dense=True) and max_steps=, for solution.evaluate(t)"
_BANDS = "use jac_sparsity=, booleans [n, n] that are True inside of the band"
_ROOTS = "use newton_rtol=, newton_atol= and newton_max_steps=, of methods that solve nonlinear equations, as 'kvaerno5'"
_NO_RESUME = "leave it out: another solve begins with y0=solution.ys[-1], and with dt0= if its first step is known"
_CONTROLLER = "use controller='pid' with rtol=, atol=, pcoeff= and the like, or controller='fixed' with dt0="
_DERIVATIVES = "leave it out: jax.grad, jax.jvp and what is made of them go through a solve as it is"
_SILENT = "leave it out, since a solve is one kernel, which reports nothing on its way"
_ONE_VALUE = "leave it out: every result has a stats dict"
_NO_ORDER = "leave it out, and choose a method by its order: jax_cubie.methods() lists them"

# What to write in a call of `solve`, `Solver`, or any of a Solver's methods.
NAMES: dict[str, str] = {
    # diffrax.diffeqsolve, PIDController, ClipStepSizeController, StepTo
    "terms": "give the vector field f(t, y, args) itself, as the first argument",
    "stepsize_controller": _CONTROLLER,
    "adjoint": _DERIVATIVES,
    "event": _EVENTS,
    "discrete_terminating_event": _EVENTS,
    "progress_meter": _SILENT,
    **dict.fromkeys(("solver_state", "controller_state", "made_jump"), _NO_RESUME),
    "norm": "leave it out: the error norm is the root mean square, over all components",
    "error_order": "leave it out: it is the method's own",
    **dict.fromkeys(("tstops", "tcrit"), "use step_ts= in solve, times on which steps end"),
    "d_discontinuities": "use jump_ts= in solve, times at which f jumps",
    "store_rejected_steps": "leave it out: stats['num_rejected_steps'] counts them",
    **dict.fromkeys(("root_finder", "nlsolve"), _ROOTS),
    "root_find_max_steps": "use newton_max_steps=, of methods that solve nonlinear equations, as 'kvaerno5'",
    "scan_kind": "leave it out, since no scan is made here",
    # scipy.integrate.solve_ivp
    "fun": "it is called f here: f(t, y, args), the first argument",
    "t_span": "give t0 and t1, two arguments",
    "t_eval": _TIMES,
    "dense_output": _DENSE,
    "vectorized": "use jax.vmap of the solve",
    "first_step": "use dt0= in solve",
    "max_step": "use dtmax=",
    "min_step": "use dtmin=",
    **dict.fromkeys(("lband", "uband", "ml", "mu"), _BANDS),
    "Dfun": "use jac=, a function jac(t, y, args)",
    "with_jacobian": "leave it out: implicit methods find the Jacobian of f",
    "col_deriv": "leave it out: element [i, j] of what jac returns is the derivative of f's component i by y's component j",
    # scipy.integrate.odeint and ode, jax.experimental.ode.odeint
    "func": "it is called f here: f(t, y, args), time first",
    "tfirst": "leave it out: time always comes first, f(t, y, args)",
    "t": "give t0 and t1, and saveat=SaveAt(ts=t)",
    "h0": "use dt0= in solve",
    "hmax": "use dtmax=",
    "hmin": "use dtmin=",
    **dict.fromkeys(("mxstep", "nsteps", "maxiters"), "use max_steps="),
    "full_output": _ONE_VALUE,
    **dict.fromkeys(("ixpr", "mxhnil", "max_hnil", "printmessg", "verbosity", "verbose", "progress"), _SILENT),
    **dict.fromkeys(("mxordn", "mxords", "max_order_ns", "max_order_s", "order"), _NO_ORDER),
    "linsolve": "use linear_solver=, of methods for stiff systems",
    "autodiff": "leave it out: the Jacobian is made of f, and only of what is not 0 in it",
    "ifactor": "use factormax=",
    "dfactor": "use factormin=",
    "beta": "use controller='pi', or pcoeff= and icoeff=",
    # DifferentialEquations.jl; torchdiffeq
    "abstol": "use atol=",
    "reltol": "use rtol=",
    "alg": "use method=",
    "dt": "use dt0= in solve, with controller='fixed' where every step is to have that size",
    "adaptive": "use controller='fixed' with dt0=, or controller='pid'",
    "u0": "it is called y0 here",
    "p": "it is called args here",
    "tspan": "give t0 and t1, two arguments",
    "mass_matrix": "use mass=",
    **dict.fromkeys(("jac_prototype", "sparsity"), "use jac_sparsity=, booleans [n, n]"),
    "callback": _EVENTS,
    "event_fn": _EVENTS,
    "save_everystep": "use saveat=SaveAt(steps=True) and max_steps=",
    "save_start": "use saveat=SaveAt(t0=True, ...)",
    "save_end": "use saveat=SaveAt(t1=True, ...)",
    "dense": _DENSE,
    "subs": "use saveat=SaveAt(subs=...)",
    "options": "leave it out, and give each setting as a keyword",
    # Ours, in another place.
    "ts": _TIMES,
    "steps": "use saveat=SaveAt(steps=True) and max_steps=",
    "fn": "use saveat=SaveAt(..., fn=...)",
    **dict.fromkeys(
        ("f", "t0", "t1", "y0", "args", "dt0", "saveat", "events", "throw", "mass", "mass_pattern", "jac", "jac_sparsity",
         "drivers", "observables", "summaries", "doses", "jump_ts", "step_ts"),
        "it is no setting of a Solver, but an argument of solve",
    ),
}

# The same where a front door has words of its own.
_ELSEWHERE: dict[str, dict[str, str]] = {
    "solve_ivp": {
        **dict.fromkeys(
            ("event", "discrete_terminating_event", "callback", "event_fn"),
            "use events=, a function event(t, y, *args) that becomes 0, or a list of these",
        ),
        **dict.fromkeys(
            ("jump_ts", "step_ts", "tstops", "d_discontinuities", "tcrit"),
            "call jax_cubie.solve, which has jump_ts= and step_ts=",
        ),
        "dense": "use dense_output=True, for result.sol(t)",
        "vectorized": "leave it out: fun takes one state, y [n]; for many solves use jax.vmap of solve_ivp",
        **dict.fromkeys(("mass", "mass_pattern", "mass_matrix"), "call jax_cubie.solve, which has mass="),
        "Dfun": "use jac=, a function jac(t, y, *args)",
        "saveat": "use t_eval=, or jax_cubie.solve, which takes a SaveAt",
        "ts": "use t_eval=",
        "t": "use t_span=(t[0], t[-1]) and t_eval=t",
        **dict.fromkeys(("t0", "t1", "tspan"), "use t_span=(t0, t1)"),
        **dict.fromkeys(("f", "func", "terms"), "it is called fun here: fun(t, y, *args), time first"),
        "solver": "give the settings as keywords, or call jax_cubie.solve, which takes a Solver",
        "tfirst": "leave it out: time always comes first, fun(t, y, *args)",
        **dict.fromkeys(("h0", "dt", "dt0"), "use first_step="),
        "hmax": "use max_step=",
        **dict.fromkeys(
            ("steps", "fn", "save_everystep", "save_start", "save_end"), "call jax_cubie.solve, whose SaveAt has such choices"
        ),
    },
    "SaveAt": {
        "dense_output": "use dense=True",
        **dict.fromkeys(("solver_state", "controller_state", "made_jump"), _NO_RESUME),
        **dict.fromkeys(("t_eval", "times", "t", "saveat"), "use ts="),
        "save_everystep": "use steps=True",
        "save_start": "use t0=True",
        "save_end": "use t1=True",
    },
    "Doses": {
        **dict.fromkeys(("t", "time", "times", "TIME"), "use ts="),
        **dict.fromkeys(("amount", "amt", "AMT", "dose"), "use amounts="),
        **dict.fromkeys(("cmt", "CMT", "compartment"), "use into=, a function of y that names the component"),
        **dict.fromkeys(("dur", "durations"), "use duration="),
        **dict.fromkeys(("rates", "RATE"), "use rate="),
        **dict.fromkeys(("ii", "addl", "II", "ADDL"), "use Doses(...).repeat(interval, number)"),
        **dict.fromkeys(("F", "bioavailability", "fractions"), "use fraction="),
        **dict.fromkeys(("alag", "lags", "tlag"), "use lag="),
        **dict.fromkeys(("ss", "SS"), "give the doses that lead to a steady state, with Doses(...).repeat(interval, number)"),
    },
    "SubSaveAt": dict.fromkeys(("dense", "dense_output", "subs"), "it is SaveAt that has subs= and dense="),
    # Fields, which dataclasses.replace hands over.
    "Summary": {"kind": "a summary is made anew, by its constructor, as Summary.max(...), not by dataclasses.replace"},
    "Solver": {
        "solver": "use method=",
        **dict.fromkeys(("components", "buffers"), "use solver.update(...) in place of dataclasses.replace"),
    },
    "Solver.update": {"solver": "use method="},
    "Solver.solve": {"solver": "it is the Solver whose solve this is: solver.update(...) changes it"},
    "Solver.inspect": {"solver": "it is the Solver whose inspect this is: solver.update(...) changes it"},
}

# Attributes of other libraries' solutions.
_ATTRIBUTES = {
    "t": "use ts",
    "y": "use ys, whose first axis is the times; the result of jax_cubie.solve_ivp has y as SciPy's has it",
    **dict.fromkeys(("success", "status"), "compare with solution.result == RESULTS.successful (or event_occurred)"),
    "message": "use RESULTS[solution.result]",
    "nfev": "use stats['nfev']",
    "njev": "use stats['num_jacobians'], which methods for stiff systems have",
    "nlu": "use stats['num_factorisations'], which methods for stiff systems have",
    "sol": "give the solve saveat=SaveAt(dense=True) and max_steps=, and use solution.evaluate(t)",
    **dict.fromkeys(("t_events", "y_events"), "use solution.events, whose records have times and ys"),
    "event_mask": "use solution.events, whose records have ended",
    **dict.fromkeys(("solver_state", "controller_state", "made_jump"), "another solve begins with y0=solution.ys[-1]"),
    "u": "use ys",
    "retcode": "use result, one of RESULTS",
}

# Methods that other libraries have by other names, as `plain` writes them.
METHODS = {
    # SciPy, and the codes of Hairer and Wanner
    "rodas": "rodas4", "rodasp": "rodas4p", "dopri853": "dop853",
    # MATLAB
    "ode23t": "trapezoid", "ode23tb": "trbdf2", "ode78": "vern8", "ode89": "vern9",
    # DifferentialEquations.jl
    "hairer4": "l_stable_sdirk4", "implicittrapezoid": "trapezoid",
    # what many call them
    "forwardeuler": "euler", "explicitmidpoint": "midpoint", "trapezoidal": "trapezoid", "trapezoidrule": "trapezoid",
    "backwardseuler": "implicit_euler",
}  # fmt: skip
# diffrax's solvers and controllers that have a counterpart here.
_DIFFRAX_METHODS = {
    "Euler": "euler", "Heun": "heun", "Midpoint": "midpoint", "Ralston": "ralston2", "Bosh3": "bosh3", "Tsit5": "tsit5",
    "Dopri5": "dopri5", "Dopri8": "dopri8", "ImplicitEuler": "implicit_euler", "Kvaerno3": "kvaerno3", "Kvaerno4": "kvaerno4",
    "Kvaerno5": "kvaerno5",
}  # fmt: skip
# The settings of diffrax's PIDController, which have the same names here, with its defaults; its tolerances have none.
_PID_DEFAULTS = dict(
    rtol=None, atol=None, pcoeff=0, icoeff=1, dcoeff=0, dtmin=None, dtmax=None, force_dtmin=True, factormin=0.2, factormax=10.0,
    safety=0.9,
)  # fmt: skip
# What other methods are like, by the names that libraries have for them, and what to take in their place.
_TAKE_STIFF = "for a stiff system write method='rodas5p' or 'kvaerno5'"
_KINDS = (
    (r"lsod|^auto|switch", "changes between methods as it finds a system stiff or not: write method='auto'"),
    (
        r"kencarp|sil3|imex|^ark\d|split",
        "treats a part of f as stiff, and the rest explicitly: write one f, and method='esdirk54' or 'kvaerno5'",
    ),
    (r"adams|^abm|vcab|ode113", "is of several steps, and methods here are of one: write method='vern7' or 'tsit5'"),
    (r"bdf|ndf|vode|ode15|^ida|gear", f"is of several steps, and methods here are of one: {_TAKE_STIFF}"),
    (
        r"radau|rodas|^ros|kvaerno|dirk|firk|seulex|(?<!semi)implicit|backward|trapez|crank|gauss|lobatto|stiff|ode23[st]",
        f"is not here: {_TAKE_STIFF}",
    ),
)


def front_door(function: _F) -> _F:
    """Refuses names of other libraries, and calls that do not fit the signature, in words that say what to write.

    Raises ValueError for such a name, TypeError for such an object, or for arguments that are missing or too many.
    """
    signature = inspect.signature(function)
    door = function.__qualname__.removesuffix(".__init__")
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    known = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    shown = signature.replace(
        parameters=[p for p in parameters if p.name != "self"], return_annotation=inspect.Signature.empty
    )

    words = {name: instead for name, instead in _words(door).items() if name not in known}

    @functools.wraps(function)
    def checked(*args: Any, **keywords: Any) -> Any:
        if foreign := words.keys() & keywords:
            raise refused(door, min(foreign))
        for value in (*args, *keywords.values()):
            if (instead := instead_of_term(value)) is not None:
                raise TypeError(f"{door} is given {_whose(value)}: {instead}")
        try:
            signature.bind(*args, **keywords)
        except TypeError as error:
            raise TypeError(f"{door}: {error}. Expected {door}{shown}") from None
        return function(*args, **keywords)

    return cast(_F, checked)


def refused(door: str, name: str) -> ValueError:
    """The error for a name of the table that `door` is given."""
    return ValueError(f"{door} has no {name}: {_words(door)[name]}")


def _words(door: str) -> dict[str, str]:
    """What to write in place of each name at a front door."""
    own = _ELSEWHERE.get(door, {})
    if door == "SubSaveAt":
        own = {**_ELSEWHERE["SaveAt"], **own}
    return own if door in ("SaveAt", "SubSaveAt", "Doses") else {**NAMES, **own}


def missing_attribute(value: Any, name: str) -> AttributeError:
    """The error for an attribute that a solution does not have, with what to write where another library's has it."""
    instead = f": {_ATTRIBUTES[name]}" if name in _ATTRIBUTES else ""
    return AttributeError(f"a {type(value).__name__} has no {name!r}{instead}", name=name, obj=value)


def plain(name: str) -> str:
    """A name without capitals, and what is no letter or digit: as "trbdf2" of "TR-BDF2()"."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def instead_of_method(value: Any) -> str | None:
    """What is to be said of a method that another library has, by its name or as an object of its own; None otherwise."""
    if isinstance(value, str):
        return _instead_of_name(f"method {value!r}", value)
    library, name = _origin(value)
    if library == "scipy":
        said = None if name == "Radau" else _instead_of_name(f"SciPy's {name}", name)
        return said or f"the method is SciPy's {name}: give its name, method='{name.lower()}'"
    if library != "diffrax":
        return None
    if name in _DIFFRAX_METHODS:
        return f"the method is {_whose(value)}: write method='{_DIFFRAX_METHODS[name]}'"
    said = _instead_of_name(f"the method is {_whose(value)}, which", name)
    return said or f"the method is {_whose(value)}, which has no counterpart here: jax_cubie.methods() lists the methods"


def _instead_of_name(said: str, name: str) -> str | None:
    if (ours := METHODS.get(plain(name))) is not None:
        return f"{said} is called {ours!r} here: write method={ours!r}"
    return next((f"{said} {words}" for kind, words in _KINDS if re.search(kind, plain(name))), None)


def instead_of_controller(value: Any) -> str | None:
    """The same of a step size controller."""
    library, name = _origin(value)
    if library != "diffrax":
        return None
    if name == "PIDController":
        given = {name: getattr(value, name, default) for name, default in _PID_DEFAULTS.items()}
        settings = [
            f"{name}={number!r}" if isinstance(number, (bool, int, float)) else f"{name}=..."
            for name, number in given.items()
            if number is not None and (hasattr(number, "shape") or number != _PID_DEFAULTS[name])
        ]
        return f"the controller is {_whose(value)}: write {', '.join(settings) or 'nothing'}"
    if name == "ConstantStepSize":
        return f"the controller is {_whose(value)}: write controller='fixed' and dt0="
    if name == "StepTo":
        return f"the controller is {_whose(value)}: write controller='given' and step_ends=, when steps end, counted from t0"
    if name == "ClipStepSizeController":
        inner = instead_of_controller(getattr(value, "controller", None))
        times = " and ".join(f"{times}=..." for times in ("jump_ts", "step_ts") if getattr(value, times, None) is not None)
        instead = f"give solve {times}" if times else "leave it out"
        return f"the controller is {_whose(value)}: {instead}" + (f"; {inner}" if inner else "")
    return f"the controller is {_whose(value)}: {_CONTROLLER}"


def instead_of_solver(value: Any) -> str | None:
    """The same of what is given as `solver`: a method's name or object, or a controller, most often."""
    if isinstance(value, str):
        return instead_of_method(value) or f"write method={value!r}, or solver=jax_cubie.Solver({value!r})"
    return instead_of_controller(value) if "Controller" in _origin(value)[1] else instead_of_method(value)


def instead_of_saveat(value: Any) -> str | None:
    """The same of what is given as `saveat`."""
    if _origin(value)[0] == "diffrax":
        return f"that is {_whose(value)}: jax_cubie has a SaveAt of its own, with t0, t1, ts, steps, fn, subs and dense"
    if isinstance(value, (list, tuple)) or hasattr(value, "__array__"):
        return "write saveat=SaveAt(ts=...) for times"
    return None


def instead_of_term(value: Any) -> str | None:
    """The same of a vector field that is wrapped for another library."""
    library, name = _origin(value)
    if library == "diffrax" and name.endswith("Term"):
        return (
            "give the vector field f(t, y, args) itself: solve(f, t0, t1, y0, args, method='tsit5'); or call "
            "jax_cubie.diffrax.diffeqsolve, which takes diffrax's terms"
        )
    return None


def _origin(value: Any) -> tuple[str, str]:
    """The library and the class of an object, or of a class itself."""
    kind = value if isinstance(value, type) else type(value)
    return kind.__module__.partition(".")[0], kind.__name__


def _whose(value: Any) -> str:
    library, name = _origin(value)
    return f"{ {'scipy': 'SciPy'}.get(library, library)}'s {name}"
