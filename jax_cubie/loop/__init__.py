"""The integration loop, and what plugs into it: methods, controllers and parts. Nothing here imports Numba but a build."""

from .part import AdjointHooks, AdjointSteps, Control, Dimensions, Hooks, Part, Step, Steps

__all__ = ["AdjointHooks", "AdjointSteps", "Control", "Dimensions", "Hooks", "Part", "Step", "Steps"]
