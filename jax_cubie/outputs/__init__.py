"""What is saved of a solution, and how points between steps are found."""

from .saveat import SaveAt
from .saving import Saving

# Every part that a solve may have, for the sake of its buffers.
PARTS = (Saving,)

__all__ = ["PARTS", "SaveAt", "Saving"]
