"""Published figures of how tensor cores add, and of the recipes of 2026: measured here, judged by `claims`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from .accumulate import dot
from .blocks import FORMATS
from .codec import block_amax, encode, fit_scales
from .eden import EDEN, quantize_eden, rotate_for_eden
from .elements import E2M1, E4M3
from .hadamard import hadamard_rotate, random_signs
from .measure import Drawn, drawn, drawn_mse
from .random_bits import random_bits, standard_normal
from .scales import te_rule

Figure = tuple[str, str, str, str, Callable[[], float | Drawn], str]
"""Name, source, condition, published value as printed, how we measure it, unit."""

SR_FOUR_OVER_SIX = replace(FORMATS["nvfp4-headroom"], name="sr-4over6", rule=te_rule("te", cap=256, headroom=16 / 17))
"""What the source's stochastic rounding under two scales begins with."""


def sum_error(unit: str, length: int, promote: int | None = None) -> Drawn:
    """Mean relative error in % of 512 dot products of E4M3 operands drawn evenly from 0 to 1, against exact sums."""
    bits = random_bits((2, 512, length), seed=2026, stream=40)
    a, b = (E4M3.encode((side.astype(np.float64) * 2.0**-32).astype(np.float32)) for side in bits)
    exact = (E4M3.table[a].astype(np.float64) * E4M3.table[b]).sum(axis=-1)
    errors = np.abs(dot(unit, a, b, promote=promote) - exact) / exact
    return drawn(errors, np.ones_like(errors), lambda q: 100 * q)


def sums_that_differ(length: int) -> Drawn:
    """Share in % of 2048 NVFP4 dot products that Blackwell adds up to other bits than float32 sums, block by block, do.

    Every code and every E4M3 scale from 0 to 448 as likely as any other.
    """
    codes = (random_bits((2, 2048, length), seed=2026, stream=70) >> np.uint32(28)).astype(np.uint8)
    scales = (random_bits((2, 2048, length // 16), seed=2026, stream=71) % np.uint32(0x7F)).astype(np.uint8)
    blackwell = dot("blackwell-mxf4nvf4", *codes, scale_a=scales[0], scale_b=scales[1])
    a, b = E2M1.table[codes].reshape(2, 2048, -1, 16)
    terms = (a * b).sum(axis=-1) * (E4M3.table[scales[0]] * E4M3.table[scales[1]])  # exact, exact, rounded once
    differ = blackwell != np.add.accumulate(terms, axis=-1)[:, -1]
    return drawn(differ.astype(np.float64), np.ones(2048), lambda q: 100 * q)


def stochastic_draw(x: np.ndarray, draw: int) -> np.ndarray:
    """One unbiased draw of x in NVFP4: stochastic rounding under 16/17 headroom."""
    fmt = FORMATS["nvfp4-headroom"]
    bits = random_bits(x.shape, seed=31, stream=draw)
    return encode(x, fmt, fit_scales(x, fmt), ties="stochastic", random=bits, measure=False).dequantize()


def better_of_two_draws(x: np.ndarray, draw: int) -> np.ndarray:
    """Four over six with stochastic rounding: of two draws, amax mapped to 6 and to 4, the one that errs less.

    As in the source's kernel: 16/17 headroom, E4M3 scales up to 256, random bits of its own for each draw, squared
    errors. Choosing by what came out is what biases it.
    """
    six = fit_scales(x, SR_FOUR_OVER_SIX)
    larger = SR_FOUR_OVER_SIX.rule.block(block_amax(x, SR_FOUR_OVER_SIX) * np.float32(1.5), six.stored)
    decoded, errors = [], []
    for candidate, scales in enumerate((six, replace(six, block=larger))):
        bits = random_bits(x.shape, seed=4, stream=2 * draw + candidate)
        packed = encode(x, SR_FOUR_OVER_SIX, scales, ties="stochastic", random=bits, measure=False)
        decoded.append(packed.dequantize())
        errors.append(np.square(x - decoded[-1], dtype=np.float64).reshape(*x.shape[:-1], -1, 16).sum(axis=-1))
    took_six = np.repeat(errors[0] <= errors[1], 16, axis=-1)
    return np.where(took_six, *decoded)


def rotated_draw(x: np.ndarray, draw: int) -> np.ndarray:
    """The same, after a rotation of 128 under signs that both operands of the draw share."""
    return better_of_two_draws(hadamard_rotate(x, random_signs(128, seed=5, stream=draw // 2)), draw)


@cache
def product_bits(draw_of: Callable[[np.ndarray, int], np.ndarray] = stochastic_draw) -> tuple[Drawn, ...]:
    """Effective bits, -log2(relative MSE) / 2, of the mean of 1, 4, 16 and 64 draws of x y^T, both operands drawn."""
    x, y = (standard_normal((384, 512), seed=2026, stream=50 + i) for i in range(2))
    exact, total, found = x.astype(np.float64) @ y.T.astype(np.float64), 0.0, []
    for draw in range(1, 65):
        left, right = (draw_of(side, 2 * draw + i) for i, side in enumerate((x, y)))
        total = total + left.astype(np.float64) @ right.T.astype(np.float64)
        if draw in (1, 4, 16, 64):
            found.append(_effective_bits(exact, total / draw))
    return tuple(found)


def _effective_bits(exact: np.ndarray, mean: np.ndarray) -> Drawn:
    """Bits of a product; rows and columns are both drawn, so the errors of either are added."""
    sides = [drawn_mse(m, n, lambda q: -0.5 * float(np.log2(q))) for m, n in ((exact, mean), (exact.T, mean.T))]
    return Drawn(sides[0].value, float(np.hypot(sides[0].error, sides[1].error)))


@cache
def _rotated() -> np.ndarray:
    return rotate_for_eden(standard_normal((1024, 1024), seed=2026, stream=0), seed=7)


def eden_error() -> Drawn:
    """Relative squared error of MS-EDEN on the Gaussian million, in 1e-3."""
    return drawn_mse(_rotated(), quantize_eden(_rotated(), seed=8).dequantize(), lambda q: 1e3 * q)


def misalignment(corrected: bool = False) -> Drawn:
    """1 - <x, q> / <x, x> on the Gaussian million, rotated: how much shorter the rounded vector is along x."""
    x = _rotated()
    packed = quantize_eden(x, seed=8) if corrected else encode(x, EDEN, fit_scales(x, EDEN), measure=False)
    x64 = x.astype(np.float64).reshape(64, -1)
    along = (x64 * packed.dequantize().reshape(64, -1)).sum(axis=1)
    return drawn(along, (x64 * x64).sum(axis=1), lambda q: 1 - q)


def eden_misalignment() -> Drawn:
    """1 - <x, q> / <x, x>, mean over 2**15 rows of 128, as the source's code corrects and measures MS-EDEN.

    The rows grow from 1 to 2**8. The code forms the factor from values that are divided by their block scales already,
    so that blocks count alike: <x/s, x/s> / <x/s, q/s>, which leaves rows a little short. (The factor <x, x> / <x, q>,
    which `eden` takes, leaves nothing: `misalignment(True)`.) The scales' stochastic rounding is replaced by its mean.
    """
    rows = 1 << 15
    growth = np.logspace(0, 8, rows, base=2)[:, None]
    x = (standard_normal((rows, 128), seed=2026, stream=60) * growth).astype(np.float32)
    packed = encode(x, EDEN, fit_scales(x, EDEN), measure=False)
    scales = np.repeat(packed.decoded_scales().astype(np.float64) * packed.tensor_scale, 16, axis=1)
    x64, q = x.astype(np.float64), packed.dequantize().astype(np.float64)
    units, codes = x64 / scales, q / scales
    factor = (units * units).sum(axis=1) / (units * codes).sum(axis=1)
    along = factor * (x64 * q).sum(axis=1) / (x64 * x64).sum(axis=1)
    return drawn(along.reshape(64, -1).mean(axis=1), np.ones(64), lambda q: 1 - q)


def figures() -> list[Figure]:
    """All of them."""
    sums = "FP8 sums on Hopper: this project, by the rule of arXiv:2512.07004 (compare arXiv:2412.19437, section 3.3)"
    even = "E4M3 operands, even in 0..1, mean relative error, K = {}"
    found: list[Figure] = [
        ("13 bits", sums, even.format(1024), "1.35", lambda: sum_error("hopper-fp8", 1024), "%"),
        ("13 bits, longer", sums, even.format(4096), "6.6", lambda: sum_error("hopper-fp8", 4096), "%"),
        ("13 bits, promoted every 128", sums, even.format(1024), "0.05", _promoted, "%"),
        ("25 bits (Blackwell)", sums, even.format(1024), "3.8e-6", lambda: sum_error("blackwell-f8f6f4", 1024), "%"),
    ]
    sums, scales = "Blackwell's sums beside float32's: this project", "NVFP4, all codes and scales as likely, K = {}"
    for length, share in ((256, "71"), (1024, "95"), (4096, "99")):
        name = f"sums that differ, {length} terms"
        found.append((name, sums, scales.format(length), share, lambda n=length: sums_that_differ(n), "%"))
    quartet, condition = "Quartet II (arXiv:2601.22813), code: averaging of x y^T", "bits of x y^T, N(0, 1), K = 512"
    for i, bits in enumerate(("2.197", "3.196", "4.196", "5.197")):
        found.append((f"SR 16/17, mean of {4**i}", quartet, condition, bits, lambda i=i: product_bits()[i], "bit"))
    biased, condition = f"{quartet}, four over six", f"{condition}, rotated by 128"
    for i, bits in enumerate(("2.401", "3.389", "4.339", "5.170")):
        name = f"SR of the better of 6 and 4, mean of {4**i}"
        found.append((name, biased, condition, bits, lambda i=i: product_bits(rotated_draw)[i], "bit"))
    table, million = "Quartet II (arXiv:2601.22813), MS-EDEN", "N(0, 1), 2**20 values, rotated by 128"
    found += [
        ("MS-EDEN, relative MSE", table, million, "9.8", eden_error, "e-3"),
        ("to nearest, misalignment", table, million, "0.00792", misalignment, ""),
        ("MS-EDEN, misalignment", table, "N(0, 1) times 1 to 256, 2**15 rows of 128", "0.00056", eden_misalignment, ""),
    ]
    return found


def _promoted() -> Drawn:
    return sum_error("hopper-fp8", 1024, promote=128)
