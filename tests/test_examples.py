"""Every example runs as its reader would run it, small where it can be, says what it found, and draws its picture."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import jax_cubie

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9][0-9]_*.py"))
SMALL = {
    "02_theophylline": ["--starts", "8"],
    "08_robertson": ["--lanes", "1000"],
    "09_hodgkin_huxley": ["--neurons", "200"],
    "10_drivers": ["--lanes", "200"],
    "11_doses": ["--patients", "200"],
    "12_impact_oscillator": ["--lanes", "400"],
    "13_poincare_section": ["--lanes", "200"],
    "14_spike_counts": ["--side", "12"],
    "15_times_of_impacts": ["--recordings", "100"],
    "16_measured_contacts": ["--lanes", "2000"],
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_draws(path):
    paths = [str(Path(jax_cubie.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(path), *SMALL.get(path.stem, [])]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert run.returncode == 0, run.stderr
    drawn = [line.removeprefix("drawn: ") for line in run.stdout.splitlines() if line.startswith("drawn: ")]
    assert drawn, run.stdout
    for name in drawn:
        assert (path.parent / name).read_bytes().startswith(b"\x89PNG")


def test_examples_are_numbered_from_one():
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))


@pytest.mark.usefixtures("x64")
def test_an_update_of_theophyllines_fit_is_one_launch():
    """Residuals and Jacobian together; the second launch is for the sums of squares at the end."""
    example = runpy.run_path(str(EXAMPLES[1]))
    subjects = tuple(map(jnp.asarray, example["read_subjects"]()))
    text = example["levenberg_marquardt"].lower(jnp.zeros((12, 2, 3)), subjects, 50).as_text()
    assert len(re.findall(r"custom_call @jax_cubie", text)) == 2
