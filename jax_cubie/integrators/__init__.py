"""Integration methods: tableaus as data, and one step for each family."""

from .catalogue import EXPLICIT
from .explicit_rk import ExplicitRungeKutta
from .tableau import ButcherTableau, ContinuousExtension

__all__ = ["EXPLICIT", "ButcherTableau", "ContinuousExtension", "ExplicitRungeKutta"]
