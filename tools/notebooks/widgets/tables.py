"""The tables of the widgets: everything that a page shows as a number of `vbw_np`, computed by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from vbw_np import viz
from vbw_np.formats import ELEMENTS, Codebook, quantize
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
