"""Steps of one size."""

from __future__ import annotations

from typing import Any, ClassVar

from ..settings import Component


class FixedStep(Component):
    """Every step has the size dt0; the last one is cut to land on t1."""

    kind: ClassVar[str] = "fixed"

    def content(self) -> tuple:
        """What machine code depends on."""
        return (self.kind,)

    def coefficients(self) -> dict[str, Any]:
        """The numbers that the kernel is handed, by name."""
        return {}
