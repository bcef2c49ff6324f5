"""Nonlinear systems in a lane: those of implicit steps."""

from .newton import KAPPA, SERVES, Newton
from .settings import NewtonSettings

__all__ = ["KAPPA", "SERVES", "Newton", "NewtonSettings"]
