"""The tables of the widgets: everything that a page shows as a number of `vbw_np`, computed by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vbw_np import viz
from vbw_np.device.cache import DecodeCache
from vbw_np.formats import ELEMENTS, BlockFormat, Codebook, fake_quantize, get_format, quantize, sqnr_db
from vbw_np.formats.packing import NIBBLE_ORDERS, pack_nibbles
from vbw_np.formats.scales import absmax_rule
from vbw_np.steps.values import number

Numbers = list[str]


def texts(values: Any) -> Numbers:
    """Float32 numbers in the fewest digits that give them back."""
    return [number(value) for value in np.ravel(np.asarray(values, np.float32))]


# ---- bits: what every code of every small format means


def bits() -> dict[str, Any]:
    """For each element format of at most eight bits: its fields, and the value of every code."""
    found = {}
    for name, element in ELEMENTS.items():
        if element.bits > 8:
            continue
        fields = (
            {"width": element.bits}
            if isinstance(element, Codebook)
            else {"sign": int(element.signed), "exponent": element.exponent_bits, "mantissa": element.mantissa_bits,
                  "bias": element.bias, "width": element.bits}
        )  # fmt: skip
        found[name] = fields | {"values": texts(element.table)}
    return {"formats": found, "first": "e2m1"}


# ---- tape: the graph of the first notebook, walked forwards and backwards


def tape_walk() -> viz.TapeSteps:
    """The walk of (a * b + c) * a for the numbers of notebook 01."""
    return viz.walk_tape(lambda a, b, c: (a * b + c) * a, a=2.0, b=-3.0, c=10.0)


def tape() -> dict[str, Any]:
    """Every event's sentence and numbers, and the graph: for each node its column, and what it is made of."""
    walk = tape_walk()
    forward = [event for event in walk if event.phase == "forward"]
    column: dict[str, int] = {}
    for event in forward:
        column |= {name: 0 for name, _ in event.inputs if name not in column}
        column[event.card] = 1 + max(column[name] for name, _ in event.inputs)
    values = {name: number(value) for event in forward for name, value in event.inputs}
    values |= {event.card: number(event.value) for event in forward}
    events = [
        {
            "phase": event.phase, "kind": event.kind, "card": event.card, "says": event.say(),
            "gradient": None if event.gradient is None else number(event.gradient),
            "sends": [{"to": s.to, "amount": number(s.amount), "total": number(s.total)} for s in event.sends],
        }
        for event in walk
    ]  # fmt: skip
    links = [[name, event.card] for event in forward for name, _ in event.inputs]
    return {"formula": "(a * b + c) * a", "columns": column, "values": values, "links": links, "events": events}


# ---- outlier: one number grows, in blocks of 16 and of 32

OUTLIER = 5
STEPS = 41


def outlier_block(position: int) -> np.ndarray:
    """32 numbers of ordinary size, the fifth of them 2 ** (position / 5)."""
    x = np.round(np.random.default_rng(4).normal(size=32) * 64).astype(np.float32) / 64
    x[OUTLIER] = np.float32(2 ** (position / 5))
    return x


def outlier() -> dict[str, Any]:
    """For each size of the outlier and each format: the block scales, and what the 32 numbers became."""
    positions = []
    for position in range(STEPS):
        x = outlier_block(position)
        entry: dict[str, Any] = {"size": number(x[OUTLIER])}
        for fmt in ("nvfp4", "mxfp4"):
            packed = quantize(x[None], fmt)
            scale = np.asarray(packed.decoded_scales(), np.float32)
            if packed.tensor_scale is not None:
                scale = scale * packed.tensor_scale
            entry[fmt] = {"scales": texts(scale), "became": texts(packed.dequantize())}
        positions.append(entry)
    blocks = {"nvfp4": 16, "mxfp4": 32}
    return {"x": texts(outlier_block(0)), "outlier": OUTLIER, "positions": positions, "blocks": blocks}


# ---- stairs: rounding to nearest, and by a die of sixteen faces

STAIR_STEP = 32  # inputs to a unit
STAIR_END = 6.5
FACES = 16


def stair_inputs() -> np.ndarray:
    """From -6.5 to 6.5 by thirty-seconds."""
    return np.arange(-STAIR_END * STAIR_STEP, STAIR_END * STAIR_STEP + 1).astype(np.float32) / STAIR_STEP


def face_bits(face: int) -> int:
    """The random bits that face 1 ... 16 of the die stands for: the sixteenth of their range that begins there."""
    return (face - 1) << 28


def stairs() -> dict[str, Any]:
    """For each input: the code of rounding to nearest, and the code for each face."""
    x, element = stair_inputs(), ELEMENTS["e2m1"]
    nearest = element.encode(x, ties="even")
    by_face = [
        element.encode(x, ties="stochastic", random=np.full(x.shape, face_bits(face), np.uint32))
        for face in range(1, FACES + 1)
    ]
    return {
        "step": STAIR_STEP, "end": STAIR_END, "values": texts(element.table),
        "nearest": "".join(f"{code:x}" for code in nearest),
        "faces": ["".join(f"{codes[n]:x}" for codes in by_face) for n in range(x.size)],
    }  # fmt: skip


# ---- nibbles: which code goes where

CODES = 8


def nibbles() -> dict[str, Any]:
    """For each order, whose code is in the low and in the high half of each byte; and every byte by its two halves."""
    orders = {}
    for order in NIBBLE_ORDERS:
        halves = []
        for shift in (0, 4):
            one_hot = pack_nibbles(np.eye(CODES, dtype=np.uint8), order, group=CODES) >> shift & 1  # (code, byte)
            halves.append(one_hot.argmax(axis=0).tolist())
        orders[order] = [list(pair) for pair in zip(*halves)]
    pairs = np.array([[low, high] for high in range(16) for low in range(16)], np.uint8)
    return {
        "orders": orders, "codes": [1, 2, 3, 4, 10, 11, 12, 13],
        "bytes": [f"{byte:02x}" for byte in pack_nibbles(pairs).reshape(-1)],
    }  # fmt: skip


# ---- cache: what is kept of three weights that are asked for in a circle

WEIGHTS, RUNS, WEIGHT_BYTES = 3, 4, 16_384


def cache_run(capacity: int) -> tuple[str, int]:
    """Hits (H) and misses (M) of a decode cache, in order, and how often it threw something out."""
    kept = DecodeCache(capacity)
    found = ""
    for n in range(WEIGHTS * RUNS):
        hit = kept.get(n % WEIGHTS, 0) is not None
        found += "H" if hit else "M"
        if not hit:
            kept.put(n % WEIGHTS, 0, object(), WEIGHT_BYTES)
    return found, kept.evictions


def capacities() -> list[int]:
    """From nothing to room for all, by quarters of a weight, and a byte below each whole number of them."""
    quarters = [n * WEIGHT_BYTES // 4 for n in range(4 * WEIGHTS + 3)]
    return sorted({*quarters, *(n * WEIGHT_BYTES - 1 for n in range(1, WEIGHTS + 1))})


def cache() -> dict[str, Any]:
    """For each capacity what the cache did."""
    runs = {capacity: cache_run(capacity) for capacity in capacities()}
    return {"weights": WEIGHTS, "runs": RUNS, "bytes": WEIGHT_BYTES,
            "positions": [{"capacity": c, "found": f, "evictions": e} for c, (f, e) in runs.items()]}  # fmt: skip


# ---- histogram: numbers before and after a format

EDGES = np.linspace(-4, 4, 81)
HISTOGRAM_FORMATS = ("nvfp4", "mxfp4", "int4-e4m3")


def samples() -> dict[str, np.ndarray]:
    """4,096 numbers of four kinds, all of variance one or near it."""
    rng = np.random.default_rng(3)
    kinds = {
        "normal": rng.normal(size=(16, 256)), "Laplace": rng.laplace(size=(16, 256)) / 2**0.5,
        "Student t": rng.standard_t(3, size=(16, 256)) / 3**0.5, "uniform": rng.uniform(-(3**0.5), 3**0.5, (16, 256)),
    }  # fmt: skip
    return {name: x.astype(np.float32) for name, x in kinds.items()}


def counted(x: np.ndarray) -> list[int]:
    """How many numbers are in each bin; those beyond the ends count in the last ones."""
    return np.histogram(np.clip(x, -3.999, 3.999), EDGES)[0].tolist()


def histogram() -> dict[str, Any]:
    """For each kind of numbers and each format: the counts, and the signal-to-noise ratio in decibels."""
    kinds: dict[str, Any] = {}
    for name, x in samples().items():
        kinds[name] = {"before": counted(x)}
        for fmt in HISTOGRAM_FORMATS:
            became = fake_quantize(x, fmt)
            kinds[name][fmt] = {"after": counted(became), "sqnr": f"{sqnr_db(x, became):.2f}",
                                "zeros": int((became == 0).sum())}  # fmt: skip
    return {"kinds": kinds, "formats": HISTOGRAM_FORMATS, "edges": [float(e) for e in np.round(EDGES, 3)]}


# ---- roofline: rows times a matrix of 1,024 by 1,024

SIDE = 1024
ROOF_FORMATS = ("float32", "nvfp4", "mxfp4")
BANDWIDTHS = (5, 10, 20, 40, 80)  # 1e9 bytes a second
PEAKS = (50, 100, 200, 400)  # 1e9 operations a second


def intensity(rows: int, fmt: str) -> float:
    """Operations a byte: two a weight and row; the bytes are those of both operands and of the result."""
    weight = 4 * SIDE * SIDE if fmt == "float32" else get_format(fmt).bits / 8 * SIDE * SIDE
    return 2 * rows * SIDE * SIDE / (weight + 2 * 4 * rows * SIDE)


def roofline() -> dict[str, Any]:
    """Intensities by rows and format; for each pair of roofs what can be reached."""
    rows = [1 << n for n in range(13)]
    points = {fmt: [intensity(r, fmt) for r in rows] for fmt in ROOF_FORMATS}
    reached = {
        f"{peak} {bandwidth}": {fmt: [min(peak, bandwidth * i) for i in points[fmt]] for fmt in ROOF_FORMATS}
        for peak in PEAKS
        for bandwidth in BANDWIDTHS
    }
    return {"rows": rows, "formats": ROOF_FORMATS, "intensity": points, "reached": reached, "peaks": PEAKS,
            "bandwidths": BANDWIDTHS, "side": SIDE}  # fmt: skip


# ---- clip: where to cut off, with 255 whole numbers and with fifteen

CLIPS = 20
WHOLE = {"int8": 127, "int4": 7}


def activations() -> np.ndarray:
    """What calibration sees in the notebook: numbers with wild ones among them."""
    return np.random.default_rng(4).standard_t(4, (128, 1024)).astype(np.float32)


def clipping(x: np.ndarray, top: np.float32, name: str) -> tuple[float, float, str]:
    """The mean squared error with a clip at `top`, its part that is of numbers beyond it, and the SQNR."""
    scale, element = top / np.float32(WHOLE[name]), ELEMENTS[name]
    back = element.decode(element.encode(np.clip(x, -top, top) / scale)) * scale
    errors = np.square(back.astype(np.float64) - x)
    return float(errors.mean()), float(errors[np.abs(x) > top].sum() / x.size), f"{sqnr_db(x, back):.1f}"


def clip() -> dict[str, Any]:
    """For each share of the largest number: how many are beyond it, and for each format the errors."""
    x = activations()
    positions = []
    for n in range(1, CLIPS + 1):
        top = np.float32(n / CLIPS) * np.abs(x).max()
        entry: dict[str, Any] = {"share": n / CLIPS, "top": f"{top:.2f}", "beyond": int((np.abs(x) > top).sum())}
        for name in WHOLE:
            error, cut, decibels = clipping(x, top, name)
            entry[name] = {"error": f"{error:.3g}", "cut": f"{cut:.3g}", "sqnr": decibels}
        positions.append(entry)
    return {"count": x.size, "positions": positions}


# ---- kv: bits and group of a cache against its error and its bytes

KV_BITS, KV_GROUPS = (2, 3, 4, 6, 8), (8, 16, 32, 64)
KV_TOKENS, KV_WIDTH = 256, 64
KV_NUMBERS = 30 * 3 * 64 * 2
"""Of one token in SmolLM2: layers, heads, numbers, keys and values."""


def whole_numbers(bits: int, group: int) -> BlockFormat:
    """Whole numbers of some bits, alike on both sides of nought, with a float32 scale a group."""
    top = 2 ** (bits - 1) - 1
    levels = (*range(top + 1), *range(-top - 1, 0))
    element = Codebook(f"int{bits}", levels, bits=4 if bits <= 4 else 8)
    name, rule = f"int{bits}-g{group}", absmax_rule(top)
    return replace(get_format("int4-g32"), name=name, element=element, rule=rule, block=group)


def kv_cache() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys with two loud channels, and values, as in the notebook."""
    rng = np.random.default_rng(3)
    loud = np.where(np.isin(np.arange(KV_WIDTH), (7, 39)), 12.0, 0.0)
    keys = (rng.standard_normal((KV_TOKENS, KV_WIDTH)) + loud).astype(np.float32)
    values = rng.standard_normal((KV_TOKENS, KV_WIDTH)).astype(np.float32)
    return (1.5 * rng.standard_normal((KV_TOKENS, KV_WIDTH))).astype(np.float32), keys, values


def attended(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Causal attention of one head."""
    scores = queries @ keys.T / np.sqrt(KV_WIDTH)
    scores = np.where(np.tri(KV_TOKENS, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ values


def kv() -> dict[str, Any]:
    """For keys and values, shared by token and by channel: the share of the output that is wrong, by bits and group."""
    queries, keys, values = kv_cache()
    exact = attended(queries, keys, values)

    def wrong(what: str, who: str, fmt: BlockFormat) -> str:
        x = keys if what == "keys" else values
        rows = np.ascontiguousarray(x if who == "a token" else x.T)
        back = fake_quantize(rows, fmt)
        back = back if who == "a token" else back.T
        output = attended(queries, *((back, values) if what == "keys" else (keys, back)))
        return f"{np.square(output - exact).sum() / np.square(exact).sum():.2g}"

    errors = {
        f"{what}, {who}": [[wrong(what, who, whole_numbers(bits, group)) for group in KV_GROUPS] for bits in KV_BITS]
        for what in ("keys", "values")
        for who in ("a token", "a channel")
    }
    stored = [[bits + 32 / group for group in KV_GROUPS] for bits in KV_BITS]
    return {"bits": KV_BITS, "groups": KV_GROUPS, "errors": errors, "stored": stored,
            "bytes": [[round(KV_NUMBERS * each / 8) for each in row] for row in stored],
            "float32": KV_NUMBERS * 4}  # fmt: skip
