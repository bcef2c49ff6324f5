"""Step size controllers."""

from .fixed import FixedStep
from .pid import PID

CONTROLLERS = {component.kind: component for component in (FixedStep, PID)}

__all__ = ["CONTROLLERS", "PID", "FixedStep"]
