"""Step size controllers, and the tolerances that they go by."""

from .catalogue import CONTROLLERS, Named
from .controller import Controller
from .ends import EvenSteps, GivenSteps
from .fixed import FixedStep
from .pid import PID
from .predictive import Predictive
from .tolerances import Tolerances

__all__ = ["CONTROLLERS", "PID", "Controller", "EvenSteps", "FixedStep", "GivenSteps", "Named", "Predictive", "Tolerances"]
