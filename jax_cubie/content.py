"""The content of an object as plain data: what the keys of images are made of.

A field that is forgotten here can't be: all are in, unless they say otherwise themselves. So what nobody thought of makes
one image too many, never a wrong one.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import struct
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np


def content(value: Any) -> tuple:
    """`value` as nested tuples of plain data, whose `repr` is the same in every process.

    Two contents are equal where the values are, in type and every bit: 1, True and 1.0 differ, as do 0.0 and -0.0, and
    equal fields of two classes; NaN equals itself. It goes through the fields of dataclasses (equinox modules are some),
    tuples, named ones too, dicts and frozensets in any order, NumPy's arrays, scalars and dtypes, enums, fractions, numbers,
    text, bytes and None. What is no field, such as a cached property, is no content.

    A field says in its metadata what of it counts: `field(metadata={"content": None})` is left out, and
    `field(metadata={"content": function})` has the content of `function(its value)`.

    Raises TypeError for anything else, with the path of fields to it.
    """
    return _content(value, type(value).__name__)


def _content(value: Any, path: str) -> tuple:
    kind = type(value)
    if kind in (bool, int, str, bytes, type(None)):
        return (kind.__name__, value)
    if kind is float:
        return ("float", struct.pack(">d", value).hex())
    if kind is Fraction:
        return ("Fraction", value.numerator, value.denominator)
    if kind is tuple:
        return ("tuple", *_items(value, path))
    if kind is dict:
        pairs = ((_content(key, f"{path}, key {key!r}"), _content(item, f"{path}[{key!r}]")) for key, item in value.items())
        return ("dict", *sorted(pairs, key=repr))
    if kind is frozenset:
        return ("frozenset", *sorted((_content(item, f"{path}, item {item!r}") for item in value), key=repr))
    if isinstance(value, np.dtype):
        return ("dtype", str(value))
    if (kind is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
        words = hashlib.sha256(value.tobytes()).hexdigest()
        return ("array" if kind is np.ndarray else "scalar", _content(value.dtype, path), value.shape, words)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, enum.Enum):
        return (name, value.name, _content(value.value, f"{path}.value"))
    names = getattr(value, "_fields", None)
    if isinstance(value, tuple) and names is not None:
        return (name, *zip(names, _items(value, path), strict=True))
    if dataclasses.is_dataclass(kind):
        return (name, *_fields(value, path))
    raise TypeError(
        f"{path} is {repr(value)[:60]} of type {name}, whose content is not known: expected dataclasses, tuples, dicts, "
        "frozensets, NumPy's arrays, enums, numbers, text or None. Where machine code depends on a part of it, or on "
        'nothing of it, the field says so: metadata={"content": function} or metadata={"content": None}'
    )


def _items(values: Iterable[Any], path: str) -> list[tuple]:
    return [_content(item, f"{path}[{number}]") for number, item in enumerate(values)]


def _fields(value: Any, path: str) -> list[tuple]:
    found = []
    for field in dataclasses.fields(value):
        chosen = field.metadata.get("content", _same)
        if chosen is not None:
            found.append((field.name, _content(chosen(getattr(value, field.name)), f"{path}.{field.name}")))
    return found


def _same(value: Any) -> Any:
    return value
