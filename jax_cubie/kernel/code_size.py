"""What machine code says of itself: its size without the tables around it, and the registers of its functions."""

from __future__ import annotations

import struct

from .library import unpack_blobs
from .target import Image

_ELF = b"\x7fELF"
_EXECUTABLE = 4  # SHF_EXECINSTR
# NVIDIA's sections of information on code: entries of form, attribute and, in those of this form, the length of what follows;
# the attribute EIATTR_REGCOUNT has a symbol and a number.
_CUDA_INFO, _SIZED, _REGISTERS = 0x70000000, 0x04, 0x2F


def code_bytes(image: Image) -> int:
    """Bytes of instructions: of the cubin, or of the host's object file."""
    if image.target.platform == "cpu":
        return _instructions(image.data[max(image.data.find(_ELF), 0) :])
    return sum(_instructions(blob.code) for blob in unpack_blobs(image.data) if blob.kind == "cubin")


def register_count(cubin: bytes) -> int:
    """Registers of a thread: the most that a function takes, of those that the kernel calls, too. The assembler's report
    counts the kernel's own alone."""
    most = 0
    for begin, size in _sections(cubin, _CUDA_INFO):
        place, end = begin, begin + size
        while place + 4 <= end:
            form, attribute, length = struct.unpack_from("<BBH", cubin, place)
            place += 4
            if form == _SIZED:
                if attribute == _REGISTERS:
                    most = max(most, struct.unpack_from("<II", cubin, place)[1])
                place += length
    return most


def _sections(elf: bytes, kind: int) -> list[tuple[int, int]]:
    """Begin and size of the sections of a kind, of a 64-bit little-endian ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry, count = struct.unpack_from("<HH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", elf, table + number * entry) for number in range(count)]
    return [(begin, size) for _, found, _, _, begin, size in sections if found == kind]


def _instructions(elf: bytes) -> int:
    """Bytes of all executable sections of a 64-bit little-endian ELF file; 0 for anything else."""
    if not elf.startswith(_ELF):
        return 0
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry, count = struct.unpack_from("<HH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", elf, table + number * entry) for number in range(count)]
    return sum(size for _, _, flags, _, _, size in sections if flags & _EXECUTABLE)
