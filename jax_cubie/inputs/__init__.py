"""What acts on a trajectory from outside, at times that are known."""

from .jumps import Jumps, Schedule, read_jumps

__all__ = ["Jumps", "Schedule", "read_jumps"]
