"""A look at an image without running it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from .build import image_of
from .kernel.library import unpack_blobs
from .kernel.target import Target
from .plan import Plan
from .problem import Request
from .settings import closest


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What an image is made of.

    target: what it was built for. program: f as typed instructions, one a line. registers, stack_bytes, spill_bytes: of a
    CUDA thread; on the host the stack alone, and at most. block: lanes of a block; shared_bytes: its shared memory. buffers:
    for each buffer its region and its words for one lane. ptx: the PTX ("" on the host). image_bytes: the size of the
    machine code.
    """

    target: str
    program: str
    registers: int
    stack_bytes: int
    spill_bytes: int
    block: int
    shared_bytes: int
    buffers: dict[str, tuple[str, int]]
    ptx: str
    image_bytes: int
    key: str


def inspect_request(request: Request, batched: Iterable[str] | str, target: str) -> Inspection:
    """Builds the image of a request whose arguments in `batched` have a lane axis."""
    problem = request.problem
    names = {operand.name for operand in problem.operands} - {"span", "offsets"} | {"t1"}
    names |= {"ts"} if problem.saving.points else set()
    args_names = {problem.operands[number].name for number in problem.field_operands[: request.args_leaves]}
    if not isinstance(batched, Iterable):
        raise TypeError(f"batched={batched!r}: expected the names of arguments, as ('y0', 'args')")
    chosen = {batched} if isinstance(batched, str) else set(batched)
    for name in chosen - names - {"args"}:
        said = ", ".join(sorted(names - args_names | {"args"}))
        raise ValueError(f"batched names {name!r}; expected some of {said}{closest(str(name), names | {'args'})}")
    if "args" in chosen:
        chosen |= args_names
    # What a time has to do with: the kernel counts from t0.
    for name, also in (("t0", ("span", "offsets")), ("t1", ("span",)), ("ts", ("offsets",))):
        if name in chosen:
            chosen |= set(also)
    operands = tuple(operand.batch(0 if operand.name in chosen else None) for operand in problem.operands)
    plan = Plan(problem, operands, 1, Target.parse(target))
    image = image_of(plan)
    return Inspection(
        target=str(plan.target),
        program=problem.program.describe(),
        registers=image.resources.registers,
        stack_bytes=image.resources.stack_bytes,
        spill_bytes=image.resources.spill_bytes,
        block=plan.block,
        shared_bytes=plan.window_bytes,
        buffers={slot.name: (slot.region, slot.size) for slot in plan.layout.slots},
        ptx=_ptx(image.data) if plan.target.platform == "cuda" else "",
        image_bytes=len(image.data),
        key=plan.key,
    )


def _ptx(data: bytes) -> Any:
    return next(blob.code.decode() for blob in unpack_blobs(data) if blob.kind == "ptx")
