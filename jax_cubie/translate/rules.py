"""The table of rules: primitive name -> rule.

A rule is ``rule(context, eqn, *arrays)`` and gives an array, or a list of them.
"""

from __future__ import annotations

from .rules_control import CONTROL
from .rules_elementwise import ELEMENTWISE_RULES
from .rules_linalg import LINALG
from .rules_reduction import REDUCTION
from .rules_structural import STRUCTURAL

RULES = {**ELEMENTWISE_RULES, **STRUCTURAL, **REDUCTION, **LINALG, **CONTROL}
