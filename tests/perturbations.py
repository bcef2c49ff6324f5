"""An object with one thing changed in it, for each thing that its content has."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from jax_cubie.content import content

Others = Mapping[type, Callable[[Any], Iterable[Any]]]


def perturbations(value: Any, others: Others | None = None) -> Iterator[tuple[str, Any]]:
    """The path of each field and item of `value`, down to numbers and text, with a copy of it in which that one is changed.

    `others` gives other values for types that are not gone into: `{Program: lambda program: [another]}`. Fields that say in
    their metadata that they are no content are left as they are. Of a field that gives its content by a function there are
    those changes that the function tells apart; AssertionError if it tells none.

    No constructor runs, and so no check: nothing else changes along, and what was cached of `value` is not in the copies.
    """
    yield from _perturb(value, type(value).__name__, others or {})


def _perturb(value: Any, path: str, others: Others) -> Iterator[tuple[str, Any]]:
    if type(value) in others:
        yield from ((path, other) for other in others[type(value)](value))
    elif isinstance(value, enum.Enum):
        yield from ((path, other) for other in type(value) if other is not value)
    elif dataclasses.is_dataclass(type(value)):
        yield from _fields(value, path, others)
    elif isinstance(value, tuple):
        yield from _items(value, path, others)
    elif type(value) is dict:
        for key, item in value.items():
            yield from ((found, {**value, key: other}) for found, other in _perturb(item, f"{path}[{key!r}]", others))
            yield f"{path} without {key!r}", {k: item for k, item in value.items() if k != key}
        yield f"{path} and one more", {**value, ("one", "more"): None}
    elif type(value) is frozenset:
        yield from ((f"{path} without {item!r}", value - {item}) for item in value)
        yield f"{path} and one more", value | {("one", "more")}
    else:
        yield from ((path, other) for other in _leaves(value, path))


def _fields(value: Any, path: str, others: Others) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(value):
        old, function = getattr(value, field.name), field.metadata.get("content", content)
        if function is None:
            continue
        found = list(_perturb(old, f"{path}.{field.name}", others))
        if function is not content:
            found = [(name, new) for name, new in found if content(function(new)) != content(function(old))]
            assert found, f"{path}.{field.name}: what its metadata says of its content is the same whatever it is"
        for name, new in found:
            copy = object.__new__(type(value))
            for each in dataclasses.fields(value):
                object.__setattr__(copy, each.name, new if each.name == field.name else getattr(value, each.name))
            yield name, copy


def _items(value: tuple, path: str, others: Others) -> Iterator[tuple[str, Any]]:
    named = hasattr(value, "_fields")
    for number, item in enumerate(value):
        for found, other in _perturb(item, f"{path}[{number}]", others):
            items = (*value[:number], other, *value[number + 1 :])
            yield found, type(value)(*items) if named else items
    if not named:
        yield f"{path} and one more", (*value, value[-1] if value else None)
        if value:
            yield f"{path} without the last", value[:-1]


def _leaves(value: Any, path: str) -> list[Any]:
    if value is None:
        return [0]
    if isinstance(value, bool):
        return [not value]
    if type(value) is int:
        return [value + 1]
    if type(value) is float:
        near = 0.0 if math.isnan(value) else math.nextafter(value, -math.inf if value > 0 else math.inf)
        return [near, -value] if value == 0 else [near]
    if type(value) is Fraction:
        return [value + Fraction(1, 7)]
    if type(value) is str:
        return [value + "_"]
    if type(value) is bytes:
        return [value + b"_"]
    if isinstance(value, np.dtype):
        return [np.dtype("float32" if value != np.float32 else "float64")]
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        array = np.asarray(value)
        raw = bytearray(array.tobytes())
        raw[:1] = bytes(byte ^ 1 for byte in raw[:1])
        changed = np.frombuffer(raw, array.dtype).reshape(array.shape)
        same_kind = changed if isinstance(value, np.ndarray) else changed[()]
        return [same_kind, array[None]] if raw else [array[None]]
    raise TypeError(f"{path} is {value!r:.60}: give `others` other values for {type(value).__name__}")
