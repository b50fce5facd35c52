"""How each generation's tensor cores add: parameters as records, each with its source and with what it was held to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..elements import ElementFormat
from ..errors import FormatError, unknown_name
from .decoding import get_operand

MMA_SIM = "MMA-Sim 2.1.1 (arXiv:2511.10909)"
MATLAB = "north-numerical-computing/MATLAB-tensor-core b12b5a7 (arXiv:2512.07004)"


@dataclass(frozen=True)
class Output:
    """How the sum of a step becomes a number again.

    Attributes
    ----------
    name : str
    fraction_bits : int
        That are kept; the rest is cut off, or rounded.
    smallest_exponent : int
        Of a normal number; below it the last place stays where it is.
    nearest : bool
        Round to nearest, ties to even; otherwise toward zero.
    dtype : str
        NumPy's name of the type that holds it.
    """

    name: str
    fraction_bits: int
    smallest_exponent: int
    nearest: bool
    dtype: str


FLOAT32 = Output("fp32, truncated", 23, -126, False, "float32")
E8M13 = Output("fp32 with 13 fraction bits, truncated", 13, -126, False, "float32")
FLOAT16 = Output("fp16, to nearest even", 10, -14, True, "float16")


@dataclass(frozen=True)
class Accumulator:
    """One kind of matrix instruction, as far as its sums are concerned.

    Attributes
    ----------
    name : str
    gpus, instruction : str
    operands : tuple of str
        Formats that either side may have.
    terms : int
        Most products that are added at once; longer instructions are chains of such steps.
    fraction_bits : int
        F: every term is truncated toward zero to a multiple of 2**(M - F), M being the largest exponent.
    output : Output
    zero_exponent : int
        The exponent with which a product (or c) that is zero takes part in the maximum.
    group : int
        Products that are added exactly before anything is aligned: 1, or 16 under block scales with k64.
    scales : tuple of (str, int)
        Formats of block scales with their block lengths; none: operands come without.
    separate : int
        0: c is one of the terms. Else so many products are summed from zero, in steps of `terms`, and c is then added
        by a float32 addition of its own, to nearest even.
    source : str
    checked : str
        What it was held to, in every bit.
    """

    name: str
    gpus: str
    instruction: str
    operands: tuple[str, ...]
    terms: int
    fraction_bits: int
    output: Output
    zero_exponent: int
    group: int = 1
    scales: tuple[tuple[str, int], ...] = ()
    separate: int = 0
    source: str = MMA_SIM
    checked: str = MMA_SIM

    @property
    def accumulators(self) -> tuple[str, ...]:
        """NumPy's names of the types that c may have: the output's; on Volta fp16 beside fp32 too."""
        return (self.output.dtype, "float16") if self.name == "volta-fp16" else (self.output.dtype,)

    def operand(self, name: str | None) -> ElementFormat:
        """The format of one side; the first that the unit takes where none is named."""
        name = self.operands[0] if name is None else name
        if name not in self.operands:
            raise FormatError(f"{self.name} multiplies {', '.join(self.operands)}, not {name}")
        return get_operand(name)


def _hardware(gpus: str) -> str:
    return f"{gpus}: 5,000 rows of hardware each ({MATLAB})"


def _family(
    name: str, gpus: str, operands: str, terms: int, fraction_bits: int, zero: tuple[int, int], seen: str, mma: str
) -> Iterator[Accumulator]:
    """The plain instructions of one generation: fp16, bf16 and tf32 (of twice fp16's bytes) to fp32, fp16 to fp16."""
    for operand in operands.split():
        count = terms // 2 if operand == "tf32" else terms
        checked = _hardware(seen) if seen else MMA_SIM
        yield Accumulator(
            f"{name}-{operand}", gpus, mma, (operand,), count, fraction_bits, FLOAT32, zero[0], checked=checked
        )
    yield Accumulator(f"{name}-fp16-to-fp16", gpus, mma, ("fp16",), terms, fraction_bits, FLOAT16, zero[1])


_FP8 = ("e4m3", "e5m2")
_F8F6F4 = ("e4m3", "e5m2", "e2m3", "e3m2", "e2m1")
_ADA, _HOPPER, _BLACKWELL = (-132, -20), (-133, -21), (-133, -21)


def _all() -> Iterator[Accumulator]:
    plain = "fp16 bf16 tf32"
    yield from _family("volta", "V100", "fp16", 4, 23, (-131, -19), "V100", "mma m8n8k4")
    yield from _family("turing", "T4 (its m8n8k4 is Volta's)", "fp16", 8, 24, (-132, -20), "", "mma m16n8k8")
    yield from _family("ampere", "A100, A2", plain, 8, 24, (-132, -20), "A100, A2", "mma")
    yield from _family("ada", "RTX 4000 Ada, L40S", plain, 8, 24, _ADA, "Ada, L40S", "mma")
    yield from _family("hopper", "H100, H200", plain, 16, 25, _HOPPER, "H100, H200", "mma, wgmma")
    yield from _family("blackwell", "B200, RTX 50", plain, 16, 25, _BLACKWELL, "B200", "mma, tcgen05.mma")
    ada, hopper, tcgen05 = "mma m16n8k32, k16", "wgmma k32", "tcgen05.mma kind::f8f6f4; mma kind::f8f6f4 of sm_120"
    yield Accumulator("ada-fp8", "RTX 4000 Ada, L40S", ada, _FP8, 16, 13, E8M13, -132, checked=_hardware("Ada, L40S"))
    yield Accumulator("ada-fp8-to-fp16", "RTX 4000 Ada, L40S", ada, _FP8, 16, 13, FLOAT16, -20)
    yield Accumulator("hopper-fp8", "H100, H200", hopper, _FP8, 32, 13, E8M13, -133, checked=_hardware("H100, H200"))
    yield Accumulator("hopper-fp8-to-fp16", "H100, H200", hopper, _FP8, 32, 13, FLOAT16, -21)
    yield Accumulator("blackwell-f8f6f4", "B200, RTX 50", tcgen05, _F8F6F4, 32, 25, FLOAT32, -133)
    yield Accumulator("blackwell-f8f6f4-to-fp16", "B200, RTX 50", tcgen05, _F8F6F4, 32, 25, FLOAT16, -21)
    yield Accumulator(
        "blackwell-fp8-mma",
        "B200",
        "mma m16n8k32, which sm_100 does not have by itself: emulated in fp16 (that it sums 16 at a time is assumed; "
        "the rows do not tell)",
        _FP8,
        16,
        25,
        FLOAT32,
        -133,
        separate=32,
        source=MATLAB,
        checked=_hardware("B200"),
    )
    scaled = "tcgen05.mma kind::{0}; mma kind::{0} of sm_120"
    yield Accumulator(
        "blackwell-mxf8f6f4",
        "B200, RTX 50",
        scaled.format("mxf8f6f4"),
        _F8F6F4,
        32,
        25,
        FLOAT32,
        -133,
        scales=(("e8m0", 32),),
    )
    yield Accumulator(
        "blackwell-mxf4nvf4",
        "B200, RTX 50",
        scaled.format("mxf4nvf4, mxf4"),
        ("e2m1",),
        64,
        35,
        FLOAT32,
        -139,
        group=16,
        scales=(("ue4m3", 16), ("e8m0", 16), ("e8m0", 32)),
    )


ACCUMULATORS: dict[str, Accumulator] = {unit.name: unit for unit in _all()}
"""Every instruction that the model knows, by name. Not among them, because no source says how they add: sm_103 and
sm_107, `.ws`, `cta_group::2`; other makers' GPUs add otherwise."""


def get_accumulator(name: str | Accumulator) -> Accumulator:
    """A record by its name (or itself).

    Raises
    ------
    UnknownNameError
        No source says how that one adds.
    """
    if isinstance(name, Accumulator):
        return name
    if name not in ACCUMULATORS:
        raise unknown_name("accumulator", name, ACCUMULATORS)
    return ACCUMULATORS[name]
