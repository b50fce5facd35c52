"""What counts as a call into the library."""

from __future__ import annotations

import gc

import numpy as np

from vbw_np.engine import autograd
from vbw_np.formats import E2M1
from vbw_np.teach import rules


def test_a_call_is_noticed_by_whatever_name() -> None:
    with rules.watched(library=False) as called:
        (lambda f: f(np.float32(1)))(E2M1.encode)
    assert any("encode" in name for name in called)


def test_garbage_of_others_is_no_call_into_the_library() -> None:
    """Arrays of the pool return to it by a function of the library, whenever Python collects what held them."""
    before = gc.get_threshold()
    gc.collect()
    for _ in range(10):
        held = [autograd.memory.empty((400, 400))]
        held.append(held)  # a circle, which only the collector undoes
    del held
    gc.set_threshold(300)
    try:
        with rules.watched(library=False) as called:
            kept = [[i] for i in range(1000)]
    finally:
        gc.set_threshold(*before)
    assert called == set() and len(kept) == 1000
    assert gc.isenabled()
