"""What everything in `vbw_np` uses of `autograd`, through the one door to it, and the optimizers.

    from vbw_np.engine import F, Tensor, nn, no_grad, optim
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import optim
from .door import autograd

if TYPE_CHECKING:
    from autograd import Parameter, Tensor, nn, no_grad
    from autograd import functional as F
else:
    F = autograd.functional
    Parameter = autograd.Parameter
    Tensor = autograd.Tensor
    nn = autograd.nn
    no_grad = autograd.no_grad

__all__ = ["F", "Parameter", "Tensor", "autograd", "nn", "no_grad", "optim"]
