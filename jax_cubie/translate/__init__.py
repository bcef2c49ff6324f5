"""jaxpr -> program -> instructions. The emitter is in ``translate.emit``, which needs llvmlite."""

from .errors import UnsupportedPrimitiveError
from .program import Program
from .walk import trace

__all__ = ["Program", "UnsupportedPrimitiveError", "trace"]
