"""What the user says of an event, and is told of it."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..settings import as_python, told


class Event(eqx.Module):
    """Something that happens to a lane when a condition holds, for `solve(..., events=)`.

    - cond: cond(t, y, args), a scalar. A float: the event is where it becomes 0, found on the method's values between steps to
      a few units in the last place. A bool: the event is at the end of each accepted step where it is True.
    - direction: of a float, 1: only where it grows, -1: only where it falls, 0: either. Of a bool, 1: only where it has become
      True, as it was not at the end of the step before, or behind a jump there, -1: where it has become False, 0: wherever it
      is True.
    - terminal: whether the lane ends there, with `RESULTS.event_occurred`; a number: at which of them. None: only where there
      is no `affect`.
    - affect: affect(t, y, args) -> y, the state to go on from, a pytree like y; the method starts again. Components that follow
      from algebraic equations (`mass`) are solved for then, from what it gives of them as a guess.
    - record: of how many, from the first on, times and states are kept.

    At t0 no event happens: a cond that is 0 there, or behind an event of its own, is on the side to which it goes on. Where it
    is 0 over a stretch of time, that is no event. Of events at one time all happen, in the order in which they are given, and
    in front of doses and other jumps of that time. A step in which one happens that ends the lane, changes the state or is kept
    is taken once more, so that it ends there. More than one zero of a cond in a step is found where they are more than a
    sixteenth of it apart, and values and slopes of cond at the ends of the step give a hint of them; others are missed, which
    shorter steps, by dtmax=, help against.

    Raises TypeError or ValueError for what can't be.
    """

    cond: Callable[[Float[Array, ""], PyTree, PyTree], Float[Array, ""] | Bool[Array, ""]]
    direction: int = eqx.field(default=0, static=True, converter=as_python)
    terminal: bool | int | None = eqx.field(default=None, static=True, converter=as_python)
    affect: Callable[[Float[Array, ""], PyTree, PyTree], PyTree] | None = None
    record: int = eqx.field(default=0, static=True, converter=as_python)

    def __check_init__(self) -> None:
        for name in ("cond", "affect"):
            function = getattr(self, name)
            if not callable(function) and not (name == "affect" and function is None):
                raise TypeError(f"{name} is {told(function)}: expected {name}(t, y, args)")
        if isinstance(self.direction, bool) or self.direction not in (-1, 0, 1):
            raise ValueError(f"direction is {self.direction!r}: expected 1 (cond grows), -1 (it falls) or 0 (either)")
        if self.terminal is not None and not (isinstance(self.terminal, int) and self.terminal >= 0):
            raise ValueError(f"terminal is {self.terminal!r}: expected True, False, or at which occurrence the lane ends")
        if isinstance(self.record, bool) or not isinstance(self.record, int) or self.record < 0:
            raise ValueError(f"record is {self.record!r}: expected of how many events times and states are kept, 0 or more")

    @property
    def ends_at(self) -> int:
        """The occurrence at which the lane ends; 0: at none."""
        return int(self.affect is None if self.terminal is None else self.terminal)


class EventRecord(eqx.Module):
    """What happened of one event in a lane.

    count: how often it did. ended: whether it ended the lane. times: [record], when it did first; ys: a pytree like y, the
    state then, [record] in front, as it was before `affect`. NaN where it did less often.
    """

    count: Int[Array, ""]
    ended: Bool[Array, ""]
    times: Float[Array, " record"]
    ys: PyTree[Float[Array, "record ..."]]
