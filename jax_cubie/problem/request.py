"""From the arguments of a solve to its problem and the arrays to solve it for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from jaxtyping import PyTree

from ..buffers import BufferRegistry
from ..controllers import Controller
from ..foreign_names import instead_of_saveat
from ..inputs import (
    AnyDoses,
    Consistency,
    Doses,
    Jumps,
    apart,
    component_of,
    read_doses,
    read_drivers,
    read_jumps,
    schedule_of,
    steady_among,
)
from ..linear import LinearSettings, Mass
from ..loop import Part
from ..loop.checkpoints import windows_for
from ..methods import Method
from ..operands import Operand, Piece, numbered
from ..outputs import ROWS, Dense, SaveAt, Saving, Steady, SubSaveAt
from ..settings import Component, concrete, told
from ..times import Times, check_scalar, owned, read_times, rest_of, times_between
from .checks import flat_state, step_size
from .events import EventReader
from .matrices import Matrices, check_jacobian, flat_jacobian, read_mass, read_sparsity, refuse_matrices
from .problem import DEFAULT_MAX_STEPS, Problem
from .separation import separation_of
from .state import State, read_state
from .summaries import SummaryReader
from .tracing import Arguments, Output, flat_field, trace_functions


@dataclasses.dataclass(frozen=True)
class Request:
    """A problem with the arrays to solve it for, and what is needed to present the results.

    structures: of what functions of rows return, by their names. subs: those of `SaveAt`. t0_rest: what t0 loses in `times`,
    where somebody asks. ts: the times to save, by the names that they have as operands. summaries: of each by name what it is
    like, as `SummaryReader` has it. events: the structure of those that were given. args: the names of the operands that are
    leaves of args; drivers: of those of drivers; of_t0: of those that t0 has an effect on.
    """

    problem: Problem
    arrays: tuple[Any, ...]
    state: State
    structures: Mapping[str, Any]
    subs: Any
    times: Times
    t0_rest: Any
    ts: Mapping[str, Any]
    summaries: Mapping[str, Any]
    events: Any
    args: tuple[str, ...]
    drivers: tuple[str, ...] = ()
    of_t0: tuple[str, ...] = ()


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
    f: Callable[..., PyTree],
    t0: Any,
    t1: Any,
    y0: PyTree,
    args: PyTree,
    saveat: SaveAt,
    dt0: Any,
    matrices: Matrices = Matrices(),  # noqa: B008 - it is immutable
    *,
    events: Any = (),
    observables: Any = None,
    summaries: Any = None,
    drivers: PyTree = None,
    doses: Any = None,
    jump_ts: Any = None,
    step_ts: Any = None,
) -> Request:
    """Checks everything that is known now, traces f, and lists the kernel's operands."""
    if not callable(f):
        raise TypeError(f"f is {told(f)}: expected a function f(t, y, args)")
    if not isinstance(saveat, SaveAt):
        instead = instead_of_saveat(saveat)
        raise TypeError(f"saveat is {saveat!r}: expected a jax_cubie.SaveAt" + (f"; {instead}" if instead else ""))
    if observables is not None and not callable(observables):
        kind = type(observables).__name__
        raise TypeError(f"observables is {observables!r:.80} of type {kind}: expected a function observables(t, y, args)")
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
    saves = saveat.numbered
    times = read_times(t0, t1, None, state.dtype)
    values: dict[str, Any] = {"t0": times.t0, "span": times.span}
    if dt0 is not None:
        values["dt0"] = step_size(dt0, t0, t1, state.dtype)
    values["y0"] = flat_state(y0, state)
    ts = {}
    for number, save in saves.items():
        if save.ts is not None:
            name = numbered("ts", number)
            ts[name], offsets = times_between(t0, t1, save.ts, state.dtype, right=save.side, said=f"{_door(number)}(ts=...)")
            values |= {numbered("offsets", number): offsets} if save.points else {}
        if save.steps or save.fn is not None or observables is not None:  # the kernel hands these times on
            values["t1"] = times.t1
            values |= {name: ts[name]} if save.points else {}
    driven = read_drivers(drivers, t0, t1, state.dtype)
    values["span"] = driven.checked(times.span)
    schedule = read_jumps(jump_ts, step_ts, t0, t1, state.dtype, driven.jumps)
    if given := read_doses(doses):
        schedule = schedule_of(given, values["y0"], state, t0, t1, schedule)
    if schedule is not None:
        sides = {numbered("offsets", number): save.side for number, save in saves.items() if save.points}
        saved = {name: (values[name], side) for name, side in sides.items()}
        schedule, offsets, driven = apart(schedule, saved, driven, times.t0, times.span)
        values |= {**offsets, **schedule.operands}
    for component in solver.components:
        values |= component.operands(state)
    _check_last_end(values, t0, t1)
    linear = any(isinstance(component, LinearSettings) for component in solver.components)
    if matrices.given and not linear:
        refuse_matrices(matrices.given, method.name)
    mass, sparsity = read_mass(matrices, state), read_sparsity(matrices, state)
    separation = None if mass is None else separation_of(mass[1])
    if separation is not None and mass is not None:
        mass = separation.of_mass(mass[1])
    leaves = Arguments(args, state.dtype, None if mass is None else mass[1], driven, t0, schedule)
    happening = EventReader(events, state, leaves, mass=mass is not None)
    if happening.steady is not None:
        values |= happening.steady.operands(state, values)
    if (leading := steady_among(given)) is not None:
        values |= leading.operands(state, values)
    jac = _jacobian(f, matrices, state, leaves, sparsity, times.t0, values["y0"])
    outputs = _outputs(saves, observables)
    room = _known_room(solver)
    asked, ends = {} if summaries is None else summaries, (t0, t1)
    reader = SummaryReader(asked, state, leaves, ends, room, mass=mass is not None)
    functions = trace_functions(
        f, outputs, method, state, leaves, settings["unroll"], None if mass is None else mass[0], jac, sparsity, separation,
        lambda slope, method: {**happening.trace(slope), **reader.trace(slope, method)},
    )  # fmt: skip
    values |= reader.operands
    values |= dict(zip(leaves.names, leaves.arrays, strict=True)) | functions.closed_over
    # Their outputs are alike on all platforms.
    programs = {function.name: function.program for function in functions.by_platform[0][1]}
    parts: list[Part] = []
    for number, save in saves.items():
        written = {word: programs[name].outputs for word in ROWS if (name := numbered(word, number)) in outputs}
        room = _room(f"{_door(number)}(steps=...)", solver) if save.steps else 0
        parts.append(_make_saving(save, room, written, number))
    if saveat.dense:
        parts.append(Dense(_room("SaveAt(dense=True)", solver), functions.method.between_degree))
    most = concrete(settings["max_steps"])
    parts += [] if happening.steady is None else [Steady()]
    parts += [] if happening.part is None else [happening.part]
    parts += [] if schedule is None else [Jumps.of(schedule)]
    leaping = schedule is not None and schedule.restarts is not False
    affected = happening.part is not None and bool(happening.part.affects)
    if mass is not None and mass[0].algebraic_rows and (leaping or affected):
        _check_constraints_jump(mass[0], given, state)
        parts.append(Consistency(leaping))
    if reader.presented:
        events = happening.part
        leaps = (schedule is not None and schedule.changes_state) or affected
        parts.append(reader.part_beside(events=events is not None, leaps=leaps))
    if mass is not None and any(part.inside for part in parts) and functions.method.between_needs_slopes:
        raise ValueError(
            f"method {method.name!r} has no values between steps of its own, and with a mass matrix f is no slope to make some "
            "of: save at t0, t1 or the ends of steps, without events or summaries that look between these, or take a method "
            "that has, as 'rodas5p' or 'rodas4'"
        )
    _refuse_named_ends(parts, controller, settings["controller"])
    problem = Problem(
        functions=functions.by_platform,
        method=functions.method.looked_at() if any(part.slopes for part in parts) else functions.method,
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
        summarised=functions.apart,
        slots=settings["checkpoints"],
        cursors=() if leaves.tables is None else leaves.tables.cursors,
        windows=windows_for(settings["checkpoints"], None if most is None else int(most.max())),
        directions=settings["directions"],
        title=getattr(f, "__qualname__", type(f).__name__),
    )
    rest = rest_of(t0, state.dtype) if saveat.dense else None
    arrays = tuple(map(owned, values.values())) if reader.presented else tuple(values.values())
    presented = (functions.structures, saveat.subs, times, rest, ts, reader.presented)
    return Request(problem, arrays, state, *presented, happening.structure, leaves.own, *leaves.of_drivers)


def _outputs(saves: Mapping[int | None, SubSaveAt], observables: Callable | None) -> dict[str, Output]:
    """The functions of rows, by their names: of all that is saved observables, too."""
    found = {}
    for number, save in saves.items():
        if save.fn is not None:
            found[numbered("output", number)] = Output(save.fn, "fn", f"{_door(number)}(fn=...)")
        if observables is not None:
            found[numbered("observables", number)] = Output(observables, "observables", "observables")
    return found


def _jacobian(
    f: Callable, matrices: Matrices, state: State, leaves: Arguments, sparsity: Any, t0: Any, y0: Any
) -> Callable | None:
    """The user's Jacobian as a function of the time, the flat state and the operands, once it is checked."""
    if matrices.jac is None and sparsity is None:
        return None
    jac = matrices.jac
    if jac is not None:
        if not callable(jac):
            raise TypeError(f"jac is {told(jac)}: expected a function jac(t, y, args) -> [n, n]")
        leaves.check_signature(jac, "jac")
    flat = None if jac is None else flat_jacobian(jac, state, leaves.at)
    if all(concrete(one) is not None for one in (t0, *leaves.arrays)):
        start, values = leaves.at_t0(t0)
        check_jacobian(f, flat_field(f, state, leaves), jac, flat, sparsity, start, y0, values)
    return flat


def _check_constraints_jump(mass: Mass, doses: Sequence[AnyDoses], state: State) -> None:
    """Raises NotImplementedError where nobody knows which components follow the others behind a jump, and ValueError for doses
    into those that do."""
    if not mass.separates:
        raise NotImplementedError(
            f"what jumps (doses, jump_ts, an affect, drivers of the kind 'previous') and a mass matrix whose row "
            f"{mass.algebraic_rows[0]} is 0, or a sum of others, without as many columns of zeros: behind a jump some "
            "components have to follow from that equation, and the columns do not say which; take components of which some "
            "stand in no derivative, as sums of the ones at hand, or solve up to each of these times, and begin another solve "
            "there"
        )
    for one in doses:
        place = component_of(one.into, state) if isinstance(one, Doses) else None
        if place in mass.algebraic_components:
            raise ValueError(
                f"Doses(into=...) names component {place} of y0, in whose column the mass matrix is 0: it follows from the "
                "algebraic equations, whatever is added to it; name a component that has a derivative"
            )


def _refuse_named_ends(parts: Sequence[Part], controller: Controller, name: str) -> None:
    if controller.names_ends and any(part.divides for part in parts):
        raise ValueError(
            f"controller={name!r} says itself where steps end, and so do jump_ts, step_ts, doses, events and drivers of the "
            "kind 'previous': take controller='fixed', whose steps are of one size between these, or one that chooses step "
            "sizes, as 'pid'"
        )


def _check_last_end(values: Mapping[str, Any], t0: Any, t1: Any) -> None:
    """Raises ValueError where the last of known steps ends elsewhere than at t1; how near it has to be, each lane looks at."""
    ends, span = concrete(values.get("step_ends")), concrete(values["span"])
    if "step_ends" in values and ends is not None and span is not None and span and abs(ends[-1] / span - 1) > 1e-4:
        raise ValueError(
            f"step_ends ends with {ends[-1]:g}, and t0={t0} and t1={t1} are {span:g} apart: expected times since t0, the last "
            "of which is t1 - t0"
        )


def _door(number: int | None) -> str:
    """What the user made that says which points to save."""
    return "SaveAt" if number is None else "SubSaveAt"


def _known_room(solver: Choices) -> int | None:
    """max_steps, where rows of all steps may be kept; None where it is not known, or was left at what it is."""
    known = concrete(solver.settings()["max_steps"])
    given = known is not None and ("max_steps" in solver.given or known != DEFAULT_MAX_STEPS)
    return int(known) if given and known is not None and known.ndim == 0 else None


def _room(said: str, solver: Choices) -> int:
    """For how many steps there is room in what keeps something of each: max_steps."""
    known = concrete(solver.settings()["max_steps"])
    if known is None:
        raise TypeError(
            f"{said} needs max_steps as a Python int, since it bounds what is kept of a lane, but here it is traced: set it "
            "outside of jit, vmap and grad"
        )
    if "max_steps" not in solver.given and known == DEFAULT_MAX_STEPS:
        raise ValueError(
            f"{said} keeps room for max_steps steps in every lane, and max_steps was left at {DEFAULT_MAX_STEPS:,}: "
            "give max_steps=, somewhat more steps than you expect"
        )
    return int(known)


def _make_saving(saveat: SubSaveAt, most: int, outputs: Mapping[str, Any], number: int | None) -> Saving:
    functions = (outputs.get("output"), outputs.get("observables"))
    saving = Saving(saveat.t0, saveat.points, saveat.steps, saveat.t1, most, *functions, number)
    if saving.rows == 0:
        raise ValueError(
            f"{_door(number)}(steps={saveat.steps}) has no row with max_steps={most}: there are max_steps // steps of them"
        )
    return saving
