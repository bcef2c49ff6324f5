"""jaxpr -> program -> instructions. The emitter is in ``translate.emit``, which needs llvmlite."""

from .context import check_dtype
from .errors import UnsupportedPrimitiveError
from .program import Program
from .walk import trace

__all__ = ["Program", "UnsupportedPrimitiveError", "check_dtype", "trace"]
