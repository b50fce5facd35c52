"""Eight threads multiply while another one writes: never a stale or torn weight, never a lost count."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from vbw_np.device import place
from vbw_np.engine import F, Tensor, nn, no_grad

OUT, WIDTH = 96, 128
THREADS, CALLS = 8, 15


def weight_of(version: int) -> np.ndarray:
    """A weight that says its version: every row holds it in binary, as 1 and 2, between sixes that fix all scales."""
    row = np.full(WIDTH, 6.0, np.float32)
    bits = (version >> np.arange(12)) & 1
    for block in range(0, WIDTH, 32):
        row[block + 1 : block + 13] = 1 + bits
    return np.broadcast_to(row, (OUT, WIDTH))


def version_of(weight: np.ndarray) -> int:
    """The version that all rows and all blocks of `weight` agree on, or an error."""
    blocks = range(0, weight.shape[1], 32)
    bits = np.concatenate([np.rint(weight[:, b + 1 : b + 13]) - 1 for b in blocks]).astype(int)
    assert set(bits.ravel()) <= {0, 1}
    versions = set((bits @ (1 << np.arange(12))).tolist())
    assert len(versions) == 1, f"a torn weight: versions {versions}"
    return versions.pop()


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Threads take turns every 50 microseconds instead of every 5 milliseconds: more interleavings, less waiting."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize(
    ("recipe", "compute", "rows"),
    [
        ("fp32", "auto", WIDTH),
        ("fp4-row", "auto", WIDTH),
        ("mxfp4", "dequant", WIDTH),
        ("nvfp4", "dequant", WIDTH),
        ("nvfp4-boh", "auto", WIDTH),
        ("nvfp4", "packed", 16),
        ("mxfp4", "fp4", WIDTH),
        ("nvfp4-train", "auto", WIDTH),
    ],
)
def test_no_stale_weight_and_no_lost_count(recipe: str, compute: str, rows: int, mode: str) -> None:
    layer = nn.Linear(WIDTH, OUT, bias=False, rng=0)
    layer.weight.assign(weight_of(0))
    first = layer.weight.version
    device = place(layer, recipe, mode=mode, refresh_interval=7, compute=compute)
    eye = Tensor(np.eye(rows, WIDTH, dtype=np.float32))
    errors: list[BaseException] = []
    done = threading.Event()

    def write() -> None:
        version = 0
        while not done.is_set() and version < 4000:
            version += 1
            layer.weight.assign(weight_of(version))
            time.sleep(1e-5)  # lets readers in

    def read() -> None:
        try:
            with no_grad():
                for _ in range(CALLS):
                    before = layer.weight.version - first
                    used = version_of(F.linear(eye, layer.weight).data.T)
                    after = layer.weight.version - first
                    assert before <= used <= after, f"used {used}, while {before} to {after} were current"
        except BaseException as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    readers = [threading.Thread(target=read) for _ in range(THREADS)]
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    done.set()
    writer.join()
    assert not errors, errors[0]
    total = device.statistics
    assert total.computes == THREADS * CALLS
    if recipe != "fp32":
        assert total.hits + total.separations == total.computes
        assert total.decodes + total.decode_hits == total.computes
        assert total.handshakes == total.decodes == device.link.handshakes
        assert (total.coarse_bytes, total.fine_bytes) == (device.link.coarse_bytes, device.link.fine_bytes)
        assert total.coarse_bytes % total.decodes == 0
