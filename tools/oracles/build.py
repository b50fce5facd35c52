"""Run the real libraries on the shared inputs and keep what they wrote, for CI to compare with.

    make oracles            # makes its own environment (torch and the libraries) and runs this file

Each `tests/oracles/<library>.npz` holds, for every profile and case, the first rows in full and SHA-256 digests of
every chunk of rows, of codes, of scales and of the values that the library decodes them to; the numbers stored at
tensor level; all edge tensors in full (decoded values: digests); and, as JSON under `about`, the versions of everything
that ran. TransformerEngine cannot be built without a GPU toolkit: its arrays come from its published formulas, written
here in torch, and say so. Last, `mma_sim.py` writes what tensor cores' sums come to.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "oracles")]

import cases  # noqa: E402
import mma_sim  # noqa: E402

Result = dict[str, np.ndarray]  # codes, scales, decoded, and maybe stored


def numpy_bytes(tensor: torch.Tensor) -> np.ndarray:
    """A tensor of one-byte elements as uint8."""
    return tensor.detach().contiguous().view(torch.uint8).numpy().copy()


def values_of(tensor: torch.Tensor) -> np.ndarray:
    """Decoded values, float32, every NaN with the same bits."""
    return cases.one_nan(tensor.detach().to(torch.float32).contiguous().numpy())


def torchao_mx(mode: str) -> Callable[[torch.Tensor], Result]:
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx

    def run(x: torch.Tensor) -> Result:
        element = torch.float4_e2m1fn_x2
        scales, data = to_mx(x, element, 32, ScaleCalculationMode[mode])
        values = to_dtype(data.view(torch.uint8), scales.view(torch.float8_e8m0fnu), element, 32, torch.float32)
        return {"codes": numpy_bytes(data), "scales": numpy_bytes(scales), "decoded": values_of(values)}

    return run


def torchao_nv(x: torch.Tensor) -> Result:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, nvfp4_quantize, per_tensor_amax_to_scale

    stored = per_tensor_amax_to_scale(x.abs().max())
    scales, data = nvfp4_quantize(x, 16, stored)
    values = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=stored).dequantize(torch.float32)
    return {
        "codes": numpy_bytes(data),
        "scales": numpy_bytes(scales),
        "stored": stored.numpy(),
        "decoded": values_of(values),
    }


def torchao_nv_one_level(x: torch.Tensor) -> Result:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, nvfp4_quantize

    scales, data = nvfp4_quantize(x, 16, None)
    values = NVFP4Tensor.to_nvfp4(x).dequantize(torch.float32)
    return {"codes": numpy_bytes(data), "scales": numpy_bytes(scales), "decoded": values_of(values)}


def modelopt_nv(x: torch.Tensor) -> Result:
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    packed, scales, stored = NVFP4QTensor.quantize(x.clone(), 16)
    values = packed.dequantize(dtype=torch.float32, scale=scales, double_scale=stored, block_sizes={-1: 16})
    return {
        "codes": numpy_bytes(packed._quantized_data),
        "scales": numpy_bytes(scales),
        "stored": stored.numpy(),
        "decoded": values_of(values),
    }


def modelopt_mx(x: torch.Tensor) -> Result:
    from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor

    packed, scales = MXFP4QTensor.quantize(x.clone(), 32)
    values = packed.dequantize(dtype=torch.float32, scale=scales, block_sizes={-1: 32})
    codes, scales = numpy_bytes(packed._quantized_data), numpy_bytes(scales).reshape(len(x), -1)
    return {"codes": codes, "scales": scales, "decoded": values_of(values).reshape(len(x), -1)}


def compressed_tensors(preset: str, bfloat16: bool = False) -> Callable[[torch.Tensor], Result]:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    scheme = QuantizationScheme(targets=["Linear"], weights=PRESET_SCHEMES[preset]["weights"])
    name = {"NVFP4": "nvfp4-pack-quantized", "MXFP4": "mxfp4-pack-quantized"}[preset]
    compressor = BaseCompressor.get_value_from_registry(name)

    def run(x: torch.Tensor) -> Result:
        if bfloat16:  # as the library gets a bfloat16 checkpoint: it forms amax / 6 in that dtype
            x = x.to(torch.bfloat16)
        blocks = x.reshape(len(x), -1, scheme.weights.group_size)
        low, high = blocks.amin(dim=-1), blocks.amax(dim=-1)
        stored = generate_gparam(x.amin(), x.amax()) if preset == "NVFP4" else None
        scales, _ = calculate_qparams(low, high, scheme.weights, global_scale=stored)
        state = {"weight": x.clone(), "weight_scale": scales}
        if stored is not None:
            state["weight_global_scale"] = stored
        out = compressor.compress(state, scheme)
        result = {"codes": numpy_bytes(out["weight_packed"]), "scales": numpy_bytes(out["weight_scale"])}
        codes = unpack_fp4_from_uint8(out["weight_packed"], *x.shape, dtype=torch.float32)
        scales = compressor._decompress_scale(out["weight_scale"], torch.float32)
        values = dequantize(codes, scales, args=scheme.weights, global_scale=stored, dtype=torch.float32)
        result["decoded"] = values_of(values)
        if stored is not None:
            result["stored"] = stored.numpy()
        return result

    return run


def bitsandbytes(kind: str) -> Callable[[torch.Tensor], Result]:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def run(x: torch.Tensor) -> Result:
        packed, state = quantize_4bit(x, blocksize=64, quant_type=kind)
        rows = len(x)
        codes, decoded = numpy_bytes(packed).reshape(rows, -1), values_of(dequantize_4bit(packed, state))
        if kind == "fp4":
            cases.minus_zero(codes, decoded)
        return {
            "codes": codes,
            "scales": state.absmax.numpy().reshape(rows, -1).view(np.uint8),
            "decoded": decoded,
        }

    return run


def gguf_mx(x: torch.Tensor) -> Result:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    with np.errstate(all="ignore"):
        blocks = quantize(x.numpy(), GGMLQuantizationType.MXFP4).reshape(len(x), -1, 17)
        values = dequantize(blocks.reshape(len(x), -1), GGMLQuantizationType.MXFP4)
    return {
        "codes": np.ascontiguousarray(blocks[..., 1:]).reshape(len(x), -1),
        "scales": np.ascontiguousarray(blocks[..., 0]),
        "decoded": cases.one_nan(values),
    }


def transformer_engine(rows: int, four_over_six: str | None = None, cap: float = 448.0) -> Callable[..., Result]:
    """The formulas of its Python reference quantizer, in torch."""
    fmax = torch.tensor(torch.finfo(torch.float32).max)
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])

    def round_e2m1(q: torch.Tensor) -> torch.Tensor:
        a = q.abs()
        code = torch.zeros(q.shape, dtype=torch.uint8)
        for bound, inclusive in ((0.25, 0), (0.75, 1), (1.25, 0), (1.75, 1), (2.5, 0), (3.5, 1), (5.0, 0)):
            code += (a >= bound) if inclusive else (a > bound)
        code += (q < 0) * 8
        code[torch.isnan(q)] = 0
        return code.to(torch.uint8)

    def run(x: torch.Tensor) -> Result:
        blocks = x.reshape(len(x), -1, 16)
        amax = x.abs().max()
        amax_b = blocks.abs().amax(dim=-1, keepdim=True)
        if rows == 16:
            tiles = torch.stack([t.amax(dim=0) for t in amax_b.split(16)])
            amax_b = tiles.repeat_interleave(16, dim=0)[: len(x)]
        s_enc = torch.min(torch.div(torch.tensor(cap * 6.0), amax), fmax)
        if s_enc == 0 or amax == 0:
            s_enc = torch.tensor(1.0)
        s_dec = torch.div(1.0, s_enc)

        def candidate(scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            s = torch.clamp(scale, -448.0, 448.0).to(torch.float8_e4m3fn)
            enc = torch.min(torch.div(1.0, s.float() * s_dec), fmax)
            return s, round_e2m1(torch.clamp(blocks * enc, -6.0, 6.0))

        if four_over_six is None:
            multiplier = s_enc * torch.reciprocal(torch.tensor(6.0))
            scales, codes = candidate(torch.min(amax_b * multiplier, fmax))
        else:
            base = torch.div(amax_b, 6.0) * s_enc
            errors, found = [], [candidate(base), candidate(base * 1.5)]
            for s, code in found:
                value = grid[(code & 7).long()] * torch.where(code > 7, -1.0, 1.0)
                error = torch.zeros(amax_b.shape[:-1])
                for i in range(16):
                    decoded = torch.div(value[..., i] * s.float().squeeze(-1) * amax, torch.tensor(6.0 * cap))
                    difference = decoded - blocks[..., i]
                    error = error + (difference * difference if four_over_six == "mse" else difference.abs())
                errors.append(error)
            if rows == 16:
                for k, error in enumerate(errors):
                    missing = -len(error) % 16  # rows of zeros: TransformerEngine itself takes whole tiles only
                    tree = torch.nn.functional.pad(error, (0, 0, 0, missing)).reshape(-1, 16, error.shape[-1])
                    for half in (8, 4, 2, 1):
                        tree = tree[:, :half] + tree[:, half : 2 * half]
                    errors[k] = tree[:, 0].repeat_interleave(16, dim=0)[: len(error)]
            four = (errors[1] < errors[0]).unsqueeze(-1)
            scales = torch.where(four, found[1][0].view(torch.uint8), found[0][0].view(torch.uint8))
            codes = torch.where(four, found[1][1], found[0][1])
        packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
        elements = torch.cat([grid, -grid])[codes.long()]  # its kernel: value * ((float(scale) * amax) * factor_inv)
        decoder = scales.view(torch.float8_e4m3fn).float() * amax * torch.tensor(1.0 / (6.0 * cap))
        return {
            "codes": packed.reshape(len(x), -1).numpy(),
            "scales": numpy_bytes(scales.squeeze(-1)),
            "stored": amax.numpy(),
            "decoded": values_of(elements * decoder).reshape(len(x), -1),
        }

    return run


def bitsandbytes_double() -> Result:
    """Double quantization of block maxima: the map, the offset, the bytes, the second-level maxima."""
    from bitsandbytes.functional import create_dynamic_map, quantize_4bit, quantize_blockwise

    x = torch.from_numpy(np.concatenate([cases.gaussian(), cases.gaussian_bfloat16()[:512]]))
    _, plain = quantize_4bit(x, quant_type="nf4")
    _, state = quantize_4bit(x, quant_type="nf4", compress_statistics=True)
    code, second = state.absmax, state.state2
    again, _ = quantize_blockwise(plain.absmax - state.offset, blocksize=256)
    assert torch.equal(again, code)
    return {
        "map": create_dynamic_map().numpy(),
        "offset": state.offset.numpy(),
        "codes": code.numpy(),
        "absmax": second.absmax.numpy(),
    }


def bitsandbytes_ragged() -> Result:
    """One row of 1001 numbers: the last block is ragged and the last byte half empty."""
    from bitsandbytes.functional import quantize_4bit

    out = {}
    for kind in ("nf4", "fp4"):
        packed, state = quantize_4bit(torch.from_numpy(cases.gaussian()[:1, :1001].copy()), quant_type=kind)
        out[f"{kind}/codes"], out[f"{kind}/absmax"] = packed.numpy().reshape(-1), state.absmax.numpy()
    return out


def torchao_swizzle() -> Result:
    from torchao.prototype.mx_formats.utils import to_blocked

    out = {}
    for rows, columns in ((128, 4), (130, 7), (300, 64), (1, 1)):
        scales = (cases.bits((rows, columns), 70) & np.uint32(0xFF)).astype(np.uint8)
        out[f"{rows}x{columns}"] = to_blocked(torch.from_numpy(scales)).flatten().numpy()
    return out


def record(run: Callable[[torch.Tensor], Result], profile: str, extra: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Everything that is kept of one profile."""
    kept = {}
    makers = {**cases.LARGE, **{name: getattr(cases, name) for name in extra}}
    for case, make in makers.items():
        result = run(torch.from_numpy(cases.for_profile(make(), profile)))
        for part, array in result.items():
            key = f"{profile}/{case}/{part}"
            if part == "stored":
                kept[key] = np.asarray(array, np.float32)
            else:
                kept[key + "-sha256"] = cases.digests(array)
                if part != "decoded":
                    kept[key + "-head"] = array[: cases.HEAD_ROWS]
        print(profile, case, flush=True)
    parts: dict[str, list[np.ndarray]] = {}
    for row in cases.for_profile(cases.edges(), profile):
        try:
            result = run(torch.from_numpy(row[None].copy()))
        except Exception as error:
            raise RuntimeError(f"{profile} fails on an edge tensor: {row}") from error
        for part, array in result.items():
            array = np.asarray(array).reshape(-1)
            parts.setdefault(part, []).append(cases.digests(array[None])[0] if part == "decoded" else array)
    for part, arrays in parts.items():
        kept[f"{profile}/edges/{part}"] = np.stack(arrays)
    return kept


def write(library: str, packages: tuple[str, ...], source: str, arrays: dict[str, np.ndarray]) -> None:
    about = {
        "source": source,
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "numpy", *packages)},
        "python": sys.version.split()[0],
        "inputs": {name: cases.digests(make()).tobytes().hex()[:64] for name, make in cases.LARGE.items()},
    }
    path = ROOT / "tests" / "oracles" / f"{library}.npz"
    np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)
    print(f"wrote {path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def main() -> None:
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")
    real = "the library itself, on the CPU"
    arrays = {}
    for mode in ("FLOOR", "EVEN", "CEIL", "RCEIL"):
        arrays |= record(torchao_mx(mode), f"torchao-0.18-{mode.lower()}", ("scale_boundaries",))
    arrays |= record(torchao_nv, "torchao-0.18-nvfp4")
    arrays |= record(torchao_nv_one_level, "torchao-0.18-nvfp4-1level")
    arrays |= {f"swizzle/{k}": v for k, v in torchao_swizzle().items()}
    write("torchao", ("torchao",), real, arrays)

    arrays = record(modelopt_nv, "modelopt-nvfp4") | record(modelopt_mx, "modelopt-mxfp4", ("scale_boundaries",))
    write("modelopt", ("nvidia-modelopt",), real, arrays)

    arrays = record(compressed_tensors("NVFP4"), "compressed-tensors-0.20-nvfp4")
    arrays |= record(compressed_tensors("MXFP4"), "compressed-tensors-0.20-mxfp4", ("scale_boundaries",))
    arrays |= record(compressed_tensors("NVFP4", bfloat16=True), "compressed-tensors-0.20-nvfp4-bf16")
    write("compressed_tensors", ("compressed-tensors",), real, arrays)

    arrays = record(bitsandbytes("nf4"), "bitsandbytes-nf4", ("codebook_ties",))
    arrays |= record(bitsandbytes("fp4"), "bitsandbytes-fp4", ("codebook_ties",))
    arrays |= {f"double/{k}": v for k, v in bitsandbytes_double().items()}
    arrays |= {f"ragged/{k}": v for k, v in bitsandbytes_ragged().items()}
    write("bitsandbytes", ("bitsandbytes",), real, arrays)

    write("gguf", ("gguf",), real, record(gguf_mx, "ggml-mxfp4", ("scale_boundaries",)))

    arrays = record(transformer_engine(1), "te-nvfp4") | record(transformer_engine(16), "te-nvfp4-16x16")
    for error in ("mse", "mae"):
        arrays |= record(transformer_engine(1, error, 256.0), f"te-nvfp4-4over6-{error}")
        arrays |= record(transformer_engine(16, error, 256.0), f"te-nvfp4-16x16-4over6-{error}")
    source = "TransformerEngine's formulas (its Python reference quantizer), written in torch; not the library itself"
    write("transformer_engine", (), source, arrays)
    mma_sim.write()


if __name__ == "__main__":
    main()
