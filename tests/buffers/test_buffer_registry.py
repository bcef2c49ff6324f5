"""Names, settings and refusals of the buffer registry."""

import dataclasses
import pickle

import numpy as np
import pytest

from jax_cubie.buffers import Buffer, BufferRegistry
from jax_cubie.buffers.buffer import ALWAYS, common_phases


def rk() -> BufferRegistry:
    return (
        BufferRegistry()
        .register("state", 3)
        .register("proposed_state", 3, persistent=True)
        .register("accumulator", 9, live={"step/stage"})
        .register("error", 3, aliases="accumulator", live={"step/error"})
        .register("counters", 2, dtype="int32")
    )


def test_register_makes_a_new_registry():
    empty = BufferRegistry()
    one = empty.register("state", 3)
    assert len(empty) == 0 and len(one) == 1
    assert one["state"] == Buffer("state", 3)
    assert "state" in one and "error" not in one
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.buffers = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        one["state"].size = 4


def test_equal_registries_compare_hash_and_pickle_equal():
    assert rk() == rk() and hash(rk()) == hash(rk())
    assert pickle.loads(pickle.dumps(rk())) == rk()
    assert rk() != rk().register("more", 0)
    assert BufferRegistry(list(rk().buffers)) == rk()
    moved = rk().update(state_location=np.str_("shared"))[0]
    assert type(moved["state"].location) is str
    sized = BufferRegistry().register("a", np.int64(3), live=["step/stage", np.str_("step/stage")])
    assert type(sized["a"].size) is int and sized["a"].live == {"step/stage"}
    assert [type(phase) for phase in sized["a"].live] == [str]


@pytest.mark.parametrize("live", [None, (), frozenset(), iter(()), "", ["step/stage", ""]])
def test_no_live_phases_means_always(live):
    assert BufferRegistry().register("a", 1, live=live)["a"].live == ALWAYS


def test_one_phase_may_be_given_as_a_string():
    assert BufferRegistry().register("a", 1, live="step/stage")["a"].live == {"step/stage"}


def test_a_phase_within_another_says_nothing_new():
    live = {"step/stage", "step/stage/newton/linear", "step/stages", "between"}
    buffer = BufferRegistry().register("a", 1, live=live)["a"]
    assert buffer == Buffer("a", 1, live=frozenset({"step/stage", "step/stages", "between"}))
    assert buffer.live == live - {"step/stage/newton/linear"}


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("step/stage", "step/stage", ["step/stage"]),
        ("step/stage", "step", ["step/stage"]),
        ("step/stage", "step/stage/newton", ["step/stage/newton"]),
        ("step/stage", "step/stages", []),
        ("step/stage/newton", "step/error/newton", []),
        ("step", "between", []),
        ("", "step/error", ["step/error"]),
        ("", "", [""]),
    ],
)
def test_phases_are_common_where_one_is_within_the_other(one, other, common):
    assert common_phases([one], [other]) == common_phases([other], [one]) == tuple(common)


def test_common_phases_of_several():
    one, other = {"step/stage", "step/accept", "between"}, {"step/stage/newton", "step/error", "between", "step/accept"}
    assert common_phases(one, other) == ("between", "step/accept", "step/stage/newton")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "state", "size": 1}, ["'state'", "registered already"]),
        (
            {"name": "a", "size": 1, "location": "shard"},
            ["a_location='shard'", "'local' or 'shared'", "mean 'shared'"],
        ),
        ({"name": "a", "size": 1, "location": None}, ["a_location=None", "'local' or 'shared'"]),
        ({"name": "a", "size": -1}, ["'a'", "-1", "0"]),
        ({"name": "a", "size": 1.5}, ["'a'", "1.5", "integer"]),
        ({"name": "a", "size": True}, ["'a'", "True", "integer"]),
        ({"name": "a b", "size": 1}, ["'a b'", "identifier"]),
        ({"name": "a", "size": 1, "dtype": "int"}, ["'int'", "'float' or 'int32'", "mean 'int32'"]),
        ({"name": "a", "size": 1, "live": {"stepp/stage"}}, ["'stepp/stage'", "'step' or 'between'", "mean 'step'"]),
        ({"name": "a", "size": 1, "live": "accept"}, ["'accept'", "begins with 'step' or 'between'"]),
        ({"name": "a", "size": 1, "live": "/step"}, ["'/step'", "identifiers joined by '/'"]),
        ({"name": "a", "size": 1, "live": {"step", "step/"}}, ["'step/'", "identifiers joined by '/'"]),
        ({"name": "a", "size": 1, "live": "step/stage two"}, ["'step/stage two'", "identifiers joined by '/'"]),
        ({"name": "a", "size": 1, "live": ["step", 3]}, ["phase 3", "identifiers joined by '/'"]),
        ({"name": "a", "size": 1, "aliases": "acumulator"}, ["'a'", "'acumulator'", "mean 'accumulator'"]),
        ({"name": "a", "size": 1, "aliases": "a"}, ["'a'", "itself"]),
        (
            {"name": "a", "size": 1, "aliases": "accumulator", "live": {"step/stage/newton", "step/output"}},
            ["'a'", "'accumulator'", "both are live in: step/stage/newton."],
        ),
        (
            {"name": "a", "size": 1, "aliases": "state"},
            ["'a'", "'state'", "both are live in: every phase."],
        ),
        (
            {"name": "a", "size": 1, "aliases": "error", "live": {"step/stage", "step/output"}},
            ["'a'", "'accumulator'", "through 'error'", "both are live in: step/stage."],
        ),
    ],
)
def test_register_refuses(arguments, words):
    registry = rk()
    with pytest.raises(ValueError) as error:
        registry.register(**arguments)
    for word in words:
        assert word in str(error.value)
    assert registry == rk()


def test_a_grandchild_may_be_live_when_nothing_above_it_is():
    registry = rk().register("a", 1, aliases="error", live={"step/output", "step/accept"})
    assert registry["a"].aliases == "error"


def test_ranges_that_meet_are_refused_whatever_the_sizes_and_locations():
    # Otherwise a later update or resize could make a registry wrong.
    with pytest.raises(ValueError, match="both are live"):
        BufferRegistry().register("a", 0).register("b", 0, location="shared", aliases="a")


def test_an_alias_may_have_another_dtype():
    registry = rk().register("pivots", 3, aliases="accumulator", live={"step/output"}, dtype="int32")
    assert registry["pivots"].dtype == "int32"


def test_a_cycle_cannot_be_built_by_hand():
    a = Buffer("a", 1, aliases="b", live=frozenset({"step/stage"}))
    b = Buffer("b", 1, aliases="a", live=frozenset({"step/error"}))
    with pytest.raises(ValueError, match="not registered"):
        BufferRegistry((a, b))


def test_registries_join():
    a, b = BufferRegistry().register("a", 1), BufferRegistry().register("b", 2)
    assert [buffer.name for buffer in BufferRegistry(a.buffers + b.buffers)] == ["a", "b"]
    with pytest.raises(ValueError, match="registered already"):
        BufferRegistry(a.buffers + a.buffers)


def test_update_recognises_exact_names_only():
    registry, known = rk().update(
        proposed_state_location="shared",
        state_proposal_location="shared",
        proposed_state="shared",
        State_location="shared",
        location="shared",
        rtol=1e-3,
    )
    assert known == {"proposed_state_location"}
    assert registry["proposed_state"].location == "shared"
    assert registry["proposed_state"].persistent
    assert [b.location for b in registry].count("shared") == 1
    assert rk()["proposed_state"].location == "local"


def test_update_with_nothing_of_its_own_changes_nothing():
    registry = rk()
    assert registry.update(rtol=1e-3, sate_location="nonsense") == (registry, frozenset())
    assert registry.update() == (registry, frozenset())


def test_settings_are_what_update_knows():
    registry = rk().update(error_location="shared")[0]
    assert registry.settings == {
        "state_location": "local",
        "proposed_state_location": "local",
        "accumulator_location": "local",
        "error_location": "shared",
        "counters_location": "local",
    }
    assert registry.update(**registry.settings) == (registry, frozenset(registry.settings))


@pytest.mark.parametrize(
    "value", ["Shared", "global", "", None, 1, True, ["shared"], np.array(["local", "shared"])]
)
def test_update_refuses_what_is_no_location(value):
    with pytest.raises(ValueError, match=r"state_location=.*expected 'local' or 'shared'"):
        rk().update(state_location=value)


def test_a_location_of_a_buffer_without_size_is_accepted_and_checked():
    registry = BufferRegistry().register("error", 0)
    assert registry.update(error_location="shared")[1] == {"error_location"}
    with pytest.raises(ValueError, match="error_location"):
        registry.update(error_location="register")


class Tracer:
    pass


class MyTracer(Tracer):
    pass


@pytest.mark.parametrize("value", [Tracer(), MyTracer()])
def test_a_tracer_is_refused(value):
    with pytest.raises(TypeError, match="state_location .*static.*outside of jit, vmap and grad"):
        rk().update(state_location=value)
    with pytest.raises(TypeError, match="a_location .*static"):
        rk().register("a", 1, location=value)
    with pytest.raises(TypeError, match="'a': its size .*static"):
        rk().register("a", value)


@pytest.mark.parametrize("transform", ["jit", "vmap", "grad"])
def test_a_tracer_of_jax_is_refused(transform):
    jax = pytest.importorskip("jax")

    def change(x):
        rk().update(state_location=x)
        return x

    with pytest.raises(TypeError, match="state_location .*outside of jit"):
        getattr(jax, transform)(change)(np.ones(2) if transform == "vmap" else 1.0)


def test_resize():
    names = rk().update(state_location="shared")[0]
    sized = names.resize(state=5, error=0)
    assert [b.size for b in sized] == [5, 3, 9, 0, 2]
    assert sized["state"].location == "shared"
    assert [b.size for b in names] == [3, 3, 9, 3, 2]
    with pytest.raises(ValueError, match=r"no buffer 'stat'.*'state'"):
        names.resize(stat=1)
    with pytest.raises(ValueError, match="-1"):
        names.resize(state=-1)


def test_lookup_of_an_unknown_name_offers_the_closest():
    with pytest.raises(ValueError, match="'acumulator'.*'accumulator'"):
        rk()["acumulator"]
