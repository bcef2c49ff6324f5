"""Every example runs as its reader would run it, says what it found, and draws its picture."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jax_cubie

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_draws(path):
    paths = [str(Path(jax_cubie.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    run = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300, env=env)
    assert run.returncode == 0, run.stderr
    drawn = [line.removeprefix("drawn: ") for line in run.stdout.splitlines() if line.startswith("drawn: ")]
    assert drawn, run.stdout
    for name in drawn:
        assert (path.parent / name).read_bytes().startswith(b"\x89PNG")


def test_examples_are_numbered_from_one():
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))
