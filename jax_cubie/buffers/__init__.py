"""The arrays of a lane: their names, where they lie, which share words, and the functions that make them."""

from .buffer import ALWAYS, BACKWARD, Buffer
from .layout import Layout, Memory, Slot, fit_block
from .registry import BufferRegistry

__all__ = ["ALWAYS", "BACKWARD", "Buffer", "BufferRegistry", "Layout", "Memory", "Slot", "fit_block"]
