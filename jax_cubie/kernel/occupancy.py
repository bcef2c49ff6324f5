"""How many blocks of a kernel run at once on a multiprocessor, worked out from what they take."""

from __future__ import annotations

import dataclasses

# Threads and blocks at once, and KiB of shared memory, of a multiprocessor, by architecture (CUDA C++ Programming Guide,
# technical specifications per compute capability; the blocks as in cuda_occupancy.h of CUDA 13 as well).
_LIMITS = {
    75: (1024, 16, 64), 80: (2048, 32, 164), 86: (1536, 16, 100), 87: (1536, 16, 164), 89: (1536, 24, 100),
    90: (2048, 32, 228), 100: (2048, 32, 228), 103: (2048, 32, 228), 110: (1536, 24, 228), 120: (1536, 24, 100),
    121: (1536, 24, 100),
}  # fmt: skip
# The same on all of these: registers of a multiprocessor in four parts, each handed to a warp 256 at a time.
_REGISTERS, _PARTS, _REGISTER_UNIT, _WARP = 65536, 4, 256, 32


@dataclasses.dataclass(frozen=True)
class Occupancy:
    """Blocks at once on a multiprocessor, the share of its threads that they are, and what allows no more of them."""

    blocks: int
    share: float
    limits: tuple[str, ...]


def occupancy(architecture: int, registers: int, block: int, shared_bytes: int) -> Occupancy:
    """Of a kernel with so many registers a thread, threads a block, and bytes of shared memory a block.

    As NVIDIA's cuda_occupancy.h counts: units of registers and shared memory are rounded up, and from compute capability
    8.0 on a block takes 1 KiB of shared memory more than it asks for.
    """
    threads, most_blocks, shared_kib = _LIMITS[architecture]
    warps = -(-block // _WARP)
    of_a_warp = -(-registers * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
    reserved, unit = (1024, 128) if architecture >= 80 else (0, 256)
    shared = -(-(shared_bytes + reserved) // unit) * unit
    allowed = {"threads": threads // _WARP // warps, "blocks": most_blocks}
    if of_a_warp:
        allowed["registers"] = _REGISTERS // _PARTS // of_a_warp * _PARTS // warps
    if shared:
        allowed["shared memory"] = shared_kib * 1024 // shared
    blocks = min(allowed.values())
    return Occupancy(blocks, blocks * warps * _WARP / threads, tuple(name for name, most in allowed.items() if most == blocks))
