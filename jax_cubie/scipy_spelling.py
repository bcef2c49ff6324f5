"""SciPy's spelling of a solve: solve_ivp, with its arguments, its defaults and its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .field_errors import call_field, check_signature
from .foreign_names import front_door, refused
from .methods import NAMES, Tableau
from .outputs import SaveAt
from .printing import describe_ivp
from .settings import Range, concrete
from .solution import CODES, RESULTS, Solution, is_fine
from .solver import Solver


class IVPSolution(Solution):
    """A `Solution` that also answers to the names of `scipy.integrate.solve_ivp`, and prints as its result does."""

    @property
    def t(self) -> Float[Array, " points"]:
        """The times, shape [points]."""
        return self.ts

    @property
    def y(self) -> Float[Array, "n points"]:
        """The states, shape [n, points]."""
        return self.ys.swapaxes(-1, -2)

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
        reached = "The solver successfully reached the end of the integration interval."
        texts = np.array([RESULTS[member] or reached for member in RESULTS])
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
    def sol(self) -> None:
        """None: there is no solution as a function."""

    @property
    def t_events(self) -> None:
        """None: there are no events."""

    @property
    def y_events(self) -> None:
        """None: there are no events."""

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
    events: None = None,
    vectorized: bool = False,
    first_step: Any = None,
    max_step: Any = None,
    rtol: Any = 1e-3,
    atol: Any = 1e-6,
    jac: Any = None,
    jac_sparsity: Any = None,
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
    - dense_output, events, vectorized: nothing but SciPy's defaults, since there are none of these.
    - settings: the others of a `Solver`.

    The result answers to `.t`, `.y` (shape [n, points]), `.success`, `.status`, `.message`, `.nfev`, `.njev`, `.nlu`, and to
    all of `Solution`. Raises what `solve` raises, and ValueError for SciPy's options that are not there.
    """
    for name, given in {"dense_output": dense_output, "events": events, "vectorized": vectorized}.items():
        if given:
            raise refused("solve_ivp", name)
    try:
        t0, t1 = t_span
    except (TypeError, ValueError):
        raise ValueError(f"t_span is {t_span!r}: expected a pair (t0, t1)") from None
    y0 = _vector("y0", y0)
    args = () if args is None else args
    if not isinstance(args, tuple):
        raise TypeError(f"args is {args!r}: solve_ivp calls fun(t, y, *args), so args is a tuple")
    if not callable(fun):
        raise TypeError(f"fun is {fun!r} of type {type(fun).__name__}: expected a function fun(t, y, *args)")
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
    solver = _solver(method, rtol, atol, max_step, settings)
    saveat = SaveAt(t0=True, t1=True) if t_eval is None else SaveAt(ts=t_eval)
    matrices = dict(jac=None if jac is None else matrix, jac_sparsity=jac_sparsity)
    solution = solver.solve(
        field, t0, t1, y0, args, saveat=saveat, dt0=_first_step(first_step, t0, t1), throw=throw, **matrices
    )
    return IVPSolution(**{key: getattr(solution, key) for key in ("t0", "t1", "ts", "ys", "stats", "result")})


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
