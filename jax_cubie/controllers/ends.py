"""Controllers that say when steps end: at given times, or at equal parts of the interval."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Real

from ..loop.part import Control
from ..settings import Component, concrete, is_number, refuse_symbolic
from ..times import as_array, listed
from .controller import Unjudged

if TYPE_CHECKING:
    from ..loop.lane import Lane


class GivenSteps(Component):
    """Steps that end at given times.

    step_ends: shape [steps], where each step ends, counted from t0: strictly increasing from above 0 to t1 - t0, the last of
    them (where t1 < t0, decreasing from below 0).
    """

    step_ends: Real[Array, " steps"] | None = eqx.field(converter=listed, default=None)

    def __check_init__(self) -> None:
        ends = self.step_ends
        if ends is None:
            return
        if not is_number(ends) or len(np.shape(ends)) != 1 or np.shape(ends)[0] == 0:
            raise ValueError(f"step_ends is {ends!r}: expected a one-dimensional array of times since t0, of one at least")
        known = concrete(ends)
        if known is not None:
            forwards = np.diff(known, prepend=0) * (1 if known[0] > 0 else -1)
            if not (np.isfinite(known).all() and (forwards > 0).all()):
                raise ValueError(f"step_ends={ends}: expected finite times since t0, each further from it than the one before")

    def operands(self, state: Any) -> dict[str, Any]:
        if self.step_ends is None:
            raise ValueError(
                "controller='given' takes steps that end at step_ends, which is None: give step_ends=, the times since t0 at "
                "which steps end, the last of them t1 - t0"
            )
        refuse_symbolic("step_ends", self.step_ends)
        return {"step_ends": as_array(self.step_ends, state.dtype)}

    @property
    def static(self) -> GivenControl:
        """What machine code depends on."""
        return GivenControl()


class EvenSteps(Component):
    """ceil((t1 - t0) / dt0) steps, all ends but the first at equal parts of the interval: the first step has the size dt0.

    As diffrax 0.7.2's `ConstantStepSize`. Where dt0 does not divide the interval, "fixed" has a shorter last step instead.
    """

    def operands(self, state: Any) -> dict[str, Any]:
        return {}

    @property
    def static(self) -> EvenControl:
        """What machine code depends on."""
        return EvenControl()


@dataclasses.dataclass(frozen=True)
class _EndsControl(Unjudged):
    """The static side of both."""

    @property
    def names_ends(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class GivenControl(_EndsControl):
    """The static side of `GivenSteps`."""

    @property
    def first_step(self) -> str:
        return "own"

    def control(self, lane: Lane) -> Control:
        from .ends_control import given_control

        return given_control(lane)


@dataclasses.dataclass(frozen=True)
class EvenControl(_EndsControl):
    """The static side of `EvenSteps`."""

    @property
    def first_step(self) -> str:
        return "given"

    def control(self, lane: Lane) -> Control:
        from .ends_control import even_control

        return even_control(lane)
