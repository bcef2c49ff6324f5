"""Nonlinear systems in a lane: those of implicit steps."""

from .newton import Newton
from .settings import NewtonSettings

__all__ = ["Newton", "NewtonSettings"]
