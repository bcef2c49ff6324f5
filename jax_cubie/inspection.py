"""A look at an image without running it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from .buffers import Slot
from .build import image_of
from .derivatives.chain import differentiable, tangent_of, with_tangent
from .derivatives.kernels import backward_kernel, checkpoint_results, forward_kernel
from .inputs.jumps import OPERANDS, TIMES
from .kernel.code_size import code_bytes
from .kernel.library import unpack_blobs
from .kernel.occupancy import Occupancy, occupancy
from .kernel.target import Target
from .operands import Function, cotangent_name, word_of
from .plan import Plan
from .printing import describe_inspection, inspection_html
from .problem import Problem, Request
from .settings import check_choice, closest

# Arguments of a solve that become those operands of its jumps.
_JUMPS = {"jump_ts", "step_ts", "doses"}


@dataclasses.dataclass(frozen=True, repr=False)
class Inspection:
    """What an image is made of; `print` of it is a report with a map of a lane's memory.

    title: what was built. target: what it was built for. program: f as typed instructions, one a line. registers,
    stack_bytes, spill_bytes: of a CUDA thread; on the host the stack alone, and at most. block: lanes of a block;
    shared_bytes: its shared memory. occupancy: how many blocks run at once on a multiprocessor (None on the host). buffers:
    for each buffer its region and its words for one lane; slots: the same with its first word in that region, and the
    buffer whose words it uses. word_bytes: bytes of a word. ptx: the PTX ("" on the host). code_bytes: the machine code;
    image_bytes: the image around it, in which a CUDA one has its PTX, too. key: the image's name in the cache. in_step: whether
    the lanes of a warp take their steps together.

    derivative: None, "jvp", or "vjp"; `program` of the latter is f, and behind it the transposes of f and `SaveAt.fn`.
    checkpoint_bytes: what a lane keeps in the device's memory from its solve to its gradient; recording: the solve that does so
    (0 and None but for "vjp").
    """

    title: str
    target: str
    program: str
    registers: int
    stack_bytes: int
    spill_bytes: int
    block: int
    shared_bytes: int
    occupancy: Occupancy | None
    slots: tuple[Slot, ...]
    word_bytes: int
    ptx: str
    code_bytes: int
    image_bytes: int
    key: str
    in_step: bool = False
    derivative: str | None = None
    checkpoint_bytes: int = 0
    recording: Inspection | None = None

    @property
    def buffers(self) -> dict[str, tuple[str, int]]:
        """For each buffer its region, and its words for one lane."""
        return {slot.name: (slot.region, slot.size) for slot in self.slots}

    def __repr__(self) -> str:
        return describe_inspection(self)

    def _repr_html_(self) -> str:
        return inspection_html(self)


def inspect_request(request: Request, batched: Iterable[str] | str, target: str, derivative: str | None) -> Inspection:
    """Builds the image of a request whose arguments in `batched` have a lane axis, or those of a derivative by y0 and args."""
    check_choice("derivative", derivative, (None, "jvp", "vjp"))
    problem, chosen = request.problem, _with_lanes(request, batched)
    device = Target.parse(target)
    if derivative is None:
        return _inspect(problem, problem, chosen, device)
    names = {"y0", *request.args}
    wrt = [number for number, can in enumerate(differentiable(problem)) if can and problem.operands[number].name in names]
    if derivative == "jvp":
        found = _inspect(forward_kernel(tangent_of(problem, wrt), None), problem, chosen, device, ", with tangents")
        return dataclasses.replace(found, derivative=derivative)
    several = any(operand.name in chosen for operand in problem.operands)
    summed = [number for number in wrt if several and problem.operands[number].name not in chosen]
    seeds = with_tangent(problem)
    kernel = backward_kernel(problem, seeds, tuple(wrt), tuple(summed))
    # Checkpoints and cotangents of results have lanes where anything has.
    given = {"checkpoints", *(cotangent_name(problem.results[number].name) for number in seeds)} if several else set()
    return dataclasses.replace(
        _inspect(kernel, problem, chosen | given, device, ", backwards"),
        derivative=derivative,
        checkpoint_bytes=sum(kept.size * np.dtype(kept.dtype).itemsize for kept in checkpoint_results(problem, 0)),
        recording=_inspect(forward_kernel(problem, 0), problem, chosen, device, ", with checkpoints"),
    )


def _with_lanes(request: Request, batched: Iterable[str] | str) -> set[str]:
    """The operands that have a lane axis, where the arguments in `batched` have it."""
    problem = request.problem
    words = {word_of(operand.name) for operand in problem.operands}  # ts, say, of all that are several
    names = words - {"span", "offsets"} | {"t1"}
    names |= {"ts"} if "offsets" in words else set()
    args_names, drivers_names = set(request.args), set(request.drivers)
    jumps = {operand.name for operand in problem.operands if operand.name in OPERANDS}
    names = names - jumps | (_JUMPS if jumps else set())
    if not isinstance(batched, Iterable):
        raise TypeError(f"batched={batched!r}: expected the names of arguments, as ('y0', 'args')")
    chosen = {batched} if isinstance(batched, str) else set(batched)
    groups = {"args"} | ({"drivers"} if drivers_names else set())
    for name in chosen - names - groups:
        said = ", ".join(sorted(names - args_names - drivers_names - set(request.of_t0) | groups))
        raise ValueError(f"batched names {name!r}; expected some of {said}{closest(str(name), names | groups)}")
    if "args" in chosen:
        chosen |= args_names
    if "drivers" in chosen:
        chosen |= drivers_names
    # What a time has to do with: the kernel counts from t0.
    of_jumps = ((name, jumps) for name in _JUMPS)
    for name, also in (("t0", {"span", "offsets", TIMES, *request.of_t0}), ("t1", ("span",)), ("ts", ("offsets",)), *of_jumps):
        if name in chosen:
            chosen |= set(also)
    return chosen | {operand.name for operand in problem.operands if word_of(operand.name) in chosen}


def _inspect(kernel: Problem, problem: Problem, chosen: set[str], target: Target, what: str = "") -> Inspection:
    """A kernel of a problem's. chosen: the operands that have lanes, their tangents with them."""
    operands = tuple(operand.batch(0 if operand.name.partition(".")[0] in chosen else None) for operand in kernel.operands)
    plan = Plan(kernel, operands, 1, target)
    image = image_of(plan)
    taken, on_gpu = image.resources, plan.target.platform == "cuda"
    return Inspection(
        title=f"{problem.title}{what}: {problem.states} states of {problem.dtype} by {problem.method.name}",
        target=str(plan.target),
        program=plan.field.program.describe() if kernel.adjoint is None else _describe_all(plan.functions),
        registers=taken.registers,
        stack_bytes=taken.stack_bytes,
        spill_bytes=taken.spill_bytes,
        block=plan.block,
        shared_bytes=plan.window_bytes,
        occupancy=occupancy(plan.target.architecture, taken.registers, plan.block, plan.window_bytes) if on_gpu else None,
        slots=plan.layout.slots,
        word_bytes=np.dtype(problem.dtype).itemsize,
        ptx=_ptx(image.data) if on_gpu else "",
        code_bytes=code_bytes(image),
        image_bytes=len(image.data),
        key=plan.key,
        in_step=plan.in_step,
    )


def _describe_all(functions: Iterable[Function]) -> str:
    return "\n".join(f"{function.name}\n{function.program.describe()}" for function in functions)


def _ptx(data: bytes) -> Any:
    return next(blob.code.decode() for blob in unpack_blobs(data) if blob.kind == "ptx")
