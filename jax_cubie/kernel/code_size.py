"""How large an image's machine code is, without the tables around it."""

from __future__ import annotations

import struct

from .library import unpack_blobs
from .target import Image

_ELF = b"\x7fELF"
_EXECUTABLE = 4  # SHF_EXECINSTR


def code_bytes(image: Image) -> int:
    """Bytes of instructions: of the cubin, or of the host's object file."""
    if image.target.platform == "cpu":
        return _instructions(image.data[max(image.data.find(_ELF), 0) :])
    return sum(_instructions(blob.code) for blob in unpack_blobs(image.data) if blob.kind == "cubin")


def _instructions(elf: bytes) -> int:
    """Bytes of all executable sections of a 64-bit little-endian ELF file; 0 for anything else."""
    if not elf.startswith(_ELF):
        return 0
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry, count = struct.unpack_from("<HH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", elf, table + number * entry) for number in range(count)]
    return sum(size for _, _, flags, _, _, size in sections if flags & _EXECUTABLE)
