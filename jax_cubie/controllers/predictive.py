"""Gustafsson's predictive controller, with the rules of RADAU5 and RODAS by Hairer and Wanner.

Gustafsson, Control-theoretic techniques for stepsize selection in implicit Runge-Kutta methods, ACM Trans. Math. Softw. 20
(1994); Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8, equation (8.25).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx

from ..loop.part import Control
from ..settings import Range, as_python
from .adaptive import Adaptive, AdaptiveControl, Number
from .pid import PID

if TYPE_CHECKING:
    from ..loop.lane import Lane


class Predictive(Adaptive):
    """Chooses the step size from the errors and the sizes of the last two accepted steps: as errors have grown or shrunk, they
    are expected to go on.

    Steps are judged as by `PID`. With the scaled errors e and sizes h of this step and of the accepted one before, the next
    step is this one times the smaller of

        safety * (1/e_n)^(1/k)    and, behind accepted steps,    safety * (1/e_n)^(1/k) * h_n/h_n-1 * (e_n-1/e_n)^(1/k),

    where k is the order of the method and e_n-1 counts as 0.01 at least; held to [factormin, factormax] after an accepted step,
    to [factormin, safety] after a rejected one, to 1 at most after a step that was accepted once a larger one was not, and to
    [dtmin, dtmax]. force_dtmin: as of `PID`.
    """

    safety: Number = 0.9
    factormin: Number = 0.2
    factormax: Number = 8.0
    dtmin: Number = 0.0
    dtmax: Number = float("inf")
    force_dtmin: bool = eqx.field(static=True, default=True, converter=as_python)

    RANGES: ClassVar[dict[str, Range]] = {
        name: PID.RANGES[name] for name in ("safety", "factormin", "factormax", "dtmin", "dtmax")
    }

    @property
    def static(self) -> PredictiveControl:
        """What machine code depends on."""
        return PredictiveControl(force_dtmin=self.force_dtmin, has_limits=self.has_limits)


@dataclasses.dataclass(frozen=True)
class PredictiveControl(AdaptiveControl):
    """The static side of `Predictive`."""

    @property
    def own_coefficients(self) -> tuple[str, ...]:
        return ("safety", "factormin", "factormax")

    @property
    def history(self) -> tuple[tuple[str, str], ...]:
        return (("last_log", "float"), ("last_size", "float"), ("rejected_before", "bool"))

    def control(self, lane: Lane) -> Control:
        from .predictive_control import build_control

        return build_control(lane, self, Predictive.RANGES)
