"""The families of methods, and which of them a name or a tableau belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..linear import LinearSettings
from ..nonlinear import NewtonSettings
from ..settings import Component
from .auto import AutoSwitch
from .auto_settings import AutoSettings
from .catalogue import DIRK, EXPLICIT, FIRK, ROSENBROCK, TRANSFORMATIONS
from .dirk import Dirk
from .explicit_rk import ExplicitRungeKutta
from .firk import Firk
from .implicit_tableau import ImplicitTableau
from .method import Method
from .rosenbrock import Rosenbrock
from .rosenbrock_tableau import RosenbrockTableau
from .stage_transformation import StageTransformation, transformation_of
from .stiffness import stages_at_one_time
from .tableau import ButcherTableau, Tableau

TABLEAUS = (ButcherTableau, RosenbrockTableau, ImplicitTableau)
CATALOGUES: tuple[Mapping[str, Tableau], ...] = (EXPLICIT, ROSENBROCK, DIRK, FIRK)

# The method of two, which `AutoSettings` name.
AUTO = "auto"
# The own name of each method for each of its names, aliases among them.
NAMES = {alias: name for catalogue in CATALOGUES for alias, name in catalogue.names.items()} | {AUTO: AUTO}


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
    if method == AUTO:
        return AutoSwitch.family
    return _class_of(find_tableau(method)).family


def is_stiff(method: str | Tableau) -> bool:
    """Whether a method is meant for stiff systems: all but explicit ones are A-stable."""
    return method == AUTO or not isinstance(find_tableau(method), ButcherTableau)


def _name_of(method: str | Tableau) -> str:
    return method if isinstance(method, str) else method.name


def check_pair(explicit: str | Tableau, implicit: str | Tableau) -> None:
    """Raises ValueError where `method="auto"` can't change between these two."""
    named = f"auto=({_name_of(explicit)!r}, {_name_of(implicit)!r}): "

    def check(fine: bool, place: str, method: str | Tableau, what: str, expected: str) -> None:
        if not fine:
            raise ValueError(f"{named}the {place} method, {_name_of(method)!r}, {what}: expected {expected}")

    other = "a method for stiff systems with an error estimate, as 'rodas5p' or 'kvaerno5'"
    check(implicit != AUTO, "second", implicit, "is one of two itself", other)
    check(is_stiff(implicit), "second", implicit, "is explicit", other)
    check(embedded_order_of(find_tableau(implicit)) is not None, "second", implicit, "has no error estimate", other)
    one = "an explicit Runge-Kutta method with an error estimate, as 'tsit5' or 'vern7'"
    check(not is_stiff(explicit), "first", explicit, "is not explicit", one)
    tableau = find_tableau(explicit)
    assert isinstance(tableau, ButcherTableau)
    check(tableau.b_embedded is not None, "first", explicit, "has no error estimate", one)
    paired = stages_at_one_time(tableau) is not None
    check(paired, "first", explicit, "has no two stages at one time, by which stiffness is seen", f"{one}, that has")


def components_of(method: str | Tableau, make: Callable[[type[Component]], Any]) -> tuple[Component, ...]:
    """The components of a solver that only such methods have, each by `make` of its class."""
    if method == AUTO:
        settings = make(AutoSettings)
        check_pair(*settings.auto)
        return (settings, *components_of(settings.auto[1], make))
    kind = _class_of(find_tableau(method))
    implicit = (LinearSettings, NewtonSettings)
    return tuple(map(make, {Rosenbrock: (LinearSettings,), Dirk: implicit, Firk: implicit}.get(kind, ())))


def find_method(method: str | Tableau, components: Mapping[type[Component], Any]) -> Method:
    """The method that a name or a tableau stands for. components: those of a solver, by their classes."""
    if method == AUTO:
        explicit, implicit = (find_method(one, components) for one in components[AutoSettings].auto)
        assert isinstance(explicit, ExplicitRungeKutta) and isinstance(implicit, (Rosenbrock, Dirk, Firk))
        if not implicit.linear.makes_jacobian:
            raise ValueError(
                f"method {AUTO!r} goes by the norm of the Jacobian, and this linear_solver makes none: take "
                "linear_solver='dense' or 'sparse', or an implicit method alone"
            )
        return AutoSwitch(explicit, implicit)
    tableau = find_tableau(method)
    if isinstance(tableau, ButcherTableau):
        return ExplicitRungeKutta(tableau)
    linear = components[LinearSettings].static
    if isinstance(tableau, RosenbrockTableau):
        return Rosenbrock(tableau, linear)
    assert isinstance(tableau, ImplicitTableau)
    newton = components[NewtonSettings].static
    if _class_of(tableau) is Firk:
        return Firk.of(tableau, _transformation_of(tableau), linear, newton)
    return Dirk.of(tableau, linear, newton)
