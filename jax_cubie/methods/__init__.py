"""Integration methods: tableaus as data, and one step for each family."""

from .catalogue import EXPLICIT
from .explicit_rk import ExplicitRungeKutta
from .tableau import ButcherTableau

__all__ = ["EXPLICIT", "ButcherTableau", "ExplicitRungeKutta"]
