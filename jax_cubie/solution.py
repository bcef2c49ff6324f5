"""What a solve answers with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import equinox.internal  # noqa: F401 - eqx.internal
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jaxtyping import Array, Bool, Float, Int, PyTree, Real, Shaped

from .foreign_names import missing_attribute
from .kernel.partition import varying
from .printing import solution_rows, solution_title, table, text


class _Listed(type(eqx.Enumeration)):
    """An enumeration whose members can be listed, as those of Python's own Enum."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]):
        super().__init__(name, bases, namespace)
        inherited = (member for base in bases if isinstance(base, _Listed) for member in base.__members__)
        cls._names = tuple(dict.fromkeys((*inherited, *(key for key in namespace if not key.startswith("_")))))

    @property
    def __members__(cls) -> dict[str, Any]:
        """The members by their names, in the order of their numbers."""
        return {name: getattr(cls, name) for name in cls._names}

    def __iter__(cls) -> Iterator[Any]:
        return iter(cls.__members__.values())

    def __getattr__(cls, name: str) -> Any:
        try:
            return super().__getattr__(name)  # pyright: ignore[reportAttributeAccessIssue]
        except AttributeError:
            raise AttributeError(f"{cls.__name__} has no {name!r}; it has {', '.join(cls._names)}") from None

    def __dir__(cls) -> list[str]:
        return [*super().__dir__(), *cls._names]


class RESULTS(eqx.Enumeration, metaclass=_Listed):  # pyright: ignore[reportGeneralTypeIssues] - it believes in an Enum
    """How a lane ended. `RESULTS[result]` is the message; compare with `result == RESULTS.successful`.

    `RESULTS.__members__` has every member by its name, and `for result in RESULTS` goes through them.
    """

    successful = ""
    max_steps_reached = (
        "The number of steps reached max_steps before t1 was reached. Give a larger max_steps, looser tolerances, or a "
        "larger dt0."
    )
    dt_min_reached = "The step size fell below dtmin, and force_dtmin is False. Lower dtmin, or loosen the tolerances."
    step_size_underflow = (
        "A step that was rejected could not be made smaller: the vector field jumps there, the solution has a singularity, or "
        "rtol and atol ask for more than y0's dtype holds. For a jump give dtmin, a step that is accepted whatever its error; "
        "else loosen rtol and atol."
    )
    not_finite = (
        "The vector field, the state, or the error over its tolerance became NaN or infinite, and smaller steps did not mend "
        "it. Check the vector field, its arguments and y0; with atol=0 a component at 0 has no tolerance at all."
    )
    invalid_input = (
        "This lane was given values that cannot be solved with: t0, t1 or dt0 is not finite or dt0 has the wrong sign, a "
        "tolerance or a coefficient of the controller is NaN or outside of its range, rtol and atol are both 0, max_steps is "
        "below 1, ts are not in order between t0 and t1, or step_ends are not, with t1 - t0 behind all others."
    )
    singular_matrix = (
        "The matrix of an implicit step was singular, and smaller steps did not mend it. Check the Jacobian of the vector "
        "field there, which may be infinite or NaN. Of a singular mass matrix that is traced or batched say by mass_pattern= "
        "where it is 0."
    )
    nonlinear_divergence = (
        "The nonlinear equations of an implicit step were not solved, and smaller steps did not mend it. Check that the vector "
        "field is smooth there; else take smaller steps or allow more iterations by newton_max_steps=, and do not ask for more "
        "by newton_rtol= and newton_atol= than y0's dtype holds. Of a singular mass matrix that is traced or batched say by "
        "mass_pattern= where it is 0."
    )
    linear_divergence = (
        "A linear system of an implicit step was not solved by its iteration, and smaller steps did not mend it. Allow more "
        "iterations by krylov_max_steps=, take a preconditioner or, with 'gmres', a larger krylov_dimension; else take "
        "linear_solver='auto', which does not iterate."
    )
    event_occurred = "The lane ended before t1, since an event occurred: what solve(..., events=) was given."
    events_accumulate = (
        "Events followed one another at times that y0's dtype does not tell apart: a ball comes to rest. Let affect or cond "
        "of such an event see to it, or end the lane there by another event."
    )
    inconsistent_initial_state = (
        "The algebraic equations of a problem with a mass matrix, those in whose rows it is 0, were not solved at t0, or "
        "behind a dose, an event's affect or another jump. The components that have no derivative are found by Newton's "
        "iteration from y0, or from what they were or affect gives: give a better guess of them. Where the derivatives of "
        "these equations by these components are a singular matrix, the problem's index is above 1: differentiate such an "
        "equation, until they are not."
    )
    steady_state_not_reached = (
        "Doses that were to lead to a steady state did not: from the last of them to the next the state still changed by more "
        "than the tolerance. Give more of them, read_dose_table(steady_doses=...), or looser steady_rtol and steady_atol, "
        "DoseTable.doses(...). Where the vector field or a driver changes with time in between, or the state grows without an "
        "end, there is no steady state."
    )


NAMES = tuple(RESULTS.__members__)
# The numbers that kernels write.
CODES = {name: code for code, name in enumerate(NAMES)}
# How lanes end that came to where they were to end.
FINE = (CODES["successful"], CODES["event_occurred"])


class Solution(eqx.Module):
    """The solution of one lane; under vmap every array has the batch axes in front.

    t0, t1: the ends of the interval. ts: shape [points], the times that were saved; where an event ended a lane, that of t1 is
    when it did. ys: a pytree like y0, or like what `SaveAt.fn` returns, whose leaves have a leading axis of points. With
    `SaveAt(subs=...)` both are such a pytree, of times and of what each sub keeps; None where no points were asked for. Times
    that a lane did not reach have NaN there; rows that `SaveAt(steps=...)` did not need are infinite, and then t1 has no row if
    it was not reached. Integers hold their lowest value for NaN and their highest for infinity, booleans False and True.
    observables: what the function of that name returned, as `ys`; None without one. summaries: a dict of what each `Summary`
    gives, by their names. events: an `EventRecord` in place of each `Event` in `solve(..., events=)`; None without.

    stats: int32 `num_steps`, `num_accepted_steps`, `num_rejected_steps`, `max_steps`, `nfev`; of methods that are not explicit
    also `num_jacobians`, `num_factorisations`, `num_linear_solves`, where they solve nonlinear systems `num_newton_iterations`,
    and of linear solvers without a matrix `num_krylov_iterations`; of "auto" `num_explicit_steps`, `num_implicit_steps`.
    result: one of `RESULTS`. interpolation: with `SaveAt(dense=True)` the solution as a function, of `evaluate` and
    `derivative`; else None.
    """

    t0: Float[Array, ""]
    t1: Float[Array, ""]
    ts: PyTree[Float[Array, " _"]]
    ys: PyTree[Shaped[Array, "_ ..."]]
    stats: dict[str, Int[Array, ""]]
    result: Any
    observables: PyTree[Shaped[Array, "_ ..."]] = None
    summaries: dict[str, Any] = dataclasses.field(default_factory=dict)
    events: PyTree[Any] = None
    interpolation: Any = None

    def evaluate(self, t0: Real[Array, "*times"] | float, t1: Any = None, left: bool = True) -> PyTree[Array]:
        """y at the time t0, a pytree like y0; with t1, how much it changes from t0 to t1. Of a solve with `SaveAt(dense=True)`.

        t0: a scalar, or an array of times, whose axes then stand in front. left: at a time at which one step ends and the next
        one begins, which of them is asked: they differ where the trajectory jumps. NaN outside of t0 and t1, and beyond where a
        lane failed or an event ended it. Of a solution with lanes: `jax.vmap(lambda solution, t: solution.evaluate(t))`.

        It has derivatives by t0, and by all that `ys` has derivatives by. Raises TypeError for what is no real number, and
        ValueError where this holds several lanes, or was not saved so.
        """
        return self._function("evaluate").evaluate(t0, t1, left)

    def derivative(self, t: Real[Array, "*times"] | float, left: bool = True) -> PyTree[Array]:
        """dy/dt at the time t, the derivative of what `evaluate` gives; t, left, and what is raised: as there."""
        return self._function("derivative").derivative(t, left)

    def _function(self, asked: str) -> Any:
        if self.interpolation is None:
            raise ValueError(
                f"{asked}: this solution was not kept as a function; give the solve saveat=SaveAt(dense=True) and max_steps="
            )
        return self.interpolation

    def __repr__(self) -> str:
        """How many lanes, how they ended, their steps, and the shapes of what was saved; as text, without the values."""
        return text(solution_title(self), solution_rows(self))

    def __getattr__(self, name: str) -> Any:
        raise missing_attribute(self, name)

    def _repr_html_(self) -> str:
        return table(solution_title(self), solution_rows(self))


def make_solution(request: Any, results: Any) -> Solution:
    """The results of a request's kernel, in the user's terms."""
    problem, times = request.problem, request.times
    found = dict(zip((result.name for result in problem.results), results, strict=True))
    given = dict(zip((operand.name for operand in problem.operands), request.arrays, strict=True))
    accepted, rejected, code = found["accepted"], found["rejected"], found["result"]
    steps = accepted + rejected
    # f at t0, and where the first step is chosen here one more.
    begins = (times.span != 0) & ((code != CODES["invalid_input"]) | (steps > 0))
    begun = begins.astype(jnp.int32) * (2 if problem.chooses_first_step else 1)
    presented: dict[str, Any] = {"ts": request.subs, "ys": request.subs}  # None, or empty, where no part has any
    for part in problem.parts:
        presented |= part.present(found, request)
    return Solution(
        t0=times.t0,
        t1=times.t1,
        stats={
            "num_steps": steps,
            "num_accepted_steps": accepted,
            "num_rejected_steps": rejected,
            "max_steps": given["max_steps"],
            "nfev": begun + problem.method.evaluations(steps, accepted, found),
            **problem.method.work(steps, accepted, found),
        },
        result=eqx.tree_at(lambda item: item._value, RESULTS.successful, code),
        **presented,
    )


def is_fine(code: Any) -> Any:
    """Whether lanes with such codes came to where they were to end."""
    return (code == FINE[0]) | (code == FINE[1])


def check_successful(solution: Solution) -> None:
    """Raises RuntimeError where a lane failed: how many of how many, which, and why. For solutions outside of traced code."""
    if not isinstance(solution, Solution):
        raise TypeError(f"check_successful takes a Solution, got {type(solution).__name__}")
    raise_failures(solution, "check_successful", "call it on the solution that comes out of there")


def raise_failures(solution: Solution, asker: str, instead: str) -> None:
    """The same for whoever asks; `instead` is what to do where the solution is traced."""
    code = solution.result._value
    if isinstance(code, jax.core.Tracer):
        raise TypeError(
            f"{asker} needs the results now, but this solve is being traced (by jit, vmap or grad): {instead}, or look at "
            "solution.result == RESULTS.successful in traced code"
        )
    _raise_failures(np.asarray(code))


def raising(solution: Solution) -> Solution:
    """The solution; where it is traced, one that raises when it is computed and a lane has failed."""
    code = solution.result._value
    if not isinstance(code, jax.core.Tracer):
        _raise_failures(np.asarray(code))
        return solution

    # One question for all lanes; all that is read depends on the answer, else nobody would wait for it.
    code = jax.lax.stop_gradient(code)
    failed = eqx.internal.unvmap_any(~is_fine(code))
    fine = jax.lax.cond(failed, _ask, lambda codes: jnp.array(True), code)
    asked = varying(jax.typeof(fine))

    def waiting(leaf: Any) -> Any:
        # In shard_map what all devices have alike was given, and none of them answers for all.
        return jnp.where(fine, leaf, jnp.zeros_like(leaf)) if asked <= varying(jax.typeof(leaf)) else leaf

    return jax.tree.map(waiting, solution)


@jax.custom_batching.custom_vmap
def _ask(codes: Int[Array, "*lanes"]) -> Bool[Array, ""]:
    """Raises what is wrong with lanes, once for all of them, when it is computed."""

    def look(codes: Any) -> np.ndarray:
        _raise_failures(np.asarray(codes))
        return np.array(True)

    mesh = jax.typeof(codes).sharding.mesh
    if AxisType.Explicit in mesh.axis_types:
        codes = jax.sharding.reshard(codes, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    return jax.pure_callback(look, jax.ShapeDtypeStruct((), bool), codes)


@_ask.def_vmap
def _ask_for_all(size: int, batched: Any, codes: Any) -> tuple[Any, bool]:
    return _ask(codes), False


def _raise_failures(codes: np.ndarray) -> None:
    bad = ~is_fine(codes)
    failed = np.unique(codes[bad])
    if not failed.size:
        return
    reasons = [f"{NAMES[number]}: {RESULTS[getattr(RESULTS, NAMES[number])]}" for number in failed]
    if codes.ndim == 0:
        raise RuntimeError(f"The solve failed. {reasons[0]}")
    told = [
        f"{(codes == number).sum()} x {reason} ({_first_lanes(codes == number)})"
        for number, reason in zip(failed, reasons, strict=True)
    ]
    raise RuntimeError(f"{bad.sum():,} of {codes.size:,} lanes failed. " + " ".join(told))


def _first_lanes(chosen: np.ndarray, most: int = 5) -> str:
    """The first indices at which `chosen` holds: "lane 3", "lanes 0, 3, 7, ...", or with an index for each axis of vmap."""
    indices = np.argwhere(chosen)
    shown = [str(index[0]) if index.size == 1 else str(tuple(index.tolist())) for index in indices[:most]]
    return f"lane{'s' * (len(indices) > 1)} {', '.join(shown)}" + ", ..." * (len(indices) > most)
