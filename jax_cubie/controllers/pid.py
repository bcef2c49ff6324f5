"""The proportional-integral-derivative controller, with the rules and defaults of diffrax 0.7.2's `PIDController`.

Soederlind, Digital filters in adaptive time-stepping, ACM Trans. Math. Softw. 29 (2003); for the choice of the first step
see `first_step`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx

from ..loop.part import Control
from ..settings import Range, as_python
from .adaptive import Adaptive, AdaptiveControl, Number, is_plain

if TYPE_CHECKING:
    from ..loop.lane import Lane


class PID(Adaptive):
    """Chooses the step size from the error estimates of the last three steps.

    The scaled error of a step is the root mean square of error / (atol + rtol * max(|y0|, |y1|)); a step is accepted where
    it is below 1. The next step is the last one times

        safety * (1/e_n)^(b1/k) * (1/e_n-1)^(b2/k) * (1/e_n-2)^(b3/k)

    with b1 = pcoeff + icoeff + dcoeff, b2 = -(pcoeff + 2 dcoeff), b3 = dcoeff and k the order of the method, held to
    [1, factormax] after an accepted step and to [factormin, safety] after a rejected one, and to [dtmin, dtmax].
    force_dtmin: whether a step at dtmin is accepted whatever its error; if not, the solve ends with a code.
    """

    pcoeff: Number = 0.0
    icoeff: Number = 1.0
    dcoeff: Number = 0.0
    safety: Number = 0.9
    factormin: Number = 0.2
    factormax: Number = 10.0
    dtmin: Number = 0.0
    dtmax: Number = float("inf")
    force_dtmin: bool = eqx.field(static=True, default=True, converter=as_python)

    RANGES: ClassVar[dict[str, Range]] = {
        "pcoeff": Range(),
        "icoeff": Range(),
        "dcoeff": Range(),
        "safety": Range(0, 1, high_allowed=True),
        "factormin": Range(0, 1, high_allowed=True),
        "factormax": Range(1, low_allowed=True, high_allowed=True),
        "dtmin": Range(0, low_allowed=True),
        "dtmax": Range(0, high_allowed=True),
    }

    @property
    def static(self) -> PIDControl:
        """What machine code depends on: whether earlier errors have a say, and step sizes are held to a range. Known without
        where the coefficients are plainly 0, the range plainly 0 to infinity."""
        return PIDControl(
            force_dtmin=self.force_dtmin,
            has_limits=self.has_limits,
            has_history=not (is_plain(self.pcoeff, 0) and is_plain(self.dcoeff, 0)),
        )


@dataclasses.dataclass(frozen=True)
class PIDControl(AdaptiveControl):
    """The static side of `PID`. has_history: whether earlier errors have a say."""

    has_history: bool

    @property
    def own_coefficients(self) -> tuple[str, ...]:
        return ("icoeff", "safety", "factormin", "factormax", *(("pcoeff", "dcoeff") if self.has_history else ()))

    @property
    def history(self) -> tuple[tuple[str, str], ...]:
        return (("last_log", "float"), ("before_log", "float")) if self.has_history else ()

    def control(self, lane: Lane) -> Control:
        from .pid_control import build_control

        return build_control(lane, self, PID.RANGES)
