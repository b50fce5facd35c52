"""What is computed with packed numbers, readable: NumPy alone.

Whoever computes calls these. They run the twin that a kernel has registered (`kernels.registry`), where numba is there
and `autograd.use_twins` has not switched them off, else the NumPy that is written here. Both give the same bits and the
same operands (`panels`), so operands of either kind mix.

A file that calls them says ``from .. import kernels as _twins``, so that the twins are there.
"""

from .definition import DEFINITIONS, Definition
from .fp4 import (
    dequantize,
    int8_operand,
    matmul,
    matmul_blackwell,
    matvec,
    quantize,
    quantize_left,
    quantize_right,
    relative_error,
    right_operand,
    transposed_right_operand,
)
from .fp8 import matmul_fp8

__all__ = [
    "DEFINITIONS",
    "Definition",
    "dequantize",
    "int8_operand",
    "matmul",
    "matmul_blackwell",
    "matmul_fp8",
    "matvec",
    "quantize",
    "quantize_left",
    "quantize_right",
    "relative_error",
    "right_operand",
    "transposed_right_operand",
]
