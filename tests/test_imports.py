"""Imports run downwards through the rooms of the house, so that each can be read without those above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import jax_cubie

PACKAGE = Path(jax_cubie.__file__).parent
# Top to bottom: a room imports from those below it only.
ROOMS = (
    "__main__",
    "__init__",
    "solve",
    "solver",
    "inspection",
    "primitive",
    "build",
    "plan",
    "loop",
    "loop_parts",
    "loop_saving",
    "user_function",
    "addressing",
    "problem",
    "loop_buffers",
    "methods",
    "controllers",
    "outputs",
    "solution",
    "buffers",
    "translate",
    "operands",
    "times",
    "settings",
    "kernel",
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
