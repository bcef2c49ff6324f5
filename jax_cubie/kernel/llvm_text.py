"""LLVM modules as text: names made canonical, so that equal programs give equal images in every process."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Numba numbers each compilation ("B2v17" inside a mangled name: the digit is the length of "v17") and each shared array
# of the process, and its environments' and modules' names carry such a number, too.
_COUNTER = re.compile(r"B\d+v(\d+)|(_cudapy_smem_)(\d+)")
_STRING = re.compile(r'(c"[^"\n]*")')
_MODULE_NAME = re.compile(r"^; ModuleID = .*$|^source_filename = .*$", re.MULTILINE)
_ENVIRONMENT = re.compile(r'^@"?_ZN08NumbaEnv[^\n]*= common [^\n]*\n', re.MULTILINE)


def without_names(text: str) -> str:
    """`text` without the module's name and the environments, which nothing here reads."""
    return _ENVIRONMENT.sub("", _MODULE_NAME.sub("", text))


def canonical(texts: Sequence[str]) -> list[str]:
    """`texts` with those counters replaced by others, which begin at 1 and rise in the order of appearance.

    Dropping them would not do: two functions of one name and signature, as a factory makes them, differ in nothing
    else.
    """
    numbers: dict[tuple[str | None, str], int] = {}

    def renumber(found: re.Match[str]) -> str:
        kind, old = found[2], found[1] or found[3]
        number = str(numbers.setdefault((kind, old), len(numbers) + 1))
        return f"{kind}{number}" if kind else f"B{len(number) + 1}v{number}"

    def outside_of_strings(text: str) -> str:
        """Strings have a length, and are told apart by it alone where they hold a counter."""
        parts = _STRING.split(text)
        parts[::2] = [_COUNTER.sub(renumber, part) for part in parts[::2]]
        parts[1::2] = [_COUNTER.sub(lambda found: re.sub(r"\d", "0", found[0]), part) for part in parts[1::2]]
        return "".join(parts)

    return [outside_of_strings(text) for text in texts]
