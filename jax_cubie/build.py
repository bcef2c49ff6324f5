"""From a plan to its image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .kernel.cache import Dump, image
from .kernel.target import Image, Target, join_images
from .operands import Operand
from .plan import Plan
from .problem import Problem


def plan_and_image(
    problem: Problem, operands: tuple[Operand, ...], levels: int, targets: Sequence[Target]
) -> tuple[Plan, Image]:
    """A plan, and one image for devices of all targets; the plan's words and launch are good for each of them."""
    plans = [Plan(problem, operands, levels, target) for target in targets]
    if len({plan.block for plan in plans}) > 1:  # not every device has so much shared memory
        problem = dataclasses.replace(problem, block=min(plan.block for plan in plans))
        plans = [Plan(problem, operands, levels, target) for target in targets]
    return plans[0], join_images([image_of(plan) for plan in plans])


def image_of(plan: Plan) -> Image:
    """The plan's machine code: from memory, from disk, or built now.

    Only a build imports the loop, and with it Numba.
    """
    problem = plan.problem

    def build(dump: Dump) -> Image:
        from .loop.loop import build_image

        plan.check_memory()
        dump("jaxpr", plan.field.program.jaxpr)
        dump("program", plan.field.program.describe())
        return build_image(plan, dump)

    title = f"{problem.title} ({problem.states} states, {problem.dtype}, {problem.method.name})"
    return image(plan.key, title, build)
