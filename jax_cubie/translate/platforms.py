"""What is decided for each platform when a function is translated."""

from __future__ import annotations

PLATFORMS = ("cpu", "cuda")

# A GPU's local memory costs 10 to 30 times what its registers cost; a CPU's compiler makes vectors of loops, and only of loops.
_AUTO_UNROLL = {"cpu": 20, "cuda": 128}

# Where a program has more elementary functions than this on a CPU, or sums of products, in code without loops, loops are better
# for so many: a vector of them costs little more than one.
FEW_ELEMENTS = 8
ELEMENTARY = frozenset(
    "acos acosh asin asinh atan atan2 atanh cbrt cos cosh erf erfc exp exp2 expm1 log log1p log2 pow sin sinh tan tanh".split()
)


def unroll_on(platform: str, unroll: int | str) -> int:
    """The setting `unroll` as a number: arrays of up to so many elements are unrolled into registers, if a program does not
    want otherwise."""
    return _AUTO_UNROLL[platform] if isinstance(unroll, str) else unroll
