"""The content of objects: what it tells apart, what it leaves out, what it refuses; and that it is alike in every process."""

import copy
import dataclasses
import enum
import functools
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perturbations import perturbations
from solve_helpers import python

from jax_cubie.content import content

NAN = float("nan")
OTHER_NAN = np.frombuffer(b"\1\0\0\0\0\0\xf8\x7f", "<f8").item()


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Number(enum.IntEnum):
    ONE = 1


class Pair(NamedTuple):
    x: Any
    y: Any


class OtherPair(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0

    @functools.cached_property
    def size(self) -> Any:
        return [self.x, self.y]


@dataclasses.dataclass(frozen=True)
class OtherPoint:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Deeper(Point):
    z: Any = 0


@dataclasses.dataclass(frozen=True)
class Choosy:
    name: Any = dataclasses.field(metadata={"content": None})
    axes: Any = dataclasses.field(metadata={"content": lambda axes: tuple(axis is not None for axis in axes)})
    shape: Any
    derived: Any = dataclasses.field(init=False, default=7)


class Component(eqx.Module):
    kind: str = eqx.field(static=True)
    rate: float
    title: Callable = eqx.field(static=True, metadata={"content": None})


DIFFERENT = [
    None, True, False, 0, 1, 2, -1, 10**30, "", "a", "1", "None", b"", b"a", b"1",
    0.0, -0.0, 1.0, 2.0, NAN, -NAN, OTHER_NAN, float("inf"), 5e-324, Fraction(0), Fraction(1), Fraction(1, 3), 1 / 3,
    (), (0,), (1,), (True,), (1.0,), ((),), ((1,),), (1, 2), (2, 1), ((1, 2),), ("a", "b"), ("ab",), (None,),
    {}, {"a": 1}, {"a": 1.0}, {"b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}, {1: 1}, {(1,): 1}, {"a": {"a": 1}},
    frozenset(), frozenset({1}), frozenset({"1"}), frozenset({1, 2}), frozenset({(1, 2)}), frozenset({frozenset({1})}),
    Colour.RED, Colour.GREEN, Number.ONE, Pair(1, 2), Pair(2, 1), OtherPair(1, 2),
    Point(1), Point(1, None), Point(0, 1), Point(Point(1)), Point((1, 0)), OtherPoint(1), Deeper(1), Deeper(1, 0, 1),
    np.dtype("float32"), np.dtype("float64"), np.dtype(">f4"), np.dtype("V2"), np.dtype([("x", "f4")]), np.dtype([("y", "f4")]),
    np.bool_(True), np.int8(1), np.int32(1), np.int64(1), np.uint64(1), np.float32(1), np.float64(1), np.float64("nan"),
    np.float32(0), np.float32(-0.0), np.str_("a"),
    np.array(1), np.array(1.0), np.array([1.0]), np.array([[1.0]]), np.array([1.0, 2.0]), np.array([2.0, 1.0]),
    np.array([1.0, 2.0], np.float32), np.array([1.0, 2.0], ">f8"), np.array([0.0, NAN]), np.array([-0.0, NAN]),
    np.zeros((2, 3)), np.zeros((3, 2)), np.zeros(6), np.zeros(0), np.zeros((0, 1)), np.array(["a"]), np.array([b"a"]),
]  # fmt: skip


def test_what_differs_has_another_content():
    assert len({content(value) for value in DIFFERENT}) == len(DIFFERENT)
    # Keys are made of how it is written.
    assert len({repr(content(value)) for value in DIFFERENT}) == len(DIFFERENT)
    assert len({content((value,)) for value in DIFFERENT}) == len(DIFFERENT)
    assert len({content(Point(value)) for value in DIFFERENT}) == len(DIFFERENT)
    assert len({content({"a": value}) for value in DIFFERENT}) == len(DIFFERENT)


def test_fields_are_named():
    one, other = (dataclasses.make_dataclass("Sample", names, frozen=True) for names in ("ab", "ba"))
    assert content(one(1, 2)) == content(one(a=1, b=2)) != content(other(1, 2))


@pytest.mark.parametrize("value", DIFFERENT, ids=lambda value: f"{type(value).__name__} {value}")
def test_copies_have_the_same_content(value):
    if isinstance(value, np.ndarray):
        value = value.astype(value.dtype.newbyteorder("="))  # NumPy's pickles have this order
    for other in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert content(other) == content(value) and repr(content(other)) == repr(content(value))
    assert hash(content(value)) == hash(content(value))


def test_content_is_plain():
    def leaves(value):
        return [leaf for item in value for leaf in leaves(item)] if type(value) is tuple else [value]

    kinds = {type(leaf) for value in DIFFERENT for leaf in leaves(content(value))}
    assert kinds == {str, int, bool, bytes, type(None)}


def test_order_and_memory_do_not_matter():
    assert content({"a": 1, "b": 2}) == content({"b": 2, "a": 1})
    assert content(frozenset("abcdefgh")) == content(frozenset("hgfedcba"))
    array = np.arange(24.0).reshape(4, 6)
    assert content(array[::2, ::3]) == content(array[::2, ::3].copy()) == content(np.asfortranarray(array[::2, ::3]))
    array.setflags(write=False)
    assert content(array) == content(array.copy())


def test_what_is_no_field_is_no_content():
    point = Point(1, 2)
    before = content(point)
    assert point.size == [1, 2]
    assert content(point) == before


def test_fields_may_say_what_counts():
    one = content(Choosy("a", (0, None), (3,)))
    assert one == content(Choosy("b", (1, None), (3,))) == content(Choosy(lambda: 0, (2, None), (3,)))
    assert one != content(Choosy("a", (None, 0), (3,)))
    assert one != content(Choosy("a", (0, None), (4,)))
    changed = Choosy("a", (0, None), (3,))
    object.__setattr__(changed, "derived", 8)
    assert content(changed) != one


def test_equinox_modules():
    one = content(Component("pid", 0.5, str))
    assert one == content(Component("pid", 0.5, int)) == content(copy.deepcopy(Component("pid", 0.5, str)))
    assert one != content(Component("fixed", 0.5, str)) and one != content(Component("pid", 0.25, str))


class Text(str):
    pass


class Row(tuple):
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Point(1, {"a": (0, [1])}), ["Point.y['a'][1] is [1] of type builtins.list"]),
        (Point(Point(1, len)), ["Point.x.y is <built-in function len>"]),
        (Point(frozenset({print})), ["Point.x, item <built-in function print>"]),
        (Point({print: 1}), ["Point.x, key <built-in function print>"]),
        (Pair(0, {1}), ["Pair[1] is {1} of type builtins.set"]),
        (object(), ["object is <object object at"]),
        (Point, ["type is <class", "Point"]),
        (Text("a"), ["test_content.Text"]),
        (Row((1,)), ["test_content.Row"]),
        (OrderedDict(), ["collections.OrderedDict"]),
        (1j, ["complex is 1j"]),
        (bytearray(b"a"), ["bytearray"]),
        (range(3), ["range(0, 3)"]),
        (np.array([None]), ["ndarray", "array([None]"]),
        (np.ma.array([1.0]), ["MaskedArray"]),
        (Choosy("a", (0,), eqx), ["Choosy.shape is <module"]),
    ],
)
def test_what_has_no_content(value, words):
    with pytest.raises(TypeError) as error:
        content(value)
    for word in (*words, "content is not known", 'metadata={"content": None}'):
        assert word in str(error.value)


def test_arrays_of_jax_have_none():
    """Their values are none of what chooses code, and may be traced."""
    import jax

    with pytest.raises(TypeError, match=r"Point\.x is .*ArrayImpl"):
        content(Point(jax.numpy.ones(2)))
    with pytest.raises(TypeError, match=r"Point\.x is .*Tracer"):
        jax.jit(lambda x: content(Point(x)))(1.0)


# --- random values

numbers = st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, NAN, Fraction(1), Fraction(1, 2)]) | st.booleans() | st.none()
leaves = numbers | st.text("ab", max_size=2) | st.binary(max_size=1) | st.sampled_from(list(Colour))
hashable = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3).map(tuple)
    | st.builds(Pair, inner, inner)
    | st.builds(Point, inner, inner)
    | st.builds(OtherPoint, inner, inner)
    | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
values = st.recursive(
    hashable | st.lists(st.integers(0, 1), max_size=2).map(np.array) | st.sampled_from([np.float32(1), np.float64(1)]),
    lambda inner: st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(hashable, inner, max_size=3)
    | st.builds(Point, inner, inner),
    max_leaves=8,
)
many = settings(derandomize=True, max_examples=150, deadline=None)


def same(one, other) -> bool:
    """Whether two values are equal in type and every bit; found another way than by writing them down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict | frozenset):
        pairs = lambda x: list(x.items()) if isinstance(x, dict) else list(x)  # noqa: E731
        return len(one) == len(other) and all(any(same(item, each) for each in pairs(other)) for item in pairs(one))
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    if isinstance(one, float | np.ndarray | np.generic):
        one, other = np.asarray(one), np.asarray(other)
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return one == other


@many
@given(values, values)
def test_equal_content_is_equality(one, other):
    assert (content(one) == content(other)) is same(one, other)
    assert content(copy.deepcopy(one)) == content(one)


@many
@given(values)
def test_every_perturbation_has_another_content(value):
    before = content(value)
    paths = set()
    for path, other in perturbations(value):
        paths.add(path)
        assert content(other) != before, path
    assert content(value) == before and paths


# --- in another process

WRITTEN = """
from test_content import DIFFERENT
from jax_cubie.content import content
print(repr([content(value) for value in DIFFERENT]))
"""


def test_content_is_alike_in_every_process():
    seeds = {"PYTHONHASHSEED": "4711" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    assert python(WRITTEN, **seeds).strip() == repr([content(value) for value in DIFFERENT])


# --- what the tests of keys rely on


def test_perturbations_reach_every_field():
    sample = Deeper(
        Point((1, "a"), {"k": 2.0}),
        frozenset({3}),
        Choosy("name", (0, None), Pair(None, Colour.RED)),
    )
    expected = {
        "Deeper.x.x[0]", "Deeper.x.x[1]", "Deeper.x.x and one more", "Deeper.x.x without the last",
        "Deeper.x.y['k']", "Deeper.x.y without 'k'", "Deeper.x.y and one more",
        "Deeper.y without 3", "Deeper.y and one more",
        "Deeper.z.axes[1]", "Deeper.z.axes and one more", "Deeper.z.axes without the last",
        "Deeper.z.shape[0]", "Deeper.z.shape[1]", "Deeper.z.derived",
    }  # fmt: skip
    found = list(perturbations(sample))
    assert {path for path, _ in found} == expected and len(found) == len(expected)
    assert len({content(other) for _, other in found} | {content(sample)}) == len(found) + 1
    assert all(type(other) is Deeper for _, other in found)


def test_perturbations_change_one_thing_and_run_no_checks():
    @dataclasses.dataclass(frozen=True)
    class Checked:
        low: int
        high: int

        def __post_init__(self):
            assert self.low < self.high

        @functools.cached_property
        def width(self):
            return self.high - self.low

    checked = Checked(1, 2)
    assert checked.width == 1
    found = {path: (other.low, other.high, other.width) for path, other in perturbations(checked)}
    name = "Checked"
    assert found == {f"{name}.low": (2, 2, 0), f"{name}.high": (1, 3, 2)}


def test_perturbations_of_equinox_modules():
    found = dict(perturbations(Component("pid", 0.5, str)))
    assert found.keys() == {"Component.kind", "Component.rate"}
    assert found["Component.kind"].kind == "pid_" and found["Component.kind"].title is str


def test_perturbations_notice_content_that_tells_nothing():
    @dataclasses.dataclass(frozen=True)
    class Blind:
        a: int = dataclasses.field(metadata={"content": lambda a: 0})

    with pytest.raises(AssertionError, match=r"Point\.x\.a: .*the same whatever it is"):
        list(perturbations(Point(Blind(1))))


def test_perturbations_take_values_for_types_that_they_do_not_know():
    point = Point(len, 1)
    with pytest.raises(TypeError, match=r"Point\.x is <built-in function len>: give `others`"):
        list(perturbations(point))
    found = list(perturbations(point, {type(len): lambda function: [max, min]}))
    assert [(path, other.x) for path, other in found] == [("Point.x", max), ("Point.x", min), ("Point.y", len)]
    others = {Point: lambda point: [OtherPoint(1)]}
    assert list(perturbations(Deeper(point), others)) == [
        ("Deeper.x", Deeper(OtherPoint(1))), ("Deeper.y", Deeper(point, 1)), ("Deeper.z", Deeper(point, 0, 1)),
    ]  # fmt: skip
