"""Published figures, reproduced: each with its source, condition, published value, ours, and a verdict.

`vbw claims` runs them all. A tolerance is what the source allows: half a unit of the last printed digit. It is wider
where a source's figure is drawn or computed less exactly than it is printed (NVFP4 RTN, SR with four over six, MXFP4
SR, 64 uniform levels, Lloyd-Max of 1960). Figures of this project's own documents are marked as its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .blocks import FORMATS, BlockFormat
from .claims_2026 import figures
from .codebooks import NF4_LEVELS, lloyd_max_normal, normal_float_levels, normal_mse
from .codec import block_amax, encode, fake_quantize, fit_scales, quantize
from .elements import E2M1
from .measure import relative_mse, sqnr_db
from .packed import PackedTensor
from .random_bits import random_bits, standard_normal
from .scales import te_rule

MILLION = (1024, 1024)


@dataclass(frozen=True)
class Claim:
    """A published figure and how we measure it.

    Parameters
    ----------
    name, source, condition : str
    published, tolerance : float
    measure : callable without arguments
    unit : str
    """

    name: str
    source: str
    condition: str
    published: float
    tolerance: float
    measure: Callable[[], float]
    unit: str = ""

    @property
    def own(self) -> bool:
        """Whether the figure is this project's, stated in its documents, and no one else's."""
        return "this project" in self.source


@dataclass(frozen=True)
class Verdict:
    """A claim with our figure."""

    claim: Claim
    ours: float
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether ours is within the tolerance of the published figure."""
        return bool(abs(self.ours - self.claim.published) <= self.claim.tolerance)

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        c = self.claim
        return {
            "name": c.name,
            "source": c.source,
            "condition": c.condition,
            "published": c.published,
            "own": c.own,
            "tolerance": c.tolerance,
            "ours": self.ours,
            "unit": c.unit,
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
        }


@cache
def gaussian(stream: int = 0) -> np.ndarray:
    """A million N(0, 1) numbers, the same on every machine."""
    return standard_normal(MILLION, seed=2026, stream=stream)


@cache
def laplace() -> np.ndarray:
    """A million Laplace numbers, from the counter: sign * -log(uniform)."""
    bits = random_bits(MILLION, seed=2026, stream=9)
    u = ((bits >> np.uint32(1)).astype(np.float64) + 0.5) * 2.0**-31
    return np.where(bits & np.uint32(1), np.log(u), -np.log(u)).astype(np.float32)


def gaussian_error(format: str, stochastic: bool = False) -> float:
    """Relative squared error on the Gaussian million, in 1e-3."""
    x = gaussian()
    options = {"ties": "stochastic", "seed": 1} if stochastic else {}
    return 1e3 * relative_mse(x, fake_quantize(x, format, **options))


def four_over_six_stochastic() -> float:
    """Stochastic rounding under two scales a block, amax mapped to 6 and to 4, keeping the better draw; in 1e-3.

    As in the source's own kernel: 16/17 headroom, E4M3 scales up to 256, independent random bits for the two draws,
    and the block's squared error after rounding decides, which is what biases it.
    """
    x = gaussian()
    fmt = replace(FORMATS["nvfp4-headroom"], name="sr-4over6", rule=te_rule("te", cap=256, headroom=16 / 17))
    six = fit_scales(x, fmt)
    four = replace(six, block=fmt.rule.block(block_amax(x, fmt) * np.float32(1.5), six.stored))
    errors = []
    for stream, scales in enumerate((six, four)):
        bits = random_bits(x.shape, seed=4, stream=stream)
        decoded = encode(x, fmt, scales, ties="stochastic", random=bits, measure=False).dequantize()
        errors.append(np.square(x - decoded, dtype=np.float64).reshape(-1, 16).sum(axis=1))
    return 1e3 * float(np.minimum(*errors).sum() / np.square(x, dtype=np.float64).sum())


def octave_error(stochastic: bool) -> float:
    """MXFP4 with values times 3/4 under the scale of the whole block, in 1e-2, averaged over an octave of sigma.

    The floor rule's scale comes from x itself, so that 3/4 of x never passes 6 (what stochastic rounding needs);
    decoding multiplies by 4/3. The error of a power-of-two scale depends on the fraction of log2 sigma, which the
    average removes.
    """
    total, steps = 0.0, 8
    for i in range(steps):
        x = gaussian()[:512] * np.float32(2.0 ** (i / steps))
        options = {"ties": "stochastic", "seed": 2, "stream": i} if stochastic else {}
        shrunk = x * np.float32(0.75)
        packed = quantize(shrunk, "mxfp4", reuse=fit_scales(x, "mxfp4"), measure=False, **options)
        total += relative_mse(shrunk, packed.dequantize())  # the factor 4/3 cancels in a relative error
    return 1e2 * total / steps


def best_uniform(levels: int) -> float:
    """Least squared error on N(0, 1) of `levels` evenly spaced levels."""
    grid = np.linspace(-1, 1, levels)
    return _minimum(lambda a: normal_mse(a * grid, a * (grid[1:] + grid[:-1]) / 2), 0.5, 6.0)


def best_e2m1() -> float:
    """Least squared error on N(0, 1) of the E2M1 values times one factor."""
    grid = np.unique(E2M1.table.astype(np.float64))
    return _minimum(lambda a: normal_mse(a * grid, a * (grid[1:] + grid[:-1]) / 2), 0.1, 2.0)


def best_e2m1_factor() -> float:
    """The factor itself: what N(0, 1) is divided by when its E2M1 values are rounded to nearest."""
    grid = np.unique(E2M1.table.astype(np.float64))
    return _argument(lambda a: normal_mse(a * grid, a * (grid[1:] + grid[:-1]) / 2), 0.1, 2.0)


def best_ternary() -> float:
    """Least squared error on N(0, 1) of the levels -a, 0, a."""
    return best_uniform(3)


def _minimum(f: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a unimodal function."""
    return f(_argument(f, low, high))


def _argument(f: Callable[[float], float], low: float, high: float) -> float:
    """Where a unimodal function is least, by golden-section search."""
    ratio = (5**0.5 - 1) / 2
    for _ in range(80):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if f(a) < f(b) else (a, high)
    return (low + high) / 2


def worked_block(four_over_six: bool) -> float:
    """Mean squared error of the block 10, 20, 30, 40 under one E4M3 scale, amax mapped to 6 or the better of 6, 4."""
    fmt = FORMATS["nvfp4-1level"]
    if four_over_six:
        fmt = replace(fmt, four_over_six="mse")
    x = np.array([10, 20, 30, 40], np.float32)
    return float(np.mean((fake_quantize(x, fmt) - x) ** 2))


def nf4_difference() -> float:
    """Largest difference between NF4's printed table and its quantiles."""
    return float(np.abs(normal_float_levels() - np.array(NF4_LEVELS)).max())


@cache
def averaged_bits() -> tuple[float, ...]:
    """Effective bits, -log2(relative MSE) / 2, of the mean of 1, 4, 16, 64 and 256 stochastic roundings."""
    x = gaussian()[:128]
    fmt, total, found = FORMATS["nvfp4-headroom"], np.zeros(x.shape, np.float64), []
    for draw in range(1, 257):
        total += fake_quantize(x, fmt, ties="stochastic", seed=3, stream=draw)
        if draw in (1, 4, 16, 64, 256):
            found.append(-0.5 * np.log2(relative_mse(x, total / draw)))
    return tuple(found)


def group_error(x: np.ndarray, group: int) -> float:
    """Relative squared error of E2M1 with a float32 amax / 6 scale a group."""
    fmt: BlockFormat = replace(FORMATS["fp4-g16"], name=f"fp4-g{group}", block=group)
    return relative_mse(x, fake_quantize(x, fmt))


def crossover(group: int) -> float:
    """Sign of the Laplace error less the Gaussian error at a group size."""
    return float(np.sign(group_error(laplace(), group) - group_error(gaussian(), group)))


def nested_sqnr(planes: int) -> float:
    """SQNR in dB of NVFP4 with that many bit planes of the nested tier."""
    return sqnr_db(gaussian(), _nested().dequantize(planes))


@cache
def _nested() -> PackedTensor:
    return quantize(gaussian(), "nvfp4-nested", measure=False)


def seed_sqnr() -> float:
    """SQNR in dB of the seed's two tiers on Gaussian rows of 256."""
    x = gaussian().reshape(-1, 256)
    return sqnr_db(x, fake_quantize(x, "seed-v6"))


def double_quantized_bits() -> float:
    """Bits a value that absmax costs: 8 / 64 + 32 / (64 * 256)."""
    return 8 / 64 + 32 / (64 * 256)


def _claims() -> Iterator[Claim]:
    two, one = "Quartet II (arXiv:2601.22813), table 1", "Quartet (arXiv:2505.14669), table 2"
    fit = "Quartet (arXiv:2505.14669), code, mse_fitting"
    million = "N(0, 1), 2**20 values, relative MSE"
    columns = (
        ("NVFP4 RTN 1 x 16", 9.0, 0.1, lambda: gaussian_error("nvfp4")),
        ("NVFP4 RTN 1 x 16, four over six", 7.6, 0.05, lambda: gaussian_error("nvfp4-4over6")),
        ("NVFP4 RTN 16 x 16", 12.4, 0.05, lambda: gaussian_error("nvfp4-16x16")),
        ("NVFP4 RTN 16 x 16, four over six", 12.4, 0.05, lambda: gaussian_error("nvfp4-16x16-4over6")),
        ("NVFP4 SR 1 x 16, 16/17 headroom", 23.5, 0.05, lambda: gaussian_error("nvfp4-headroom", True)),
        ("NVFP4 SR 1 x 16, four over six", 17.5, 0.15, four_over_six_stochastic),
    )
    for name, published, tolerance, measure in columns:
        yield Claim(name, two, million, published, tolerance, measure, "e-3")
    octave = "N(0, sigma), values x 3/4, mean over an octave of sigma"
    yield Claim("MXFP4 RTN", one, octave, 1.37, 0.005, lambda: octave_error(False), "e-2")
    yield Claim("MXFP4 SR", one, octave, 2.77, 0.06, lambda: octave_error(True), "e-2")
    exact = "N(0, 1), closed form"
    yield Claim("E2M1 grid, best factor", fit, exact, 0.0126849, 5e-8, best_e2m1)
    yield Claim("E2M1 grid, the best factor itself", fit, exact, 0.487079, 5e-7, best_e2m1_factor)
    fits = ((2, 0.36338), (4, 0.118846), (8, 0.0374397), (16, 0.0115429), (32, 3.495211e-3), (64, 1.040048e-3))
    for levels, published in fits:
        yield Claim(
            f"uniform, {levels} levels",
            fit,
            exact,
            published,
            {2: 5e-6, 4: 5e-7, 8: 5e-8, 16: 5e-8, 32: 5e-10, 64: 5e-9}[levels],
            lambda n=levels: best_uniform(n),
        )
    yield Claim("ternary", fit, exact, 0.190174, 5e-7, best_ternary)
    yield Claim(
        "Lloyd-Max, 16 levels",
        "Max, Quantizing for minimum distortion (1960)",
        exact,
        0.009497,
        1e-5,
        lambda: lloyd_max_normal(16)[1],
    )
    block = "block 10, 20, 30, 40; one E4M3 scale; MSE"
    source = "Four Over Six (arXiv:2512.02010), worked example"
    yield Claim("amax mapped to 6", source, block, 4.328125, 0.0, lambda: worked_block(False))
    yield Claim("the better of 6 and 4", source, block, 0.0, 0.0, lambda: worked_block(True))
    yield Claim(
        "NF4 from its quantiles",
        "QLoRA (arXiv:2305.14314), appendix E",
        "largest difference of 16 levels",
        0.0,
        1.5e-7,
        nf4_difference,
    )
    yield Claim(
        "double quantization, bits a value",
        "QLoRA (arXiv:2305.14314), section 3",
        "blocks of 64 and 256",
        0.127,
        5e-4,
        double_quantized_bits,
    )
    law = "bits gained by averaging four times as many stochastic roundings; 2**17 values"
    for i, draws in enumerate((4, 16, 64, 256)):
        yield Claim(
            f"SR averaging, {draws // 4} to {draws} draws",
            "Quartet II, code, unbiasedness",
            law,
            1.0,
            0.02,
            lambda i=i: averaged_bits()[i + 1] - averaged_bits()[i],
            "bit",
        )
    sign = "sign of (Laplace - Gaussian) error of E2M1 with fp32 scales"
    source = "MR-GPTQ (arXiv:2509.23202), lemma 2: crossover between 16 and 32"
    yield Claim("group size 16", source, sign, -1.0, 0.0, lambda: crossover(16))
    yield Claim("group size 32", source, sign, 1.0, 0.0, lambda: crossover(32))
    for planes, published in enumerate((20.4, 26.9, 32.8, 38.7, 44.8)):
        yield Claim(
            f"two tiers, {planes} bit planes ({4.5 + planes} bits)",
            "this project",
            "N(0, 1), 2**20 values",
            published,
            0.1,
            lambda p=planes: nested_sqnr(p),
            "dB",
        )
    yield Claim(
        "seed-v6, both tiers (9 bits and scales)", "this project", "N(0, 1), rows of 256", 26.6, 0.1, seed_sqnr, "dB"
    )


def all_claims() -> list[Claim]:
    """Every claim, in order."""
    return [*_claims(), *(Claim(*fields) for fields in figures())]


def check_claims(only: str | None = None) -> Iterator[Verdict]:
    """Measure the claims whose name or source contains `only` (all of them by default), one after the other."""
    for claim in all_claims():
        if only is None or only.lower() in f"{claim.name} {claim.source}".lower():
            start = time.perf_counter()
            ours = claim.measure()
            yield Verdict(claim, ours, time.perf_counter() - start)
