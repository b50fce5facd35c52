"""The exercises of notebook 13: a real checkpoint."""

from __future__ import annotations

import numpy as np

from ...formats import E2M1, unpack_nibbles
from ..exercise import Exercise, exercise

# ---- 13

def _places(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    fixed = [(0, 0, 2, 0, 0), (0, 0, 2, 0, 1), (0, 0, 2, 1, 0), (10, 0, 4, 0, 3), (3296, 28472, 128, 3, 5)]
    drawn = []
    for _ in range(12):
        columns = int(rng.integers(1, 500)) * 2
        length, begin, i, j = (int(v) for v in rng.integers(0, (9000, 9000, 50, columns)))
        drawn.append((length, begin, columns, i, j))
    return fixed + drawn


EXERCISE_13_1 = exercise(
    "13.1",
    "the byte and the nibble of one code in a file",
    "where",
    cases=_places,
    expected=lambda length, begin, columns, i, j: (8 + length + begin + i * columns // 2 + j // 2, bool(j % 2)),
    hints=(
        "Before the data there are eight bytes, then the header.",
        "A row has columns // 2 bytes; code j of a row is in byte j // 2 of it, in the high nibble if j is odd.",
    ),
    solution="return 8 + length + begin + i * (columns // 2) + j // 2, j % 2 == 1",
    wrong="return length + begin + i * (columns // 2) + j // 2, j % 2 == 1",
    symptom="the smallest input that shows it is (0, 0, 2, 0, 0)",
)


def _rows(seed: int) -> list[tuple]:
    rng = np.random.default_rng(seed)
    one = np.array([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE], np.uint8)
    found = [(one, np.ones(1, np.float32), np.float32(1)), (one, np.full(1, 0.5, np.float32), np.float32(2))]
    for blocks in (2, 3, 5):
        data = rng.integers(0, 256, 8 * blocks).astype(np.uint8)
        scales = rng.integers(1, 449, blocks).astype(np.float32)
        found.append((data, scales, np.float32(rng.uniform(1e-4, 1e-2))))
    return found


def _decode_row(data: np.ndarray, scales: np.ndarray, level: np.float32) -> np.ndarray:
    values = E2M1.table[unpack_nibbles(np.asarray(data), 2 * len(data))]
    return values * np.repeat(np.asarray(scales, np.float32) * np.float32(level), 16)


EXERCISE_13_2 = exercise(
    "13.2",
    "decode a row of NVFP4",
    "decode_row",
    cases=_rows,
    expected=_decode_row,
    hints=(
        "data & 15 are the codes of even columns, data >> 4 those of odd ones.",
        "Make an empty array of codes and fill codes[0::2] and codes[1::2].",
        "table[codes] are the values; multiply by np.repeat(scales * level, 16).",
    ),
    solution="""
codes = np.empty(2 * len(data), np.uint8)
codes[0::2] = data & 15
codes[1::2] = data >> 4
return table[codes] * np.repeat(scales * level, 16)
""",
    wrong="""
codes = np.empty(2 * len(data), np.uint8)
codes[0::2] = data >> 4
codes[1::2] = data & 15
return table[codes] * np.repeat(scales * level, 16)
""",
    symptom="expected:",
)

EXERCISES: tuple[Exercise, ...] = (EXERCISE_13_1, EXERCISE_13_2)
