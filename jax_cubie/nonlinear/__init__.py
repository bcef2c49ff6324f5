"""Nonlinear systems in a lane: those of implicit steps."""

from .newton import KAPPA, Newton
from .settings import NewtonSettings

__all__ = ["KAPPA", "Newton", "NewtonSettings"]
