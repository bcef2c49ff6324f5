"""Nonlinear systems in a lane: those of implicit steps."""

from .newton import SERVES, Newton
from .settings import NewtonSettings

__all__ = ["SERVES", "Newton", "NewtonSettings"]
