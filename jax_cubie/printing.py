"""What people see: one-line solvers, solutions that count their lanes, images as a map of a lane's memory.

Each is made of rows (what, text), which are lines of text or an HTML table. Nothing here fails or computes where values are
traced, or somewhere else.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.core
import numpy as np

Rows = list[tuple[str, str]]

_SHOWN_ELEMENTS = 6  # arrays of up to so many are written out in a solver's line
_MAP_WIDTH = 48  # characters of a lane's memory
_BAR, _ALIAS = "█", "▒"


# --- Solver and SaveAt


def describe_call(name: str, positional: Iterable[Any], given: Mapping[str, Any], standard: Mapping[str, Any]) -> str:
    """A call that could be typed in again: `positional`, and what of `given` differs from `standard`."""
    parts = [_written(value) for value in positional]
    parts += [f"{key}={_written(value)}" for key, value in given.items() if not _same(value, standard.get(key))]
    return f"{name}({', '.join(parts)})"


def _same(one: Any, other: Any) -> bool:
    """Whether both are one plain value; arrays are never that."""
    plain = (bool, int, float, str, type(None))
    return one is other or (isinstance(one, plain) and isinstance(other, plain) and one == other)


class _Text:
    """Prints as it is told to, inside of a container."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _written(value: Any) -> str:
    """A setting as one would type it; a large or traced array as its shape."""
    return repr(jax.tree.map(lambda leaf: _Text(_leaf(leaf)), value))


def _leaf(leaf: Any) -> str:
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        name = getattr(leaf, "name", None)
        by_name = type(leaf).__name__.endswith("Tableau") and isinstance(name, str) and name.isidentifier()
        return str(name) if by_name else getattr(leaf, "__name__", None) or repr(leaf).replace("inf", "np.inf")
    known = _values(leaf)
    if known is None:
        return f"<{'traced ' * isinstance(leaf, jax.core.Tracer)}{_kind(leaf)}>"
    if known.ndim == 0:
        return str(known[()]).replace("inf", "np.inf")
    if known.size > _SHOWN_ELEMENTS:
        return f"<{_kind(leaf)}{_from_to(known)}>"
    return f"np.array({np.array2string(known, separator=', ')}, {known.dtype.name!r})".replace("\n", "")


# --- Lists


class Listing(list[dict[str, Any]]):
    """Dicts of the same keys, which print as a table: a line each."""

    def __repr__(self) -> str:
        if not self:
            return "[]"
        rows = [list(self[0]), *([_cell(value) for value in entry.values()] for entry in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "-"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


# --- Solution


def solution_rows(solution: Any) -> Rows:
    """What a solution is: how many lanes, how they ended, their steps, and the shapes of what was saved."""
    code = getattr(solution.result, "_value", None)
    rows: Rows = [("ended", _ends(code, getattr(solution.result, "_enumeration", None)))]
    stats = solution.stats if isinstance(solution.stats, dict) else {}
    found = (_values(stats.get(name)) for name in ("num_steps", "num_accepted_steps", "num_rejected_steps"))
    counts = [_range(values, ",") for values in found if values is not None and values.size]
    if len(counts) == 3:
        total, accepted, rejected = counts
        rows.append(("steps", f"{total} ({accepted} accepted, {rejected} rejected)"))
    rows.append(("t0, t1", f"{_times(solution.t0)} to {_times(solution.t1)}"))
    for path, leaf in jax.tree_util.tree_leaves_with_path(solution.ts):
        rows.append((f"ts{jax.tree_util.keystr(path)}", f"{_kind(leaf)}{_from_to(_values(leaf))}"))
    for name in ("ys", "observables", "summaries"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(solution, name)):
            rows.append((f"{name}{jax.tree_util.keystr(path)}", _kind(leaf)))
    if getattr(solution, "interpolation", None) is not None:
        rows.append(("evaluate(t)", f"polynomials of degree {len(solution.interpolation.nodes) - 1}, one a step"))
    return rows


def solution_title(solution: Any) -> str:
    """Its first line."""
    shape = getattr(getattr(solution.result, "_value", None), "shape", ())
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(solution))
    axes = " x ".join(map(str, shape))
    if not all(isinstance(size, int) for size in shape):  # an export may leave sizes open
        lanes, axes = f"{axes} lanes", ""
    else:
        count = math.prod(shape)
        lanes, axes = f"{count:,} lane{'s' * (count != 1)}" if shape else "one lane", f" ({axes})" if len(shape) > 1 else ""
    return f"{type(solution).__name__} of {lanes}{axes}{', traced' * traced}"


def _ends(code: Any, results: Any) -> str:
    """How lanes ended; how many of each, where there are many."""
    known = _values(code)
    if known is None:
        return "not known while it is traced" if isinstance(code, jax.core.Tracer) else "not known here"
    names = list(getattr(results, "__members__", ()))
    if known.dtype.kind not in "iu" or not names:
        return str(known.dtype)
    if not known.size:
        return "none of none"
    if known.ndim == 0:
        return names[int(known)] if 0 <= known < len(names) else str(known)
    return ", ".join(f"{count:,} {names[number]}" for number, count in zip(*np.unique(known, return_counts=True), strict=True))


def _times(times: Any) -> str:
    known = _values(times)
    return _kind(times) if known is None or not known.size else _range(known, "g", " .. ")


# --- SciPy's result


def describe_ivp(solution: Any) -> str:
    """One lane as SciPy prints a result of its own; many as a Solution."""
    code = _values(getattr(solution.result, "_value", None))
    if code is None or code.ndim or _values(solution.ts) is None or _values(solution.ys) is None:
        return text(solution_title(solution), solution_rows(solution))
    names = ("message", "success", "status", "t", "y", "sol", "t_events", "y_events", "nfev", "njev", "nlu")
    width = max(map(len, names))
    return "\n".join(f"{name:>{width}}: {_field(getattr(solution, name), width + 2)}" for name in names)


def _field(value: Any, indent: int) -> str:
    known = value if isinstance(value, list) else _values(value) if hasattr(value, "dtype") else None
    if known is None:
        return str(value)
    with np.printoptions(linewidth=76 - indent, edgeitems=2, threshold=12, formatter={"float_kind": "{: .3e}".format}):
        shown = str(list(map(_values, known)) if isinstance(known, list) else known)
    return shown.replace("\n", "\n" + " " * indent)


# --- Inspection


def inspection_rows(found: Any) -> Rows:
    """What an image takes of the machine."""
    rows: Rows = []
    if found.registers:
        spills = f"{found.spill_bytes:,} bytes spilled" if found.spill_bytes else "none spilled"
        rows.append(("registers", f"{found.registers} a thread, {spills}"))
    if found.registers or found.stack_bytes:
        rows.append(("stack", f"{found.stack_bytes:,} bytes a thread" if found.stack_bytes else "none"))
    if found.in_step:
        rows.append(("warp", "32 lanes, which take their steps together"))
    rows.append(("block", f"{found.block} lanes, which share {found.shared_bytes:,} bytes"))
    if (occupancy := found.occupancy) is not None:
        rows.append((
            "occupancy",
            f"{occupancy.share:.0%}: {occupancy.blocks} block{'s' * (occupancy.blocks != 1)} at once on a multiprocessor, "
            f"limited by {' and '.join(occupancy.limits)}",
        ))  # fmt: skip
    if found.checkpoint_bytes:
        rows.append(("checkpoints", f"{found.checkpoint_bytes:,} bytes a lane in the device's memory, kept by its solve"))
    rows.append(("code", f"{found.code_bytes:,} bytes in an image of {found.image_bytes:,}"))
    return rows


def memory_map(found: Any) -> list[tuple[str, str, int, int, str]]:
    """The buffers that have words, as (region, name, first word, words, the buffer whose words these are)."""
    order = {"shared": 0, "shared_fallback": 1, "persistent": 2, "local": 3}
    slots = sorted((slot for slot in found.slots if slot.size), key=lambda slot: order[slot.region])
    return [(slot.region, slot.name, slot.offset, slot.size, slot.inside or "") for slot in slots]


_REGIONS = {
    "shared": "shared memory",
    "shared_fallback": "shared memory, behind those",
    "persistent": "its own memory, in one piece",
    "local": "its own memory, an array each (registers, where they fit)",
}


def _map_lines(found: Any) -> list[str]:
    """A lane's memory, a line for each buffer; those of one region stand at their places in it."""
    buffers = memory_map(found)
    if not buffers:
        return []
    longest = max(len(name) for _, name, *_ in buffers)
    ends = max(offset + size for _, _, offset, size, _ in buffers)
    per_word = min(1.0, _MAP_WIDTH / ends)
    lines, region = [f"a lane's memory, in words of {found.word_bytes} bytes"], ""
    for place, name, offset, size, inside in buffers:
        if place != region:
            region = place
            lines.append(f"  {_REGIONS[place]}")
        start, end = int(offset * per_word), max(int(offset * per_word) + 1, round((offset + size) * per_word))
        bar = " " * start + (_ALIAS if inside else _BAR) * (end - start)
        lines.append(f"    {name:{longest}s} {size:6,}  {bar}" + (f"  in the words of {inside}" if inside else ""))
    unused = [slot.name for slot in found.slots if not slot.size and "backward" not in slot.live]
    return [*lines, f"  without words here: {', '.join(unused)}"] if unused else lines


def describe_inspection(found: Any) -> str:
    """The report of an image."""
    return "\n".join([text(_inspection_title(found), inspection_rows(found)), *_map_lines(found)])


def _inspection_title(found: Any) -> str:
    return f"{found.title}, for {found.target}"


def inspection_html(found: Any) -> str:
    """The same as HTML."""
    buffers = memory_map(found)
    ends = max((offset + size for _, _, offset, size, _ in buffers), default=1)
    lines = []
    for region, name, offset, size, inside in buffers:
        colour = {"local": "#7aa6c2", "persistent": "#5a8f7b"}.get(region, "#d08a4e")
        opacity = 0.45 if inside else 1
        bar = (
            f'<div style="margin-left:{100 * offset / ends:.2f}%;width:{100 * size / ends:.2f}%;min-width:2px;height:0.9em;'
            f'background:{colour};opacity:{opacity}"></div>'
        )
        where = region.replace("_", " ") + (f", in {inside}" if inside else "")
        lines.append(
            f"<tr><td style='text-align:left'>{html.escape(name)}</td><td style='text-align:right'>{size:,}</td>"
            f"<td style='text-align:left'>{html.escape(where)}</td><td style='width:20em'>{bar}</td></tr>"
        )
    caption = f"<tr><th>buffer</th><th>words of {found.word_bytes} bytes</th><th>where</th><th></th></tr>"
    return table(_inspection_title(found), inspection_rows(found)) + f"<table>{caption}{''.join(lines)}</table>"


# --- Rows


def as_document(value: Any) -> Any:
    """What a module that holds `value` prints of it: its own repr. For equinox's printing, which asks for it."""
    import wadler_lindig

    return wadler_lindig.TextDoc(repr(value))


def text(title: str, rows: Rows) -> str:
    """Rows as text."""
    width = max((len(label) for label, _ in rows), default=0)
    return "\n".join([title, *(f"  {label:{width}s}  {content}" for label, content in rows)])


def table(title: str, rows: Rows) -> str:
    """Rows as HTML."""
    lines = [
        f"<tr><th style='text-align:left'>{html.escape(label)}</th><td style='text-align:left'>{html.escape(content)}</td></tr>"
        for label, content in rows
    ]
    return f"<table><caption style='text-align:left'>{html.escape(title)}</caption>{''.join(lines)}</table>"


# --- Values


def _values(value: Any) -> np.ndarray | None:
    """An array's values; None where they are traced, deleted, on another host, or there is no array."""
    if not hasattr(value, "dtype") or isinstance(value, (jax.core.Tracer, jax.ShapeDtypeStruct)):
        return None
    if isinstance(value, jax.Array) and (value.is_deleted() or not value.is_fully_addressable):
        return None
    return np.asarray(value)


def _kind(value: Any) -> str:
    """Dtype and shape, as in float32[3, 4]."""
    if not hasattr(value, "dtype"):
        return repr(value)
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"


def _from_to(values: np.ndarray | None) -> str:
    """", from 0 to 2" for those that are finite."""
    if values is None or values.dtype.kind not in "fiu" or not (finite := values[np.isfinite(values)]).size:
        return ""
    least, largest = finite.min(), finite.max()
    return f", all {least:g}" if least == largest else f", from {least:g} to {largest:g}"


def _range(values: np.ndarray, form: str, between: str = " to ") -> str:
    """One number, or the least and the largest."""
    least, largest = values.min(), values.max()
    return f"{least:{form}}" if least == largest else f"{least:{form}}{between}{largest:{form}}"
