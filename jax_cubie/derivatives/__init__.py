"""Derivatives of the solve: what JAX asks of it, as two kernels, forward and backward, each for a problem of any order.

`chain.py`: a problem together with tangents is a problem again. `levels.py`: where vmaps lie in arrays. `calls.py`: what each
primitive takes and gives, and what depends on what. `bind.py`: the four primitives. `solve_rules.py`, `linear_rules.py` and
`second_rules.py`: their rules. `lowering.py`: from them to launches. `kernels.py`: the kernels. `rule_content.py`: what tells
derivatives of equal programs apart. `summaries.py`: derivatives of summaries, by solves of their own; `folds.py`: of those
that are functions of the user's, which `evaluation.py` evaluates. `refused.py`: of results that have none.

| primitive | gives | runs |
|---|---|---|
| solve | results, and checkpoints where they are asked for | the forward kernel |
| adjoint | cotangents of operands, linear in those of results | the backward kernel |
| tangent | tangents of results, linear in those of operands | a solve of `Tangent(P)` |
| second | cotangents, and the tangents of cotangents and of results | a solve of `Tangent(P)` that records, its adjoint |
"""

from . import linear_rules, second_rules, solve_rules  # noqa: F401 - they register the rules
from .bind import bind_solve
from .chain import Chain, Tangent, root
from .summaries import solve_with_summaries

__all__ = ["Chain", "Tangent", "bind_solve", "root", "solve_with_summaries"]
