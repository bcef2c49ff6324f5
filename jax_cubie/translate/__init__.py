"""jaxpr -> program -> instructions. The emitter is in ``translate.emit``, which needs llvmlite."""

from .context import check_dtype
from .errors import UnsupportedPrimitiveError
from .program import Program
from .walk import trace, translate, translate_for_all, translate_tangents

__all__ = ["Program", "UnsupportedPrimitiveError", "check_dtype", "trace", "translate", "translate_for_all",
           "translate_tangents"]
