"""Tables of doses and observations as pharmacometricians keep them, as arrays with a lane for each subject.

The columns and what they mean are those of NONMEM's data sets (Guide VI, PREDPP, chapter V).
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..controllers.tolerances import Tolerance
from ..settings import as_python, closest, concrete
from .doses import AnyDoses, Doses, Resets
from .steady_doses import SteadyDoses

_NEEDED = ("ID", "TIME", "AMT")
_OTHERS = ("RATE", "II", "ADDL", "CMT", "EVID", "MDV", "SS", "DV")
# What a dose record says of its dose; of other records these are 0.
_OF_DOSES = ("AMT", "RATE", "II", "ADDL", "SS")
_MISSING = ("", ".", "NA", "NaN", "nan")
_RATE_OF_MODEL, _DURATION_OF_MODEL = -1, -2
# How far behind the last record a solve ends, where it has to, beside its length: many units in the last place.
_BEHIND = 1e-3
_OBSERVATION, _DOSE, _OTHER, _RESET, _RESET_AND_DOSE = range(5)


class DoseTable(eqx.Module):
    """What `read_dose_table` makes of a table: arrays with an axis of subjects in front, to be mapped over:

        def run(lane, args):
            saveat = SaveAt(ts=lane.ts, side=lane.side)
            return solve(f, lane.t0, lane.t1, y0, args, saveat=saveat, doses=lane.doses())

        jax.vmap(run)(table, args)

    - ids: [subjects].
    - t0, t1: [subjects], the times of their first and last records; t0 is before that where doses lead to a steady state,
      and t1 somewhat behind it where an observation there sees a dose of its own time, or such a state is to be looked at.
    - ts: [subjects, points], the times of observations and of other events (EVID 0 and 2), in the table's order. Subjects with
      fewer of them than others have t1 in place of the rest.
    - side: [subjects, points], whether what is saved is the state behind the doses of its own time: they stand above it.
    - records: [subjects, points], which record of the table, from 0; -1 where there is none.
    - cmt: [subjects, points], its CMT; 0 where there is none.
    - observed: [subjects, points], whether it is a measurement: EVID 0 and MDV 0.
    - dv: [subjects, points], what was measured; 0 where nothing was.
    - covariates: by their names, [subjects, times], and covariate_ts: [subjects, times], when they are known to have these
      values: increasing, for a `Driver` (kind "previous" or "linear"); behind a subject's last record they go on as they are
      there, and those of a dose with SS are so from the first dose on that leads to it. Of records of one time the last holds;
      what is missing is as it was before, or as it is first. Without covariates there is no covariate_ts.
    """

    ids: Float[Array, "*subjects"]
    t0: Float[Array, "*subjects"]
    t1: Float[Array, "*subjects"]
    ts: Float[Array, "*subjects points"]
    side: Bool[Array, "*subjects points"]
    records: Int[Array, "*subjects points"]
    cmt: Int[Array, "*subjects points"]
    observed: Bool[Array, "*subjects points"]
    dv: Float[Array, "*subjects points"]
    covariates: dict[str, Float[Array, "*subjects times"]]
    covariate_ts: Float[Array, "*subjects times"] | None
    _by_compartment: tuple[_IntoOne, ...]
    _resets: Resets | None
    _steady: SteadyDoses | None

    def doses(
        self,
        *,
        lag: Any = 0,
        fraction: Any = 1,
        rate: Any = None,
        duration: Any = None,
        steady_rtol: Tolerance | None = None,
        steady_atol: Tolerance | None = None,
    ) -> tuple[AnyDoses, ...]:
        """The resets and the steady states, if there are any, and the doses, for `solve(..., doses=)`.

        lag, fraction: see `Doses`. rate, duration: those of doses with RATE -1 and -2, which leave them to the model. Each is a
        number, or a dict with one for each of the compartments, by their CMT; those that it does not have are without. All may
        be traced, and have derivatives.

        steady_rtol, steady_atol: what the state may still change by, from one dose to the next, where it is to be steady: a
        scalar each, or a pytree like y; None: ten times the solve's rtol and atol. See `SteadyDoses`.

        Raises ValueError for a compartment without doses, where a rate or duration is missing, or would mean nothing, and for
        tolerances where no dose has SS.
        """
        given = {"lag": lag, "fraction": fraction, "rate": rate, "duration": duration}
        ours = {one.cmt for one in self._by_compartment}
        for name, value in given.items():
            if isinstance(value, Mapping) and (unknown := value.keys() - ours):
                known = (
                    "its doses are not told apart by CMT"
                    if ours == {None}
                    else f"those with doses are {', '.join(map(str, ours))}"
                )
                raise ValueError(f"doses({name}=...) has the compartment {min(unknown)!r}: {known}")

        def of(cmt: int | None) -> dict[str, Any]:
            return {name: value.get(cmt) if isinstance(value, Mapping) else value for name, value in given.items()}

        for name, code in (("rate", _RATE_OF_MODEL), ("duration", _DURATION_OF_MODEL)):
            if given[name] is not None and not any(code in one.codes for one in self._by_compartment):
                raise ValueError(f"doses({name}=...): no dose of the table has RATE={code}, so none leaves it to the model")
        steady = self._steady
        if steady is not None:
            steady = SteadyDoses(steady.ts, steady.since, rtol=steady_rtol, atol=steady_atol, order=steady.order)
        elif steady_rtol is not None or steady_atol is not None:
            name = "steady_atol" if steady_rtol is None else "steady_rtol"
            raise ValueError(f"doses({name}=...): no dose of the table has SS, so none leads to a steady state")
        looked = tuple(one for one in (self._resets, steady) if one is not None)
        return (*looked, *(one.doses(**of(one.cmt)) for one in self._by_compartment))


class _IntoOne(eqx.Module):
    """The doses into one compartment. by_model: RATE, where any dose leaves its rate (-1) or duration (-2), `codes`, to it."""

    given: Doses
    by_model: Int[Array, "*subjects m"] | None
    cmt: int | None = eqx.field(static=True)
    codes: frozenset[int] = eqx.field(static=True)

    def doses(self, lag: Any, fraction: Any, rate: Any, duration: Any) -> Doses:
        where = "" if self.cmt is None else f" into CMT {self.cmt}"
        names = {_RATE_OF_MODEL: ("rate", rate), _DURATION_OF_MODEL: ("duration", duration)}
        for code, (name, value) in names.items():
            if code in self.codes and value is None:
                raise ValueError(f"doses(): a dose{where} has RATE={code}, which leaves its {name} to the model: give {name}=")
        rates: Any = self.given.rate
        by_model: Any = self.by_model
        changes = {"lag": lag, "fraction": fraction}
        if _RATE_OF_MODEL in self.codes:
            if (known := concrete(rate)) is not None and not np.all(known > 0):
                raise ValueError(f"doses(rate=...) is {rate}{where}: expected a rate above 0")
            # One that is found not to be above 0 only later is no rate at all, rather than a dose at once.
            above = rate if known is not None else jnp.where(rate > 0, rate, jnp.nan)
            changes["rate"] = jnp.where(by_model == _RATE_OF_MODEL, above, rates)
        if _DURATION_OF_MODEL in self.codes:
            changes["duration"] = jnp.where(by_model == _DURATION_OF_MODEL, duration, 0)
        return self.given.update(**changes)


def read_dose_table(
    table: Any,
    into: Callable[[PyTree], Any] | Mapping[int, Callable[[PyTree], Any]],
    *,
    covariates: Iterable[str] = (),
    columns: Mapping[str, str] | None = None,
    steady_doses: int | None = None,
) -> DoseTable:
    """Doses, resets, observations and covariates of the subjects of a table, as NONMEM takes them.

    - table: a dict of columns, a data frame or anything else with `columns` and `table[name]`, a structured array of NumPy's,
      or the path of a CSV file, whose first line are the names. Empty, ".", "NA" and "NaN" are missing values: 0, but for DV
      and covariates.
    - into: for each CMT that is dosed, a function of y that names the component, as in `Doses`: `{1: lambda y: y["depot"]}`. Or
      one for all doses; CMT then says nothing.
    - covariates: names of further columns, that may change with time.
    - columns: what columns are called in this table, as `{"TIME": "hours"}`.
    - steady_doses: how many doses lead to the steady state of a dose with SS, at most.

    The columns ID (a number; the records of a subject stand together), TIME (non-decreasing) and AMT have to be there.

    - EVID: 0 observation, 1 dose, 2 other event, 3 reset, 4 reset and dose. Without the column, what has an amount is a dose.
    - CMT: into which compartment; 1 without the column.
    - RATE: 0 at once, above 0 the rate of an infusion; -1, -2: rate and duration are the model's, `DoseTable.doses(rate=...)`.
    - II, ADDL: the interval to the additional doses, and how many of them. A reset cancels those that were still to come.
    - SS: 1, 3: the dose stands at the end of so many at the interval II that the state repeats itself, and of what was before
      nothing is left; 2: of what was before, all is left. These doses are given, `steady_doses` of them, in the time before: so
      there must be no other record in it, which before the first one there never is, and t0 is as much earlier. Where the
      state, from just before the last of them to just before the dose itself, still changes by more than the tolerance
      (`DoseTable.doses(steady_rtol=..., steady_atol=...)`), the lane ends there, with the result `steady_state_not_reached`:
      give more of them, up to where the interval times their number is some twenty half-lives of what is slowest. All of
      `steady_doses` are given also where fewer had been enough. In this time covariates have the values of the dose's own
      record; what f or other drivers do with time goes on, and unless it repeats itself with the interval, there is no steady
      state.
    - MDV: 1 where DV is no measurement; without the column, where DV is missing.

    Records of one time are in the table's order: a dose is behind a reset that stands above it, and an observation sees what
    stands above it. Additional doses have the place of the record that they belong to.

    Raises ValueError, with the number of the record (from 1), for what is none of these, or is at odds with NONMEM's rules.
    """
    names = {name: name for name in (*_NEEDED, *_OTHERS)}
    for name, called in (columns or {}).items():
        if name not in names:
            raise ValueError(f"columns has {name!r}: expected some of {', '.join(names)}{closest(name, names)}")
        names[name] = called
    wanted = tuple(covariates) if not isinstance(covariates, str) else (covariates,)
    found = _read_columns(table, {**names, **{name: name for name in wanted}}, columns or {}, wanted)
    records = _check_records(found)
    compartments = _read_into(into, records)
    steady_doses = as_python(steady_doses)
    _check_count_of_steady(steady_doses, records)
    subjects = [_read_subject(part, steady_doses or 0) for part in _split(records)]
    return _padded(subjects, records, compartments, {name: found[name] for name in wanted})


# --- Columns


def _read_columns(
    table: Any, names: Mapping[str, str], renamed: Mapping[str, str], covariates: Sequence[str]
) -> dict[str, np.ndarray]:
    """The columns that are there, as numbers [records], NaN where they are missing."""
    available, column = _open(table)
    found = {}
    for name, called in names.items():
        if called in available:
            found[name] = _numbers(called, column(called))
        elif name in (*_NEEDED, *renamed, *covariates):
            given = ", ".join(map(str, available))
            hint = "" if name in renamed or name in covariates else f"; columns={{{name!r}: ...}} says what it is called"
            raise ValueError(f"the table has no column {called!r}: it has {given}{closest(called, available)}{hint}")
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the table's columns have different lengths: {lengths}")
    if not len(found["ID"]):
        raise ValueError("the table has no records")
    return found


def _open(table: Any) -> tuple[list[Any], Callable[[Any], Any]]:
    """The names of the table's columns, and what gives one of them."""
    if isinstance(table, (str, os.PathLike)):
        table = _read_csv(table)
    if isinstance(table, Mapping):
        return list(table), table.__getitem__
    if isinstance(table, np.ndarray) and table.dtype.names:
        return list(table.dtype.names), table.__getitem__
    names = getattr(table, "columns", None)
    if names is not None and hasattr(table, "__getitem__"):
        return list(names), table.__getitem__
    raise TypeError(
        f"the table is a {type(table).__name__}: expected a dict of columns, a data frame, a structured array, or the path of "
        "a CSV file"
    )


def _read_csv(path: str | os.PathLike) -> dict[str, list[str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    if not lines:
        raise ValueError(f"{os.fspath(path)} is empty: expected a line with the names of columns, and one for each record")
    header = [name.strip() for name in lines[0]]
    for number, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            raise ValueError(f"{os.fspath(path)}: record {number} has {len(line)} values, but there are {len(header)} columns")
    return {name: [line[place].strip() for line in lines[1:]] for place, name in enumerate(header)}


def _numbers(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"column {name} has shape {array.shape}: expected one value for each record")
    if array.dtype.kind in "iufb":
        return array.astype(np.float64)
    numbers = np.empty(len(array))
    value: Any
    for row, value in enumerate(array.tolist()):
        try:
            text = isinstance(value, str) and value.strip() in _MISSING
            numbers[row] = np.nan if value is None or text or value != value else float(value)
        except (TypeError, ValueError):
            raise ValueError(f"column {name}, record {row + 1}: {value!r} is no number") from None
    return numbers


# --- Records


@dataclasses.dataclass(frozen=True)
class _Records:
    """Columns [records] that are complete and of their types, and the number of the first record."""

    columns: Mapping[str, np.ndarray]
    first: int = 0

    def __getattr__(self, name: str) -> np.ndarray:
        return self.columns[name.upper()]

    def __len__(self) -> int:
        return len(self.columns["ID"])


def _check_records(found: Mapping[str, np.ndarray]) -> _Records:
    """The table with all columns. Raises ValueError for the first record that is not as it should be."""
    count = len(found["ID"])
    columns = {name: np.nan_to_num(found.get(name, np.zeros(count)), posinf=np.inf, neginf=-np.inf) for name in _OF_DOSES}
    columns |= {name: found[name] for name in ("ID", "TIME")}
    columns["CMT"] = np.nan_to_num(found["CMT"]) if "CMT" in found else np.ones(count)
    columns["EVID"] = found.get("EVID", np.where(columns["AMT"] != 0, _DOSE, _OBSERVATION).astype(float))
    dv = found.get("DV", np.full(count, np.nan))
    columns["MDV"] = np.nan_to_num(found["MDV"]) if "MDV" in found else np.isnan(dv).astype(float)
    columns["DV"] = dv
    evid, amount, rate, interval = (columns[name] for name in ("EVID", "AMT", "RATE", "II"))

    def refuse(wrong: np.ndarray, words: Callable[[int], str]) -> None:
        if np.any(wrong):
            row = int(np.argmax(wrong))
            raise ValueError(f"record {row + 1} (ID {columns['ID'][row]:g}): {words(row)}")

    for name, values in columns.items():
        if name != "DV":
            refuse(~np.isfinite(values), lambda row, name=name, values=values: f"{name} is {values[row]}: expected a number")
    for name in ("EVID", "CMT", "MDV", "SS", "ADDL"):
        values = columns[name]
        refuse(
            values != np.round(values), lambda row, name=name, values=values: f"{name} is {values[row]:g}: expected an integer"
        )
    refuse((evid < 0) | (evid > 4), lambda row: f"EVID is {evid[row]:g}: expected 0, 1, 2, 3 or 4")
    refuse((columns["MDV"] != 0) & (columns["MDV"] != 1), lambda row: f"MDV is {columns['MDV'][row]:g}: expected 0 or 1")
    dosed = (evid == _DOSE) | (evid == _RESET_AND_DOSE)
    for name in _OF_DOSES:
        values = columns[name]
        refuse(
            ~dosed & (values != 0),
            lambda row, name=name, values=values: (
                f"EVID is {evid[row]:g} and {name} is {values[row]:g}: only a dose, EVID 1 or 4, has {name}"
            ),
        )
    refuse(
        (rate < 0) & (rate != _RATE_OF_MODEL) & (rate != _DURATION_OF_MODEL),
        lambda row: f"RATE is {rate[row]:g}: expected 0, a rate above 0, or -1 or -2 for one of the model",
    )
    refuse(interval < 0, lambda row: f"II is {interval[row]:g}: expected an interval above 0")
    refuse(columns["ADDL"] < 0, lambda row: f"ADDL is {columns['ADDL'][row]:g}: expected how many additional doses, at least 0")
    refuse(
        (columns["ADDL"] > 0) & (interval == 0), lambda row: f"ADDL is {columns['ADDL'][row]:g} and II is 0: give the interval"
    )
    refuse((columns["SS"] < 0) | (columns["SS"] > 3), lambda row: f"SS is {columns['SS'][row]:g}: expected 0, 1, 2 or 3")
    refuse(
        (columns["SS"] > 0) & (interval == 0),
        lambda row: "SS without II: give the interval of the doses; a constant infusion to its steady state is not taken",
    )
    refuse((rate != 0) & (amount <= 0), lambda row: f"RATE is {rate[row]:g} and AMT is {amount[row]:g}: give an amount above 0")
    refuse(
        (evid == _OBSERVATION) & (columns["MDV"] == 0) & np.isnan(dv) & ("DV" in found),
        lambda row: "EVID is 0 and MDV is 0, but DV is missing: MDV is 1 where there is no measurement",
    )
    if "DV" not in found:
        columns["MDV"] = np.ones(count)
    later = np.diff(columns["TIME"], prepend=-np.inf) >= 0
    begins = np.diff(columns["ID"], prepend=np.nan) != 0
    refuse(
        ~later & ~begins,
        lambda row: (
            f"TIME goes back from {columns['TIME'][row - 1]:g} to {columns['TIME'][row]:g}: expected the records of a subject "
            "in the order of time; an occasion that begins anew at 0 is a subject of its own, with another ID"
        ),
    )
    _, firsts = np.unique(columns["ID"], return_index=True)
    again = begins & ~np.isin(np.arange(count), firsts)
    refuse(again, lambda row: "this ID had records further above: expected those of a subject to stand together")
    return _Records(columns)


def _read_into(into: Any, records: _Records) -> dict[int | None, Callable]:
    """The function for each compartment that is dosed; all doses belong to None where there is one for all."""
    dosed = (records.evid == _DOSE) | (records.evid == _RESET_AND_DOSE)
    if callable(into):
        return {None: into} if np.any(dosed) else {}
    if not isinstance(into, Mapping):
        raise TypeError(
            f"into is {into!r:.80}: expected a function of y for each CMT, as {{1: lambda y: y['depot']}}, or one for all doses"
        )
    missing = dosed & ~np.isin(records.cmt, list(into))
    if np.any(missing):
        row = int(np.argmax(missing))
        raise ValueError(
            f"record {row + 1} (ID {records.id[row]:g}) is a dose into CMT {records.cmt[row]:g}, which into= does not have: it "
            f"has {', '.join(map(str, into))}"
        )
    return {cmt: function for cmt, function in into.items() if np.any(dosed & (records.cmt == cmt))}


def _check_count_of_steady(steady_doses: Any, records: _Records) -> None:
    steady = records.ss > 0
    if steady_doses is not None and (isinstance(steady_doses, bool) or not isinstance(steady_doses, int) or steady_doses < 1):
        raise ValueError(f"steady_doses={steady_doses!r}: expected how many doses lead to a steady state, at least 1")
    if np.any(steady) and steady_doses is None:
        row = int(np.argmax(steady))
        raise ValueError(
            f"record {row + 1} (ID {records.id[row]:g}) has SS={records.ss[row]:g}: give steady_doses=, how many doses lead to "
            "the steady state at most: so many that their interval times their number is some twenty of the slowest half-lives"
        )
    if steady_doses is not None and not np.any(steady):
        raise ValueError(f"steady_doses={steady_doses}: no dose of the table has SS")


def _split(records: _Records) -> list[_Records]:
    """Those of each subject."""
    (firsts,) = np.nonzero(np.diff(records.id, prepend=np.nan) != 0)
    ends = [*firsts[1:], len(records)]
    return [
        _Records({name: values[first:end] for name, values in records.columns.items()}, int(first))
        for first, end in zip(firsts, ends, strict=True)
    ]


# --- A subject


@dataclasses.dataclass(frozen=True)
class _Subject:
    """The records of a subject; its doses one by one, as (time, which of its records), and in the same way its resets, and
    where doses begin that lead to a steady state, and where the last of them is."""

    records: _Records
    doses: tuple[tuple[float, int], ...]
    resets: tuple[tuple[float, int], ...]
    leads: tuple[tuple[float, int], ...]
    lasts: tuple[tuple[float, int], ...]

    @property
    def points(self) -> np.ndarray:
        """Which of the records have a time to save."""
        return np.nonzero((self.records.evid == _OBSERVATION) | (self.records.evid == _OTHER))[0]

    @property
    def side(self) -> np.ndarray:
        """Of each of these points, whether doses and resets of its time are before it.

        Raises ValueError where some are before and some behind it.
        """
        records, jumps = self.records, np.array([*self.doses, *self.resets]).reshape(-1, 2)
        same = records.time[self.points][:, None] == jumps[:, 0]
        above = jumps[:, 1] < self.points[:, None]
        before, behind = np.any(same & above, 1), np.any(same & ~above, 1)
        if np.any(before & behind):
            row = self.points[np.argmax(before & behind)]
            raise ValueError(
                f"record {records.first + row + 1} (ID {records.id[row]:g}) stands between doses of its own time, "
                f"{records.time[row]:g}, additional ones among them: expected it above or below them all"
            )
        return before

    @property
    def t1(self) -> float:
        """Behind the last record where something of the same time is to be seen there, or it has to be a steady state."""
        last, first = self.records.time[-1], self.t0
        late = np.any(self.side & (self.records.time[self.points] == last))
        late = late or any(self.records.time[row] == last for _, row in self.leads)
        return last + (_BEHIND * (last - first) if last > first else 1.0) if late else last

    @property
    def t0(self) -> float:
        return min(self.records.time[0], *(time for time, _ in (*self.doses, *self.resets)), np.inf)


def _read_subject(records: _Records, steady_doses: int) -> _Subject:
    doses: list[tuple[float, int]] = []
    resets: list[tuple[float, int]] = []
    leads: list[tuple[float, int]] = []
    lasts: list[tuple[float, int]] = []
    for row in np.nonzero((records.evid != _OBSERVATION) & (records.evid != _OTHER))[0].tolist():
        time, interval = float(records.time[row]), float(records.ii[row])
        begin = time
        if records.ss[row]:
            begin = time - steady_doses * interval
            leads.append((begin, row))
            lasts.append((time - interval, row))
            if row and records.time[row - 1] > begin:
                raise ValueError(
                    f"record {records.first + row + 1} (ID {records.id[row]:g}) has SS={records.ss[row]:g}, and the "
                    f"{steady_doses} doses that lead to it begin at {begin:g}, but the record before it is at "
                    f"{records.time[row - 1]:g}: a steady state has to be a subject's beginning, or to have the time for these "
                    "doses; take fewer of them, or give the records from here on another ID"
                )
        if records.evid[row] in (_RESET, _RESET_AND_DOSE) or records.ss[row] in (1, 3):
            # Additional doses that were still to come are cancelled.
            doses = [dose for dose in doses if dose[0] < begin]
            resets.append((begin, row))
        if records.evid[row] != _RESET:
            doses += [(time - lead * interval, row) for lead in range(steady_doses if records.ss[row] else 0, 0, -1)]
            doses += [(time + more * interval, row) for more in range(int(records.addl[row]) + 1)]
    return _Subject(records, *map(tuple, (doses, resets, leads, lasts)))


def _padded(
    subjects: Sequence[_Subject], records: _Records, into: Mapping[int | None, Callable], covariates: Mapping[str, np.ndarray]
) -> DoseTable:
    """All subjects' arrays, as long as the longest needs."""
    t1 = np.array([subject.t1 for subject in subjects])
    points = [subject.points for subject in subjects]

    def at_points(name: str, padding: Any) -> Any:
        return _rows([subject.records.columns[name][rows] for subject, rows in zip(subjects, points, strict=True)], padding)

    def doses_into(cmt: int | None) -> _IntoOne:
        mine = [[dose for dose in one.doses if cmt is None or one.records.cmt[dose[1]] == cmt] for one in subjects]

        def of_records(name: str) -> Any:
            columns = [one.records.columns[name] for one in subjects]
            return _rows([column[[row for _, row in rows]] for column, rows in zip(columns, mine, strict=True)], 0)

        rate = of_records("RATE")
        codes = frozenset(int(code) for code in (_RATE_OF_MODEL, _DURATION_OF_MODEL) if np.any(rate == code))
        doses = Doses(
            _rows([[time for time, _ in rows] for rows in mine], np.inf),
            of_records("AMT"),
            into=into[cmt],
            rate=np.maximum(rate, 0) if np.any(rate > 0) or _RATE_OF_MODEL in codes else None,
            order=_rows([[row for _, row in rows] for rows in mine], len(records)).astype(np.int32),
        )
        return _IntoOne(doses, rate.astype(np.int32) if codes else None, cmt, codes)

    resets = None
    if any(subject.resets for subject in subjects):
        resets = Resets(
            _rows([[time for time, _ in subject.resets] for subject in subjects], np.inf),
            order=_rows([[row for _, row in subject.resets] for subject in subjects], len(records)).astype(np.int32),
        )
    steady = None
    if any(subject.leads for subject in subjects):
        steady = SteadyDoses(
            _rows([[one.records.time[row] for _, row in one.leads] for one in subjects], np.inf),
            _rows([[time for time, _ in one.lasts] for one in subjects], np.inf),
            order=_rows([[row for _, row in one.leads] for one in subjects], len(records)).astype(np.int32),
        )
    observed = (at_points("EVID", _OTHER) == _OBSERVATION) & (at_points("MDV", 1) == 0)
    at = [rows + subject.records.first for subject, rows in zip(subjects, points, strict=True)]
    covariate_ts, values = _padded_covariates(subjects, covariates)
    arrays: dict[str, Any] = {
        "ids": np.array([subject.records.id[0] for subject in subjects]),
        "t0": np.array([subject.t0 for subject in subjects]),
        "t1": t1,
        "ts": at_points("TIME", t1),
        "side": _rows([subject.side for subject in subjects], False).astype(bool),
        "records": _rows(at, -1).astype(np.int32),
        "cmt": at_points("CMT", 0).astype(np.int32),
        "observed": observed,
        "dv": np.where(observed, np.nan_to_num(at_points("DV", 0)), 0),
        "covariates": values,
        "covariate_ts": covariate_ts,
    }
    return DoseTable(**arrays, _by_compartment=tuple(map(doses_into, into)), _resets=resets, _steady=steady)


def _padded_covariates(
    subjects: Sequence[_Subject], covariates: Mapping[str, np.ndarray]
) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """Times [subjects, times] at which covariates are known, increasing, and their values there."""
    if not covariates:
        return None, {}
    known = []
    for subject in subjects:
        times, rows = subject.records.time, np.arange(len(subject.records))
        begins, of = (np.array(one) for one in zip(*subject.leads, strict=True)) if subject.leads else ([], [])
        both = np.concatenate([times, begins]), np.concatenate([rows, of]).astype(int)
        by_time = np.lexsort(both[::-1])
        times, rows = (one[by_time] for one in both)
        (last,) = np.nonzero(np.diff(times, append=np.inf) > 0)  # of records of one time
        known.append((times[last], rows[last]))
    longest = max(2, *(len(times) for times, _ in known))  # straight lines want two
    ts = np.empty((len(subjects), longest))
    values = {name: np.empty((len(subjects), longest)) for name in covariates}
    for number, (subject, (time, last)) in enumerate(zip(subjects, known, strict=True)):
        ts[number] = [*time, *(time[-1] + 1 + np.arange(longest - len(time)))]
        for name, column in covariates.items():
            own = _carried(column[subject.records.first : subject.records.first + len(subject.records)])[last]
            if np.isnan(own[0]):
                raise ValueError(f"covariate {name} has no value in any record of ID {subject.records.id[0]:g}")
            values[name][number] = [*own, *([own[-1]] * (longest - len(own)))]
    return ts, values


def _carried(values: np.ndarray) -> np.ndarray:
    """Missing values as they were before; in front, as the first one that is there."""
    (there,) = np.nonzero(~np.isnan(values))
    if not len(there):
        return values
    return values[there[np.maximum(np.searchsorted(there, np.arange(len(values)), side="right") - 1, 0)]]


def _rows(rows: Sequence[Any], padding: Any) -> Any:
    """[subjects, longest], the rest of each row `padding`, one for all or one a row; one column at least."""
    longest = max(1, *map(len, rows))
    padding = np.broadcast_to(padding, len(rows))
    return np.array([[*row, *([rest] * (longest - len(row)))] for row, rest in zip(rows, padding, strict=True)], np.float64)
