"""Images by content: in memory for the process, on disk for the next one.

A key names everything an image depends on. An entry that is damaged, foreign or unreadable is built again, and a disk
that can't be written costs a warning, not the solve.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import disk
from .target import BuildError, Image, Resources, Target
from .toolchain import toolchain

logger = logging.getLogger("jax_cubie")

_MAGIC = b"jax_cubie image 1\n"
_SLOW_BUILD = 1.0  # seconds from which a build says so at the level that is shown by default

_images: dict[str, Image] = {}
_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()
_building = 0  # threads that are at it
_collects = True  # whether Python collected garbage before the first of them


def dump_directory() -> Path | None:
    """Where every stage of a build is written: `JAX_CUBIE_DUMP`."""
    chosen = os.environ.get("JAX_CUBIE_DUMP")
    if not chosen:
        return None
    folder = Path(chosen).expanduser()
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"JAX_CUBIE_DUMP={chosen}: expected a folder that can be written; {error}") from error
    return folder


def content_key(target: Target, *content: object) -> str:
    """A key from plain data whose `repr` is the same in every process."""
    return hashlib.sha256(repr((toolchain(target.platform), str(target), *content)).encode()).hexdigest()


Dump = Callable[[str, str], None]


def image(key: str, title: str, build: Callable[[Dump], Image], *, lasting: bool = True) -> Image:
    """The image that `key` names: from memory, from disk, or built by `build(dump)`.

    `title` says what it is, for the log. A key that means something in this process only is not `lasting`: the disk
    is left out. Two threads that ask for one key at once build it once.
    """
    found = _images.get(key)
    if found is not None:
        return found
    with _guard:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        found = _images.get(key)
        if found is None:
            found = None if dump_directory() or not lasting else _read(key)  # a dump wants every stage
            if found is None:
                found = _build(key, title, build)
                if lasting:
                    _write(key, found)
            _images[key] = found
        return found


def forget() -> None:
    """Drops the images that this process holds; those on disk stay. For tests and measurements."""
    _images.clear()


def _build(key: str, title: str, build: Callable[[Dump], Image]) -> Image:
    folder = dump_directory()
    stages: list[str] = []

    def dump(suffix: str, text: str) -> None:
        stages.append(suffix)
        if folder is None:
            return
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW  # others' links lead to the user's files
            with os.fdopen(os.open(folder / f"{key[:16]}.{suffix}", flags, 0o600), "w") as file:
                file.write(text)
        except OSError as error:
            raise BuildError(f"JAX_CUBIE_DUMP={folder}: expected a folder that can be written; {error}") from error

    started = time.perf_counter()
    with _no_garbage_collection():
        built = build(dump)
    seconds = time.perf_counter() - started
    level = logging.WARNING if seconds > _SLOW_BUILD else logging.INFO
    logger.log(level, "built an image for %s in %.2f s: %s", built.target, seconds, title)
    return built


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python's search for unreachable cycles would take a quarter of a first build: it walks all that JAX and Numba hold.

    It is on again once no thread builds, if it was on before.
    """
    global _building, _collects
    with _guard:
        if not _building:
            _collects = gc.isenabled()
            gc.disable()
        _building += 1
    try:
        yield
    finally:
        with _guard:
            _building -= 1
            if not _building and _collects:
                gc.enable()


def _read(key: str) -> Image | None:
    name = f"{key}{disk.SUFFIX}"
    content = disk.read(name)
    if content is None:
        return None
    try:
        if not content.startswith(_MAGIC):
            raise ValueError("it is not an image")
        header_line, _, data = content[len(_MAGIC) :].partition(b"\n")
        header = json.loads(header_line)
        if header["key"] != key or header["sha256"] != hashlib.sha256(data).hexdigest():
            raise ValueError("its content does not match its header")
        return Image(Target(*header["target"]), data, Resources(**header["resources"]))
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("the cached image %s/%s is damaged (%s); building it again", disk.directory(), name, error)
        return None


def _write(key: str, built: Image) -> None:
    header = {
        "key": key,
        "target": [built.target.platform, built.target.architecture],
        "resources": dataclasses.asdict(built.resources),
        "sha256": hashlib.sha256(built.data).hexdigest(),
    }
    content = _MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n" + built.data
    disk.write(f"{key}{disk.SUFFIX}", content)
