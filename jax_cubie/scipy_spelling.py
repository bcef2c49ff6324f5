"""SciPy's spelling of a solve: solve_ivp, with its arguments, its defaults and its result."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from .field_errors import call_field, check_signature, in_our_words
from .foreign_names import front_door, refused
from .methods import NAMES, Tableau
from .outputs import Event, EventRecord, SaveAt, SteadyState
from .outputs.dense_interpolation import DenseInterpolation
from .printing import describe_ivp
from .settings import Range, as_python, check_choice, concrete, told
from .solution import CODES, RESULTS, Solution, is_fine
from .solver import Solver

# SciPy's words for how it ends.
_MESSAGES = {
    "successful": "The solver successfully reached the end of the integration interval.",
    "event_occurred": "A termination event occurred.",
}

# For how many steps there is room with dense_output=True where max_steps is not given. SciPy has as much as it needs.
_DENSE_STEPS = 4096


class OdeSolution(eqx.Module):
    """The solution as a function of time, called as `scipy.integrate.OdeSolution` is; `sol` of a solve with dense_output=True.

    Between t_min and t_max it is what the method itself has between its steps. Beyond them it is NaN, where SciPy goes on with
    the polynomial of the nearest step. Of many lanes: `jax.vmap(lambda sol, t: sol(t))`.
    """

    _interpolation: DenseInterpolation

    def __call__(self, t: Real[Array, "*points"] | float) -> Float[Array, " n *points"]:
        """The state at the time t, shape [n]; of times of shape [points], shape [n, points].

        It has derivatives by t, and by all that the solve has derivatives by. Raises ValueError where t has two axes or more,
        or where this holds several lanes; TypeError where t is no real number.
        """
        if np.ndim(t) > 1:
            raise ValueError(f"t has shape {np.shape(t)}: expected a time, or a one-dimensional array of times")
        return jnp.moveaxis(self._interpolation.evaluate(t), -1, 0)

    @property
    def t_min(self) -> Float[Array, ""]:
        """The earliest time that there is."""
        return jnp.minimum(*self._ends)

    @property
    def t_max(self) -> Float[Array, ""]:
        """The latest one."""
        return jnp.maximum(*self._ends)

    @property
    def _ends(self) -> tuple[Array, Array]:
        """t0, and where the lane ended."""
        kept = self._interpolation
        whole = kept.reached == jnp.abs(kept.span)
        return kept.t0, jnp.where(whole, kept.t1, kept.t0 + jnp.sign(kept.span) * kept.reached)

    def __repr__(self) -> str:
        return "OdeSolution, a function of t"


def _happened(record: EventRecord, rows: Array) -> Array:
    """Of the rows that were kept those of events that happened, where one lane's number of them is known."""
    count = concrete(record.count)
    return rows if count is None or np.ndim(count) else jnp.asarray(np.asarray(rows)[: int(count)])


class IVPSolution(Solution):
    """A `Solution` that also answers to the names of `scipy.integrate.solve_ivp`, and prints as its result does.

    Of one lane whose values are known, what depends on events has SciPy's lengths. Where they are traced, and of many lanes,
    lengths are those of the rows that there may be, and what did not happen is NaN. `events` is a list of `EventRecord`s, which
    count those that had no row, too.
    """

    @property
    def t(self) -> Float[Array, " points"]:
        """The times, shape [points]: those that were reached, where an event ended the one lane."""
        return self.ts if self._reached is None else jnp.asarray(np.asarray(self.ts)[self._reached])

    @property
    def y(self) -> Float[Array, "n points"]:
        """The states, shape [n, points]."""
        return self.ys.swapaxes(-1, -2) if self._reached is None else jnp.asarray(np.asarray(self.ys)[self._reached].T)

    @property
    def _reached(self) -> np.ndarray | None:
        """Which rows an event left over of the one lane that it ended; None: all."""
        code = concrete(self.result._value)
        if code is None or np.ndim(code) or code != CODES["event_occurred"]:
            return None
        return np.asarray(~np.isnan(np.asarray(self.ys)).any(axis=-1))

    @property
    def success(self) -> Bool[Array, ""]:
        """Whether t1 was reached, or an event."""
        return is_fine(self.result._value)

    @property
    def status(self) -> Int[Array, ""]:
        """0 where t1 was reached, 1 where an event was, else -1."""
        code = self.result._value
        return jnp.where(code == CODES["event_occurred"], 1, -(code != CODES["successful"]).astype("int32"))

    @property
    def message(self) -> Any:
        """Why the solve ended: text for one lane, an array of texts for many."""
        if isinstance(self.result._value, jax.core.Tracer):
            raise TypeError("message is a text, which traced code can't hold: read it outside of jit and vmap, or read status")
        texts = np.array([_MESSAGES.get(name) or RESULTS[member] for name, member in RESULTS.__members__.items()])
        chosen = texts[np.asarray(self.result._value)]
        return str(chosen) if chosen.ndim == 0 else chosen

    @property
    def nfev(self) -> Int[Array, ""]:
        """Evaluations of the right-hand side."""
        return self.stats["nfev"]

    @property
    def njev(self) -> Int[Array, ""] | int:
        """Evaluations of the Jacobian: 0 for explicit methods."""
        return self.stats.get("num_jacobians", 0)

    @property
    def nlu(self) -> Int[Array, ""] | int:
        """Factorisations of a matrix: 0 for explicit methods."""
        return self.stats.get("num_factorisations", 0)

    @property
    def sol(self) -> OdeSolution | None:
        """The solution as a function of time, with `dense_output=True`; else None."""
        return None if self.interpolation is None else OdeSolution(self.interpolation)

    @property
    def t_events(self) -> list[Float[Array, " happened"]] | None:
        """For each event the times at which it happened, the first `max_events` of them; None without events."""
        return None if self.events is None else [_happened(record, record.times) for record in self.events]

    @property
    def y_events(self) -> list[Float[Array, "happened n"]] | None:
        """For each event the states at these times; None without events."""
        return None if self.events is None else [_happened(record, record.ys) for record in self.events]

    def __repr__(self) -> str:
        return describe_ivp(self)


@front_door
def solve_ivp(
    fun: Callable[..., Any],
    t_span: Any,
    y0: Any,
    method: str | Tableau = "RK45",
    t_eval: Any = None,
    *,
    args: tuple | None = None,
    dense_output: bool = False,
    events: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    vectorized: bool = False,
    first_step: Any = None,
    max_step: Any = None,
    rtol: Any = 1e-3,
    atol: Any = 1e-6,
    jac: Any = None,
    jac_sparsity: Any = None,
    max_events: int = 100,
    throw: bool = False,
    **settings: Any,
) -> IVPSolution:
    """`solve` in the spelling of `scipy.integrate.solve_ivp`, with its defaults: fun(t, y, *args), t_span = (t0, t1), a
    one-dimensional y0.

    - method: a name in any case, SciPy's "RK23", "RK45", "DOP853" and "Radau" among them, or a tableau. For "BDF" and "LSODA"
      write one of those for stiff systems, as "rodas5p" or "kvaerno5".
    - t_eval: the times to save. None: the two ends, t0 and t1, where SciPy saves every step (`solve` does, with
      `SaveAt(steps=True)`).
    - first_step, max_step: positive, whatever the direction; None: chosen here, and unlimited.
    - rtol, atol: numbers, or arrays like y0; for methods that have an error estimate.
    - jac, jac_sparsity: for implicit methods jac(t, y, *args) -> [n, n], or a matrix where it is constant; and where it may
      have entries.
    - events: a function event(t, y, *args) that is 0 when something happens, or a list of such. With SciPy's attributes:
      `event.terminal`, True where the solve ends there, or a number, where it ends at so many of them; `event.direction`,
      positive where only growing values count, negative where only falling ones do. They are found as those of
      `jax_cubie.Event`, of which more can be said: at t0 there are none, and of several within a step all.
    - max_events: of so many of each event times and states are kept, of one that ends the solve no more than there may be. One
      lane whose values are known warns of more; `solution.events` counts all.
    - dense_output: whether `.sol` is the solution as a function of time: sol(t) has shape [n], and [n, points] where t has
      shape [points]; NaN beyond t_span, and where an event or a failure ended the solve. It keeps room for `max_steps` steps in
      every lane, 4,096 if that is not given, where SciPy has as much as it needs: a lane that needs more ends there with status
      -1, of which one lane whose values are known warns.
    - vectorized: nothing but SciPy's default, since there is no such thing.
    - settings: the others of a `Solver`.

    The result answers to `.t`, `.y` (shape [n, points]), `.sol`, `.success`, `.status`, `.message`, `.nfev`, `.njev`, `.nlu`,
    `.t_events`, `.y_events` (a list with an array for each event), and to all of `Solution`. Where an event ended the solve,
    `.t` ends with the last of t_eval in front of it, or with the event where there is no t_eval. See `IVPSolution` for the
    lengths of these under jit and vmap.

    Raises what `solve` raises, and ValueError for SciPy's options that are not there.
    """
    if vectorized:
        raise refused("solve_ivp", "vectorized")
    dense_output = check_choice("dense_output", dense_output, (True, False))
    try:
        t0, t1 = t_span
    except (TypeError, ValueError):
        raise ValueError(f"t_span is {t_span!r}: expected a pair (t0, t1)") from None
    y0 = _vector("y0", y0)
    args = () if args is None else args
    if not isinstance(args, tuple):
        raise TypeError(f"args is {args!r}: solve_ivp calls fun(t, y, *args), so args is a tuple")
    if not callable(fun):
        raise TypeError(f"fun is {told(fun)}: expected a function fun(t, y, *args)")
    check_signature(fun, "fun(t, y, *args)", 2 + len(args))

    def derivative(returned: Any) -> Array:
        vector = _vector("what fun returns", returned)
        if vector.shape != y0.shape:
            raise ValueError(f"what fun returns has shape {vector.shape} where y0 has {y0.shape}; they have to be equal")
        return vector

    def field(t: Any, y: Any, values: tuple) -> Array:
        return call_field(fun, "fun(t, y, *args)", derivative, t, y, *values)

    def matrix(t: Any, y: Any, values: tuple) -> Any:
        return jac(t, y, *values) if callable(jac) else jnp.asarray(jac)

    field.__qualname__ = getattr(fun, "__qualname__", type(fun).__qualname__)
    field.original, matrix.original = fun, jac
    room = {"max_steps": _DENSE_STEPS} if dense_output else {}
    solver = _solver(method, rtol, atol, max_step, {**room, **settings})
    ends = t_eval is None
    if getattr(t_eval, "size", 1) == 0 or (isinstance(t_eval, (list, tuple)) and not t_eval):
        raise ValueError("t_eval has no times: give one at least, or None for both ends")
    with _saying_t_eval():
        saveat = SaveAt(t0=ends, t1=ends, ts=t_eval, dense=dense_output)
    matrices = dict(jac=None if jac is None else matrix, jac_sparsity=jac_sparsity)
    looked_for = None if events is None else _events(events, max_events, 2 + len(args))
    with _saying_t_eval():
        solution = solver.solve(
            field, t0, t1, y0, args, saveat=saveat, dt0=_first_step(first_step, t0, t1), throw=throw, events=looked_for or (),
            **matrices,
        )  # fmt: skip
    found = {key: getattr(solution, key) for key in ("t0", "t1", "ts", "ys", "stats", "result", "interpolation")}
    made = IVPSolution(**found, events=None if looked_for is None else solution.events or [])
    for number, record in enumerate(made.events or []):
        _warn_of_more(number, record)
    if dense_output and "max_steps" not in settings:
        _warn_of_more_steps(made)
    return made


@contextlib.contextmanager
def _saying_t_eval() -> Iterator[None]:
    """Errors of times to save name them as SciPy does."""
    ours = "SaveAt(ts=...)"
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(ours):
            raise
        raise ValueError(f"t_eval{str(error).removeprefix(ours)}") from None


def _events(given: Any, most: Any, arguments: int) -> list[Event]:
    """Our events for SciPy's. most: of how many rows are kept. arguments: how many a function is called with."""
    most = as_python(most)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ValueError(f"max_events is {most!r}: expected of how many events times and states are kept, 1 or more")
    functions = [given] if callable(given) else given
    if not isinstance(functions, (list, tuple)):
        functions = [given]
    for one in functions:
        if isinstance(one, (Event, SteadyState)):
            name = "steady_state()" if isinstance(one, SteadyState) else "Event"
            raise TypeError(f"events has a jax_cubie.{name}: solve_ivp takes functions; call jax_cubie.solve, which takes it")
        if not callable(one):
            raise TypeError(
                f"events has {told(one)}: expected a function event(t, y, *args) or a list of such"
            )
        check_signature(one, "event(t, y, *args)", arguments)
    return [_event(one, f"events[{number}]" if len(functions) > 1 else "events", most) for number, one in enumerate(functions)]


def _event(function: Callable[..., Any], said: str, most: int) -> Event:
    terminal, direction = getattr(function, "terminal", None), getattr(function, "direction", 0)
    try:
        ends_at = 0 if terminal is None else int(terminal)
        if (terminal is not None and ends_at != terminal) or ends_at < 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{said}.terminal is {terminal!r}: expected a boolean, or at which of them the solve ends") from None
    try:
        sign = float(np.sign(direction))
    except (TypeError, ValueError):
        sign = np.nan
    if sign != sign:
        raise ValueError(f"{said}.direction is {direction!r}: expected a number, of which the sign counts")

    def cond(t: Any, y: Any, args: tuple) -> Array:
        with in_our_words(said):
            value = jnp.asarray(function(t, y, *args))
        if value.shape != ():
            raise ValueError(f"what {said} returns has shape {value.shape}: expected a scalar that becomes 0")
        if not jnp.issubdtype(value.dtype, jnp.floating):
            more = "; jax_cubie.solve takes jax_cubie.Event, whose conditions may be bools" if value.dtype == bool else ""
            raise TypeError(f"what {said} returns has dtype {value.dtype}: expected a float that becomes 0{more}")
        return value

    return Event(cond, direction=int(sign), terminal=ends_at, record=min(ends_at or most, most))


def _warn_of_more(number: int, record: EventRecord) -> None:
    """Where more events happened than were kept."""
    count, (kept,) = concrete(record.count), record.times.shape[-1:]
    if count is not None and np.ndim(count) == 0 and count > kept:
        warnings.warn(
            f"event {number} happened {count} times, of which the first {kept} are in t_events and y_events: give a larger "
            "max_events=",
            stacklevel=4,
        )


def _warn_of_more_steps(solution: IVPSolution) -> None:
    """Where the solution as a function ends for want of room that nobody asked for."""
    code = concrete(solution.result._value)
    if code is not None and np.ndim(code) == 0 and code == CODES["max_steps_reached"]:
        warnings.warn(
            f"dense_output=True keeps room for {_DENSE_STEPS:,} steps, after which t1 was not reached: give max_steps=, "
            "somewhat more steps than you expect",
            stacklevel=4,
        )


def _solver(method: Any, rtol: Any, atol: Any, max_step: Any, settings: dict[str, Any]) -> Solver:
    """The solver of these settings, with tolerances where its controller has any."""
    lower = method.lower() if isinstance(method, str) else method
    solver = Solver(lower if lower in NAMES else method, **settings)
    if "rtol" in solver.settings():
        listed = {"rtol": rtol, "atol": atol}
        solver = solver.update(**{key: jnp.asarray(v) if isinstance(v, (list, tuple)) else v for key, v in listed.items()})
    if max_step is None:
        return solver
    if "dtmax" in settings:
        raise ValueError("max_step and dtmax are two names of one setting: give one of them")
    if "dtmax" not in solver.settings():
        raise ValueError(f"max_step is set, but {method!r} takes fixed steps here, of first_step: leave max_step out")
    Range(0, high_allowed=True).check("max_step", max_step)
    return solver.update(dtmax=max_step)


def _first_step(size: Any, t0: Any, t1: Any) -> Any:
    """dt0 for a first step of that size, in the direction from t0 to t1."""
    if size is None:
        return None
    Range(0).check("first_step", size)
    start, end = concrete(t0), concrete(t1)
    if start is None or end is None:
        return jnp.where(jnp.asarray(t1) >= t0, size, -jnp.asarray(size))
    return size if np.all(end >= start) else -size


def _vector(what: str, value: Any) -> Array:
    """A one-dimensional array from what SciPy takes for one, lists of numbers among them."""
    try:
        vector = jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} is {value!r}: expected a one-dimensional array; solve takes any pytree") from None
    if vector.ndim != 1:
        raise ValueError(f"{what} has shape {vector.shape}: solve_ivp takes a one-dimensional state; solve takes any pytree")
    return vector
