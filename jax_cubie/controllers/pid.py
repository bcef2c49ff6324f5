"""The proportional-integral-derivative controller, with the rules and defaults of diffrax 0.7.2's `PIDController`.

Soederlind, Digital filters in adaptive time-stepping, ACM Trans. Math. Softw. 29 (2003); for the choice of the first step
see `first_step`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Real

from ..loop.part import Control
from ..settings import Component, Range, check_choice, concrete
from ..times import scalar
from .controller import Controller

if TYPE_CHECKING:
    from ..loop.lane import Lane

Number = Real[Array, ""] | float | int


class PID(Component):
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
    force_dtmin: bool = eqx.field(static=True, default=True)

    # What each coefficient may be: looked at where a solver is made or used, and in the kernel for what is traced.
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

    def __check_init__(self) -> None:
        check_choice("force_dtmin", self.force_dtmin, (True, False))
        check_ranges(self)

    def operands(self, state: Any) -> dict[str, Any]:
        check_ranges(self)
        return {name: scalar(name, getattr(self, name), state.dtype) for name in self.static.coefficients}

    @property
    def static(self) -> PIDControl:
        """What machine code depends on: whether earlier errors have a say, and step sizes are held to a range. Known without
        where the coefficients are plainly 0, the range plainly 0 to infinity."""
        return PIDControl(
            force_dtmin=self.force_dtmin,
            has_history=not (_is_plain(self.pcoeff, 0) and _is_plain(self.dcoeff, 0)),
            has_limits=limits_steps(self),
        )


def check_ranges(component: Any) -> None:
    """Raises ValueError or TypeError for numbers of a controller that are known and wrong."""
    for name, allowed in component.RANGES.items():
        allowed.check(name, getattr(component, name))
    dtmin, dtmax = concrete(component.dtmin), concrete(component.dtmax)
    if dtmin is not None and dtmax is not None and not np.all(dtmin <= dtmax):
        raise ValueError(f"dtmin={component.dtmin} and dtmax={component.dtmax} leave no step size: expected dtmin <= dtmax")


def limits_steps(component: Any) -> bool:
    """Whether a controller's step sizes are held to a range."""
    return not (_is_plain(component.dtmin, 0) and _is_plain(component.dtmax, float("inf")))


def _is_plain(value: Any, number: float) -> bool:
    return isinstance(value, (int, float)) and value == number


@dataclasses.dataclass(frozen=True)
class PIDControl(Controller):
    """The static side of `PID`. has_history: whether earlier errors have a say. has_limits: whether step sizes are held to
    dtmin and dtmax."""

    force_dtmin: bool
    has_history: bool
    has_limits: bool

    @property
    def adaptive(self) -> bool:
        return True

    @property
    def names_ends(self) -> bool:
        return False

    @property
    def first_step(self) -> str:
        return "either"

    @property
    def coefficients(self) -> tuple[str, ...]:
        history = ("pcoeff", "dcoeff") if self.has_history else ()
        return ("icoeff", "safety", "factormin", "factormax", *history, *(("dtmin", "dtmax") if self.has_limits else ()))

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        history = (("last_log", "float"), ("before_log", "float")) if self.has_history else ()
        return (*history, *((("at_dtmin", "bool"),) if self.has_limits and self.force_dtmin else ()))

    def control(self, lane: Lane) -> Control:
        from .pid_control import build_control

        return build_control(lane, self, PID.RANGES)
