"""A minimal reverse-mode autograd over NumPy, first order only.

    from autograd import Tensor, no_grad
    from autograd import functional as F
    from autograd import nn

Read in this order: `tape` (what is recorded, and the backward pass), `tensor`, `parameter`, `primitive` (how an
operation is declared), `ops`, `functional`, then `nn`. Imports nothing but NumPy. This is vbw-np's package, not
HIPS/autograd; `__vbw__` marks it.
"""

from . import functional, nn, operators, ops
from .gradcheck import gradcheck
from .parameter import Host, Parameter
from .primitive import REGISTRY, Primitive, primitive
from .random import Generator, manual_seed
from .tape import Node, detect_anomaly, is_grad_enabled, no_grad, watch_backward
from .tensor import Tensor
from .twin import PROCEDURES, procedure, use_twins

__vbw__ = True

__all__ = [
    "PROCEDURES",
    "REGISTRY",
    "Generator",
    "Host",
    "Node",
    "Parameter",
    "Primitive",
    "Tensor",
    "detect_anomaly",
    "functional",
    "gradcheck",
    "is_grad_enabled",
    "manual_seed",
    "nn",
    "no_grad",
    "operators",
    "ops",
    "primitive",
    "procedure",
    "use_twins",
    "watch_backward",
]
