"""The folder that keeps images between processes.

What is read from it is run, so who may write there may act in the user's name. Both the folder and each entry have to be the
user's own, and no other's to write, as seen through the open descriptors: a name could lead elsewhere a moment later. Parents
do not matter then, since who may exchange a folder can't make one that is the user's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("jax_cubie")

SUFFIX = ".image"
_WRITING = ".writing-"
_ABANDONED = 3600.0  # seconds after which a file that was never finished is taken away
_SIZE = "1G"
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

_warned: set[str] = set()


class Refused(Exception):
    """Why a folder or an entry is not used. `kind` is what is warned of once."""

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


def directory() -> Path | None:
    """Where images are kept: `JAX_CUBIE_CACHE`, else the user's cache folder; None where that variable is empty."""
    chosen = os.environ.get("JAX_CUBIE_CACHE")
    if chosen is not None:
        return Path(os.path.expanduser(chosen)) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # which the XDG specification calls invalid
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "jax_cubie"


def refusal() -> str:
    """Why the folder is not used; empty where it is, or where there is none yet."""
    try:
        with _open():
            return ""
    except Refused as error:
        return str(error)
    except OSError:
        return ""


def limit() -> int:
    """How many bytes are kept: `JAX_CUBIE_CACHE_SIZE`, as in 500M or 2G; 1G where it is not set."""
    chosen = os.environ.get("JAX_CUBIE_CACHE_SIZE") or _SIZE
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", chosen.strip().lower())
    if found is None:
        _warn_once("size", f"JAX_CUBIE_CACHE_SIZE={chosen!r}: expected a number of bytes, as in 500M or 2G; {_SIZE} is taken")
        found = re.fullmatch(r"(\d+)([a-z])", _SIZE.lower())
        assert found is not None
    return int(float(found[1]) * _UNITS[found[2]])


def read(name: str) -> bytes | None:
    """An entry's content; None where there is none that may be trusted."""
    try:
        with _open() as folder:
            if folder is None:
                return None
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe would wait
            with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
                _check(file.fileno(), f"the cached image {directory()}/{name}", stat.S_ISREG, "file")
                content = file.read()
                with contextlib.suppress(OSError):
                    os.utime(file.fileno())  # when it was last used
                return content
    except Refused as error:
        _warn_once(error.kind, f"{error}; built again")
    except FileNotFoundError:
        pass
    except OSError as error:
        if _is_link(name):
            _warn_once("link", f"the cached image {directory()}/{name} is a link, which is not followed; built again")
        else:
            logger.debug("%s", error)
    return None


def write(name: str, content: bytes) -> None:
    """Keeps an entry, and takes away the ones that were not used for longest where all are too many."""
    most = limit()
    try:
        with _open(make=True) as folder:
            if folder is None or len(content) > most:
                return
            # Written aside and renamed, so that another process never reads half a file.
            aside = f"{_WRITING}{secrets.token_hex(8)}"
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(aside, flags, 0o600, dir_fd=folder), "wb") as file:
                    file.write(content)
                os.replace(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(aside, dir_fd=folder)
                raise
            _trim(folder, most)
    except Refused as error:
        _warn_once(error.kind, f"{error}; no images are kept")
    except OSError as error:
        _warn_once(
            "write",
            f"an image could not be kept in {directory()} ({error}): it will be built again in the next process. Set "
            "JAX_CUBIE_CACHE to a folder that can be written, or to an empty string to keep none.",
        )


def clear() -> tuple[int, int]:
    """Takes all entries away; how many there were, and their bytes. Raises Refused, and OSError where there is no folder."""
    with _open() as folder:
        if folder is None:
            return 0, 0
        entries = _entries(folder, abandoned=-1.0)
        return len(entries), sum(size for _, name, size in entries if _remove(folder, name))


@contextlib.contextmanager
def _open(*, make: bool = False) -> Iterator[int | None]:
    """A descriptor of the folder; None where images are not to be kept. Raises Refused where it is not the user's alone."""
    path = directory()
    if path is None:
        yield None
        return
    advice = "set JAX_CUBIE_CACHE to a folder of your own, or to an empty string to keep none"
    if not path.is_absolute():
        home = "" if os.environ.get("HOME") else " (HOME is not set)"
        raise Refused(f"the image cache would be {path}{home}: expected an absolute path; {advice}", "relative")
    if make:
        path.mkdir(0o700, parents=True, exist_ok=True)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        if path.is_symlink():
            raise Refused(f"the image cache {path} is a link: {advice}", "folder") from None
        raise
    try:
        _check(folder, f"the image cache {path}", stat.S_ISDIR, "folder", advice)
        yield folder
    finally:
        os.close(folder)


def _check(descriptor: int, what: str, is_kind, kind: str, advice: str = "") -> None:
    """Raises Refused unless it is the user's own and no other may write to it."""
    status = os.fstat(descriptor)
    if not is_kind(status.st_mode):
        raise Refused(f"{what} is no {kind}", kind)
    why = None
    if status.st_uid != os.geteuid():
        why = f"belongs to user {status.st_uid}, and this process is user {os.geteuid()}'s"
    elif status.st_mode & 0o022:
        why = f"may be written to by others (mode {stat.S_IMODE(status.st_mode):04o}): chmod go-w it, if it is to be trusted"
    if why is not None:
        raise Refused(f"{what} is not used, since what it holds would be run: it {why}{advice and ', or ' + advice}", kind)


def _is_link(name: str) -> bool:
    folder = directory()
    return folder is not None and (folder / name).is_symlink()


def _entries(folder: int, abandoned: float = _ABANDONED) -> list[tuple[int, str, int]]:
    """When each entry was last used, its name and its size. Takes away what a process began to write and never finished."""
    entries = []
    now = time.time()
    with os.scandir(folder) as found:
        for entry in found:
            with contextlib.suppress(FileNotFoundError):  # another process took it
                status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                if entry.name.startswith(_WRITING):
                    if now - status.st_mtime > abandoned:
                        _remove(folder, entry.name)
                elif entry.name.endswith(SUFFIX) and not stat.S_ISDIR(status.st_mode):
                    entries.append((status.st_mtime_ns, entry.name, status.st_size))
    return entries


def _trim(folder: int, most: int) -> None:
    entries = _entries(folder)
    total = sum(size for _, _, size in entries)
    for _, name, size in sorted(entries):
        if total <= most:
            break
        _remove(folder, name)
        total -= size


def _remove(folder: int, name: str) -> bool:
    """Whether it was there: another process may have been first."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _warn_once(what: str, text: str) -> None:
    if what not in _warned:
        _warned.add(what)
        logger.warning("%s", text)
