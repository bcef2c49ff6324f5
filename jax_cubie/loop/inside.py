"""Values inside of steps: what they need is prepared once a step, however many parts ask for some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .part import Step

if TYPE_CHECKING:
    from ..problem import Problem
    from .body import Body
    from .lane import Lane

_PREPARED = "between_prepared"


def _several(problem: Problem) -> bool:
    return sum(part.inside for part in problem.parts) > 1


def declare_cells(lane: Lane) -> None:
    """Where it is kept whether the step at hand is prepared: where one part alone asks, nowhere."""
    if _several(lane.problem):
        lane.cell(_PREPARED, "bool")


def next_step(b: Body) -> None:
    """Another step is at hand."""
    if _several(b.lane.problem):
        b.put(**{_PREPARED: False})


def prepare_between(b: Body, step: Step) -> None:
    """What values inside of the step at hand need."""
    method, direction = b.lane.problem.method, b.scalar(b.direction)
    start, size = direction * step.start, direction * step.size
    if not _several(b.lane.problem):
        method.prepare_between(b, start.value, size.value)
        return
    with b.when(~b.get(_PREPARED)):
        method.prepare_between(b, start.value, size.value)
        b.put(**{_PREPARED: True})
