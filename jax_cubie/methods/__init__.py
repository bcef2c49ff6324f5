"""Integration methods: one file for each family, tableaus as data. Called, it lists them: `jax_cubie.methods()`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from ..printing import Listing
from .catalogue import DIRK, EXPLICIT, FIRK, ROSENBROCK, TRANSFORMATIONS
from .families import (
    AUTO,
    CATALOGUES,
    NAMES,
    TABLEAUS,
    Tableau,
    components_of,
    embedded_order_of,
    family_of,
    find_method,
    find_tableau,
    is_stiff,
)
from .implicit_tableau import ImplicitTableau
from .method import Method
from .rosenbrock_tableau import RosenbrockTableau
from .stage_transformation import StageTransformation
from .tableau import ButcherTableau, ContinuousExtension

__all__ = [
    "AUTO", "CATALOGUES", "DIRK", "EXPLICIT", "FIRK", "NAMES", "ROSENBROCK", "TABLEAUS", "TRANSFORMATIONS", "ButcherTableau",
    "ContinuousExtension", "ImplicitTableau", "Method", "RosenbrockTableau", "StageTransformation", "Tableau",
    "components_of", "embedded_order_of", "family_of", "find_method", "find_tableau", "is_stiff",
]


class _Methods(ModuleType):
    """This package, which is also the public function of its name."""

    def __call__(self) -> list[dict[str, Any]]:
        """Every method, a dict each; printed, the list is a table.

        `name`, `aliases`; `family`; `stiff`: whether it is meant for stiff systems (it is A-stable: no component that decays,
        however fast, limits the step size); `order`; `embedded_order` (None without an error estimate); `dense_order` of the
        values between steps; `stages`; `fsal`: whether its last stage is the next step's first.

        `method="auto"`, which changes between two of them as a system becomes stiff or ceases to be, is none of its own.
        """
        return Listing(
            {
                "name": tableau.name,
                "aliases": tableau.aliases,
                "family": family_of(tableau),
                "stiff": is_stiff(tableau),
                "order": tableau.order,
                "embedded_order": embedded_order_of(tableau),
                "dense_order": tableau.dense_order,
                "stages": tableau.stages,
                "fsal": tableau.fsal,
            }
            for catalogue in CATALOGUES
            for tableau in catalogue.values()
        )


sys.modules[__name__].__class__ = _Methods
