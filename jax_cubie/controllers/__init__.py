"""Step size controllers."""

from .catalogue import CONTROLLERS
from .fixed import FixedStep
from .pid import PID

__all__ = ["CONTROLLERS", "PID", "FixedStep"]
