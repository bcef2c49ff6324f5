"""Step size controllers, and the tolerances that they go by."""

from .catalogue import CONTROLLERS, Named
from .controller import Controller
from .fixed import FixedStep
from .pid import PID
from .tolerances import Tolerances

__all__ = ["CONTROLLERS", "PID", "Controller", "FixedStep", "Named", "Tolerances"]
