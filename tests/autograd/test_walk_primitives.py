"""One test walks every operation that is declared: its gradient is right, and its twin, if any, agrees."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from autograd import PROCEDURES, REGISTRY, gradcheck


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    primitive = REGISTRY[name]
    if primitive.surrogate:
        pytest.skip(primitive.surrogate)
    assert primitive.samples is not None, f"{name} declares no samples to check it on"
    for inputs, static in primitive.samples(np.random.default_rng(0)):
        gradcheck(partial(primitive, **static), inputs)  # its own eps is the step of the differences


@pytest.mark.parametrize("name", sorted(PROCEDURES))
def test_procedures_declare_samples_that_run(name: str) -> None:
    procedure = PROCEDURES[name]
    for args, kwargs in procedure.samples(np.random.default_rng(0)):
        procedure.reference(*args, **kwargs)
