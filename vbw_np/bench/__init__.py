"""The bench: the speed test, what it is measured against, and its report.

    from vbw_np.bench.speed import Settings, measure
    from vbw_np.bench.report import render

    print(render(measure(Settings(batches=2, vocab_size=500))))

Modules
-------
speed         the run: placed model, training batches, raw samples
floor         the fp32 floor: numpy's sgemm on the step's matrix products
report        the samples as text; `labels` holds the words of each language
schema        what ``--json`` writes
environment   threads, BLAS kernel, compilation time, peak memory
kernels       each kernel against numpy; isas: on other instruction sets; peaks: what this machine can do at most
peers         the same work in other libraries; peers_ggml: in ggml
scaling       what a batch costs as one setting grows; growth: a large model's step, told from small ones
model         how fast a language model writes
timing        functions measured in turns; output: results as a table or JSON
commands      ``vbw bench``

Nothing is imported here: ``vbw bench`` sets the process's threads before NumPy is loaded.
"""

from __future__ import annotations
