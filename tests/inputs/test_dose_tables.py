"""Tables of pharmacometricians: what their records mean, padded to lanes, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_compartment import Arrays, by_jumps

from jax_cubie import DoseTable, Resets, read_dose_table
from jax_cubie.inputs import read_doses, schedule_of
from jax_cubie.problem.state import read_state

pytestmark = pytest.mark.usefixtures("x64")

TWO = """\
ID,TIME,AMT,RATE,II,ADDL,CMT,EVID,MDV,SS,DV,WT,comment
1,0,100,.,12,2,1,1,1,0,.,70,first
1,1,.,.,.,.,2,0,0,.,3.4,.,
1,12,0,0,0,0,2,0,0,0,2.5,71,before the dose
1,20,50,25,0,0,2,1,1,0,.,72,

1,24,0,0,0,0,2,0,0,0,2.0,72,
2,5,10,0,0,0,1,1,1,0,.,50,
2,9,0,0,0,0,2,0,0,0,9,NA,
2,9,0,0,0,0,3,2,1,0,.,51,
"""


def gut(y):
    return y["gut"]


def blood(y):
    return y["blood"]


INTO = {1: gut, 2: blood}
STATE = read_state({"blood": np.array(0.0), "gut": np.array(0.0)})


def jumps(lane, y0=(0.0, 0.0), **model):
    """Of one lane, or of all of them."""
    if np.ndim(lane.t0):
        return jax.vmap(lambda lane: jumps(lane, y0, **model))(lane)
    return Arrays.of(schedule_of(read_doses(lane.doses(**model)), jnp.asarray(y0), STATE, lane.t0, lane.t1), 2)


def of_subject(table, number):
    return jax.tree.map(lambda leaf: leaf[number], table)


def records(**columns):
    """A table of one subject, dosed with 100 at 0 if nothing else is said."""
    count = max(map(len, columns.values()), default=1)
    return {"ID": [1] * count, "TIME": [0] * count, "AMT": [100] * count, **columns}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "two.csv"
    file.write_text(TWO)
    return file


def equal(array, expected):
    np.testing.assert_array_equal(np.asarray(array), expected)


# --- What it is


def test_two_subjects(path):
    table = read_dose_table(path, INTO, covariates=["WT"])
    equal(table.ids, [1, 2])
    equal(table.t0, [0, 5])
    np.testing.assert_allclose(table.t1, [24.024, 9], rtol=1e-15)
    equal(table.ts, [[1, 12, 24], [9, 9, 9]])
    equal(table.records, [[1, 2, 4], [6, 7, -1]])
    equal(table.cmt, [[2, 2, 2], [2, 3, 0]])
    equal(table.side, [[False, True, True], [False, False, False]])
    equal(table.observed, [[True, True, True], [True, False, False]])
    equal(table.dv, [[3.4, 2.5, 2.0], [9, 0, 0]])
    into_gut, into_blood = table.doses()
    equal(into_gut.ts, [[0, 12, 24], [5, np.inf, np.inf]])
    equal(into_gut.amounts, [[100, 100, 100], [10, 0, 0]])
    assert into_gut.into is gut and into_gut.rate is None and into_blood.into is blood
    equal(into_blood.ts, [[20], [np.inf]])
    equal(into_blood.rate, [[25], [0]])


def test_covariates(path):
    table = read_dose_table(path, INTO, covariates=["WT"])
    equal(table.covariate_ts, [[0, 1, 12, 20, 24], [5, 9, 10, 11, 12]])
    equal(table.covariates["WT"], [[70, 70, 71, 72, 72], [50, 51, 51, 51, 51]])
    without = read_dose_table(path, INTO)
    assert without.covariates == {} and without.covariate_ts is None


def test_lanes(path):
    table = read_dose_table(path, INTO)
    found = jumps(table, lag={1: 0.5}, fraction={2: 0.5})
    equal(found.times, [[0.5, 12.5, 20, 21, 24.5], [0.5, *[np.inf] * 4]])
    equal(found.increments[0, :, 1], [100, 100, 0, 0, 100])
    equal(found.rates[0, :, 0], [0, 0, 0, 25, 0, 0])
    equal(found.increments[1], [[0, 10], *[[0, 0]] * 4])
    slope = jax.jacfwd(lambda lag: jumps(table, lag=lag).times[0])(0.5)
    equal(slope, [1, 1, 1, 1, 1])


class Frame:
    """As much of a data frame as there has to be."""

    def __init__(self, columns):
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return self._columns[name]


def test_forms_of_a_table(path):
    expected = read_dose_table(path, INTO)
    lines = [line.split(",") for line in TWO.splitlines() if line]
    columns = {name: np.array(values, object) for name, *values in zip(*lines, strict=True) if name != "comment"}
    numbers = {name: np.array([np.nan if v in (".", "NA") else float(v) for v in column]) for name, column in columns.items()}
    rows = np.zeros(len(numbers["ID"]), [(name, float) for name in numbers])
    for name, column in numbers.items():
        rows[name] = column
    for form in (str(path), columns, numbers, Frame(columns), rows):
        found = read_dose_table(form, INTO)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(found), jax.tree.leaves(expected))
    renamed = {{"TIME": "hours", "AMT": "mg"}.get(name, name): column for name, column in columns.items()}
    found = read_dose_table(renamed, INTO, columns={"TIME": "hours", "AMT": "mg"})
    equal(found.ts, expected.ts)


def test_as_few_columns_as_there_can_be():
    table = read_dose_table(records(TIME=[0, 6, 8], AMT=[100, 0, 50]), gut)
    assert isinstance(table, DoseTable)
    equal(table.ts, [[6]])
    equal(table.observed, [[False]])
    (doses,) = table.doses()
    equal(doses.ts, [[0, 8]])
    measured = read_dose_table(records(TIME=[0, 6, 8], AMT=[100, 0, 0], DV=[np.nan, 3.0, np.nan]), {1: gut})
    equal(measured.observed, [[True, False]])
    equal(measured.dv, [[3, 0]])


def test_no_doses_at_all():
    table = read_dose_table(records(AMT=[0, 0], TIME=[0, 1]), gut)
    assert table.doses() == ()


# --- Events


def test_resets():
    table = read_dose_table(
        records(TIME=[0, 10, 20], AMT=[100, 0, 50], EVID=[1, 3, 4], II=[8, 0, 0], ADDL=[5, 0, 0], CMT=[1, 0, 1]), INTO
    )
    resets, doses = table.doses()
    assert isinstance(resets, Resets)
    equal(resets.ts, [[10, 20]])
    equal(doses.ts, [[0, 8, 20]])  # those at 16, 24, ... were still to come at 10
    found = jumps(table)
    equal(found.times, [[0, 8, 10, 20, 20]])
    equal(found.kept, [[1, 1, 0, 0, 1]])
    equal(found.increments[0, :, 1], [100, 100, 0, 0, 50])


def test_a_reset_and_dose_with_a_lag():
    found = jumps(read_dose_table(records(TIME=[0, 10], EVID=[1, 4]), gut), y0=(1.0, 2.0), lag=3.0)
    equal(found.times, [[3, 10, 13]])
    equal(found.kept, [[1, 0, 1]])
    equal(found.increments, [[[0, 100], [1, 2], [0, 100]]])


@pytest.mark.parametrize(("evid", "left"), [([1, 3, 1], 100), ([1, 1, 3], 0), ([3, 1, 1], 200), ([1, 1, 4], 100)])
def test_records_of_one_time_are_in_their_order(evid, left):
    amounts = np.where(np.array(evid) == 3, 0, 100)
    found = jumps(of_subject(read_dose_table(records(TIME=[0, 0, 0], AMT=amounts, EVID=evid), gut), 0))
    equal(by_jumps(found, 0.1, [0, 0], 0.0), [0, left])


def test_rate_and_duration_of_the_model():
    table = read_dose_table(records(TIME=[0, 10, 20, 30], RATE=[-1, 0, 50, -2], CMT=[1, 1, 1, 2]), INTO)
    found = jumps(table, rate={1: 20.0}, duration=4.0)
    equal(found.times, [[0, 5, 10, 20, 22, 30, 34, np.inf]])
    equal(found.rates[0, :, 1], [0, 20, 0, 0, 50, 0, 0, 0, 0])
    equal(found.rates[0, :, 0], [0, 0, 0, 0, 0, 0, 25, 0, 0])
    equal(jax.jacfwd(lambda rate: jumps(table, rate=rate, duration=4.0).times[0, 1])(20.0), -0.25)
    for wrong in (0.0, -3.0):
        assert np.all(np.isnan(jax.jit(lambda rate: jumps(table, rate=rate, duration=4.0).times)(wrong)))
        with pytest.raises(ValueError, match="expected a rate above 0"):
            table.doses(rate=wrong, duration=4.0)
    with pytest.raises(ValueError, match="into CMT 2 has RATE=-2.*give duration="):
        table.doses(rate=20.0)
    with pytest.raises(ValueError, match="into CMT 1 has RATE=-1.*give rate="):
        table.doses(rate={2: 20.0}, duration=4.0)
    with pytest.raises(ValueError, match="no dose of the table has RATE=-1"):
        read_dose_table(records(), gut).doses(rate=3.0)


def test_what_belongs_to_no_compartment(path):
    with pytest.raises(ValueError, match=r"doses\(lag=...\) has the compartment 3: those with doses are 1, 2"):
        read_dose_table(path, INTO).doses(lag={3: 1.0})
    with pytest.raises(ValueError, match="not told apart by CMT"):
        read_dose_table(path, gut).doses(lag={1: 1.0})


def test_observations_on_either_side_of_a_dose():
    columns = dict(TIME=[0, 0, 8, 8, 10, 10], AMT=[0, 100, 0, 50, 50, 0], EVID=[0, 1, 0, 4, 1, 2])
    table = read_dose_table(records(**columns), gut)
    equal(table.ts, [[0, 8, 10]])
    equal(table.side, [[False, False, True]])
    equal(table.t1, [10.01])  # so that the dose at 10 is given
    additional = dict(TIME=[0, 12, 24, 30], AMT=[100, 0, 0, 0], II=[12, 0, 0, 0], ADDL=[1, 0, 0, 0])
    equal(read_dose_table(records(**additional), gut).side, [[True, False, False]])
    alone = read_dose_table(records(TIME=[5, 5], AMT=[100, 0]), gut)
    equal(alone.side, [[True]])
    equal(alone.t1, [6])
    with pytest.raises(ValueError, match=r"record 2 \(ID 1\) stands between doses of its own time, 3"):
        read_dose_table(records(TIME=[3, 3, 3], AMT=[1, 0, 1]), gut)


# --- Steady state


@pytest.mark.parametrize("lag", [0.0, 1.5])
def test_a_steady_state_at_the_beginning(lag):
    """Of one compartment, against the sum of a geometric series."""
    columns = dict(TIME=[48, 60], AMT=[100, 0], EVID=[1, 0], II=[12, 0], SS=[1, 0])
    table = read_dose_table(records(**columns), gut, steady_doses=np.int64(40))
    equal(table.t0, [48 - 40 * 12])
    equal(table.ts, [[60]])
    found = jumps(of_subject(table, 0), lag=lag)
    repeated = 100 / (1 - np.exp(-0.2 * 12))
    for since in (0.0, 1.0, 11.0):
        then = 48 - table.t0[0] + since
        expected = repeated * np.exp(-0.2 * ((since - lag) % 12))
        np.testing.assert_allclose(by_jumps(found, 0.2, [0, 0], then)[1], expected, rtol=1e-12)


def test_a_steady_state_later():
    columns = dict(TIME=[0, 100, 101], AMT=[7, 100, 0], EVID=[1, 1, 0], II=[0, 12, 0], SS=[0, 1, 0])
    resets, steady, doses = read_dose_table(records(**columns), gut, steady_doses=8).doses()
    equal(resets.ts, [[4]])
    equal(doses.ts, [[0, *np.arange(4, 101, 12)]])
    equal((steady.ts, steady.since, steady.order), ([[100]], [[88]], [[1]]))
    steady, doses = read_dose_table(records(**{**columns, "SS": [0, 2, 0]}), gut, steady_doses=8).doses()
    equal(doses.ts, [[0, *np.arange(4, 101, 12)]])
    with pytest.raises(ValueError, match=r"record 2 \(ID 1\) has SS=1, and the 9 doses that lead to it begin at -8"):
        read_dose_table(records(**columns), gut, steady_doses=9)
    with pytest.raises(ValueError, match="record 2.*give steady_doses="):
        read_dose_table(records(**columns), gut)


def test_additional_doses_after_a_steady_state():
    columns = dict(TIME=[0, 30], AMT=[100, 0], EVID=[1, 0], II=[12, 0], SS=[1, 0], ADDL=[2, 0])
    _, _, doses = read_dose_table(records(**columns), gut, steady_doses=2).doses()
    equal(doses.ts, [[-24, -12, 0, 12, 24]])


def test_covariates_while_doses_lead_to_a_steady_state():
    """They are those of the dose's own record, whatever they were before."""
    columns = dict(TIME=[0, 100, 101], EVID=[1, 1, 0], AMT=[7, 100, 0], II=[0, 12, 0], SS=[0, 1, 0], WT=[70, 75, 80])
    table = read_dose_table(records(**columns), gut, covariates="WT", steady_doses=8)
    equal(table.covariate_ts, [[0, 4, 100, 101]])
    equal(table.covariates["WT"], [[70, 75, 75, 80]])
    both = {name: [*values, *values[1:2]] for name, values in {**columns, "ID": [1, 1, 1]}.items()}
    table = read_dose_table({**both, "ID": [1, 1, 1, 2]}, gut, covariates="WT", steady_doses=8)
    equal(table.covariate_ts[1], [4, 100, 101, 102])
    equal(table.t1, [101, 100 + 0.096])  # the last dose is given, so that it is seen whether the state is steady
    last = read_dose_table(records(**{**columns, "TIME": [4, 100, 101]}), gut, covariates="WT", steady_doses=8)
    equal(last.covariate_ts, [[4, 100, 101]])
    equal(last.covariates["WT"], [[75, 75, 80]])


def test_tolerances_of_steady_states():
    given = read_dose_table(records(SS=[1], II=[12]), gut, steady_doses=3).doses(steady_rtol=1e-3, steady_atol={"gut": 1e-2})
    assert given[1].rtol == 1e-3 and given[1].atol == {"gut": 1e-2}
    with pytest.raises(ValueError, match="rtol"):
        read_dose_table(records(SS=[1], II=[12]), gut, steady_doses=3).doses(steady_rtol=-1.0)
    with pytest.raises(ValueError, match=r"doses\(steady_atol=...\): no dose of the table has SS"):
        read_dose_table(records(), gut).doses(steady_atol=1e-3)


# --- What is refused


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (dict(ID=[]), "no records"),
        (dict(TIME=[0, 1], ID=[1, 1], AMT=[1]), "different lengths"),
        (dict(TIME=[[0]]), "one value for each record"),
        (dict(TIME=["noon"]), "column TIME, record 1: 'noon' is no number"),
        (dict(TIME=[np.nan]), r"record 1 \(ID 1\): TIME is nan"),
        (dict(EVID=[5]), "EVID is 5: expected 0, 1, 2, 3 or 4"),
        (dict(EVID=[0.5]), "EVID is 0.5: expected an integer"),
        (dict(EVID=[0]), "EVID is 0 and AMT is 100"),
        (dict(EVID=[3]), "EVID is 3 and AMT is 100"),
        (dict(EVID=[2], AMT=[0], ADDL=[1]), "EVID is 2 and ADDL is 1"),
        (dict(RATE=[-3]), "RATE is -3"),
        (dict(RATE=[2], AMT=[0], EVID=[1]), "give an amount above 0"),
        (dict(II=[-1]), "II is -1"),
        (dict(ADDL=[-1]), "ADDL is -1"),
        (dict(ADDL=[2]), "ADDL is 2 and II is 0"),
        (dict(SS=[4]), "SS is 4"),
        (dict(SS=[1]), "SS without II"),
        (dict(MDV=[2]), "MDV is 2"),
        (dict(AMT=[0], MDV=[0], DV=[np.nan]), "DV is missing"),
        (dict(TIME=[1, 0]), r"record 2 \(ID 1\): TIME goes back from 1 to 0"),
        (dict(ID=[1, 2, 1]), r"record 3 \(ID 1\): this ID had records further above"),
        (dict(CMT=[7]), "CMT 7, which into= does not have: it has 1, 2"),
    ],
)
def test_what_is_wrong_with_a_table(columns, words):
    with pytest.raises(ValueError, match=words):
        read_dose_table(records(**columns), INTO)


def test_what_is_no_table(tmp_path):
    with pytest.raises(TypeError, match="expected a dict of columns"):
        read_dose_table(3, gut)
    with pytest.raises(ValueError, match="no column 'AMT': it has ID, TIME, amt. Did you mean 'amt'.*columns="):
        read_dose_table({"ID": [1], "TIME": [0], "amt": [1]}, gut)
    with pytest.raises(ValueError, match="no column 'mass'"):
        read_dose_table(records(), gut, covariates="mass")
    with pytest.raises(ValueError, match="no column 'hours'"):
        read_dose_table(records(), gut, columns={"TIME": "hours"})
    with pytest.raises(ValueError, match="columns has 'time'"):
        read_dose_table(records(), gut, columns={"time": "hours"})
    with pytest.raises(TypeError, match="into is"):
        read_dose_table(records(), "gut")
    with pytest.raises(ValueError, match="covariate WT has no value"):
        read_dose_table(records(WT=[np.nan]), gut, covariates=["WT"])
    for count in (0, 1.5, True):
        with pytest.raises(ValueError, match="steady_doses="):
            read_dose_table(records(SS=[1], II=[12]), gut, steady_doses=count)
    with pytest.raises(ValueError, match="no dose of the table has SS"):
        read_dose_table(records(), gut, steady_doses=3)
    for text, words in (("", "is empty"), ("ID,TIME,AMT\n1,0\n", "record 1 has 2 values, but there are 3 columns")):
        (tmp_path / "table.csv").write_text(text)
        with pytest.raises(ValueError, match=words):
            read_dose_table(tmp_path / "table.csv", gut)
