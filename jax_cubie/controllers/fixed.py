"""Steps of one size."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..loop.part import Control
from ..settings import Component
from .controller import Unjudged

if TYPE_CHECKING:
    from ..loop.lane import Lane


class FixedStep(Component):
    """Every step has the size dt0; the last one is cut to land on t1."""

    def operands(self, state: Any) -> dict[str, Any]:
        return {}

    @property
    def static(self) -> FixedControl:
        """What machine code depends on."""
        return FixedControl()


@dataclasses.dataclass(frozen=True)
class FixedControl(Unjudged):
    """The static side of `FixedStep`."""

    @property
    def names_ends(self) -> bool:
        return False

    @property
    def first_step(self) -> str:
        return "given"

    def control(self, lane: Lane) -> Control:
        return Control()
