"""Imports run downwards through the rooms of the house, so that each can be read without those above it."""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import jax_cubie

PACKAGE = Path(jax_cubie.__file__).parent
# Top to bottom: a room imports from those below it only.
ROOMS = (
    "__main__",
    "__init__",
    "diffrax",
    "front_doors",
    "scipy_spelling",
    "solver",
    "choices",
    "inspection",
    "primitive",
    "derivatives",
    "launch",
    "build",
    "plan",
    "problem",
    "methods",
    "nonlinear",
    "inputs",
    "outputs",
    "controllers",
    "linear",
    "loop",
    "solution",
    "buffers",
    "translate",
    "operands",
    "times",
    "field_errors",
    "printing",
    "foreign_names",
    "settings",
    "kernel",
    "content",
)
# The command uses the public names.
UPWARDS = {("__main__", "__init__")}


def imports(path: Path) -> Iterator[str]:
    """The rooms that a file imports from, leaving out what is for type checkers only."""
    package = path.relative_to(PACKAGE).parent.parts
    tree = ast.parse(path.read_text())
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    hidden = {id(inner) for block in blocks for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in hidden:
            above = package[: len(package) - (node.level - 1)]
            named = [*above, *(node.module or "").split(".")] if node.module else list(above)
            yield from [named[0]] if named else [alias.name for alias in node.names]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_room_has_its_place():
    assert {room(path) for path in PACKAGE.rglob("*.py")} == set(ROOMS)


def test_imports_run_downwards():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports from {other}, which is above it"
        for path in sorted(PACKAGE.rglob("*.py"))
        for other in imports(path)
        if other in ROOMS and ROOMS.index(other) < ROOMS.index(room(path)) and (room(path), other) not in UPWARDS
    ]
    assert not wrong, "\n".join(wrong)


def test_numba_is_known_to_the_kernel_alone():
    for path in PACKAGE.rglob("*.py"):
        if room(path) != "kernel":
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                named = {name.partition(".")[0] for name in names}
                assert not named & {"numba", "jax_cubie"}, f"{path.relative_to(PACKAGE)}: line {getattr(node, 'lineno', 0)}"


def test_kernel_knows_nothing_of_odes():
    for path in (PACKAGE / "kernel").glob("*.py"):
        assert set(imports(path)) <= {"kernel"}, path


MODULES = sorted(
    ".".join(("jax_cubie", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__main__"
)


@pytest.mark.parametrize("name", MODULES)
def test_no_public_name_hides_a_module(name):
    """`import jax_cubie.a.b` and then `jax_cubie.a.b`: what stands there is the module."""
    module = importlib.import_module(name)
    found = jax_cubie
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    assert found is module


def test_public_names_after_every_module_is_imported():
    """An import puts the module into the package by its name: none takes the place of a public one."""
    lines = ["import jax_cubie", "before = {n: getattr(jax_cubie, n) for n in jax_cubie.__all__}"]
    lines += [f"import {name}" for name in MODULES]
    lines += ["assert all(getattr(jax_cubie, n) is value for n, value in before.items())"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=120)


def test_version():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert jax_cubie.__version__ == project["version"]
