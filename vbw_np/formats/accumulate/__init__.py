"""How tensor cores add: the sums of Volta to Blackwell, bit for bit. Pure NumPy; the definition.

    from vbw_np.formats import E4M3
    from vbw_np.formats.accumulate import ACCUMULATORS, dot, matmul

    dot("hopper-fp8", E4M3.encode(x), E4M3.encode(w))                 # float32, as an H100 adds
    dot("hopper-fp8", E4M3.encode(x), E4M3.encode(w), promote=128)    # partial sums added up in float32
    dot("blackwell-mxf4nvf4", codes_x, codes_w, scale_a=scales_x, scale_b=scales_w)

Modules
-------
decoding      significands and exponents of fp16, bf16, tf32, FP8, FP6, FP4 and of block scales
units         `Accumulator` records, `ACCUMULATORS`: parameters by instruction, with sources
adding        one step, a long sum, a matrix product
explain       one output, term by term: `vbw explain-sum`
"""

from __future__ import annotations

from .adding import dot, matmul
from .decoding import OPERANDS
from .units import ACCUMULATORS, Accumulator, Output, get_accumulator

__all__ = ["ACCUMULATORS", "OPERANDS", "Accumulator", "Output", "dot", "get_accumulator", "matmul"]
