"""The buffers of a lane, by name: an immutable list that checks itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .buffer import Buffer, check_location, closest, common_phases
from .layout import Layout, resolve


@dataclass(frozen=True)
class BufferRegistry:
    """A tuple of buffers, in order of registration; every change answers with a new registry.

    Whatever way a registry is made, it is checked: names are unique, an alias names an earlier buffer (so
    chains end), and no buffer is live together with one whose words it may use. The last holds for every
    buffer up the chain of aliases and does not look at locations or sizes, so that neither `update` nor
    `resize` can make a good registry bad. Two registries are joined by `BufferRegistry(a.buffers + b.buffers)`.
    """

    buffers: tuple[Buffer, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "buffers", tuple(self.buffers))
        known: dict[str, Buffer] = {}
        for buffer in self.buffers:
            if buffer.name in known:
                raise ValueError(
                    f"A buffer named '{buffer.name}' is registered already; choose another name."
                )
            _check_alias(buffer, known)
            known[buffer.name] = buffer

    def register(
        self,
        name: str,
        size: int,
        *,
        location: str = "local",
        persistent: bool = False,
        aliases: str | None = None,
        live: Iterable[str] | None = None,
        dtype: str = "float",
    ) -> BufferRegistry:
        """A registry with one more buffer; `Buffer` says what the parameters mean."""
        buffer = Buffer(name, size, location, persistent, aliases, live, dtype)  # type: ignore[arg-type]
        return BufferRegistry((*self.buffers, buffer))

    def update(self, **settings: object) -> tuple[BufferRegistry, frozenset[str]]:
        """The registry with new locations, and the keywords that were its own: `{name}_location`, exactly.

        Other keywords are left to whoever knows them; the front door raises for those that nobody does.
        """
        mine = {buffer.keyword: buffer for buffer in self.buffers}
        moved = {
            mine[keyword].name: check_location(keyword, value)
            for keyword, value in settings.items()
            if keyword in mine
        }
        changed = self
        if moved:
            changed = BufferRegistry(
                tuple(replace(b, location=moved[b.name]) if b.name in moved else b for b in self.buffers)
            )
        return changed, frozenset(mine.keys() & settings.keys())

    def resize(self, **sizes: int) -> BufferRegistry:
        """The registry with new sizes: names and locations are known before a problem's dimensions are."""
        for name in sizes:
            self[name]
        return BufferRegistry(tuple(replace(b, size=sizes.get(b.name, b.size)) for b in self.buffers))

    @property
    def settings(self) -> dict[str, str]:
        """Every keyword that `update` knows, with its present value."""
        return {buffer.keyword: buffer.location for buffer in self.buffers}

    def layout(self) -> Layout:
        """Where every buffer lies. In words of one lane, so that it does not depend on dtype or block."""
        return resolve(self.buffers)

    def __getitem__(self, name: str) -> Buffer:
        for buffer in self.buffers:
            if buffer.name == name:
                return buffer
        raise ValueError(f"There is no buffer {name!r}.{closest(name, (b.name for b in self.buffers))}")

    def __contains__(self, name: object) -> bool:
        return any(buffer.name == name for buffer in self.buffers)

    def __iter__(self) -> Iterator[Buffer]:
        return iter(self.buffers)

    def __len__(self) -> int:
        return len(self.buffers)


def _check_alias(buffer: Buffer, known: dict[str, Buffer]) -> None:
    """`buffer` may use the words of what it aliases, of what that aliases, and so on: it has to be dead whenever
    any of them is live."""
    through: list[str] = []
    above = buffer.aliases
    while above is not None:
        if above not in known:  # only at the first turn: those above were checked when they came in
            raise ValueError(
                f"Buffer '{buffer.name}' aliases {above!r}, which is not registered. Register that one first "
                f"(so an alias never leads back to itself).{closest(above, known)}"
            )
        parent = known[above]
        shared = common_phases(buffer.live, parent.live)
        if shared:
            phases = ", ".join(shared) if shared != ("",) else "every phase"
            chain = " (through '" + "', '".join(through) + "')" if through else ""
            raise ValueError(
                f"Buffer '{buffer.name}' cannot alias '{parent.name}'{chain}: both are live in: {phases}. "
                "Narrow the live phases of one of them, or leave the alias out."
            )
        through.append(above)
        above = parent.aliases
