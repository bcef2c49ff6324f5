"""The table of rules: primitive name -> rule.

A rule is ``rule(context, eqn, *arrays)`` and gives an array, or a list of them.
"""

from __future__ import annotations

from .rules_contraction import CONTRACTION
from .rules_control import CONTROL
from .rules_elementwise import ELEMENTWISE_RULES
from .rules_indexing import INDEXING
from .rules_linalg import LINALG
from .rules_reduction import REDUCTION
from .rules_sort import SORT
from .rules_special import SPECIAL
from .rules_structural import STRUCTURAL
from .rules_window import WINDOW

RULES = {**ELEMENTWISE_RULES, **SPECIAL, **STRUCTURAL, **INDEXING, **REDUCTION, **WINDOW, **CONTRACTION, **SORT, **LINALG,
         **CONTROL}
