"""What every test shares: an image cache of their own, the platforms present, and the count of builds."""

import logging
import os
import shutil
import sys
import tempfile

import pytest

_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not _WORKER:  # xdist's workers inherit the folder, and so build an image once
    os.environ["JAX_CUBIE_CACHE"] = os.environ.get("JAX_CUBIE_TEST_CACHE") or tempfile.mkdtemp(prefix="jax_cubie_tests_")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# A subprocess imports the jax_cubie that is tested here: not the sources in the current folder, which may lack the compiled
# part.
os.environ["PYTHONSAFEPATH"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(folder for folder in sys.path if folder)

import jax  # noqa: E402
from solve_helpers import has_cuda  # noqa: E402


class _Builds(logging.Handler):
    """The images built while it listens, by their title."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.titles: list[str] = []

    def emit(self, record):
        if record.getMessage().startswith("built an image for "):
            self.titles.append(record.getMessage().partition(" s: ")[2])

    @property
    def count(self) -> int:
        return len(self.titles)

    def new(self) -> int:
        """How many since the last time."""
        count = self.count
        self.titles.clear()
        return count


_session = _Builds()
_of_workers: list[int] = []


def pytest_configure(config):
    logger = logging.getLogger("jax_cubie")
    logger.setLevel(logging.INFO)
    logger.addHandler(_session)


def pytest_sessionfinish(session):
    if _WORKER:
        session.config.workeroutput["jax_cubie_builds"] = _session.count


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.name != "test_eight_host_devices")  # a long one: others are to run beside it


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    _of_workers.append(getattr(node, "workeroutput", {}).get("jax_cubie_builds", 0))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"jax_cubie images built: {_session.count + sum(_of_workers)}")


def pytest_unconfigure(config):
    if not (_WORKER or "JAX_CUBIE_TEST_CACHE" in os.environ):
        shutil.rmtree(os.environ["JAX_CUBIE_CACHE"], ignore_errors=True)


def pytest_generate_tests(metafunc):
    if "platform" in metafunc.fixturenames:
        metafunc.parametrize("platform", ["cpu", "cuda"] if has_cuda() else ["cpu"], indirect=True)


@pytest.fixture
def platform(request):
    """Runs the test once for each platform present, which it gives the name of: "cpu", "cuda"."""
    with jax.default_device(jax.devices(request.param)[0]):
        yield request.param


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """The images built during the test, which begins with nothing cached: `count`, `titles`, `new()` to count anew."""
    from jax_cubie.kernel import cache, disk

    monkeypatch.setenv("JAX_CUBIE_CACHE", str(tmp_path / "images"))
    monkeypatch.setattr(disk, "_warned", set())
    cache.forget()
    jax.clear_caches()
    handler = _Builds()
    logging.getLogger("jax_cubie").addHandler(handler)
    yield handler
    logging.getLogger("jax_cubie").removeHandler(handler)
    cache.forget()
    jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 for the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def cuda():
    """Runs the test on a GPU."""
    if not has_cuda():
        pytest.skip("needs a CUDA device")
    with jax.default_device(jax.devices("cuda")[0]):
        yield
