"""The front doors: solve and solve_ivp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Real

from .integrators import EXPLICIT, ButcherTableau, ExplicitRungeKutta
from .outputs import SaveAt
from .solution import CODES, NAMES, RESULTS, Solution
from .solver import Solver


def solve(
    f: Callable[[Float[Array, ""], PyTree, PyTree], PyTree],
    t0: Real[Array, ""] | float,
    t1: Real[Array, ""] | float,
    y0: PyTree,
    args: PyTree = None,
    *,
    saveat: SaveAt = SaveAt(t1=True),  # noqa: B008 - it is immutable
    dt0: Real[Array, ""] | float | None = None,
    solver: Solver | None = None,
    throw: bool = False,
    **settings: Any,
) -> Solution:
    """Integrates dy/dt = f(t, y, args) from t0 to t1, one trajectory; `jax.vmap` of it is one launch for all.

    - f: any function that JAX can trace; returns a pytree like y0. It may close over arrays.
    - t0, t1: scalars, the ends of the interval; t1 < t0 integrates backwards.
    - y0: the state, a pytree of arrays. Its dtype, float32 or float64, is that of the solve; integers become the default
      float.
    - args: any pytree; integers stay integers, and what is no array is handed to f as it is.
    - saveat: what to save; shape [points] in front of each leaf of `Solution.ys`.
    - dt0: the first step (of the sign of t1 - t0), or every step of the controller "fixed"; None: chosen here.
    - solver: a `Solver`; settings given besides are `solver.update(**settings)`.
    - throw: raise where any lane failed. Only outside of traced code.
    - settings: those of `Solver`, as `method="dopri5", rtol=1e-8, state_location="shared"`.

    Returns a `Solution`. A lane that fails says so in `result` and disturbs no other.

    Raises ValueError or TypeError for values that are wrong and known now (traced ones end in a result code),
    NotImplementedError for an operation in f that has no rule, BuildError where an image can't be built, RuntimeError with
    throw=True.
    """
    if solver is None:
        solver = Solver(**settings)
    elif not isinstance(solver, Solver):
        raise TypeError(f"solver is {solver!r} of type {type(solver).__name__}: expected a jax_cubie.Solver")
    elif settings:
        solver = solver.update(**settings)
    return solver.solve(f, t0, t1, y0, args, saveat=saveat, dt0=dt0, throw=throw)


class IVPSolution(Solution):
    """A `Solution` that also answers to the names of `scipy.integrate.solve_ivp`."""

    @property
    def t(self) -> Float[Array, " points"]:
        """The times, shape [points]."""
        return self.ts

    @property
    def y(self) -> Float[Array, "n points"]:
        """The states, shape [n, points]."""
        return self.ys.swapaxes(-1, -2)

    @property
    def success(self) -> Any:
        """Whether t1 was reached."""
        return self.result._value == CODES["successful"]

    @property
    def status(self) -> Any:
        """0 where t1 was reached, else -1."""
        return -(self.result._value != CODES["successful"]).astype("int32")

    @property
    def message(self) -> Any:
        """Why the solve ended: text for one lane, an array of texts for many."""
        reached = "The solver successfully reached the end of the integration interval."
        texts = np.array([reached, *(_text(name) for name in NAMES[1:])])
        chosen = texts[np.asarray(self.result._value)]
        return str(chosen) if chosen.ndim == 0 else chosen

    @property
    def nfev(self) -> Any:
        """Evaluations of the right-hand side."""
        return self.stats["nfev"]


def _text(name: str) -> str:
    return RESULTS[getattr(RESULTS, name)]


_ELSEWHERE = {
    "first_step": "use dt0=",
    "max_step": "use dtmax=",
    "min_step": "use dtmin=",
    "events": "there are none yet; save times with t_eval= and look for the event between them",
    "dense_output": "use t_eval=, the times at which the solution is wanted",
    "vectorized": "use jax.vmap of solve_ivp",
    "jac": "leave it out, since explicit methods need no Jacobian",
}


def solve_ivp(
    fun: Callable[..., Any],
    t_span: Any,
    y0: Any,
    method: str | ButcherTableau = "tsit5",
    t_eval: Any = None,
    *,
    args: tuple = (),
    dt0: Any = None,
    throw: bool = False,
    **settings: Any,
) -> IVPSolution:
    """SciPy's spelling of `solve`: fun(t, y, *args), t_span = (t0, t1), a one-dimensional y0.

    method: a name in any case, SciPy's "RK23", "RK45" and "DOP853" among them, or a tableau. t_eval: the times to save,
    None for the two ends. The result answers to `.t`, `.y` (shape [n, points]), `.success`, `.status`, `.message`, `.nfev`,
    and to all of `Solution`. Raises what `solve` raises, and ValueError for SciPy's options that go by another name here.
    """
    for name, instead in _ELSEWHERE.items():
        if name in settings:
            raise ValueError(f"solve_ivp has no {name}: {instead}")
    try:
        t0, t1 = t_span
    except (TypeError, ValueError):
        raise ValueError(f"t_span is {t_span!r}: expected a pair (t0, t1)") from None
    y0 = _vector("y0", y0)
    if not isinstance(args, tuple):
        raise TypeError(f"args is {args!r}: solve_ivp calls fun(t, y, *args), so args is a tuple")
    saveat = SaveAt(t0=True, t1=True) if t_eval is None else SaveAt(ts=t_eval)

    def field(t: Any, y: Any, values: tuple) -> Any:
        return _vector("what fun returns", fun(t, y, *values))

    method = method.lower() if isinstance(method, str) else method
    solution = Solver(method, **settings).solve(field, t0, t1, y0, args, saveat=saveat, dt0=dt0, throw=throw)
    return IVPSolution(**{key: getattr(solution, key) for key in ("t0", "t1", "ts", "ys", "stats", "result")})


def _vector(what: str, value: Any) -> Array:
    """A one-dimensional array from what SciPy takes for one, lists of numbers among them."""
    try:
        vector = jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} is {value!r}: expected a one-dimensional array; solve takes any pytree") from None
    if vector.ndim != 1:
        raise ValueError(f"{what} has shape {vector.shape}: solve_ivp takes a one-dimensional state; solve takes any pytree")
    return vector


def methods() -> list[dict[str, Any]]:
    """Every method.

    `name`, `aliases`, `family`; `order`; `embedded_order` (None without an error estimate); `dense_order` of the values
    between steps; `stages`; `fsal`: whether its last stage is the next step's first.
    """
    return [
        {
            "name": tableau.name,
            "aliases": tableau.aliases,
            "family": ExplicitRungeKutta.family,
            "order": tableau.order,
            "embedded_order": tableau.embedded_order,
            "dense_order": tableau.dense_order,
            "stages": tableau.stages,
            "fsal": tableau.fsal,
        }
        for tableau in EXPLICIT.values()
    ]
