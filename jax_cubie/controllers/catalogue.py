"""Every controller by name: three kinds of steps that nobody judges, sets of coefficients for PID, and Gustafsson's.

The sets of Soederlind are those whose filters have no feedback from earlier steps, written for PID: from his exponents,
pcoeff = -(beta2 + 2 beta3), icoeff = beta1 + beta2 + beta3, dcoeff = beta3.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from .ends import EvenSteps, GivenSteps
from .fixed import FixedStep
from .pid import PID
from .predictive import Predictive


@dataclasses.dataclass(frozen=True)
class Named:
    """A controller's component, and the settings of it that the name stands for, besides its defaults."""

    component: type[FixedStep] | type[EvenSteps] | type[GivenSteps] | type[PID] | type[Predictive]
    coefficients: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""

    @property
    def adaptive(self) -> bool:
        """Whether it goes by tolerances."""
        return self.component().static.adaptive


def _pid(pcoeff: float, icoeff: float, dcoeff: float, source: str) -> Named:
    return Named(PID, dict(pcoeff=pcoeff, icoeff=icoeff, dcoeff=dcoeff), source)


_FILTERS = "Soederlind, Digital filters in adaptive time-stepping, ACM Trans. Math. Softw. 29 (2003)"
_STABILITY = "Soederlind, Wang, Adaptive time-stepping and computational stability, J. Comput. Appl. Math. 185 (2006)"
_PI34 = "Gustafsson, Control theoretic techniques for stepsize selection, ACM Trans. Math. Softw. 17 (1991); PI.3.4"

CONTROLLERS = {
    "fixed": Named(FixedStep),
    "pid": _pid(0.0, 1.0, 0.0, "the defaults of diffrax 0.7.2's PIDController"),
    "i": _pid(0.0, 1.0, 0.0, "Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.4"),
    "pi": _pid(0.4, 0.3, 0.0, _PI34),
    "pi30": _pid(0.0, 1 / 3, 0.0, _STABILITY),
    "pi33": _pid(1 / 3, 1 / 3, 0.0, _STABILITY),
    "pi34": _pid(0.4, 0.3, 0.0, _PI34),
    "pi42": _pid(0.2, 0.4, 0.0, _STABILITY),
    "h211pi": _pid(-1 / 6, 1 / 3, 0.0, f"{_FILTERS}: beta = 1/6, 1/6"),
    "h312pid": _pid(-2 / 9, 2 / 9, 1 / 18, f"{_FILTERS}: beta = 1/18, 1/9, 1/18"),
    "gustafsson": Named(
        Predictive,
        source="Gustafsson, Control-theoretic techniques for stepsize selection in implicit Runge-Kutta methods, ACM Trans. "
        "Math. Softw. 20 (1994), as in RADAU5 and RODAS by Hairer and Wanner",
    ),
    "even": Named(EvenSteps, source="diffrax 0.7.2's ConstantStepSize"),
    "given": Named(GivenSteps),
}
