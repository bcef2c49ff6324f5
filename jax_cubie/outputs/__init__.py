"""What is saved of a solution, and how points between steps are found."""

from .saveat import SaveAt

__all__ = ["SaveAt"]
