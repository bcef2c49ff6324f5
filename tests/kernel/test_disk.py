"""The folder of images: whom it trusts, how large it gets, and what else belongs into a key."""

import os
import re
import stat
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from jax_cubie.kernel import cache, disk, toolchain
from jax_cubie.kernel.target import Image, Resources, Target

KEY = "ab" * 32
NAME = f"{KEY}.image"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder's path; it does not exist yet, and nothing has been warned of."""
    monkeypatch.setattr(disk, "_warned", set())
    monkeypatch.setenv("JAX_CUBIE_CACHE", str(tmp_path / "images"))
    monkeypatch.delenv("JAX_CUBIE_CACHE_SIZE", raising=False)
    cache.forget()
    yield tmp_path / "images"
    cache.forget()


def images():
    """Two images of two keys, each asked for as a process would that has just begun."""
    found = []
    for key in (KEY, "cd" * 32):
        cache.forget()
        found.append(cache.image(key, "a test", lambda dump: Image(Target("cpu"), b"built", Resources(1))).data)
    return found


def planted(folder):
    """An entry as another may have put it there: were it run, it would be seen."""
    images()
    path = folder / NAME
    cache._write(KEY, Image(Target("cpu"), b"planted", Resources(1)))
    assert images()[0] == b"planted"
    return path


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


# --- Whom it trusts


def test_others_can_neither_read_nor_write(folder):
    old = os.umask(0)
    try:
        images()
    finally:
        os.umask(old)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600] * 2


def shared(path):
    path.chmod(0o770)


def open_to_all(path):
    path.chmod(0o702)


def linked(path):
    moved = path.with_name("elsewhere")
    path.rename(moved)
    path.symlink_to(moved)


@pytest.mark.parametrize(
    ("change", "said"),
    [(shared, "mode 0770.*chmod go-w"), (open_to_all, "mode 0702.*chmod go-w"), (linked, "is a link")],
)
@pytest.mark.parametrize("what", ["folder", "entry"])
def test_what_others_could_have_made_is_not_run(folder, caplog, what, change, said):
    path = planted(folder)
    change(folder if what == "folder" else path)
    assert images() == [b"built"] * 2 == images()
    (warning,) = warnings_in(caplog)
    assert re.search(said, warning) and warning.startswith("the") and str(folder) in warning
    if what == "entry":  # written anew
        assert not path.is_symlink() and path.stat().st_mode & 0o777 == 0o600
        caplog.clear()
        assert images() == [b"built"] * 2 and not warnings_in(caplog)
    else:
        assert "JAX_CUBIE_CACHE" in disk.refusal()


def test_what_belongs_to_another_is_not_run(folder, caplog, monkeypatch):
    planted(folder)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert images() == [b"built"] * 2
    (warning,) = warnings_in(caplog)
    assert "belongs to user" in warning and "user 12345's" in warning


def test_an_entry_of_another_is_not_run(folder, caplog, monkeypatch):
    """In a folder that is one's own, as root may put it there."""
    planted(folder)
    real, seen = os.fstat, []

    def fstat(descriptor):
        status = real(descriptor)
        seen.append(status)
        if stat.S_ISREG(status.st_mode):
            status = os.stat_result([*status[:4], status.st_uid + 1, *status[5:]])
        return status

    monkeypatch.setattr(disk.os, "fstat", fstat)
    assert images() == [b"built"] * 2
    assert len(seen) >= 4 and "belongs to user" in warnings_in(caplog)[0] and len(warnings_in(caplog)) == 1


def test_a_pipe_or_folder_in_place_of_an_entry(folder, caplog):
    folder.mkdir(0o700)
    os.mkfifo(folder / NAME)
    (folder / f"{'cd' * 32}.image").mkdir()
    assert images() == [b"built"] * 2
    assert any("is no file" in warning for warning in warnings_in(caplog))


@pytest.mark.parametrize("home", [None, "somewhere"])
def test_a_relative_folder_is_none(home, tmp_path, monkeypatch, caplog, folder):
    """Whoever owns the current folder would own the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAX_CUBIE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user whom the system does not know
    else:
        monkeypatch.setenv("HOME", home)
    assert images() == [b"built"] * 2
    (warning,) = warnings_in(caplog)
    assert "expected an absolute path" in warning and ("HOME is not set" in warning) == (home is None)
    assert list(tmp_path.iterdir()) == []


def test_where_it_is(monkeypatch):
    for variables, wanted in (
        (dict(JAX_CUBIE_CACHE="/a/b"), "/a/b"),
        (dict(JAX_CUBIE_CACHE="~/b", HOME="/home/me"), "/home/me/b"),
        (dict(XDG_CACHE_HOME="/x", HOME="/home/me"), "/x/jax_cubie"),
        (dict(XDG_CACHE_HOME="x", HOME="/home/me"), "/home/me/.cache/jax_cubie"),
    ):
        for name in ("JAX_CUBIE_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert str(disk.directory()) == wanted


def test_dumps_follow_no_links(folder, tmp_path, monkeypatch):
    mine = tmp_path / "precious"
    mine.write_text("mine")
    monkeypatch.setenv("JAX_CUBIE_DUMP", str(tmp_path / "dumps"))
    image = Image(Target("cpu"), b"built", Resources(1))

    def build(dump):
        dump("ll", "text")
        return image

    cache.image(KEY, "a test", build)
    (written,) = (tmp_path / "dumps").iterdir()
    assert written.read_text() == "text" and (tmp_path / "dumps").stat().st_mode & 0o777 == 0o700
    written.unlink()
    written.symlink_to(mine)
    cache.forget()
    with pytest.raises(RuntimeError, match="JAX_CUBIE_DUMP"):
        cache.image(KEY, "a test", build)
    assert mine.read_text() == "mine"


# --- How large it gets


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_not_used_for_longest_goes_first(folder, monkeypatch):
    monkeypatch.setenv("JAX_CUBIE_CACHE_SIZE", "3k")
    for number, name in enumerate("abc"):
        disk.write(f"{name}.image", bytes(1024))
        os.utime(folder / f"{name}.image", (1000 + number, 1000 + number))
    assert disk.read("a.image") == bytes(1024)  # used now
    disk.write("d.image", bytes(1000))
    assert names(folder) == ["a.image", "c.image", "d.image"]
    disk.write("large.image", bytes(4096))  # would drive all others out, and then itself
    assert names(folder) == ["a.image", "c.image", "d.image"]
    monkeypatch.setenv("JAX_CUBIE_CACHE_SIZE", "0")
    disk.write("e.image", b"x")
    assert "e.image" not in names(folder)


def test_unfinished_files_go(folder):
    folder.mkdir(0o700)
    for name in (".writing-old", ".writing-new", "notes.txt"):
        (folder / name).write_bytes(b"half")
    os.utime(folder / ".writing-old", (1000, 1000))
    os.utime(folder / "notes.txt", (1000, 1000))
    disk.write("a.image", b"x")
    assert names(folder) == [".writing-new", "a.image", "notes.txt"]


def test_sizes_as_people_write_them(folder, monkeypatch, caplog):
    sizes = {"0": 0, "123": 123, "2k": 2048, "1.5 MB": 3 << 19, "2GiB": 2 << 30, "1T": 1 << 40, "": 1 << 30}
    for text, size in sizes.items():
        monkeypatch.setenv("JAX_CUBIE_CACHE_SIZE", text)
        assert disk.limit() == size
    assert not warnings_in(caplog)
    for text in ("much", "-1", "1P", "nan"):
        monkeypatch.setenv("JAX_CUBIE_CACHE_SIZE", text)
        assert disk.limit() == 1 << 30
    (warning,) = warnings_in(caplog)
    assert "JAX_CUBIE_CACHE_SIZE='much': expected a number of bytes, as in 500M or 2G" in warning


def test_several_at_once(folder, monkeypatch, caplog):
    """Writers that take each other's entries away, and readers of them: nobody fails, and nobody reads half an entry."""
    monkeypatch.setenv("JAX_CUBIE_CACHE_SIZE", "8k")
    wrong, stop = [], time.monotonic() + 1.0

    def work(number):
        turn = 0
        while time.monotonic() < stop:
            turn += 1
            name = f"{(number + turn) % 16}.image"
            try:
                disk.write(name, name.encode() * 200)
                found = disk.read(f"{(number * 5 + turn) % 16}.image")
            except Exception as error:
                wrong.append(error)
                raise
            if found is not None and found != found[: len(found) // 200] * 200:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and not warnings_in(caplog)
    disk.write("last.image", b"x")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8192
    assert not [name for name in names(folder) if name.startswith(".")]


def test_clear(folder):
    with pytest.raises(FileNotFoundError):
        disk.clear()
    images()
    (folder / ".writing-now").write_bytes(b"half")
    (folder / "notes.txt").write_bytes(b"not ours")
    size = sum(path.stat().st_size for path in folder.glob("*.image"))
    assert disk.clear() == (2, size)
    assert names(folder) == ["notes.txt"]
    folder.chmod(0o777)
    with pytest.raises(disk.Refused):
        disk.clear()


# --- What else belongs into a key


def test_what_machine_code_depends_on(monkeypatch):
    """Settings of Numba's, wherever they are set, Python and the compilers' versions."""
    import numba

    before = cache.content_key(Target("cpu"), "x")
    assert before == cache.content_key(Target("cpu"), "x") != cache.content_key(Target("cuda", 90), "x")
    assert any("Python 3." in line for line in toolchain.toolchain("cpu"))
    for name, value in dict(OPT=0, LOOP_VECTORIZE=0, BOUNDSCHECK=1, CPU_NAME="generic", DEBUGINFO_DEFAULT=1).items():
        with monkeypatch.context() as changed:
            changed.setattr(numba.config, name, value)
            assert cache.content_key(Target("cpu"), "x") != before, name
        assert cache.content_key(Target("cpu"), "x") == before
    with monkeypatch.context() as changed:
        changed.setattr(numba.config, "COLOR_SCHEME", "dark_bg")
        assert cache.content_key(Target("cpu"), "x") == before
    assert toolchain.toolchain("cuda")[1:] != toolchain.toolchain("cpu")[1:]


@pytest.mark.filterwarnings("ignore:A Numba config file is found")
def test_numbas_file_of_settings(monkeypatch, tmp_path):
    before = cache.content_key(Target("cpu"), "x")
    monkeypatch.chdir(tmp_path)
    assert cache.content_key(Target("cpu"), "x") == before
    (tmp_path / ".numba_config.yaml").write_text("opt: 1\n")
    assert cache.content_key(Target("cpu"), "x") != before


SAME_KEY = """
    import os, sys
    if sys.argv[1] == "imported":
        import numba, numba.cuda
    from jax_cubie.kernel import cache
    from jax_cubie.kernel.target import Target
    def keys():
        return cache.content_key(Target("cpu"), 1), cache.content_key(Target("cuda", 90), 1)
    before = keys()
    assert ("numba" in sys.modules) == (sys.argv[1] == "imported")
    from jax_cubie.kernel import numba_cuda, numba_host
    assert keys() == before
    print(*before)
"""


def test_importing_numba_changes_no_key():
    said = []
    for what, more in (("not", {}), ("imported", dict(NUMBA_NUM_THREADS="1")), ("not", dict(NUMBA_OPT="1"))):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SAME_KEY), what],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | dict(JAX_PLATFORMS="cpu") | more,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert said[0] == said[1] and not set(said[0]) & set(said[2])


@pytest.mark.parametrize("name", ["nvvm/lib64/libnvvm.so.4", "nvvm/libdevice/libdevice.10.bc", "lib64/libnvJitLink.so.13"])
def test_a_compiler_put_in_another_ones_place(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a compiler")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    before = toolchain.compilers()
    assert any(str(path) in line for line in before)
    os.utime(path, ns=(1, 1))
    older = toolchain.compilers()
    path.write_bytes(b"another compiler")
    os.utime(path, ns=(1, 1))
    assert len({before, older, toolchain.compilers()}) == 3


def test_the_compilers_that_are_loaded_are_among_them():
    from cuda.pathfinder import load_nvidia_dynamic_lib
    from numba.cuda.cudadrv.libs import get_libdevice

    known = "\n".join(toolchain.compilers())
    for name in ("nvvm", "nvJitLink"):
        assert os.path.realpath(load_nvidia_dynamic_lib(name).abs_path) in known
    assert os.path.realpath(get_libdevice()) in known
