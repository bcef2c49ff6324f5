"""The front door: solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Array, PyTree, Real

from .foreign_names import front_door, instead_of_solver
from .inputs import AnyDoses
from .outputs import Event, SaveAt, SteadyState, Summary
from .settings import told
from .solution import Solution
from .solver import Solver


@front_door
def solve(
    f: Callable[..., PyTree],
    t0: Real[Array, ""] | float,
    t1: Real[Array, ""] | float,
    y0: PyTree,
    args: PyTree = None,
    *,
    saveat: SaveAt = SaveAt(t1=True),  # noqa: B008 - it is immutable
    dt0: Real[Array, ""] | float | None = None,
    observables: Callable[..., PyTree] | None = None,
    summaries: Mapping[str, Summary] | None = None,
    events: PyTree[Event | SteadyState] = (),
    drivers: PyTree = None,
    doses: AnyDoses | Sequence[AnyDoses] | None = None,
    jump_ts: Real[Array, " jumps"] | None = None,
    step_ts: Real[Array, " times"] | None = None,
    solver: Solver | None = None,
    throw: bool = False,
    mass: PyTree = None,
    mass_pattern: Any = None,
    jac: Callable[..., Any] | None = None,
    jac_sparsity: Any = None,
    **settings: Any,
) -> Solution:
    """Integrates dy/dt = f(t, y, args) from t0 to t1, one trajectory; `jax.vmap` of it is one launch for all.

    - f: any function that JAX can trace; returns a pytree like y0. It may close over arrays. With drivers it is
      f(t, y, args, u).
    - t0, t1: scalars, the ends of the interval; t1 < t0 integrates backwards.
    - y0: the state, a pytree of arrays. Its dtype, float32 or float64, is that of the solve; integers become the default
      float.
    - args: any pytree. Real numbers are arrays to f, those of Python, too; integers stay integers. What else is no array is
      handed to f as it is and is part of the code, Python's booleans among it.
    - saveat: what to save; shape [points] in front of each leaf of `Solution.ys`. Several outputs of one solve:
      `SaveAt(subs=...)`. The solution as a function of time, `Solution.evaluate(t)`: `SaveAt(dense=True)` with max_steps.
    - dt0: the first step (of the sign of t1 - t0), or every step of the controller "fixed"; None: chosen here.
    - observables: observables(t, y, args), any pytree of arrays that is kept beside `ys` of every saved point, as
      `Solution.observables`.
    - summaries: a dict of `jax_cubie.Summary`, numbers of the whole trajectory that are made on the way, so that a lane leaves
      a few words; `Solution.summaries` has them by the same names.
    - events: a `jax_cubie.Event`, or `jax_cubie.steady_state()`, which ends a lane once it is in a steady state; or a tuple, a
      list or a dict of these. `Solution.events` tells of each what happened.
    - drivers: a pytree of `jax_cubie.Driver`, inputs that were measured or designed. Every function of time and state is then
      given their values at t, in the same structure, as a last argument u: f(t, y, args, u), and fn of SaveAt, observables,
      those of summaries and events, and jac, too.
    - doses: what is added to components of the state at given times, at once or over a while: a `jax_cubie.Doses`, or a tuple
      of them, in which there may be `jax_cubie.Resets` and `jax_cubie.SteadyDoses`, too. Steps end on them, and the method
      starts again.
    - jump_ts: times on which steps end and behind which the method starts again: where the vector field jumps. They lie between
      t0 and t1, in the order in which they are come to; infinite ones behind them are never reached, so that lanes may have
      different numbers of them. step_ts: times on which steps end, likewise; behind these the method and its controller go
      on, with steps as long as they were wanted before.
    - solver: a `Solver`; settings given besides are `solver.update(**settings)`.
    - throw: raise where any lane failed, also under jit, vmap, grad and shard_map, when the solution is computed. Of a batch
      that is sharded over devices otherwise, what is raised ends the process: look at `result` there.
    - mass: M of M dy/dt = f(t, y, args), for Rosenbrock methods and implicit ones that are stiffly accurate: an array [n] for a
      diagonal, or [n, n], over the components of y0's leaves one behind the other; for a diagonal a pytree like y0; or an
      operator of lineax. It may be singular (a differential-algebraic equation of index 1), and one for each lane. What of a
      known matrix is 0 is left out; of one that is traced, or batched, all may be there, if `mass_pattern`, booleans of its
      shape, does not say what is. Where rows and as many columns of M are known to be 0, the components of these columns are
      solved for at t0, from y0 as a guess, and anew behind doses, an event's affect, `jump_ts` and where drivers jump; such a
      lane may end with `inconsistent_initial_state`. Elsewhere y0 has to satisfy the algebraic equations, which may be sums of
      components of f (rows of a known matrix that depend on others become 0), and nothing may jump: NotImplementedError.
    - jac: jac(t, y, args) -> [n, n], the Jacobian of f, in place of the one that is derived; jac_sparsity: where it may have
      entries, booleans [n, n], in place of what is found. Both are checked against f's own, where values are known.
    - settings: those of `Solver`, as `method="dopri5", rtol=1e-8, state_location="shared"`.

    Derivatives of `ys`, `observables` and `summaries`, forwards and backwards, to any order: by y0, the float leaves of args,
    mass, arrays that f, `SaveAt.fn` and the like close over, values of drivers, all numbers of doses, `jump_ts`, `step_ts`, t0,
    t1, `SaveAt.ts`, and of steps that nobody judges by dt0 and `step_ends`. Sizes that the controller chose are held fixed; so
    by tolerances, coefficients, max_steps and dt0 as a first step the derivative is 0, as are those of `stats` and of the times
    of steps, and of y0's components that are solved for. Beside doses a row of `SaveAt.ts` at t0 itself is y0, whatever moves.
    Times and states of events have derivatives, too. A lane that failed has NaN, in reverse for all its rows. What
    `Solution.evaluate` and `Solution.derivative` give has the same derivatives, but for `SaveAt.ts`, and
    one by its time. Raises FieldError, a TypeError, where f has no derivative.

    Returns a `Solution`. A lane that fails says so in `result` and disturbs no other.

    Raises ValueError or TypeError for values that are wrong and known now (traced ones end in a result code),
    NotImplementedError for an operation in f that has no rule, BuildError where an image can't be built, RuntimeError with
    throw=True.
    """
    if solver is None:
        solver = Solver(**settings)
    elif not isinstance(solver, Solver):
        instead = instead_of_solver(solver)
        given = f"solver is {told(solver)}: expected a jax_cubie.Solver"
        raise TypeError(given + (f"; {instead}" if instead else ""))
    elif settings:
        solver = solver.update(**settings)
    matrices = dict(mass=mass, mass_pattern=mass_pattern, jac=jac, jac_sparsity=jac_sparsity)
    acting = dict(events=events, drivers=drivers, doses=doses, jump_ts=jump_ts, step_ts=step_ts)
    kept = dict(saveat=saveat, observables=observables, summaries=summaries)
    return solver.solve(f, t0, t1, y0, args, dt0=dt0, throw=throw, **kept, **acting, **matrices)
