"""The command line of this package: `vbw formats`, `bits`, `quantize`, `explain`, `claims`."""

from __future__ import annotations

import argparse
import json
import math
import zipfile
from pathlib import Path

import numpy as np

from .. import options
from ..files import check_output
from .accumulate.explain import explain_sum
from .blocks import FORMATS, BlockFormat, get_format, known_format
from .claims import Verdict, check_claims
from .codec import NONFINITE, quantize
from .containers import save_packed
from .elements import ELEMENTS, TIES, ElementFormat
from .errors import FormatError, unknown_name
from .explain import Explanation, explain_code, explain_value, explain_values, number
from .measure import decibels, relative_mse
from .packed import PackedTensor, to_blocks
from .profiles import PROFILES, get_profile

EXPLAINED = ("hopper-fp8", "ada-fp8", "blackwell-f8f6f4")

VERBS = {
    "formats": "the table of formats and producers' profiles",
    "bits": "what the bits of a code mean",
    "quantize": "quantize an .npy array",
    "explain": "one number from amax to its bits, step by step",
    "explain-sum": "one dot product as a tensor core adds it: what is cut off, the sum",
    "claims": "published figures, reproduced; exit code 1 when one fails",
}


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add this package's commands to an argparse parser; each sets `run`, a function of the parsed arguments.

    `run` prints to standard output and returns the exit code; it raises a ValueError with a message for bad input.
    """
    formats = subparsers.add_parser("formats", help=VERBS["formats"])
    formats.add_argument("--json", action="store_true", help="as JSON")
    formats.set_defaults(run=run_formats)

    bits = subparsers.add_parser("bits", help=VERBS["bits"])
    bits.add_argument("codes", nargs="*", type=options.name, metavar="CODE",
                      help="codes: 5, 0x5 or 0b0101 (all of them by default)")  # fmt: skip
    bits.add_argument("--format", type=options.name, default="e2m1",
                      help=f"element format: {', '.join(ELEMENTS)} (default e2m1)")  # fmt: skip
    bits.add_argument("--json", action="store_true", help="as JSON")
    bits.set_defaults(run=run_bits)

    quantizing = subparsers.add_parser("quantize", help=VERBS["quantize"])
    quantizing.add_argument("file", type=options.path, metavar="FILE.npy", help="a float array")
    quantizing.add_argument("--format", type=options.name, default="nvfp4",
                            help="format, see `vbw formats` (default nvfp4)")  # fmt: skip
    quantizing.add_argument("--profile", type=options.name, help="a producer's exact arithmetic, see `vbw formats`")
    quantizing.add_argument("--ties", choices=TIES, help="another rounding than the format's")
    quantizing.add_argument("--seed", type=options.seed, default=0, help="seed of stochastic rounding (default 0)")
    quantizing.add_argument("--nonfinite", choices=NONFINITE, default="raise", help="NaN and Inf (default raise)")
    quantizing.add_argument("--out", type=options.path, metavar="FILE.npz",
                            help="write codes, scales and what else decoding needs")  # fmt: skip
    quantizing.add_argument("--report", action="store_true", help="errors, histogram of codes, worst element")
    quantizing.add_argument("--json", action="store_true", help="as JSON")
    quantizing.set_defaults(run=run_quantize)

    explain = subparsers.add_parser("explain", help=VERBS["explain"])
    explain.add_argument("values", nargs="+", type=options.value, metavar="X", help="a block of numbers")
    explain.add_argument("--format", type=options.name, default="nvfp4",
                         help="format, profile or element format (default nvfp4)")  # fmt: skip
    explain.add_argument("--index", type=options.whole(-options.LARGEST), default=0,
                         help="which of them to explain (default 0, the first)")  # fmt: skip
    explain.add_argument("--ties", choices=TIES[:3], default="even", help="for an element format (default even)")
    explain.add_argument("--json", action="store_true", help="as JSON")
    explain.set_defaults(run=run_explain)

    sums = subparsers.add_parser("explain-sum", help=VERBS["explain-sum"])
    sums.add_argument("--a", type=options.value, nargs="+", required=True, metavar="X", help="the numbers on the left")
    sums.add_argument("--b", type=options.value, nargs="+", required=True, metavar="X", help="as many on the right")
    sums.add_argument("--unit", type=options.name, default="hopper-fp8",
                      help=f"one of {', '.join(EXPLAINED)} (default hopper-fp8)")  # fmt: skip
    sums.add_argument("--format", choices=("e4m3", "e5m2"), default="e4m3", help="of both sides (default e4m3)")
    sums.add_argument("--c", type=options.value, default=0.0, help="the accumulator to begin with (default 0)")
    sums.add_argument("--json", action="store_true", help="as JSON")
    sums.set_defaults(run=run_explain_sum)

    claims = subparsers.add_parser("claims", help=VERBS["claims"])
    claims.add_argument("--only", type=options.text, metavar="TEXT", help="those whose name or source contains TEXT")
    claims.add_argument("--json", action="store_true", help="as JSON")
    claims.set_defaults(run=run_claims)


def table(rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Rows as aligned text; columns in `right` are flushed right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [t.rjust(w) if i in right else t.ljust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def print_json(data: object) -> None:
    """Data as strict JSON: NaN and Inf become strings."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, np.generic):
            value = value.item()
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    print(json.dumps(plain(data), indent=2, allow_nan=False))


def describe(fmt: BlockFormat) -> dict[str, object]:
    """A format record as plain data."""
    block = f"{fmt.block_rows} x {fmt.block or 'row'}" if fmt.block_rows > 1 or fmt.block is None else str(fmt.block)
    scale = fmt.rule.scale_element.name if fmt.rule.scale_element else "fp32"
    return {
        "name": fmt.name,
        "bits": fmt.bits,
        "element": fmt.element.name if fmt.element else "quantiles",
        "block": block,
        "scale": scale,
        "tensor_level": fmt.tensor_level,
        "fine": fmt.fine.kind if fmt.fine else None,
        "summary": fmt.summary,
        "source": fmt.source,
    }


def run_formats(args: argparse.Namespace) -> int:
    """`vbw formats`."""
    formats = [describe(f) for f in FORMATS.values()]
    elements = [
        {"name": e.name, "bits": e.bits, "largest": e.max, "smallest": e.smallest, "codes": len(e.codes)}
        for e in ELEMENTS.values()
    ]
    profiles = [
        {"name": p.name, "producer": p.producer, "version": p.version, "family": p.family, "checked": p.checked}
        for p in PROFILES.values()
    ]
    if args.json:
        print_json({"elements": elements, "formats": formats, "profiles": profiles})
        return 0
    rows = [("element", "bits", "largest", "smallest")]
    rows += [(e["name"], str(e["bits"]), f"{e['largest']:g}", f"{e['smallest']:g}") for e in elements]
    print(table(rows, right=(1, 2, 3)))
    rows = [("\nformat", "bits", "element", "block", "scale", "tensor", "")]
    rows += [
        (f["name"], f"{f['bits']:g}", f["element"], f["block"], f["scale"], f["tensor_level"], f["summary"])
        for f in formats
    ]
    print(table(rows, right=(1,)))
    rows = [("\nprofile", "of", "producer", "checked against")]
    rows += [(p["name"], p["family"], f"{p['producer']} {p['version']}", p["checked"]) for p in profiles]
    print(table(rows))
    return 0


def run_bits(args: argparse.Namespace) -> int:
    """`vbw bits`."""
    element = ELEMENTS.get(args.format)
    if element is None and args.format in FORMATS:
        element = FORMATS[args.format].element
    if element is None:
        raise unknown_name("element format", args.format, ELEMENTS)
    explanations = [explain_code(parse_code(c), element) for c in args.codes]
    if explanations:
        print_explanations(explanations, args.json)
        return 0
    codes = [explain_code(int(c), element).data for c in element.codes]
    if args.json:
        print_json(codes)
        return 0
    rows = [("code", "bits", "value")]
    rows += [(f"0x{d['code']:x}", d["bits"], number(d["value"])) for d in codes]
    print(table(rows, right=(2,)))
    return 0


def parse_code(text: str) -> int:
    """A code in decimal, 0x or 0b notation."""
    try:
        return int(text, 0)
    except ValueError:
        raise FormatError(f"{text!r} is not a code; write 5, 0x5 or 0b0101") from None


def print_explanations(explanations: list[Explanation], as_json: bool) -> None:
    """Explanations as text, or their numbers as JSON."""
    if as_json:
        data = [e.data for e in explanations]
        print_json(data[0] if len(data) == 1 else data)
    else:
        print("\n\n".join(str(e) for e in explanations))


def load_array(path: str) -> np.ndarray:
    """The float array of an .npy file; two opaque bytes a number (dtype V2) are bfloat16, as NumPy saves ml_dtypes'."""
    if not Path(path).is_file():
        why = f"{path} is not a regular file" if Path(path).exists() else f"there is no file {path}"
        raise FormatError(f"{why}; pass an .npy file, as numpy.save writes it")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} cannot be read as .npy ({error}); write it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise FormatError(f"{path} holds {len(array.files)} arrays; pass an .npy file with one")
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        return (np.ascontiguousarray(array).view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array


def resolve(name: str, profile: str | None = None) -> BlockFormat:
    """A format by its name or a profile's."""
    if profile is not None:
        return get_profile(profile).for_format(get_format(name))
    return known_format(name) if name in PROFILES else get_format(name)


def run_quantize(args: argparse.Namespace) -> int:
    """`vbw quantize`."""
    family = get_profile(args.profile).family if args.profile and args.format == "nvfp4" else args.format
    fmt = resolve(family, args.profile)
    if args.out:
        check_packed_path(args.out)
    x = load_array(args.file)
    packed = quantize(x, fmt, ties=args.ties, seed=args.seed, nonfinite=args.nonfinite, measure=False)
    report = quantize_report(x, packed, detailed=args.report)
    if args.out:
        save_packed(packed, args.out)
        report["out"] = args.out
    if args.json:
        print_json(report)
        return 0
    histogram = report.pop("code_histogram", None)
    print(table([(k.replace("_", " "), _show(v)) for k, v in report.items()]))
    if histogram:
        print(f"\ncodes of {fmt.name}")
        most = max(histogram)
        rows = []
        for code, count in enumerate(histogram):
            value = number(fmt.element.table[code]) if fmt.element else f"level {code}"
            value += f" or {number(fmt.second.table[code])}" if fmt.second else ""
            rows.append((f"0x{code:x}", value, f"{count / x.size:7.2%}", "#" * round(40 * count / most)))
        print(table(rows, right=(1,)))
    return 0


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def quantize_report(x: np.ndarray, packed: PackedTensor, detailed: bool) -> dict[str, object]:
    """Sizes and errors of a quantized array, as plain data."""
    x, decoded = np.asarray(x, np.float32), packed.dequantize()
    finite = np.isfinite(x) & np.isfinite(decoded)
    overflowed = np.isfinite(x) & ~finite
    x, decoded = np.where(finite, x, np.float32(0)), np.where(finite, decoded, np.float32(0))
    relative = relative_mse(x, decoded) if finite.any() else math.nan
    report: dict[str, object] = {
        "format": packed.format.name,
        "shape": " x ".join(map(str, packed.shape)),
        "bytes": packed.nbytes,
        "bytes_float32": 4 * packed.size,
        "bits_per_value": packed.bits_per_value,
        "relative_mse": relative,
        "sqnr_db": decibels(relative),
    }
    if not finite.all():
        report["values_measured"] = int(finite.sum())
    if overflowed.any():
        report |= {"values_overflowed": int(overflowed.sum()), "relative_mse": math.inf, "sqnr_db": -math.inf}
    if not detailed:
        return report
    error = np.where(overflowed, np.float32(np.inf), np.abs(decoded - x))
    worst = tuple(int(i) for i in np.unravel_index(int(error.argmax()), x.shape))
    scales = packed.decoded_scales()
    numbers = scales[np.isfinite(scales)]
    report |= {
        "amax": float(np.abs(x).max()),
        "largest_error": float(error[worst]),
        "largest_error_at": str(list(worst)),
        "blocks": int(scales.size),
        "zero_blocks": int((to_blocks(x, packed.format) == 0).all(axis=-1).sum()),
        "nan_blocks": int(scales.size - numbers.size),
        "smallest_scale": float(numbers.min()) if numbers.size else math.nan,
        "largest_scale": float(numbers.max()) if numbers.size else math.nan,
    }
    if packed.tensor_scale is not None and np.size(packed.tensor_scale) == 1:
        report["tensor_scale"] = float(np.asarray(packed.tensor_scale).reshape(()))
    report["code_histogram"] = np.bincount(
        packed.unpacked_codes().reshape(-1), minlength=1 << packed.format.code_bits
    ).tolist()
    return report


def check_packed_path(path: str) -> None:
    """Refuse an output path that cannot be written, before the work."""
    if Path(path).suffix != ".npz":
        raise FormatError(f"{path} does not end in .npz; the output holds several arrays")
    check_output(path)


def run_explain(args: argparse.Namespace) -> int:
    """`vbw explain`."""
    values = np.array(args.values, np.float64)
    if not -len(values) <= args.index < len(values):
        raise FormatError(
            f"--index {args.index} is out of range: there are {len(values)} numbers, 0 to {len(values) - 1}"
        )
    if args.format in ELEMENTS:
        element = ELEMENTS[args.format]
        if isinstance(element, ElementFormat) and not element.signed and values[args.index] < 0:
            raise FormatError(f"{element.name} has no sign: it cannot hold {values[args.index]:g}")
        print_explanations([explain_value(values[args.index], element, args.ties)], args.json)
        return 0
    fmt = resolve(args.format)
    index = (0, args.index) if fmt.block_rows > 1 else (args.index,)
    print_explanations([explain_values(values, fmt, index)], args.json)
    return 0


def run_explain_sum(args: argparse.Namespace) -> int:
    """`vbw explain-sum`."""
    if args.unit not in EXPLAINED:
        raise unknown_name("unit for FP8 operands", args.unit, EXPLAINED)
    if len(args.a) != len(args.b):
        raise FormatError(f"--a has {len(args.a)} numbers and --b {len(args.b)}; a product needs one of each")
    element = ELEMENTS[args.format]
    sides = [element.encode(np.array(side, np.float32)) for side in (args.a, args.b)]
    explanation = explain_sum(args.unit, *sides, args.c, a_format=args.format, b_format=args.format)
    print_explanations([explanation], args.json)
    return 0


def run_claims(args: argparse.Namespace) -> int:
    """`vbw claims`."""
    verdicts = list(check_claims(args.only))
    if not verdicts:
        raise FormatError(f"no claim's name or source contains {args.only!r}; run `vbw claims` to see all")
    if args.json:
        print_json([v.as_dict() for v in verdicts])
    else:
        print(claims_table(verdicts))
    return 0 if all(v.passed for v in verdicts) else 1


def claims_table(verdicts: list[Verdict]) -> str:
    """The claims, grouped by source."""
    lines, source = [], None
    rows = [("claim", "published", "ours", "drawn", "within", "", "condition")]
    for v in verdicts:
        c = v.claim
        verdict = "pass" if v.passed else "FAIL"
        published = f"{c.published} {c.unit}".strip() + (" (own)" if c.own else "")
        condition = c.condition + (f"; slack {c.slack:.1g}: {c.why}" if c.why else "")
        drawn = f"± {v.error:.1g}" if v.error else ""
        rows.append((c.name, published, f"{v.ours:.7g}", drawn, f"{v.tolerance:.2g}", verdict, condition))
    text = table(rows, right=(1, 2, 4)).split("\n")
    lines.append(text[0])
    for v, line in zip(verdicts, text[1:], strict=True):
        if v.claim.source != source:
            source = v.claim.source
            lines.append(f"\n{source}")
        lines.append(line)
    passed = sum(v.passed for v in verdicts)
    seconds = sum(v.seconds for v in verdicts)
    lines.append(f"\n{passed} of {len(verdicts)} claims reproduced in {seconds:.1f} s")
    return "\n".join(lines)
