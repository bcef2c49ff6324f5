"""What the loop asks of those that plug into it. It knows the places below, and nobody by name.

All of them write code at the place of a lane, its `Body` b; a method's are compiled on their own, and may be loops that Numba
compiles. What is None is not written, and costs nothing. Times are counted from t0; those of a `step` run forwards, those that
a method is given are signed.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..buffers import Buffer
from ..operands import Result

if TYPE_CHECKING:
    from ..kernel.scalar import Scalar
    from .lane import Lane


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """What the sizes of buffers depend on.

    states: components of the state, tangents among them; primal: those without. parameters: words of the batched operands that
    are kept in a buffer. adaptive: whether a controller asks for error estimates. inside: whether values inside of steps are
    asked for. orders: of how many orders the pieces of the state are. moving: whether times have tangents. backward: whether
    steps are gone through from the last to the first, for their cotangents. counts_from_t0: see `Problem`.
    """

    states: int
    primal: int
    parameters: int
    adaptive: bool
    inside: bool
    orders: int = 1
    moving: bool = False
    backward: bool = False
    counts_from_t0: bool = False


@dataclasses.dataclass(frozen=True)
class Steps:
    """A method's places in the loop, device functions made with a `Lane`.

    start(b, t): what has to be there before the first step. step(b, t, h) -> status: from `state` to `proposed_state`, and
    `error` where there is an estimate. The status, of a method that is `fallible`, is 0, or the code of what kept it from
    succeeding: then it is taken again with a smaller size, where there is a controller. finish(b, t): what the end of an
    accepted step needs before anyone looks at it. carry(b): the end of a step becomes the beginning of the next. forget(b):
    what the last step has left behind for the next one, besides the state and f at it: another method has taken steps since.
    """

    start: Callable
    step: Callable
    carry: Callable
    finish: Callable | None = None
    forget: Callable | None = None


@dataclasses.dataclass(frozen=True)
class AdjointSteps:
    """A method's places in the backward loop, device functions of (b, t, h), for the step from t on.

    retake: what the transpose needs of that step, from its beginning. adjoint: makes of the buffer `adjoint`, the cotangent of
    the step's end, that of its beginning, and adds to those of operands and times.
    """

    retake: Callable
    adjoint: Callable


@dataclasses.dataclass(frozen=True)
class Control:
    """A controller's places in the loop; all None where steps have one size. Sizes, times and totals are `Scalar`s.

    valid(b): whether the numbers that it was handed can be used. first_step(b): the size of the first step where the user gave
    none; 0 where none can be found. begin(b, step_size): a new lane; the first step within the controller's limits.
    settle(b): what has to be there before steps are decided on, again and again. error(b): the sum of the squares of the
    scaled error estimate. decide(b, total): puts `accepted` and `next_size`; where it may be so `forced`, that the next step is
    accepted whatever its error, and `failed`, that the lane ends. end(b, number): when step `number`, int32 from 1 on, ends;
    of a controller that names times, and neither chooses sizes nor decides; it has end_tangent(b, number, order), too, the
    tangent of that time, and end_cotangent(b, number, order, value), which hands its cotangent on.
    """

    valid: Callable | None = None
    first_step: Callable | None = None
    begin: Callable | None = None
    settle: Callable | None = None
    error: Callable | None = None
    decide: Callable | None = None
    end: Callable | None = None
    end_tangent: Callable | None = None
    end_cotangent: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """An accepted step, in `Scalar`s. residue: what `start` has lost to rounding. last: whether it ends at t1. until: up to
    which time points are the step's: its end, or that of a jump in front of which an event has ended it."""

    start: Scalar
    residue: Scalar
    end: Scalar
    size: Scalar
    last: Scalar
    until: Scalar


@dataclasses.dataclass(frozen=True)
class Hooks:
    """A part's places in the loop. Codes are int32 `Scalar`s: 0, or how the lane ends; None for 0.

    start(b) -> code: before the first step. accepted(b, step) -> code: behind an accepted step. rejected(b): behind a rejected
    one. end(b, result) -> code: behind the last step, with the code so far.

    Of parts that divide the way into legs, times running forwards: clip(b) -> the next time on which a step has to end,
    infinity if there is none; clip_tangent(b, order): its tangent; restarts(b): whether the method starts again behind it, of a
    part that `goes_on` behind some. locate(b, step) -> whether an accepted step should have ended earlier, at a time that it
    puts into the cell `cut_at`: that step is taken once more, up to there, and asked about, too (the cell `exact` tells such a
    one). corner(b, time) -> code: at the end of a leg, behind `accepted`: the state may be changed, before the method starts
    again, if it does. set_off(b): at the beginning of a leg, behind that.
    """

    start: Callable | None = None
    accepted: Callable | None = None
    rejected: Callable | None = None
    end: Callable | None = None
    clip: Callable | None = None
    clip_tangent: Callable | None = None
    restarts: Callable | None = None
    locate: Callable | None = None
    corner: Callable | None = None
    set_off: Callable | None = None


@dataclasses.dataclass(frozen=True)
class AdjointHooks:
    """A part's places in the backward loop, which goes through the steps from the last to the first.

    Cotangents are added to the buffer `adjoint`, that of the state which is at hand. begin(b): of the state at t1. repeated(b,
    step): an accepted step is taken again, of which the part keeps count, but writes nothing. restored(b): the lane is as it
    was at the beginning of a step. step(b, step): of the state at the end of that step, and of what lies inside of it by the
    method's `between_adjoint`. begun(b): of the state at the beginning of a step, which is at hand, once the step is gone back
    over. end(b): of the state at t0.

    Of parts that divide the way into legs: leg_tangent(b, order) -> the tangent of the beginning of the leg at hand;
    corner(b, step): of the state that the next leg began with makes that of the end of `step`; clip_cotangent(b, order, value):
    hands on that of the time `clip`. Where a step ended at a time that depends on the state, in a part that `moves`: implies(b)
    -> whether it did; the step is gone back over once more for each level of tangents of that time, from the highest down to 0,
    itself, and imply(b, step, level, values) puts the cotangent of the step's end that follows from those of that level, of all
    `values` by order.
    """

    begin: Callable | None = None
    repeated: Callable | None = None
    restored: Callable | None = None
    step: Callable | None = None
    begun: Callable | None = None
    end: Callable | None = None
    leg_tangent: Callable | None = None
    corner: Callable | None = None
    clip_cotangent: Callable | None = None
    implies: Callable | None = None
    imply: Callable | None = None


class Part(abc.ABC):
    """Something that looks at each step, and adds to the solution. A frozen dataclass: static, and part of an image's key.

    A part says what it has, and inherits that it lacks the rest; only its places in the loops, both ways, have no default.
    """

    @property
    def inside(self) -> bool:
        """Whether it asks for values inside of steps."""
        return False

    @property
    def slopes(self) -> bool:
        """Whether it looks at f at the ends of steps."""
        return False

    @property
    def stops(self) -> bool:
        """Whether it may end a lane that is as it should be before t1, by the code of `accepted`."""
        return False

    @property
    def divides(self) -> bool:
        """Whether it divides the way of a lane into legs: there is a time inside on which a step ends, behind which the method
        starts again, if it does not go on."""
        return False

    @property
    def jumps(self) -> bool:
        """Whether f may jump at the times at which its `clip` ends legs."""
        return False

    @property
    def changes_start(self) -> bool:
        """Whether it may change the state at t0."""
        return False

    @property
    def goes_on(self) -> bool:
        """Whether its `clip` ends legs behind which the method goes on, as behind any other step."""
        return False

    @property
    def cuts(self) -> bool:
        """Whether it may have an accepted step taken once more, up to some time inside of it."""
        return False

    @property
    def moves(self) -> bool:
        """Whether the times that it names depend on the state, and so have tangents whenever that has."""
        return False

    @property
    def primal_too(self) -> tuple[str, ...]:
        """Those functions that it evaluates of the primal state alone, too, under `primal_name` where there are tangents."""
        return ()

    @property
    def transposed(self) -> tuple[str, ...]:
        """The functions whose transposes it evaluates, besides those that `outputs_of` knows."""
        return ()

    @property
    def evaluated_backwards(self) -> tuple[str, ...]:
        """Those of its functions with `outputs_of` that it evaluates on the way back as they are, too."""
        return ()

    @property
    def refused_operands(self) -> tuple[str, ...]:
        """Operands of its own by which results of which it has a `refusal` have a derivative that is not there."""
        return ()

    @property
    def counters(self) -> tuple[str, ...]:
        """The counters that it keeps, int32."""
        return ()

    @staticmethod
    def buffers() -> tuple[Buffer, ...]:
        """The buffers that it may need; their sizes wait for a problem."""
        return ()

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        """Words of each of its buffers."""
        return {}

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        """What it writes."""
        return ()

    def copies(self) -> dict[str, int]:
        """At how many places it evaluates each function of the user's, by name."""
        return {}

    def outputs_of(self, function: str) -> tuple[str, ...]:
        """The results that are the outputs of that function of the user's, in their order; none if it is not this part's."""
        return ()

    @abc.abstractmethod
    def hooks(self, lane: Lane) -> Hooks:
        """Its places in the loop."""

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        """The cells that outlive a step, with their dtypes."""
        return ()

    @property
    def remembered_counters(self) -> tuple[str, ...]:
        """Those of its counters that it needs to know where it is at the beginning of a step."""
        return ()

    @abc.abstractmethod
    def adjoint(self, lane: Lane) -> AdjointHooks:
        """Its places in the backward loop."""

    def present(self, found: Mapping[str, Any], request: Any) -> dict[str, Any]:
        """The fields of the `Solution` that it answers for, from the results by name."""
        return {}
