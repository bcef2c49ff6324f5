"""What an image is built for, and how each target spells a device function, an intrinsic and shared memory."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

CUDA_ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)


class BuildError(RuntimeError):
    """An image could not be built; the message says what is missing or wrong and what to do."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine that images are built for: the host's processor, or a CUDA architecture.

    `platform` is "cpu" or "cuda"; `architecture` is the compute capability times ten (90 for an H100), 0 on the host.
    """

    platform: str
    architecture: int = 0

    @classmethod
    def parse(cls, text: str | Target) -> Target:
        """`"cpu"` or `"cuda:90"`. Raises ValueError for anything else."""
        if isinstance(text, Target):
            return text
        if text == "cpu":
            return cls("cpu")
        match = re.fullmatch(r"cuda:(\d+)", text) if isinstance(text, str) else None
        if match is None or int(match.group(1)) not in CUDA_ARCHITECTURES:
            known = ", ".join(f"'cuda:{number}'" for number in CUDA_ARCHITECTURES)
            raise ValueError(f"unknown target {text!r}: expected 'cpu' or one of {known}")
        return cls("cuda", int(match.group(1)))

    def __str__(self) -> str:
        return "cpu" if self.platform == "cpu" else f"cuda:{self.architecture}"


def default_targets(platform: str) -> tuple[Target, ...]:
    """The targets for the machine at hand: the host, or each architecture among the CUDA devices that JAX sees.

    A computation is lowered for a kind of device, not for one of them, and may be run on any. `JAX_CUBIE_CUDA_TARGET` names
    other architectures, for exporting to devices that are not here.
    """
    if platform == "cpu":
        return (Target("cpu"),)
    chosen = os.environ.get("JAX_CUBIE_CUDA_TARGET")
    if chosen:
        targets = {Target.parse(name.strip()) for name in chosen.split(",")}
        if any(target.platform != "cuda" for target in targets):
            said = "expected CUDA architectures, as in 'cuda:90' or 'cuda:80,cuda:90'"
            raise ValueError(f"JAX_CUBIE_CUDA_TARGET={chosen!r}: {said}")
        return tuple(sorted(targets, key=lambda target: target.architecture))
    import jax

    try:
        devices = jax.devices("cuda")  # of all processes, which have to lower the same
    except RuntimeError as error:
        raise BuildError(
            "no CUDA device is present, so there is no architecture to build for: set JAX_CUBIE_CUDA_TARGET=cuda:90, say, "
            "to build for a device that is not here"
        ) from error
    return tuple(Target("cuda", number) for number in sorted({_architecture_of(device) for device in devices}))


def _architecture_of(device: Any) -> int:
    major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
    if not major.isdigit():
        raise BuildError(
            f"JAX does not say which compute capability {device} has: set JAX_CUBIE_CUDA_TARGET, as in cuda:90"
        )
    return supported_architecture(int(major) * 10 + int(minor or 0))


def supported_architecture(architecture: int) -> int:
    """The newest architecture we know that a device of `architecture` can run (code for 8.0 runs on 8.6, not on 9.0)."""
    fitting = [known for known in CUDA_ARCHITECTURES if known <= architecture]
    if not fitting:
        raise BuildError(
            f"the device's compute capability is {architecture / 10:.1f}; the oldest supported is "
            f"{CUDA_ARCHITECTURES[0] / 10:.1f}"
        )
    return fitting[-1]


@dataclasses.dataclass(frozen=True)
class Resources:
    """What one thread of an image takes: on CUDA as the assembler reports it, on the host the stack alone, at most."""

    registers: int = 0
    stack_bytes: int = 0
    spill_bytes: int = 0
    shared_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Image:
    """Machine code for one target: what travels inside the custom call.

    `data` is what the handler loads (on CUDA a container with a cubin and its PTX, on the host a header and an object
    file). It is a pure function of the plan it was built from: equal plans give equal bytes, in any process.
    """

    target: Target
    data: bytes
    resources: Resources = Resources()


def join_images(images: Sequence[Image]) -> Image:
    """One image for the devices of all, whose kernels take the same; target and resources are the first one's."""
    first, *others = images
    if not others:
        return first
    from .library import join_blobs

    return dataclasses.replace(first, data=join_blobs([image.data for image in images]))
