"""The README's code runs, block after block, as a reader would run it; so do the claims it makes with assert."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(name):
    """The Python blocks of a page with the number of the line that each begins on."""
    text = (ROOT / name).read_text()
    found = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in found]


def test_readme_runs_in_order(capsys):
    namespace = {"__name__": "readme"}
    for line, code in blocks("README.md"):
        # Newlines in front, so that a traceback names the README's own line.
        exec(compile("\n" * line + code, str(ROOT / "README.md"), "exec"), namespace)
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_blocks_are_python(name):
    for line, code in blocks(name):
        ast.parse("\n" * line + code, name)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_exist(name):
    text = (ROOT / name).read_text()
    folders = "jax_cubie|tests|examples|ffi"
    named = set(re.findall(rf"`(?:python )?((?:{folders})/[\w./]*)", text)) | set(re.findall(r"\]\(([\w./]+)\)", text))
    assert named
    for path in sorted(named):
        assert (ROOT / path).exists(), f"{name} names {path}"
