"""The integration loop, and what plugs into it: methods, controllers and parts. Nothing here imports Numba but a build."""

from .part import Control, Dimensions, Hooks, Part, Step, Steps

__all__ = ["Control", "Dimensions", "Hooks", "Part", "Step", "Steps"]
