"""Published figures, reproduced: each with its source, condition, published value, ours, and a verdict.

`vbw claims` runs them all. A figure is reproduced when ours rounds to its printed digits: it may differ by half a unit
of the last one. Two things widen that, and the table shows both: a figure that is measured on random numbers (here and
in the source) by `SIGMAS` standard errors of ours; and a source that is known to compute less exactly than it prints,
by a `slack` whose reason is printed beside it. Figures of this project's own documents are marked as its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache

import numpy as np

from .blocks import FORMATS, BlockFormat
from .claims_2026 import better_of_two_draws, figures
from .codebooks import NF4_LEVELS, lloyd_max_normal, normal_float_levels, normal_mse
from .codec import fake_quantize, fit_scales, quantize
from .double_quant import double_quantize
from .elements import E2M1
from .measure import Drawn, drawn, drawn_mse, relative_mse, sqnr_db
from .packed import PackedTensor
from .random_bits import random_bits, standard_normal

MILLION = (1024, 1024)


SIGMAS = 3 * 2**0.5
"""Standard errors: three of the difference between two samples, the source's as large as ours."""


@dataclass(frozen=True)
class Claim:
    """A published figure and how we measure it.

    Parameters
    ----------
    name, source, condition : str
    published : str
        As printed: its last digit says how exact it is.
    measure : callable without arguments
        Gives our figure: a float, or `Drawn` where it is measured on random numbers.
    unit : str
    exact : bool
        The figure is a count, a sign or a number without rounding: ours must be equal.
    slack : float
        How much less exact than printed the source computes.
    why : str
        The reason of the slack.
    """

    name: str
    source: str
    condition: str
    published: str
    measure: Callable[[], float | Drawn]
    unit: str = ""
    exact: bool = False
    slack: float = 0.0
    why: str = ""

    def __post_init__(self) -> None:
        """A slack without a reason is none."""
        if bool(self.slack) != bool(self.why):
            raise ValueError(f"{self.name}: a slack needs its reason, and a reason its slack")

    @property
    def own(self) -> bool:
        """Whether the figure is this project's, stated in its documents, and no one else's."""
        return "this project" in self.source

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed digit; 0 where the figure is exact."""
        return 0.0 if self.exact else 0.5 * 10.0 ** Decimal(self.published).as_tuple().exponent


@dataclass(frozen=True)
class Verdict:
    """A claim with our figure, its standard error (0 where nothing is drawn) and the seconds that it took."""

    claim: Claim
    ours: float
    seconds: float
    error: float = 0.0

    @property
    def tolerance(self) -> float:
        """How far ours may lie from the published figure."""
        return self.claim.half_unit + self.claim.slack + SIGMAS * self.error

    @property
    def passed(self) -> bool:
        """Whether ours is within the tolerance of the published figure."""
        close = abs(self.ours - float(self.claim.published)) <= self.tolerance * (1 + 1e-12)
        return bool(close)

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        c = self.claim
        return {
            "name": c.name,
            "source": c.source,
            "condition": c.condition,
            "published": float(c.published),
            "printed": c.published,
            "own": c.own,
            "half_unit": c.half_unit,
            "standard_error": self.error,
            "slack": c.slack,
            "why": c.why,
            "tolerance": self.tolerance,
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


def gaussian_error(format: str, stochastic: bool = False) -> Drawn:
    """Relative squared error on the Gaussian million, in 1e-3."""
    x = gaussian()
    options = {"ties": "stochastic", "seed": 1} if stochastic else {}
    return drawn_mse(x, fake_quantize(x, format, **options), lambda q: 1e3 * q)


def four_over_six_stochastic() -> Drawn:
    """Stochastic rounding under two scales a block, keeping the better draw (`better_of_two_draws`); in 1e-3."""
    x = gaussian()
    noise = np.square(x - better_of_two_draws(x, 0), dtype=np.float64).reshape(64, -1).sum(axis=1)
    return drawn(noise, np.square(x, dtype=np.float64).reshape(64, -1).sum(axis=1), lambda q: 1e3 * q)


def octave_error(stochastic: bool) -> Drawn:
    """MXFP4 with values times 3/4 under the scale of the whole block, in 1e-2, averaged over an octave of sigma.

    The floor rule's scale comes from x itself, so that 3/4 of x never passes 6 (what stochastic rounding needs);
    decoding multiplies by 4/3. The error of a power-of-two scale depends on the fraction of log2 sigma, which the
    average removes.
    """
    steps, parts, noise = 8, 64, 0.0
    signal = np.square(gaussian()[:512], dtype=np.float64).reshape(parts, -1).sum(axis=1)
    for i in range(steps):
        x = gaussian()[:512] * np.float32(2.0 ** (i / steps))
        options = {"ties": "stochastic", "seed": 2, "stream": i} if stochastic else {}
        shrunk = x * np.float32(0.75)
        packed = quantize(shrunk, "mxfp4", reuse=fit_scales(x, "mxfp4"), measure=False, **options)
        wrong = np.square(shrunk.astype(np.float64) - packed.dequantize()).reshape(parts, -1).sum(axis=1)
        noise = noise + wrong / (0.75 * 2.0 ** (i / steps)) ** 2  # the factor 4/3 cancels in a relative error
    return drawn(noise / steps, signal, lambda q: 1e2 * q)


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
def averaged_noise() -> tuple[np.ndarray, ...]:
    """Squared errors of the mean of 1, 4, 16, 64 and 256 stochastic roundings: float64 (64,) each, groups of rows."""
    x = gaussian()[:128]
    fmt, total, found = FORMATS["nvfp4-headroom"], np.zeros(x.shape, np.float64), []
    for draw in range(1, 257):
        total += fake_quantize(x, fmt, ties="stochastic", seed=3, stream=draw)
        if draw in (1, 4, 16, 64, 256):
            found.append(np.square(x - total / draw).reshape(64, -1).sum(axis=1))
    return tuple(found)


def gained_bits(i: int) -> Drawn:
    """Bits gained from 4**i to 4**(i + 1) draws: half the binary logarithm of the squared errors' quotient."""
    few, many = averaged_noise()[i : i + 2]
    return drawn(few, many, lambda q: 0.5 * float(np.log2(q)))


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
    """Bits a value that double-quantized absmax costs, by the bytes stored for the Gaussian million."""
    maxima = np.abs(gaussian()).reshape(-1, 64).max(axis=1)
    return 8 * double_quantize(maxima).nbytes / gaussian().size


def _claims() -> Iterator[Claim]:
    two, one = "Quartet II (arXiv:2601.22813), table 1", "Quartet (arXiv:2505.14669), table 2"
    million = "N(0, 1), 2**20 values, relative MSE"
    columns = (
        ("NVFP4 RTN 1 x 16", "9.0", lambda: gaussian_error("nvfp4")),
        ("NVFP4 RTN 1 x 16, four over six", "7.6", lambda: gaussian_error("nvfp4-4over6")),
        ("NVFP4 RTN 16 x 16", "12.4", lambda: gaussian_error("nvfp4-16x16")),
        ("NVFP4 RTN 16 x 16, four over six", "12.4", lambda: gaussian_error("nvfp4-16x16-4over6")),
        ("NVFP4 SR 1 x 16, 16/17 headroom", "23.5", lambda: gaussian_error("nvfp4-headroom", True)),
        ("NVFP4 SR 1 x 16, four over six", "17.5", four_over_six_stochastic),
    )
    for name, published, measure in columns:
        yield Claim(name, two, million, published, measure, "e-3")
    octave = "N(0, sigma), values x 3/4, mean over an octave of sigma"
    yield Claim("MXFP4 RTN", one, octave, "1.37", lambda: octave_error(False), "e-2")
    yield Claim("MXFP4 SR", one, octave, "2.77", lambda: octave_error(True), "e-2")
    yield from _levels()
    block = "block 10, 20, 30, 40; one E4M3 scale; MSE"
    source = "Four Over Six (arXiv:2512.02010), worked example"
    yield Claim("amax mapped to 6", source, block, "4.328125", lambda: worked_block(False), exact=True)
    yield Claim("the better of 6 and 4", source, block, "0", lambda: worked_block(True), exact=True)
    source = "QLoRA (arXiv:2305.14314), section 3"
    yield Claim("double quantization, bits a value", source, "blocks of 64 and 256", "0.127", double_quantized_bits)
    source, law = "Quartet II, code, unbiasedness", "bits gained by four times as many roundings; 2**17 values"
    for i, draws in enumerate((4, 16, 64, 256)):
        name = f"SR averaging, {draws // 4} to {draws} draws"
        yield Claim(name, source, law, "1", lambda i=i: gained_bits(i), "bit", exact=True)
    sign = "sign of (Laplace - Gaussian) error of E2M1 with fp32 scales"
    source = "MR-GPTQ (arXiv:2509.23202), lemma 2: crossover between 16 and 32"
    yield Claim("group size 16", source, sign, "-1", lambda: crossover(16), exact=True)
    yield Claim("group size 32", source, sign, "1", lambda: crossover(32), exact=True)
    yield from _own()


def _levels() -> Iterator[Claim]:
    """Levels for N(0, 1), in closed form."""
    fit, exact = "Quartet (arXiv:2505.14669), code, mse_fitting", "N(0, 1), closed form"
    yield Claim("E2M1 grid, best factor", fit, exact, "0.0126849", best_e2m1)
    yield Claim("E2M1 grid, the best factor itself", fit, exact, "0.487079", best_e2m1_factor)
    optimizer = "an optimizer's, stopped 3e-9 above the least error, which ours is"
    fits = {
        2: "0.36338", 4: "0.118846", 8: "0.0374397", 16: "0.0115429", 32: "3.495211e-3", 64: "1.040048e-3",
    }  # fmt: skip
    for n, published in fits.items():
        off = {"slack": 3e-9, "why": optimizer} if n == 64 else {}
        yield Claim(f"uniform, {n} levels", fit, exact, published, lambda n=n: best_uniform(n), **off)
    yield Claim("ternary", fit, exact, "0.190174", best_ternary)
    source = "Max, Quantizing for minimum distortion (1960), table 1"
    hand = "Max's last digits are off; ours meets both of his conditions to 1e-12, as 20.22 dB of later tables does"
    lloyd_max = lambda: lloyd_max_normal(16)[1]  # noqa: E731
    yield Claim("Lloyd-Max, 16 levels", source, exact, "0.009497", lloyd_max, slack=4e-6, why=hand)
    source = "Jayant and Noll, Digital Coding of Waveforms (1984), section 4.4"
    yield Claim("Lloyd-Max, 16 levels", source, exact, "20.22", lambda: -10 * float(np.log10(lloyd_max())), "dB")
    source, float32 = "QLoRA (arXiv:2305.14314), appendix E", "the table was made in float32: two of its roundings"
    condition = "largest difference of 16 levels"
    yield Claim(
        "NF4 from its quantiles", source, condition, "0", nf4_difference, exact=True, slack=2.0**-23, why=float32
    )


def _own() -> Iterator[Claim]:
    """Figures that this project's documents state."""
    million = "N(0, 1), 2**20 values"
    for planes, published in enumerate(("20.4", "26.9", "32.8", "38.7", "44.8")):
        name = f"two tiers, {planes} bit planes ({4.5 + planes} bits)"
        yield Claim(name, "this project", million, published, lambda p=planes: nested_sqnr(p), "dB")
    name = "seed-v6, both tiers (9 bits and scales)"
    yield Claim(name, "this project", "N(0, 1), rows of 256", "26.7", seed_sqnr, "dB")


def all_claims() -> list[Claim]:
    """Every claim, in order."""
    return [*_claims(), *(Claim(*fields) for fields in figures())]


def check_claims(only: str | None = None) -> Iterator[Verdict]:
    """Measure the claims whose name or source contains `only` (all of them by default), one after the other."""
    for claim in all_claims():
        if only is None or only.lower() in f"{claim.name} {claim.source}".lower():
            start = time.perf_counter()
            ours = claim.measure()
            seconds = time.perf_counter() - start
            value, error = (ours.value, ours.error) if isinstance(ours, Drawn) else (ours, 0.0)
            yield Verdict(claim, float(value), seconds, error)
