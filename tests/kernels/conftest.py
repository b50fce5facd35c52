"""Which tests are `variants`: of instruction sets whose kernels this machine compiles for no other reason."""

from __future__ import annotations

import pytest
from numba import config

collect_ignore_glob = ["*"] if config.DISABLE_JIT else []  # without compiled code there are no kernels


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of every test that takes an instruction set `isa`, the fastest and the portable one stay in `make test`."""
    asked: dict[tuple[str, str], list[tuple[str, pytest.Item]]] = {}
    for item in items:
        isa = item.callspec.params.get("isa") if hasattr(item, "callspec") else None
        if isa is not None:
            asked.setdefault((str(item.path), item.originalname), []).append((isa, item))
    if not asked:
        return
    from vbw_np.simd import cpu

    for pairs in asked.values():
        fastest = min((isa for isa, _ in pairs), key=cpu.INSTRUCTION_SETS.index)
        for isa, item in pairs:
            if isa in cpu.available() and isa not in (fastest, cpu.choose_vector(), "portable"):
                item.add_marker("variants")
