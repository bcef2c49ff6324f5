"""What is decided for each platform when a function is translated."""

from __future__ import annotations

PLATFORMS = ("cpu", "cuda")

# A GPU's local memory costs 10 to 30 times what its registers cost; a CPU's compiler makes vectors of loops, and only of loops.
_AUTO_UNROLL = {"cpu": 20, "cuda": 128}


def unroll_on(platform: str, unroll: int | str) -> int:
    """The setting `unroll` as a number: arrays of up to so many elements are unrolled into registers."""
    return _AUTO_UNROLL[platform] if isinstance(unroll, str) else unroll
