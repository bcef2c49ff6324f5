"""How implicit steps solve their nonlinear systems."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Int

from ..controllers.tolerances import Tolerance, Tolerances, known_tolerances, tolerance_array
from ..settings import Component, as_python, check_choice, check_most_steps
from ..times import count
from .newton import Newton


class NewtonSettings(Component):
    """newton_rtol, newton_atol: the tolerances of an implicit stage's state, a scalar each or a pytree like y0; the iteration
    ends where what is left of its error is a hundredth of them, as the root mean square over all components. None: rtol and
    atol, or where steps are not judged 1e-8 (in float32 1e-4). Less than rounding allows is never asked for.
    newton_max_steps: the most iterations of a stage; one that needs more makes its step fail.
    jacobian_reuse: whether a Jacobian serves for the next step, too, as long as iterations converge fast with it. Where a solve
    is differentiated, each step has its own all the same.
    """

    newton_rtol: Tolerance | None = None
    newton_atol: Tolerance | None = None
    newton_max_steps: Int[Array, ""] | int = 10
    jacobian_reuse: bool = eqx.field(static=True, default=False, converter=as_python)

    def __check_init__(self) -> None:
        check_choice("jacobian_reuse", self.jacobian_reuse, (True, False))
        check_most_steps("newton_max_steps", self.newton_max_steps)
        Tolerances.check_all(self._given())

    def _given(self) -> dict[str, Tolerance]:
        named = {"newton_rtol": self.newton_rtol, "newton_atol": self.newton_atol}
        return {name: tree for name, tree in named.items() if tree is not None}

    def operands(self, state: Any) -> dict[str, Any]:
        given = self._given()
        Tolerances.check_all(given)
        if len(given) == 2:
            pairs = zip(*(known_tolerances(tree, state) for tree in given.values()), strict=True)
            if any(one is not None and other is not None and not np.all(one + other > 0) for one, other in pairs):
                raise ValueError(
                    f"newton_rtol and newton_atol are both 0 (in {state.dtype}, y0's dtype): give at least one of them"
                )
        arrays = {name: tolerance_array(name, tree, state) for name, tree in given.items()}
        return {**arrays, "newton_max_steps": count("newton_max_steps", self.newton_max_steps)}

    @property
    def static(self) -> Newton:
        """What machine code depends on."""
        return Newton(self.jacobian_reuse)
