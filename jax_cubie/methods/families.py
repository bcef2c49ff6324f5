"""The families of methods, and which of them a name or a tableau belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..linear import LinearSettings
from ..nonlinear import NewtonSettings
from ..settings import Component
from .catalogue import DIRK, EXPLICIT, FIRK, ROSENBROCK, TRANSFORMATIONS
from .dirk import Dirk
from .explicit_rk import ExplicitRungeKutta
from .firk import Firk
from .implicit_tableau import ImplicitTableau
from .method import Method
from .rosenbrock import Rosenbrock
from .rosenbrock_tableau import RosenbrockTableau
from .stage_transformation import StageTransformation, transformation_of
from .tableau import ButcherTableau

Tableau = ButcherTableau | RosenbrockTableau | ImplicitTableau
TABLEAUS = (ButcherTableau, RosenbrockTableau, ImplicitTableau)
CATALOGUES: tuple[Mapping[str, Tableau], ...] = (EXPLICIT, ROSENBROCK, DIRK, FIRK)

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
    if isinstance(tableau, ImplicitTableau):
        return Firk if tableau.family == Firk.family else Dirk
    return ExplicitRungeKutta


def _transformation_of(tableau: ImplicitTableau) -> StageTransformation:
    """That of a fully implicit method."""
    if FIRK.get(tableau.name) == tableau:
        return TRANSFORMATIONS[tableau.name]
    return transformation_of(tableau.name, tableau.a)


def embedded_order_of(tableau: Tableau) -> int | None:
    """The order of the solution that a method's error estimate compares with; None without one."""
    if isinstance(tableau, ImplicitTableau) and _class_of(tableau) is Firk and _transformation_of(tableau).error is not None:
        return tableau.stages
    return tableau.embedded_order


def family_of(method: str | Tableau) -> str:
    """What the family of a method is called."""
    return _class_of(find_tableau(method)).family


def is_stiff(method: str | Tableau) -> bool:
    """Whether a method is meant for stiff systems: all but explicit ones are A-stable."""
    return not isinstance(find_tableau(method), ButcherTableau)


def components_of(method: str | Tableau) -> tuple[type[Component], ...]:
    """The components of a solver that only such methods have."""
    kind = _class_of(find_tableau(method))
    implicit = (LinearSettings, NewtonSettings)
    return {Rosenbrock: (LinearSettings,), Dirk: implicit, Firk: implicit}.get(kind, ())


def find_method(method: str | Tableau, components: Mapping[type[Component], Any]) -> Method:
    """The method that a name or a tableau stands for. components: those of a solver, by their classes."""
    tableau = find_tableau(method)
    if isinstance(tableau, ButcherTableau):
        return ExplicitRungeKutta(tableau)
    linear = components[LinearSettings].static
    if isinstance(tableau, RosenbrockTableau):
        return Rosenbrock(tableau, linear)
    newton = components[NewtonSettings].static
    if _class_of(tableau) is Firk:
        return Firk.of(tableau, _transformation_of(tableau), linear, newton)
    return Dirk.of(tableau, linear, newton)
