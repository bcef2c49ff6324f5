"""`python -m jax_cubie`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jax_cubie import __main__ as command
from jax_cubie.kernel import disk


def test_reports_and_succeeds(tmp_path):
    # Not in the repository's root, where python -m would find the sources instead of what is installed.
    paths = [str(Path(command.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    arguments = [sys.executable, "-m", "jax_cubie"]
    run = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=env)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = {line[:14].strip(): line[15:] for line in run.stdout.splitlines()}
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", rows["jax"]) and re.fullmatch(r"\d+\.\d+\.\d+\S*", rows["numba"])
    assert rows["compiled part"].endswith("libjax_cubie_ffi.so")
    assert rows["solve on cpu"].startswith("right: ")


@pytest.mark.parametrize("reference", [(0.0, 0.0, 0.0), (float("nan"),) * 3])
def test_a_wrong_solution_is_a_failure(monkeypatch, capsys, reference):
    monkeypatch.setattr(command, "_REFERENCE", reference)
    assert command.main([]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_an_exception_is_a_failure(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no machine code today")

    monkeypatch.setattr("jax_cubie.solve", broken)
    assert command.main([]) == 1
    assert "FAILED: RuntimeError: no machine code today" in capsys.readouterr().out


def test_what_is_missing_is_said():
    assert command._version("a-distribution-that-nobody-has") == "not installed"


def test_clearing_the_cache(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "images"
    monkeypatch.setenv("JAX_CUBIE_CACHE", str(folder))
    assert command.main(["--clear-cache"]) == 0
    disk.write("a.image", b"12345")
    assert command.main(["--clear-cache"]) == 0
    folder.chmod(0o777)
    assert command.main(["--clear-cache"]) == 1
    monkeypatch.setenv("JAX_CUBIE_CACHE", "")
    assert command.main(["--clear-cache"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"{what} taken out of {folder}" for what in ("0 images of 0 bytes", "1 image of 5 bytes")]
    assert "mode 0777" in said[2] and said[3] == "no images are kept (JAX_CUBIE_CACHE is empty)"
