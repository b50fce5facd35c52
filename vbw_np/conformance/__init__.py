"""Does your quantizer write what a producer's release writes? Vectors to test it with, and a judge that names the rule.

::

    from vbw_np.conformance import conform, vectors

    document = vectors("torchao-0.18-nvfp4")      # inputs as bits; the codes, scales and decoded bits that are right
    document.as_dict()                            # what `vbw vectors` writes as JSON

    def mine(x): ...                              # float32 (rows, columns) -> {"codes": ..., "scales": ..., ...}
    verdict = conform(mine, "torchao-0.18-nvfp4")
    print(verdict)                                # conforms, or the first rule that it breaks, with the place

`vbw conform MODULE:FUNCTION --profile P` runs the function in a process of its own, with a time limit.
"""

from __future__ import annotations

from .judging import Break, Verdict, judge
from .running import conform
from .vectors import Vector, Vectors, vectors

__all__ = ["Break", "Vector", "Vectors", "Verdict", "conform", "judge", "vectors"]
