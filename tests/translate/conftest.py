"""The reference is XLA on the CPU, also where there is a GPU: its libm and its float32 products are comparable."""

from collections.abc import Iterator

import pytest
from harness import on_the_cpu


@pytest.fixture(autouse=True)
def reference_on_the_cpu() -> Iterator[None]:
    with on_the_cpu():
        yield
