"""Integration methods: one file for each family, tableaus as data. Called, it lists them: `jax_cubie.methods()`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .catalogue import EXPLICIT, ROSENBROCK
from .families import CATALOGUES, NAMES, TABLEAUS, Tableau, components_of, family_of, find_method
from .method import Method
from .rosenbrock_tableau import RosenbrockTableau
from .tableau import ButcherTableau, ContinuousExtension

__all__ = [
    "CATALOGUES", "EXPLICIT", "NAMES", "ROSENBROCK", "TABLEAUS", "ButcherTableau", "ContinuousExtension", "Method",
    "RosenbrockTableau", "Tableau", "components_of", "find_method",
]


class _Methods(ModuleType):
    """This package, which is also the public function of its name."""

    def __call__(self) -> list[dict[str, Any]]:
        """Every method.

        `name`, `aliases`, `family`; `order`; `embedded_order` (None without an error estimate); `dense_order` of the values
        between steps; `stages`; `fsal`: whether its last stage is the next step's first.
        """
        return [
            {
                "name": tableau.name,
                "aliases": tableau.aliases,
                "family": family_of(tableau),
                "order": tableau.order,
                "embedded_order": tableau.embedded_order,
                "dense_order": tableau.dense_order,
                "stages": tableau.stages,
                "fsal": isinstance(tableau, ButcherTableau) and tableau.fsal,
            }
            for catalogue in CATALOGUES
            for tableau in catalogue.values()
        ]


sys.modules[__name__].__class__ = _Methods
