"""The shared library with the XLA FFI handlers: found, loaded, registered with JAX.

The library runs images: opaque machine code for the host, a container of cubins and PTX for CUDA. An image
travels inside the custom call as base64, next to its key, the SHA-256 of its bytes. This module knows how an
image is wrapped and handed over; who made it, and from what, is not its business.
"""

import atexit
import base64
import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
import re
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

# The number is the version of the calling convention: an exported computation names it.
HOST_TARGET = "jax_cubie_host_2"
CUDA_TARGET = "jax_cubie_cuda_2"
ENTRY_SYMBOL = "jax_cubie_entry"

_FILE = "libjax_cubie_ffi.so"
_MAGIC = b"JAXCUBIE"
_CONTAINER_VERSION = 2
_KINDS = {"cubin": 1, "ptx": 2}
_HEADER = struct.Struct("<8sIII")
_BLOB = struct.Struct("<IIQQ")

_LOADER = ctypes.CFUNCTYPE(
    ctypes.c_size_t,  # address of the entry, or 0
    ctypes.c_char_p,  # key
    ctypes.c_void_p,  # image
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_size_t),  # bytes of stack that its code takes
    ctypes.c_void_p,  # message
    ctypes.c_size_t,
)

_lock = threading.RLock()
_registered = False
# The C library holds only a callback's address. Replaced ones stay, too: a thread may be inside.
_loaders: list[object] = []


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library. Raises ImportError where it is not installed or not fit for this jaxlib."""
    # All folders of the package, for an editable install has two: sources here, built files there.
    package = importlib.import_module(__name__.partition(".")[0])
    candidates = [Path(folder) / "_ffi" / _FILE for folder in package.__path__]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ImportError(
            f"jax_cubie's compiled part is missing: looked for {', '.join(map(str, candidates))}. "
            "Install the package (`pip install .` builds it), or build it into a checkout: "
            "`cmake -S ffi -B build/ffi && cmake --build build/ffi && cmake --install build/ffi --prefix .`"
        )
    try:
        loaded = ctypes.CDLL(str(found))
    except OSError as error:
        raise ImportError(f"jax_cubie's compiled part cannot be loaded: {error}") from error
    loaded.jax_cubie_set_host_loader.argtypes = [_LOADER]
    loaded.jax_cubie_set_host_loader.restype = None
    loaded.jax_cubie_add_host_entry.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t]
    loaded.jax_cubie_add_host_entry.restype = None
    loaded.jax_cubie_ffi_api_version.argtypes = []
    loaded.jax_cubie_ffi_api_version.restype = ctypes.c_int32
    _check_api_version(loaded.jax_cubie_ffi_api_version(), _runtime_api_version())
    return loaded


def _runtime_api_version() -> int | None:
    """The FFI API of the installed jaxlib, as major * 1000 + minor; None where its headers do not say."""
    try:
        text = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    except OSError:
        return None
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    if found[0] is None or found[1] is None:
        return None
    return int(found[0][1]) * 1000 + int(found[1][1])


def _check_api_version(built: int, runtime: int | None) -> None:
    """Refuses what XLA would refuse, since XLA takes the whole backend down with it."""
    if runtime is not None and built > runtime:
        jaxlib = importlib.metadata.version("jaxlib")
        raise ImportError(
            f"jax_cubie's compiled part was built on XLA FFI API {built // 1000}.{built % 1000}, and the "
            f"installed jaxlib {jaxlib} has {runtime // 1000}.{runtime % 1000}: install a newer jaxlib, or "
            "build jax_cubie again without --no-build-isolation"
        )


def register() -> None:
    """Makes both targets known to JAX. Calling it again does nothing.

    The CUDA target waits in JAX until a CUDA plugin starts, and forever where there is none.
    """
    global _registered
    with _lock:
        if _registered:
            return
        loaded = library()
        jax.ffi.register_ffi_target(
            HOST_TARGET, jax.ffi.pycapsule(loaded.jax_cubie_host_execute), platform="cpu"
        )
        jax.ffi.register_ffi_target(
            CUDA_TARGET,
            {
                "instantiate": jax.ffi.pycapsule(loaded.jax_cubie_cuda_instantiate),
                "initialize": jax.ffi.pycapsule(loaded.jax_cubie_cuda_initialize),
                "execute": jax.ffi.pycapsule(loaded.jax_cubie_cuda_execute),
            },
            platform="CUDA",
        )
        for name in (HOST_TARGET, CUDA_TARGET):
            jax.ffi.register_ffi_target_as_batch_partitionable(name)
        _registered = True


def set_host_loader(callback: Callable[[str, bytes], tuple[int, int]]) -> None:
    """Sets what loads a host image that this process does not know yet.

    `callback` takes the key and the image's bytes and returns the entry's address, which must stay valid for
    the rest of the process, and the bytes of stack that its code takes. It runs on a thread of XLA's, now and then
    on two at once with the same image.
    What it raises becomes the error of the computation.
    """

    def load(key: bytes, data: int | None, size: int, stack: Any, message: int, capacity: int) -> int:
        try:
            name = key.decode("ascii")
            image = ctypes.string_at(data, size) if data else b""
            if hashlib.sha256(image).hexdigest() != name:
                raise ValueError("the image is damaged: its bytes do not have the hash that its key says")
            address, stack[0] = callback(name, image)
            if address <= 0:
                raise ValueError(f"the loader returned {address}, which is no address")
            return address
        except BaseException as error:  # nothing may leave a C callback
            text = f"{type(error).__name__}: {error}".encode(errors="replace")[: capacity - 1] + b"\0"
            ctypes.memmove(message, text, len(text))
            return 0

    wrapped = _LOADER(load)
    with _lock:
        _loaders.append(wrapped)
        library().jax_cubie_set_host_loader(wrapped)


@atexit.register
def _forget_host_loader() -> None:
    # A computation still running at exit would call into an interpreter that is gone.
    if library.cache_info().currsize:
        library().jax_cubie_set_host_loader(_LOADER(0))


def add_host_entry(key: str, address: int, stack: int = 0) -> None:
    """Makes a loaded host image known by its key, so that the loader is not asked for it. `stack` in bytes."""
    if len(key) != 64:
        raise ValueError(f"a key is 64 hex digits, got {key!r}")
    if address <= 0:
        raise ValueError(f"{address} is no address")
    library().jax_cubie_add_host_entry(key.encode("ascii"), address, stack)


class Blob(NamedTuple):
    """Code for one CUDA architecture.

    kind: "cubin" or "ptx"; arch: as in 90; local_bytes: what a thread takes at least of local memory.
    """

    kind: str
    arch: int
    code: bytes
    local_bytes: int = 0


def pack_blobs(blobs: Sequence[Blob], parameters: int) -> bytes:
    """The CUDA image of code for one architecture or several; the handler finds what fits a device.

    `parameters` is how many the kernel has: the driver reads as many, however many it is handed.
    """
    if not blobs:
        raise ValueError("a CUDA image needs at least one blob")
    parts = [_HEADER.pack(_MAGIC, _CONTAINER_VERSION, len(blobs), parameters)]
    for blob in blobs:
        if blob.kind not in _KINDS:
            raise ValueError(f"a blob is one of {', '.join(_KINDS)}, got {blob.kind!r}")
        if not blob.code:
            raise ValueError(f"the {blob.kind} for sm_{blob.arch} is empty")
        parts.append(_BLOB.pack(_KINDS[blob.kind], blob.arch, blob.local_bytes, len(blob.code)))
    return b"".join([*parts, *(blob.code for blob in blobs)])


def unpack_blobs(image: bytes) -> list[Blob]:
    """What `pack_blobs` packed. Raises ValueError for a damaged image."""
    return _unpack(image)[0]


def join_blobs(images: Sequence[bytes]) -> bytes:
    """One CUDA image with the code of all, for kernels of equal parameters."""
    found = [_unpack(image) for image in images]
    if len({parameters for _, parameters in found}) != 1:
        raise ValueError(f"kernels of {', '.join(str(parameters) for _, parameters in found)} parameters make no one image")
    return pack_blobs([blob for blobs, _ in found for blob in blobs], found[0][1])


def _unpack(image: bytes) -> tuple[list[Blob], int]:
    names = {number: kind for kind, number in _KINDS.items()}
    try:
        magic, version, count, parameters = _HEADER.unpack_from(image)
        if magic != _MAGIC:
            raise ValueError(f"does not begin with the magic {_MAGIC.decode()}")
        if version != _CONTAINER_VERSION:
            raise ValueError(f"format version {version}, not {_CONTAINER_VERSION}")
        heads = [_BLOB.unpack_from(image, _HEADER.size + i * _BLOB.size) for i in range(count)]
        offset = _HEADER.size + count * _BLOB.size
        blobs = []
        for number, arch, local_bytes, size in heads:
            if number not in names:
                raise ValueError(f"unknown kind of blob {number}")
            blobs.append(Blob(names[number], arch, image[offset : offset + size], local_bytes))
            offset += size
        if offset != len(image):
            raise ValueError(f"{len(image)} bytes, its table says {offset}")
    except (struct.error, ValueError) as error:
        raise ValueError(f"damaged CUDA image: {error}") from None
    return blobs, parameters


def encode(image: bytes) -> tuple[str, str]:
    """An image's key and its base64 text, as the custom call carries them."""
    return hashlib.sha256(image).hexdigest(), base64.b64encode(image).decode("ascii")
