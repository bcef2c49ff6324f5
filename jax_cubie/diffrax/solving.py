"""diffeqsolve."""

from __future__ import annotations

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..outputs import Event
from ..settings import concrete
from ..solution import CODES, RESULTS, Solution
from ..solver import Solver
from .conditions import Conditions, check_event
from .saves import check_saveat, is_state, is_sub, packed, saveat_of, without_unreached
from .twins import check_adjoint, control_of, method_of, newton_of, unclipped, vector_field_of

_UNLIMITED = 2**31 - 1  # steps are counted in int32
_MESSAGES = [RESULTS[member] for member in RESULTS]
# How diffrax ends where a lane ends so: it goes on to reject until max_steps is reached; where nobody judges steps, as in
# _UNJUDGED.
_ENDS = {
    "successful": "successful",
    "max_steps_reached": "max_steps_reached",
    "dt_min_reached": "dt_min_reached",
    "step_size_underflow": "max_steps_reached",
    "not_finite": "max_steps_reached",
    "invalid_input": "internal_error",  # an error in any case
    "singular_matrix": "max_steps_reached",
    "nonlinear_divergence": "max_steps_reached",
    "linear_divergence": "max_steps_reached",
    "event_occurred": "event_occurred",
    "events_accumulate": "max_steps_reached",
    "inconsistent_initial_state": "internal_error",  # there are no mass matrices
    "steady_state_not_reached": "internal_error",  # there are no doses
}
_UNJUDGED = {"singular_matrix": "singular", "nonlinear_divergence": "nonlinear_divergence"}
_NOT_HERE = {
    "discrete_terminating_event": "diffrax itself has event= in its place; write event=Event(cond_fn)",
    "solver_state": "a solve can't be resumed here; begin with y0 alone",
    "controller_state": "a solve can't be resumed here; give dt0, the first step",
    "made_jump": "no method here keeps anything over from another solve",
}


def diffeqsolve(
    terms: Any,
    solver: Any,
    t0: Any,
    t1: Any,
    dt0: Any,
    y0: PyTree,
    args: PyTree = None,
    *,
    saveat: diffrax.SaveAt = diffrax.SaveAt(t1=True),  # noqa: B008 - it is immutable, as those below
    stepsize_controller: Any = diffrax.ConstantStepSize(),  # noqa: B008
    adjoint: Any = diffrax.RecursiveCheckpointAdjoint(),  # noqa: B008
    event: diffrax.Event | None = None,
    max_steps: int | None = 4096,
    throw: bool = True,
    progress_meter: Any = diffrax.NoProgressMeter(),  # noqa: B008
    solver_state: None = None,
    controller_state: None = None,
    made_jump: None = None,
    discrete_terminating_event: None = None,
) -> diffrax.Solution:
    """`diffrax.diffeqsolve` as one fused kernel; `jax.vmap` of it is one launch for all.

    - terms: an ODETerm.
    - solver: Euler, Heun, Midpoint, Ralston, Bosh3, Tsit5, Dopri5, Dopri8; ImplicitEuler, Kvaerno3, Kvaerno4 or Kvaerno5, with
      VeryChord or optimistix.Chord as root finder.
    - y0: a pytree of real arrays; float32 or float64, with the times' dtype, as in diffrax.
    - args: a pytree. Floats are traced, so that another value builds nothing; integers, booleans and all else that is no array
      are constants.
    - stepsize_controller: PIDController, with the norm left at its default; ConstantStepSize; StepTo. Times on which steps end,
      PIDController(step_ts=..., jump_ts=...), a ClipStepSizeController.
    - saveat: t0, t1, ts, steps, fn, subs and dense.
    - adjoint: RecursiveCheckpointAdjoint, DirectAdjoint or ForwardMode. All stand for the same derivatives, those of the steps
      taken, in whichever mode is asked for; see `jax_cubie.solve`.
    - event: an Event, of conditions that are floats or bools, with directions. t1 may be infinite then.
    - max_steps, throw: as in diffrax. throw=True works under jit, vmap and grad.

    Steps, and with them `ts`, `ys`, `stats` and `result`, are those of diffrax 0.7.2, but for rounding; dt0=None begins with
    0.01, as that version does. Different are:

    - Time is counted in y0's dtype, from t0 on, where the times have another.
    - Implicit solvers take one Jacobian for a step. The root finder's tolerances are of the stages' states, where diffrax has
      them of slopes or increments, its norm is the root mean square, and the iteration ends where what is left is below kappa
      times these tolerances. So steps agree as far as those go, and their numbers may differ by a few in a hundred.
    - A lane whose steps are judged and that can't go on, since its state is not finite or no smaller step helps, ends at once,
      with `max_steps_reached`: diffrax rejects steps until then.
    - Where step_ts or jump_ts cut a step, the next one has the size that was wanted before, where diffrax makes it of what was
      left of the step; steps end on jumps themselves, and f is not evaluated at them.
    - With a root finder, whichever it is, the time of an event is found to a few units in the last place, and the last step
      ends there; also where a condition changes its sign twice in a step. Of several conditions in a step the first in time
      counts, where diffrax takes the first in their order. A condition that is 0 at t0 has no event there. The step in which an
      event happens is taken twice, and both count to max_steps, though not in `stats`. With ConstantStepSize, where dt0 does
      not divide the interval, the first step is as long as the others.
    - With throw=False, rows that a lane did not reach are infinite; so is that of t1, where diffrax has the state it came to.

    Raises TypeError or ValueError for what is not here, by its name; RuntimeError where a lane fails, with throw=True, and for
    wrong times and tolerances in any case.
    """
    given = dict(
        solver_state=solver_state, controller_state=controller_state, made_jump=made_jump,
        discrete_terminating_event=discrete_terminating_event,
    )  # fmt: skip
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is given: {_NOT_HERE[name]}")
    if type(progress_meter) is not diffrax.NoProgressMeter:
        raise ValueError(
            f"progress_meter is {type(progress_meter).__name__}: leave it out, since a solve is one kernel, which reports "
            "nothing on its way"
        )
    check_adjoint(adjoint)
    check_saveat(saveat, max_steps)
    check_event(event, stepsize_controller)
    return _solve(terms, solver, t0, t1, dt0, y0, args, saveat, stepsize_controller, event, max_steps, throw)


@eqx.filter_jit
def _solve(
    terms: Any,
    solver: Any,
    t0: Any,
    t1: Any,
    dt0: Any,
    y0: PyTree,
    args: PyTree,
    saveat: diffrax.SaveAt,
    controller: Any,
    event: diffrax.Event | None,
    max_steps: int | None,
    throw: bool,
) -> diffrax.Solution:
    field, method = vector_field_of(terms), method_of(solver)
    subs, structure = jax.tree.flatten(saveat.subs, is_leaf=is_sub)
    time_dtype = _time_dtype([t0, t1, dt0, *(sub.ts for sub in subs)])
    y0, dtype = _promoted(y0, time_dtype)
    start, end = (jnp.asarray(time, time_dtype) for time in (t0, t1))
    conditions = None
    if event is not None:
        keywords = dict(
            terms=terms, solver=solver, t0=start, t1=end, dt0=dt0, saveat=saveat, stepsize_controller=controller,
            max_steps=max_steps,
        )  # fmt: skip
        conditions = Conditions(event, start, y0, args, keywords)
        t1 = _finite(t1, dtype)
    inner, ends = unclipped(controller, t0, t1, time_dtype)
    settings, first_step = control_of(inner, solver, t0, t1, dt0, y0, dtype, cut=event is not None)
    settings |= newton_of(solver, inner, y0)
    over = None if conditions is None else conditions.starts_over
    if over is not None:  # there is nothing to integrate
        t1 = jnp.where(over, start, jnp.asarray(t1, time_dtype))
        moved = [None if sub.ts is None else jnp.where(over, start, sub.ts.astype(time_dtype)) for sub in subs]
        subs = [sub if ts is None else eqx.tree_at(_ts, sub, ts) for sub, ts in zip(subs, moved, strict=True)]
        saveat = eqx.tree_at(lambda one: one.subs, saveat, structure.unflatten(subs))
    cubie = Solver(method, max_steps=_UNLIMITED if max_steps is None else max_steps, **settings)
    traced, constants = eqx.partition(args, lambda leaf: eqx.is_array(leaf) or isinstance(leaf, float))

    def whole(function: Any) -> Any:
        """`function(t, y, args)` of what of args is traced."""

        def of_traced(t: Any, y: PyTree, values: PyTree) -> PyTree:
            return function(t, y, eqx.combine(values, constants))

        of_traced.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        return of_traced

    def kept(function: Any) -> Any:
        # The values may be anything; the time tells which rows an event left.
        return whole(function) if conditions is None else _with_time(whole(function))

    events = () if conditions is None else tuple(Event(whole(one.cond), one.direction) for one in conditions.events)
    saved = saveat_of(saveat, time_dtype, kept)
    solution = cubie.solve(whole(field), t0, t1, y0, traced, saveat=saved, dt0=first_step, events=events, **ends)
    result = _result(solution, judged=cubie.control.static.adaptive, over=over)
    by_event = result._value == diffrax.RESULTS.event_occurred._value
    failed = (result._value != diffrax.RESULTS.successful._value) & ~by_event
    found = []
    columns = map(structure.flatten_up_to, (solution.ts, solution.ys)) if subs else ((), ())
    for sub, one, of_sub in zip(subs, *columns, strict=True):
        times, values, marks = one.astype(time_dtype), of_sub, of_sub
        if conditions is not None:
            values, marks = of_sub if not is_state(sub) else (of_sub, of_sub)
            times, values = packed(times, values, ~by_event | _reached(marks, sub, over))
        found.append((times, values) if throw else without_unreached(times, values, failed))
    ts, ys = (jax.tree.unflatten(structure, [pair[k] for pair in found]) for k in (0, 1))
    steps = ("num_steps", "num_accepted_steps", "num_rejected_steps")
    stats = {name: solution.stats[name].astype(int) for name in steps}
    mask = None
    if conditions is not None:
        mask = conditions.mask(solution.events)
        # The step that an event has cut counts once.
        cut = jnp.any(jnp.stack([record.ended for record in solution.events])).astype(int)
        stats = {name: stats[name] - (0 if name == "num_accepted_steps" else cut) for name in steps}
    answer = diffrax.Solution(
        t0=start, t1=end, ts=ts, ys=ys, interpolation=solution.interpolation, stats={**stats, "max_steps": max_steps},
        result=result, solver_state=None, controller_state=None, made_jump=None, event_mask=mask,
    )  # fmt: skip
    code = solution.result._value
    wrong = code == CODES["invalid_input"]
    return eqx.branched_error_if(answer, wrong | failed if throw else wrong, code, _MESSAGES)


def _finite(t1: Any, dtype: str) -> Any:
    """t1, and where it is infinite, as it may be where events end lanes, a time that no lane comes to."""
    held = np.finfo(dtype)
    largest, known = 2.0 ** (held.maxexp - 8), concrete(t1)
    if known is not None:
        return np.copysign(largest, known) if np.isinf(known) else t1
    return jnp.where(jnp.isinf(t1), jnp.copysign(jnp.asarray(largest, dtype), t1.astype(dtype)).astype(t1.dtype), t1)


def _ts(sub: Any) -> Any:
    return sub.ts


def _with_time(fn: Any) -> Any:
    """fn, and the time besides."""

    def timed(t: Any, y: PyTree, args: PyTree) -> tuple[PyTree, Any]:
        return fn(t, y, args), t

    timed.__qualname__ = getattr(fn, "__qualname__", type(fn).__qualname__)
    return timed


def _reached(marks: PyTree, sub: Any, over: Any) -> Any:
    """Which rows of a SubSaveAt a lane that an event ended came to: [rows]. marks: floats of each row, NaN where it did not.
    over: whether it ended at t0, where diffrax saves t0 and t1 alone."""
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(marks)]
    reached = ~jnp.all(jnp.concatenate([jnp.isnan(leaf) for leaf in leaves], axis=1), axis=1)
    if over is None or sub.ts is None:
        return reached
    row = jnp.arange(reached.shape[0]) - int(sub.t0)
    return reached & ~(over & (row >= 0) & (row < sub.ts.shape[0]))


def _time_dtype(times: list[Any]) -> Any:
    """The dtype of times that are promoted together, weak types among them; the default float for integers."""
    dtype = jnp.result_type(*(time for time in times if time is not None))
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"t0, t1, dt0 and SaveAt(ts=...) come to dtype {dtype}: expected real times")
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def _promoted(y0: PyTree, time_dtype: Any) -> tuple[PyTree, str]:
    """y0 as arrays of the dtype that time promotes them to, and that dtype."""
    y0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, time_dtype)), y0)
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(y0)})
    for dtype in dtypes:
        if dtype.startswith("complex"):
            raise ValueError(f"y0 has dtype {dtype}: write a complex state as its real and imaginary parts")
    if len(dtypes) > 1:
        raise ValueError(f"y0 has leaves of {' and '.join(dtypes)}: the state has one dtype here; convert them to one")
    return y0, dtypes[0] if dtypes else str(time_dtype)


def _result(solution: Solution, judged: bool, over: Any) -> Any:
    """How diffrax ends. Where nobody judges its steps, it comes to the end with a state that is not finite, too. over: whether
    an event has ended it at t0."""
    code = solution.result._value
    ends = _ENDS if judged else _ENDS | _UNJUDGED
    numbers = np.array([getattr(diffrax.RESULTS, ends[name])._value for name in CODES], np.int32)
    number = jnp.asarray(numbers)[code]
    through = solution.stats["num_steps"] == 0 if judged else True
    number = jnp.where((code == CODES["not_finite"]) & through, numbers[0], number)
    if over is not None:
        number = jnp.where(over, diffrax.RESULTS.event_occurred._value, number)
    return eqx.tree_at(lambda item: item._value, diffrax.RESULTS.successful, number)
