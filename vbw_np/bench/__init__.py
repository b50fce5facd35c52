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
commands      ``vbw bench``

Nothing is imported here: ``vbw bench`` sets the process's threads before NumPy is loaded.
"""

from __future__ import annotations
