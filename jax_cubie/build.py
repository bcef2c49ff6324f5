"""From a plan to its image."""

from __future__ import annotations

from .kernel.cache import Dump, image
from .kernel.target import Image
from .plan import Plan


def image_of(plan: Plan) -> Image:
    """The plan's machine code: from memory, from disk, or built now.

    Only a build imports the loop, and with it Numba.
    """
    problem = plan.problem

    def build(dump: Dump) -> Image:
        from .loop import build_image

        plan.check_memory()
        dump("jaxpr", problem.program.jaxpr)
        dump("program", problem.program.describe())
        return build_image(plan, dump)

    title = f"{problem.title} ({problem.states} states, {problem.dtype}, {problem.method.tableau.name})"
    return image(plan.key, title, build)
