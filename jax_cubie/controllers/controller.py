"""What a controller gives the loop."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from ..loop.part import Control

if TYPE_CHECKING:
    from ..loop.lane import Lane


class Controller(abc.ABC):
    """The static side of a controller: a frozen dataclass, part of an image's key."""

    @property
    @abc.abstractmethod
    def adaptive(self) -> bool:
        """Whether it asks for error estimates, and may reject a step."""

    @property
    @abc.abstractmethod
    def names_ends(self) -> bool:
        """Whether it says when steps end, rather than how large they are."""

    @property
    @abc.abstractmethod
    def first_step(self) -> str:
        """Who says how large the first step is: "given", the user's dt0; "either", dt0 or the controller; "own", the latter."""

    @property
    @abc.abstractmethod
    def coefficients(self) -> tuple[str, ...]:
        """The numbers that the kernel is handed, by the names of their settings."""

    @property
    @abc.abstractmethod
    def remembered(self) -> tuple[tuple[str, str], ...]:
        """The cells that outlive a step, with their dtypes ("float": the solve's): with what they hold at the beginning of an
        attempt, it is decided on alike again."""

    @abc.abstractmethod
    def control(self, lane: Lane) -> Control:
        """Its device functions."""


class Unjudged(Controller):
    """The static side of one whose steps nobody judges."""

    @property
    def adaptive(self) -> bool:
        return False

    @property
    def coefficients(self) -> tuple[str, ...]:
        return ()

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        return ()
