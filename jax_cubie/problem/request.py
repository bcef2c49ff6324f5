"""From the arguments of a solve to its problem and the arrays to solve it for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jaxtyping import Array, Float, PyTree

from ..buffers import BufferRegistry
from ..controllers import Controller
from ..field_errors import check_signature
from ..foreign_names import instead_of_saveat
from ..inputs import Jumps, read_jumps
from ..linear import LinearSettings
from ..loop import Part
from ..loop.checkpoints import windows_for
from ..methods import Method
from ..operands import Operand, Piece
from ..outputs import SaveAt, Saving, Steady, SteadyState
from ..settings import Component, concrete
from ..times import Times, check_scalar, read_times
from .checks import flat_state, step_size
from .matrices import Matrices, check_jacobian, flat_jacobian, read_mass, read_sparsity, refuse_matrices
from .problem import DEFAULT_MAX_STEPS, Problem
from .state import State, read_state
from .summaries import SummaryReader
from .tracing import Arguments, flat_field, trace_functions


@dataclasses.dataclass(frozen=True)
class Request:
    """A problem with the arrays to solve it for, and what is needed to present the results.

    structures: those of what the functions of rows return, by their names in `ROWS`. summaries: of each by name what it is
    like, as `SummaryReader` has it. args: the names of the operands that are leaves of args.
    """

    problem: Problem
    arrays: tuple[Any, ...]
    state: State
    structures: dict[str, Any]
    times: Times
    summaries: dict[str, Any]
    args: tuple[str, ...]


class Choices(Protocol):
    """What a request wants to know of a solver."""

    method: Any
    given: frozenset[str]
    buffers: BufferRegistry
    components: tuple[Component, ...]

    @property
    def stepper(self) -> Method: ...

    @property
    def control(self) -> Any: ...

    def settings(self) -> dict[str, Any]: ...


def make_request(
    solver: Choices,
    f: Callable[[Float[Array, ""], PyTree, PyTree], PyTree],
    t0: Any,
    t1: Any,
    y0: PyTree,
    args: PyTree,
    saveat: SaveAt,
    dt0: Any,
    events: Any = (),
    matrices: Matrices = Matrices(),  # noqa: B008 - it is immutable
    *,
    observables: Any = None,
    summaries: Any = None,
    jump_ts: Any = None,
    step_ts: Any = None,
) -> Request:
    """Checks everything that is known now, traces f, and lists the kernel's operands."""
    if not callable(f):
        raise TypeError(f"f is {f!r} of type {type(f).__name__}: expected a function f(t, y, args)")
    if not isinstance(saveat, SaveAt):
        instead = instead_of_saveat(saveat)
        raise TypeError(f"saveat is {saveat!r}: expected a jax_cubie.SaveAt" + (f"; {instead}" if instead else ""))
    if observables is not None and not callable(observables):
        kind = type(observables).__name__
        raise TypeError(f"observables is {observables!r:.80} of type {kind}: expected a function observables(t, y, args)")
    of_rows = {"output": saveat.fn, "observables": observables}
    of_rows = {name: function for name, function in of_rows.items() if function is not None}
    steady = _steady_state(events)
    state, method, settings = read_state(y0), solver.stepper, solver.settings()
    controller = solver.control.static
    if dt0 is None and controller.first_step == "given":
        raise ValueError(
            f"dt0 is None, but the controller is {settings['controller']!r} (method {solver.method!r}): give dt0, the size of "
            "its steps"
        )
    if dt0 is not None and controller.first_step == "own":
        raise ValueError(f"dt0 is {dt0}, but controller {settings['controller']!r} says itself where steps end: leave dt0 out")
    for name, value in (("t0", t0), ("t1", t1), *([] if dt0 is None else [("dt0", dt0)])):
        check_scalar(name, value)
    times = read_times(t0, t1, saveat.ts, state.dtype)
    values: dict[str, Any] = {"t0": times.t0, "span": times.span}
    if dt0 is not None:
        values["dt0"] = step_size(dt0, t0, t1, state.dtype)
    values["y0"] = flat_state(y0, state)
    if saveat.points:
        values["offsets"] = times.offsets
    if saveat.steps or of_rows:  # the kernel hands these times on
        values["t1"] = times.t1
        if saveat.points:
            values["ts"] = times.ts
    schedule = read_jumps({"jump_ts": jump_ts, "step_ts": step_ts}, t0, t1, state.dtype)
    if schedule is not None:
        values |= schedule.operands
    for component in solver.components:
        values |= component.operands(state)
    if steady is not None:
        values |= steady.operands(state, values)

    linear = any(isinstance(component, LinearSettings) for component in solver.components)
    if matrices.given and not linear:
        refuse_matrices(matrices.given, method.name)
    mass, sparsity = read_mass(matrices, state), read_sparsity(matrices, state)
    leaves = Arguments(args, state.dtype, None if mass is None else mass[1])
    jac = _jacobian(f, matrices, state, leaves, sparsity, times.t0, values["y0"])
    reader = SummaryReader({} if summaries is None else summaries, state, leaves, times, t0, mass=mass is not None)
    functions = trace_functions(
        f, of_rows, method, state, leaves, settings["unroll"], None if mass is None else mass[0], jac, sparsity, reader.trace
    )
    values |= reader.operands
    values |= dict(zip(leaves.names, leaves.arrays, strict=True)) | functions.closed_over
    if saveat.steps and "max_steps" not in solver.given and concrete(settings["max_steps"]) == DEFAULT_MAX_STEPS:
        raise ValueError(
            f"SaveAt(steps=...) keeps room for max_steps rows in every lane, and max_steps was left at {DEFAULT_MAX_STEPS:,}: "
            "give max_steps=, somewhat more steps than you expect"
        )
    # Their outputs are alike on all platforms.
    programs = {function.name: function.program for function in functions.by_platform[0][1]}
    outputs = {name: programs[name].outputs for name in of_rows}
    saving, most = _make_saving(saveat, settings["max_steps"], outputs), concrete(settings["max_steps"])
    parts: list[Part] = [saving]
    if steady is not None:
        parts.append(Steady())
    if schedule is not None:
        parts.append(Jumps.of(schedule))
    if reader.presented:
        parts.append(reader.part)
    _refuse_named_ends(parts, controller, settings["controller"])
    if mass is not None and any(part.inside for part in parts) and functions.method.between_needs_slopes:
        raise ValueError(
            f"method {method.name!r} has no values between steps of its own, and with a mass matrix f is no slope to make some "
            "of: save at t0, t1 or the ends of steps, without summaries that look between these, or take a method that has, as "
            "'rodas5p' or 'rodas4'"
        )
    problem = Problem(
        functions=functions.by_platform,
        method=functions.method,
        controller=controller,
        parts=tuple(parts),
        registry=solver.buffers,
        pieces=(Piece(0, state.size, "y0"),),
        dtype=state.dtype,
        operands=tuple(Operand(name, tuple(value.shape), str(value.dtype)) for name, value in values.items()),
        first_step_given=dt0 is not None,
        fastmath=settings["fastmath"],
        unroll=settings["unroll"],
        inline_f=settings["inline_f"],
        schedule=settings["schedule"],
        block=settings["block"],
        traced=functions.traced,
        summarised=functions.more,
        slots=settings["checkpoints"],
        windows=windows_for(settings["checkpoints"], None if most is None else int(most.max())),
        directions=settings["directions"],
        title=getattr(f, "__qualname__", type(f).__name__),
    )
    return Request(problem, tuple(values.values()), state, functions.structures, times, reader.presented, leaves.own)


def _jacobian(
    f: Callable, matrices: Matrices, state: State, leaves: Arguments, sparsity: Any, t0: Any, y0: Any
) -> Callable | None:
    """The user's Jacobian as a function of the time, the flat state and the operands, once it is checked."""
    if matrices.jac is None and sparsity is None:
        return None
    jac = matrices.jac
    if jac is not None:
        if not callable(jac):
            raise TypeError(f"jac is {jac!r} of type {type(jac).__name__}: expected a function jac(t, y, args) -> [n, n]")
        check_signature(jac, "jac(t, y, args)")
    flat = None if jac is None else flat_jacobian(jac, state, leaves.fill)
    check_jacobian(f, flat_field(f, state, leaves), jac, flat, sparsity, t0, y0, leaves.arrays)
    return flat


def _steady_state(events: Any) -> SteadyState | None:
    """The condition among the events, if there is one."""
    given = events if isinstance(events, (tuple, list)) else (events,)
    for event in given:
        if not isinstance(event, SteadyState):
            raise TypeError(
                f"events has {event!r:.80} of type {type(event).__name__}: expected jax_cubie.steady_state(), the only event "
                "so far"
            )
    if len(given) > 1:
        raise ValueError("events has several steady_state(): give one of them, with the tolerances that are to hold")
    return given[0] if given else None


def _refuse_named_ends(parts: Sequence[Part], controller: Controller, name: str) -> None:
    if controller.names_ends and any(part.divides for part in parts):
        raise ValueError(
            f"controller={name!r} says itself where steps end, and so do jump_ts, step_ts and events: take controller='fixed', "
            "whose steps are of one size between these, or one that chooses step sizes, as 'pid'"
        )


def _make_saving(saveat: SaveAt, max_steps: Any, outputs: dict[str, Any]) -> Saving:
    most = 0
    if saveat.steps:
        known = concrete(max_steps)
        if known is None:
            raise TypeError(
                "SaveAt(steps=...) needs max_steps as a Python int, since it bounds the rows of the solution, but here it is "
                f"traced ({type(max_steps).__name__}): set it outside of jit, vmap and grad"
            )
        most = int(known)
    saving = Saving(saveat.t0, saveat.points, saveat.steps, saveat.t1, most, outputs.get("output"), outputs.get("observables"))
    if saving.rows == 0:
        raise ValueError(f"SaveAt(steps={saveat.steps}) has no row with max_steps={most}: there are max_steps // steps of them")
    return saving
