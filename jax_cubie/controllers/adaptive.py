"""What controllers that choose step sizes by error estimates have in common."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Real

from ..settings import Component, Range, check_choice, concrete
from ..times import scalar
from .controller import Controller

Number = Real[Array, ""] | float | int


@dataclasses.dataclass(frozen=True)
class AdaptiveControl(Controller):
    """The static side of `Adaptive`. has_limits: whether step sizes are held to dtmin and dtmax."""

    force_dtmin: bool
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
    @abc.abstractmethod
    def own_coefficients(self) -> tuple[str, ...]:
        """Those besides the limits."""

    @property
    def coefficients(self) -> tuple[str, ...]:
        return (*self.own_coefficients, *(("dtmin", "dtmax") if self.has_limits else ()))

    @property
    @abc.abstractmethod
    def history(self) -> tuple[tuple[str, str], ...]:
        """The cells that know of earlier steps."""

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        return (*self.history, *((("at_dtmin", "bool"),) if self.has_limits and self.force_dtmin else ()))


class Adaptive(Component):
    """The settings of such a controller.

    RANGES: what each number may be, looked at where a solver is made or used, and in the kernel for what is traced.
    """

    dtmin: eqx.AbstractVar[Number]
    dtmax: eqx.AbstractVar[Number]
    force_dtmin: eqx.AbstractVar[bool]

    RANGES: ClassVar[dict[str, Range]]

    def __check_init__(self) -> None:
        check_choice("force_dtmin", self.force_dtmin, (True, False))
        self._check_ranges()

    def operands(self, state: Any) -> dict[str, Any]:
        self._check_ranges()
        return {name: scalar(name, getattr(self, name), state.dtype) for name in self.static.coefficients}

    def _check_ranges(self) -> None:
        for name, allowed in self.RANGES.items():
            allowed.check(name, getattr(self, name))
        dtmin, dtmax = concrete(self.dtmin), concrete(self.dtmax)
        if dtmin is not None and dtmax is not None and not np.all(dtmin <= dtmax):
            raise ValueError(f"dtmin={self.dtmin} and dtmax={self.dtmax} leave no step size: expected dtmin <= dtmax")

    @property
    def has_limits(self) -> bool:
        """Whether step sizes are held to a range: not where it is plainly from 0 to infinity."""
        return not (is_plain(self.dtmin, 0) and is_plain(self.dtmax, float("inf")))

    @property
    @abc.abstractmethod
    def static(self) -> AdaptiveControl:
        """What machine code depends on."""


def is_plain(value: Any, number: float) -> bool:
    """Whether it is that number, as one of Python's, which is known for good."""
    return isinstance(value, (int, float)) and value == number
