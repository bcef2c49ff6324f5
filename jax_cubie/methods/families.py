"""The families of methods, and which of them a name or a tableau belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..linear import LinearSettings
from ..nonlinear import NewtonSettings
from ..settings import Component
from .catalogue import DIRK, EXPLICIT, ROSENBROCK
from .dirk import Dirk
from .explicit_rk import ExplicitRungeKutta
from .implicit_tableau import ImplicitTableau
from .method import Method
from .rosenbrock import Rosenbrock
from .rosenbrock_tableau import RosenbrockTableau
from .tableau import ButcherTableau

Tableau = ButcherTableau | RosenbrockTableau | ImplicitTableau
TABLEAUS = (ButcherTableau, RosenbrockTableau, ImplicitTableau)
CATALOGUES: tuple[Mapping[str, Tableau], ...] = (EXPLICIT, ROSENBROCK, DIRK)

# The own name of each method for each of its names, aliases among them.
NAMES = {alias: name for catalogue in CATALOGUES for alias, name in catalogue.names.items()}


def find_tableau(method: str | Tableau) -> Tableau:
    """The tableau that a method's own name stands for; a tableau as it is."""
    if not isinstance(method, str):
        return method
    return next(catalogue[method] for catalogue in CATALOGUES if method in catalogue)


def _class_of(tableau: Tableau) -> type[Method]:
    if isinstance(tableau, RosenbrockTableau):
        return Rosenbrock
    return Dirk if isinstance(tableau, ImplicitTableau) else ExplicitRungeKutta


def family_of(method: str | Tableau) -> str:
    """What the family of a method is called."""
    return _class_of(find_tableau(method)).family


def is_stiff(method: str | Tableau) -> bool:
    """Whether a method is meant for stiff systems: all but explicit ones are A-stable."""
    return not isinstance(find_tableau(method), ButcherTableau)


def components_of(method: str | Tableau) -> tuple[type[Component], ...]:
    """The components of a solver that only such methods have."""
    kind = _class_of(find_tableau(method))
    return {Rosenbrock: (LinearSettings,), Dirk: (LinearSettings, NewtonSettings)}.get(kind, ())


def find_method(method: str | Tableau, components: Mapping[type[Component], Any]) -> Method:
    """The method that a name or a tableau stands for. components: those of a solver, by their classes."""
    tableau = find_tableau(method)
    if isinstance(tableau, ButcherTableau):
        return ExplicitRungeKutta(tableau)
    linear = components[LinearSettings].static
    if isinstance(tableau, RosenbrockTableau):
        return Rosenbrock(tableau, linear)
    return Dirk(tableau, linear, components[NewtonSettings].static)
