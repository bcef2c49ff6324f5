"""What is saved of a solution, and how points between steps are found."""

from .saveat import SaveAt
from .saving import Saving

__all__ = ["SaveAt", "Saving"]
