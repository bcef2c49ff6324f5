"""Where buffers lie: the table of aliasing, properties over random registries, allocators, the block's window."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_cubie.buffers import Buffer, BufferRegistry, Layout, Slot, fit_block
from jax_cubie.buffers.buffer import FIRST_PHASES
from jax_cubie.content import content

STORAGE = {
    "shared": {"location": "shared"},
    "persistent": {"persistent": True},
    "local": {},
}


def family(parent: str, *children: tuple[str, int], parent_size: int = 8) -> BufferRegistry:
    """Two roots in each region, so that offsets are not 0; then a parent, and children a, b, ... of it."""
    registry = BufferRegistry().register("other_shared", 3, location="shared")
    registry = registry.register("other_persistent", 5, persistent=True)
    registry = registry.register("parent", parent_size, live="step/stage", **STORAGE[parent])
    for name, (storage, size) in zip("abcd", children, strict=False):
        registry = registry.register(name, size, aliases="parent", live="step/error", **STORAGE[storage])
    return registry


def test_roots():
    layout = family("local").register("last", 2, location="shared", persistent=True).layout()
    assert layout.slot("other_shared") == Slot("other_shared", "shared", 0, 3)
    assert layout.slot("other_persistent") == Slot("other_persistent", "persistent", 0, 5)
    assert layout.slot("parent") == Slot("parent", "local", 0, 8)
    assert layout.slot("last") == Slot("last", "shared", 3, 2)  # shared and persistent is shared
    assert (layout.shared_words, layout.fallback_words, layout.persistent_words) == (5, 0, 5)
    assert layout.window_words == 5


@pytest.mark.parametrize(
    ("child", "parent", "size", "region", "offset", "inside", "words"),
    [
        # child, parent, child's size (the parent's is 8) -> slot; words of shared, fallback, persistent
        ("shared", "shared", 8, "shared", 3, "parent", (11, 0, 5)),
        ("shared", "shared", 9, "shared_fallback", 0, None, (11, 9, 5)),
        ("shared", "local", 8, "shared_fallback", 0, None, (3, 8, 5)),
        ("shared", "persistent", 8, "shared_fallback", 0, None, (3, 8, 13)),
        ("persistent", "persistent", 8, "persistent", 5, "parent", (3, 0, 13)),
        ("persistent", "persistent", 9, "persistent", 13, None, (3, 0, 22)),
        ("persistent", "local", 8, "persistent", 5, None, (3, 0, 13)),
        ("persistent", "shared", 8, "persistent", 5, None, (11, 0, 13)),
        ("local", "local", 8, "local", 0, None, (3, 0, 5)),
        ("local", "shared", 8, "local", 0, None, (11, 0, 5)),
        ("local", "persistent", 8, "local", 0, None, (3, 0, 13)),
    ],
)
def test_alias_table(child, parent, size, region, offset, inside, words):
    layout = family(parent, (child, size)).layout()
    slot = layout.slot("a")
    assert (slot.region, slot.offset, slot.size, slot.inside) == (region, offset, size, inside)
    assert (layout.shared_words, layout.fallback_words, layout.persistent_words) == words
    assert layout.window_words == words[0] + words[1]
    assert layout.overlaps() == []


def test_children_take_the_parents_room_in_turn():
    layout = family("shared", ("shared", 3), ("shared", 6), ("shared", 5), ("shared", 1)).layout()
    where = {name: (layout.slot(name).region, layout.slot(name).offset) for name in "abcd"}
    # b does not fit behind a; c takes what b left; d comes too late
    assert where == {
        "a": ("shared", 3),
        "b": ("shared_fallback", 0),
        "c": ("shared", 6),
        "d": ("shared_fallback", 6),
    }
    assert layout.overlaps() == []


def test_only_children_of_the_same_storage_take_room():
    layout = family("shared", ("persistent", 8), ("local", 8), ("shared", 8)).layout()
    assert [layout.slot(name).inside for name in "abc"] == [None, None, "parent"]


def test_chains_go_where_the_parent_is():
    base = BufferRegistry().register("root", 8, location="shared", live="step/stage")
    base = base.register("filler", 2, aliases="root", live="step/error", location="shared")
    base = base.register("child", 4, aliases="root", live="step/error", location="shared")
    base = base.register("grandchild", 3, aliases="child", live="step/accept", location="shared")
    layout = base.register("last", 1, aliases="grandchild", live="step/output", location="shared").layout()
    assert [layout.slot(n).offset for n in ("filler", "child", "grandchild", "last")] == [0, 2, 2, 2]
    assert layout.slot("last").inside == "grandchild"
    assert layout.window_words == 8

    # With the root local, child becomes a fallback region, and its chain is inside that.
    layout = base.update(root_location="local")[0].layout()
    assert layout.slot("filler") == Slot("filler", "shared_fallback", 0, 2)
    assert layout.slot("child") == Slot("child", "shared_fallback", 2, 4)
    assert layout.slot("grandchild") == Slot("grandchild", "shared_fallback", 2, 3)
    assert (layout.shared_words, layout.fallback_words) == (0, 6)

    # With the link in the middle local, the chain is cut: the grandchild finds no shared parent.
    layout = base.update(child_location="local")[0].layout()
    assert layout.slot("grandchild") == Slot("grandchild", "shared_fallback", 0, 3)
    assert layout.slot("grandchild").inside is None


def test_chain_of_persistent_buffers():
    registry = BufferRegistry().register("local_root", 8, live="step/stage")
    registry = registry.register("child", 4, aliases="local_root", live="step/error", persistent=True)
    registry = registry.register("grandchild", 4, aliases="child", live="step/accept", persistent=True)
    registry = registry.register("too_large", 5, aliases="child", live="step/accept", persistent=True)
    layout = registry.layout()
    assert layout.slot("grandchild") == Slot("grandchild", "persistent", 0, 4)
    assert layout.slot("too_large") == Slot("too_large", "persistent", 4, 5)
    assert layout.persistent_words == 9


@pytest.mark.parametrize("storage", STORAGE)
def test_size_zero(storage):
    registry = BufferRegistry().register("nothing", 0, live="step/stage", **STORAGE[storage])
    layout = registry.layout()
    assert (layout.slot("nothing").size, layout.slot("nothing").region) == (0, "local")
    assert (layout.window_words, layout.persistent_words) == (0, 0)

    # Nothing fits into nothing, and nothing fits into a full parent.
    registry = registry.register("a", 2, aliases="nothing", live="step/error", **STORAGE[storage])
    registry = registry.register("b", 2, aliases="a", live="step/accept", **STORAGE[storage])
    layout = registry.register("c", 0, aliases="a", live="step/accept", **STORAGE[storage]).layout()
    assert layout.slot("a").inside is None
    if storage != "local":
        assert (layout.slot("b").inside, layout.slot("c").inside) == ("a", None)
        assert layout.window_words + layout.persistent_words == 2
    assert layout.overlaps() == []


def test_fallback_begins_after_the_primary_region():
    layout = family("local", ("shared", 4), ("shared", 2)).register("late", 7, location="shared").layout()
    # The primary region ends where its last root does, even one registered after the fallback buffers.
    assert layout.slot("late") == Slot("late", "shared", 3, 7)
    assert (layout.fallback_offset, layout.fallback_words, layout.window_words) == (10, 6, 16)
    assert layout.overlaps() == []


def test_overlaps_are_seen():
    stage, error = frozenset({"step/stage"}), frozenset({"step/error"})
    both = stage | error
    inner, outer = frozenset({"step/stage/newton"}), frozenset({"step"})

    def overlaps(*slots, shared_words=4):
        return Layout(slots, shared_words, 4, 4).overlaps()

    a = Slot("a", "shared", 0, 4, live=stage)
    assert overlaps(a, Slot("b", "shared", 3, 1, live=both)) == [("a", "b")]
    assert overlaps(a, Slot("b", "shared", 3, 1, live=error)) == []
    assert overlaps(a, Slot("b", "shared", 3, 1, live=inner)) == [("a", "b")]
    assert overlaps(a, Slot("b", "shared", 3, 1, live=outer)) == [("a", "b")]
    assert overlaps(a, Slot("b", "shared", 3, 1)) == [("a", "b")]
    assert overlaps(a, Slot("b", "shared", 3, 1, live=frozenset({"step/stages"}))) == []
    assert overlaps(a, Slot("b", "shared", 4, 1, live=both)) == []
    assert overlaps(a, Slot("b", "persistent", 0, 4, live=both)) == []
    assert overlaps(a, Slot("b", "shared_fallback", 0, 4, live=both)) == []
    assert overlaps(a, Slot("b", "shared_fallback", 0, 4, live=both), shared_words=3) == [("a", "b")]
    local = Slot("a", "local", 0, 4), Slot("b", "local", 0, 4)
    assert overlaps(*local) == []


def test_content_is_plain_and_leaves_out_what_the_code_does_not_depend_on():
    registry = family("shared", ("shared", 3))
    layout = registry.layout()
    assert layout == family("shared", ("shared", 3)).layout()
    assert hash(layout) == hash(family("shared", ("shared", 3)).layout())
    assert layout != registry.update(a_location="local")[0].layout()
    assert content(layout) == content(family("shared", ("shared", 3)).layout())
    assert content(layout) != content(registry.update(a_location="local")[0].layout())
    rest = BufferRegistry().register("a", 1, live="step/stage").layout()
    assert rest == (same := BufferRegistry().register("a", 1).layout()) and content(rest) == content(same)
    assert rest != BufferRegistry().register("a", 1, dtype="int32").layout()


def test_slot_of_an_unknown_name_offers_the_closest():
    with pytest.raises(ValueError, match="'parant'.*'parent'"):
        family("local").layout().slot("parant")


def test_largest_are_those_that_take_words_of_the_window():
    layout = family("shared", ("shared", 8), ("persistent", 30), ("local", 40), ("shared", 9)).layout()
    assert [slot.name for slot in layout.largest()] == ["d", "parent", "other_shared"]
    assert [slot.name for slot in layout.largest(1)] == ["d"]
    assert BufferRegistry().register("a", 0, location="shared").layout().largest() == ()


# --- the block's window -------------------------------------------------------------------------------------


def window(words: int) -> Layout:
    registry = BufferRegistry().register("stage_rhs", words - 3, location="shared")
    registry = registry.register("state", 2, location="shared").register("error", 1, location="shared")
    return registry.layout()


@pytest.mark.parametrize(
    ("words", "word_bytes", "block", "limit", "expected"),
    [
        (10, 4, 256, 256 * 40, 256),  # exactly
        (10, 4, 256, 256 * 40 - 1, 128),
        (10, 8, 256, 256 * 40, 128),
        (10, 4, 256, 32 * 40, 32),
        (10, 4, 192, 64 * 40, 32),  # 192, 96, 32: whole warps
        (10, 4, 100, 99 * 40, 32),
        (10, 4, 8, 8 * 40, 8),  # smaller than a warp because somebody said so
        (10, 4, 32, 32 * 40, 32),
    ],
)
def test_fit_block(words, word_bytes, block, limit, expected):
    assert fit_block(window(words), word_bytes, block, limit) == expected


def test_a_lane_without_shared_memory_fits_anywhere():
    assert fit_block(family("local").resize(other_shared=0).layout(), 8, 1024, 0) == 1024


def test_fit_block_fails_by_name():
    with pytest.raises(ValueError) as error:
        fit_block(window(1000), 8, 256, 48 * 1024, device="cuda:90")
    text = str(error.value)
    for part in (
        "a block of 32 lanes",
        "256,000 bytes",
        "1000 words of 8 bytes",
        "cuda:90 has 49,152",
        "stage_rhs (997 words), state (2 words), error (1 words)",
        'stage_rhs_location="local"',
        "float32",
    ):
        assert part in text
    with pytest.raises(ValueError) as error:
        fit_block(window(1000), 4, 16, 48 * 1024)
    assert "a block of 16 lanes" in str(error.value) and "float32" not in str(error.value)
    with pytest.raises(ValueError, match="block=0"):
        fit_block(window(10), 4, 0, 48 * 1024)


# --- random registries --------------------------------------------------------------------------------------


def is_live(buffer, phase: str) -> bool:
    return any(phase == own or own == "" or phase.startswith(own + "/") for own in buffer.live)


def phases_of(buffers) -> list[str]:
    """Every phase that is named: two buffers live together are so in the innermost one of theirs."""
    return sorted({phase for buffer in buffers for phase in buffer.live})


@st.composite
def registries(draw) -> BufferRegistry:
    """Buffers with lives in a random tree of phases, aliases wherever lives allow them."""
    tree = ["", *FIRST_PHASES]
    for _ in range(draw(st.integers(0, 8))):
        above = draw(st.sampled_from(tree[1:]))
        tree.append(f"{above}/{draw(st.sampled_from(['stage', 'stages', 'newton']))}")
    registry = BufferRegistry()
    for k in range(draw(st.integers(1, 12))):
        aliases, allowed = None, tree
        if k and draw(st.integers(0, 3)):  # an alias three times out of four, where lives allow it
            name = aliases = f"b{draw(st.integers(0, k - 1))}"
            while name is not None:
                above = registry[name]
                allowed = [
                    phase
                    for phase in allowed
                    if not is_live(above, phase)
                    and not any(phase == "" or own.startswith(phase + "/") for own in above.live)
                ]
                name = above.aliases
            if not allowed:
                aliases, allowed = None, tree
        registry = registry.register(
            f"b{k}",
            draw(st.integers(0, 9)),
            location=draw(st.sampled_from(["shared", "shared", "local"])),
            persistent=draw(st.booleans()),
            aliases=aliases,
            live=draw(st.frozensets(st.sampled_from(allowed), min_size=1, max_size=2)),
            dtype=draw(st.sampled_from(["float", "int32"])),
        )
    return registry


many = settings(derandomize=True, max_examples=150, deadline=None)


@many
@given(registries())
def test_no_two_live_buffers_share_a_word(registry):
    layout = registry.layout()
    assert layout.overlaps() == []
    assert layout == registry.layout()
    starts = {"shared": 0, "shared_fallback": layout.fallback_offset, "persistent": 0}
    for phase in phases_of(registry):
        live = [layout.slot(buffer.name) for buffer in registry if is_live(buffer, phase)]
        words = [
            (slot.region == "persistent", starts[slot.region] + slot.offset + word)
            for slot in live
            if slot.region != "local"
            for word in range(slot.size)
        ]
        assert len(words) == len(set(words))


@many
@given(registries(), st.data())
def test_an_alias_is_refused_exactly_where_both_are_live(registry, data):
    aliases = data.draw(st.sampled_from([buffer.name for buffer in registry]))
    live = data.draw(st.sampled_from([*phases_of(registry), "", "step/stage/newton"]))
    new, chain, name = Buffer("new", 1, live=frozenset({live})), [], aliases
    while name is not None:
        chain.append(registry[name])
        name = chain[-1].aliases
    together = any(
        is_live(new, phase) and is_live(above, phase) for above in chain for phase in phases_of([new, above])
    )
    with pytest.raises(ValueError, match="both are live in") if together else contextlib.nullcontext():
        registry.register("new", 1, aliases=aliases, live=live)


@many
@given(registries())
def test_slots_follow_the_table_and_words_add_up(registry):
    layout = registry.layout()
    words = {
        "shared": layout.shared_words,
        "shared_fallback": layout.fallback_words,
        "persistent": layout.persistent_words,
    }
    own = dict.fromkeys(words, 0)
    taken = dict.fromkeys((b.name for b in registry), 0)
    for buffer in registry:
        slot = layout.slot(buffer.name)
        parent = buffer.aliases and layout.slot(buffer.aliases)
        assert (slot.size, slot.dtype) == (buffer.size, buffer.dtype)
        assert slot.region.startswith(buffer.storage if buffer.size else "local")
        if slot.region == "local":
            assert slot.inside is None
            continue
        assert 0 <= slot.offset and slot.offset + slot.size <= words[slot.region]
        same = parent and registry[buffer.aliases].storage == buffer.storage
        room = same and taken[buffer.aliases] + buffer.size <= parent.size
        assert (slot.inside is not None) == bool(room)
        if room:
            assert slot.inside == buffer.aliases and slot.region == parent.region
            assert slot.offset == parent.offset + taken[buffer.aliases]
            taken[buffer.aliases] += buffer.size
        else:
            own[slot.region] += buffer.size
            assert (slot.region == "shared_fallback") == (buffer.storage == "shared" and bool(parent))
    assert own == words
    assert layout.window_words == layout.shared_words + layout.fallback_words
    assert layout.fallback_offset == layout.shared_words


# --- allocators ---------------------------------------------------------------------------------------------


class NumpyMemory:
    """Plain Python functions over one float64 array of words; an int32 buffer is the low half of each word."""

    @staticmethod
    def view(words, dtype):
        return words if dtype == "float" else words.view(np.int32)[::2]

    def make_slice(self, region, offset, size, dtype):
        return lambda *regions: self.view(regions[region][offset : offset + size], dtype)

    def make_local(self, size, dtype):
        return lambda *regions: self.view(np.zeros(size), dtype)


def regions(layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    window = np.zeros(layout.window_words)
    return window[: layout.shared_words], np.zeros(layout.persistent_words), window[layout.fallback_offset :]


@many
@given(registries())
def test_buffers_of_a_phase_keep_what_is_written(registry):
    layout = registry.layout()
    parents = regions(layout)
    arrays = {b.name: layout.allocator(b.name, NumpyMemory())(*parents) for b in registry}
    for k, phase in enumerate(phases_of(registry)):
        live = [b for b in registry if is_live(b, phase)]
        for j, buffer in enumerate(live):
            array = arrays[buffer.name]
            assert array.shape == (buffer.size,)
            assert array.dtype == (np.float64 if buffer.dtype == "float" else np.int32)
            array[:] = 1000 * k + 50 * j + np.arange(buffer.size)
        for j, buffer in enumerate(live):
            assert np.array_equal(arrays[buffer.name], 1000 * k + 50 * j + np.arange(buffer.size))


def test_allocators_decide_once():
    """The memory is asked for one piece with constants, and every function has the same three parameters."""
    calls = []

    class Memory(NumpyMemory):
        def make_slice(self, region, *constants):
            calls.append(("slice", region, *constants))
            return lambda *regions: regions[region]

        def make_local(self, *constants):
            calls.append(("local", *constants))
            return lambda *regions: "local"

    registry = family("shared", ("shared", 2), ("shared", 9), ("persistent", 4), ("local", 0))
    layout = registry.register("counters", 2, dtype="int32").layout()
    given = ("primary", "persistent", "fallback")
    made = [layout.allocator(name, Memory())(*given) for name in ("a", "b", "c", "d", "counters")]
    assert made == ["primary", "fallback", "persistent", "local", "local"]
    assert calls == [
        ("slice", 0, 3, 2, "float"),
        ("slice", 2, 0, 9, "float"),
        ("slice", 1, 5, 4, "float"),
        ("local", 0, "float"),
        ("local", 2, "int32"),
    ]
    with pytest.raises(ValueError, match="no buffer"):
        layout.allocator("e", Memory())
