"""The families of methods, and which of them a name or a tableau belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..linear import LinearSettings
from ..settings import Component
from .catalogue import EXPLICIT, ROSENBROCK
from .explicit_rk import ExplicitRungeKutta
from .method import Method
from .rosenbrock import Rosenbrock
from .rosenbrock_tableau import RosenbrockTableau
from .tableau import ButcherTableau

Tableau = ButcherTableau | RosenbrockTableau
TABLEAUS = (ButcherTableau, RosenbrockTableau)
CATALOGUES: tuple[Mapping[str, Tableau], ...] = (EXPLICIT, ROSENBROCK)

# The own name of each method for each of its names, aliases among them.
NAMES = {alias: name for catalogue in CATALOGUES for alias, name in catalogue.names.items()}


def find_tableau(method: str | Tableau) -> Tableau:
    """The tableau that a method's own name stands for; a tableau as it is."""
    if not isinstance(method, str):
        return method
    return next(catalogue[method] for catalogue in CATALOGUES if method in catalogue)


def family_of(method: str | Tableau) -> str:
    """What the family of a method is called."""
    return Rosenbrock.family if isinstance(find_tableau(method), RosenbrockTableau) else ExplicitRungeKutta.family


def components_of(method: str | Tableau) -> tuple[type[Component], ...]:
    """The components of a solver that only such methods have."""
    return (LinearSettings,) if isinstance(find_tableau(method), RosenbrockTableau) else ()


def find_method(method: str | Tableau, components: Mapping[type[Component], Any]) -> Method:
    """The method that a name or a tableau stands for. components: those of a solver, by their classes."""
    tableau = find_tableau(method)
    if isinstance(tableau, RosenbrockTableau):
        return Rosenbrock(tableau, components[LinearSettings].static)
    return ExplicitRungeKutta(tableau)
