"""From what the user says to what a kernel needs: functions traced, arrays checked, flattened and named."""

from .matrices import Matrices
from .problem import DEFAULT_MAX_STEPS, PARTS, Problem
from .request import Request, make_request
from .state import State, read_state

__all__ = ["DEFAULT_MAX_STEPS", "PARTS", "Matrices", "Problem", "Request", "State", "make_request", "read_state"]
