"""Which two methods `method="auto"` changes between."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from ..settings import Component


class AutoSettings(Component):
    """auto: two methods, the explicit one and the one for stiff systems, each by a name or as a tableau."""

    auto: tuple[Any, Any] = eqx.field(static=True, default=("tsit5", "rodas5p"))

    def operands(self, state: Any) -> dict[str, Any]:
        return {}
