"""In a notebook, a cell that waits for kernels to be compiled says so, once a process."""

import sys

from numba.core import event

WORDS = "Kernels are being compiled, once for this machine; some cells wait for it, seconds to a minute."
told: list[bool] = []


class _Teller(event.Listener):
    def on_start(self, event: event.Event) -> None:
        if not told and "ipykernel" in sys.modules:
            told.append(True)
            print(WORDS, flush=True)

    def on_end(self, event: event.Event) -> None: ...


event.register("numba:compile", _Teller())
