"""The reference is XLA on the CPU, also where there is a GPU: its libm and its float32 products are comparable."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def reference_on_the_cpu() -> Iterator[None]:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield
