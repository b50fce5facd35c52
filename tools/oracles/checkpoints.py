"""Small checkpoints that the libraries themselves write, and what they decode them to: tests/checkpoints/data/.

One tiny Llama-shaped model (48,000 weights, random) goes through every producer. Each folder holds the producer's
files as they are; `decoded.npz` beside them the values that the library computes from them, weight by weight, in
float32 (rows 0 and 1 in full, a digest of all), and the dtype that it computes in.

AutoGPTQ and AutoAWQ no longer install beside a current torch; their packing modules are run from the unpacked archives
(`pip download --no-deps auto-gptq==0.7.1 autoawq==0.2.9`), whose folders are arguments: --gptq DIR --awq DIR.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "checkpoints" / "data"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "oracles")]

import cases  # noqa: E402

GROUP = 64
Values = dict[str, torch.Tensor]


def tiny_llama(dtype: torch.dtype = torch.bfloat16) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, vocab_size=32, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    model = LlamaForCausalLM(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.05)
        else:
            parameter.data.normal_(mean=1.0, std=0.1)
        parameter.data = parameter.data.to(dtype)
        assert name
    return model


def linears(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """The layers that are quantized: all but the head."""
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}


def digest(values: Values, dtype: str) -> dict[str, np.ndarray]:
    kept = {"dtype": np.array(dtype)}
    for name, tensor in values.items():
        array = tensor.detach().to(torch.float32).contiguous().numpy()
        array = array.reshape(-1, array.shape[-1])
        kept[f"{name}/head"] = array[:2]
        kept[f"{name}/sha256"] = cases.digests(array)
        kept[f"{name}/shape"] = np.array(tensor.shape)
    return kept


def keep(name: str, values: Values, dtype: str) -> None:
    np.savez_compressed(DATA / name / "decoded.npz", **digest(values, dtype))
    for extra in ("generation_config.json", "tokenizer_config.json", "README.md", "recipe.yaml"):
        (DATA / name / extra).unlink(missing_ok=True)
    size = sum(f.stat().st_size for f in (DATA / name).iterdir())
    print(f"{name}: {len(values)} weights, {size:,} bytes", flush=True)


def folder(name: str) -> Path:
    path = DATA / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


# ---- producers


def original() -> None:
    model, path = tiny_llama(), folder("original")
    model.save_pretrained(path)
    keep("original", {f"{n}.weight": m.weight for n, m in linears(model).items()}, "bfloat16")


def modelopt(name: str, config: str) -> None:
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    model, path = tiny_llama(), folder(name)

    def calibrate(m: torch.nn.Module) -> None:
        torch.manual_seed(1)
        m(torch.randint(0, 32, (2, 16)))

    quantized = mtq.quantize(model, getattr(mtq, config), calibrate)
    export_hf_checkpoint(quantized, export_dir=str(path))
    tensors = load_file(path / "model.safetensors")
    values = {}
    for layer in linears(tiny_llama()):
        weight, scale = tensors[f"{layer}.weight"], tensors[f"{layer}.weight_scale"]
        if weight.dtype == torch.uint8:
            from modelopt.torch.quantization.qtensor import NVFP4QTensor

            shape = torch.Size([weight.shape[0], weight.shape[1] * 2])
            packed = NVFP4QTensor(shape, torch.float32, weight)
            values[f"{layer}.weight"] = packed.dequantize(
                dtype=torch.float32, scale=scale, double_scale=tensors[f"{layer}.weight_scale_2"], block_sizes={-1: 16}
            )
        elif scale.dtype == torch.uint8:
            from modelopt.torch.quantization.qtensor import MXFP8QTensor

            packed = MXFP8QTensor(weight.shape, torch.float32, weight)
            values[f"{layer}.weight"] = packed.dequantize(dtype=torch.float32, scale=scale)
        else:
            from modelopt.torch.quantization.qtensor import FP8QTensor

            packed = FP8QTensor(weight.shape, torch.float32, weight)
            values[f"{layer}.weight"] = packed.dequantize(dtype=torch.float32, scale=scale)
    keep(name, values, "float32")


def compressed_tensors(name: str, weights: dict[str, object], form: str) -> None:
    from compressed_tensors.compressors import BaseCompressor, ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    model, path = tiny_llama(), folder(name)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, format=form)
    config = QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"], format=form)
    apply_quantization_config(model, config)
    args = scheme.weights
    strategy = str(getattr(args.strategy, "value", args.strategy))
    for layer in linears(model).values():
        w = layer.weight.data
        level = None
        if strategy == "tensor_group":
            level = generate_gparam(w.amin().float(), w.amax().float())
            layer.weight_global_scale.data.copy_(level)
        if strategy == "tensor":
            low, high = w.amin().reshape(1), w.amax().reshape(1)
        elif strategy == "channel":
            low, high = w.amin(dim=1, keepdim=True), w.amax(dim=1, keepdim=True)
        elif strategy == "block":
            tiles = torch.nn.functional.pad(w, (0, -w.shape[1] % 128, 0, -len(w) % 128))
            tiles = tiles.unflatten(0, (-1, 128)).unflatten(2, (-1, 128))
            low, high = tiles.amin(dim=(1, 3)), tiles.amax(dim=(1, 3))
        else:
            blocks = w.unflatten(1, (-1, args.group_size))
            low, high = blocks.amin(dim=-1), blocks.amax(dim=-1)
        scale, zero = calculate_qparams(low, high, args, global_scale=level)
        layer.weight_scale.data.copy_(scale.reshape(layer.weight_scale.shape))
        if hasattr(layer, "weight_zero_point"):
            layer.weight_zero_point.data.copy_(zero.reshape(layer.weight_zero_point.shape))
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=form)
    compressor.compress_model(model)
    model.save_pretrained(path)
    compressor.update_config(str(path))
    tensors = load_file(path / "model.safetensors")
    single = BaseCompressor.get_value_from_registry(form)
    values = {}
    for layer in linears(tiny_llama()):
        prefix = f"{layer}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        values[f"{layer}.weight"] = single.decompress(state, scheme)["weight"]
    keep(name, values, str(next(iter(values.values())).dtype).removeprefix("torch."))


def torchao(name: str, make: Callable[[], object], dtype: torch.dtype = torch.bfloat16) -> None:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import quantize_

    model, path = tiny_llama(dtype), folder(name)
    quantize_(model, make(), filter_fn=lambda m, n: isinstance(m, torch.nn.Linear) and n != "lm_head")
    state = {n: p.detach() if type(p) is torch.nn.Parameter else p for n, p in model.state_dict().items()}
    state = {n: torch.Tensor(p) if type(p) is torch.nn.Parameter else p for n, p in state.items()}
    data, metadata = flatten_tensor_state_dict(state)
    save_file({k: v.contiguous() for k, v in data.items()}, path / "model.safetensors", metadata)
    values = {f"{n}.weight": state[f"{n}.weight"].dequantize() for n in linears(tiny_llama())}
    keep(name, values, str(next(iter(values.values())).dtype).removeprefix("torch."))


def bitsandbytes(name: str, kind: str, nested: bool) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    model, path = tiny_llama(), folder(name)
    state, values = {k: v.detach().clone() for k, v in model.state_dict().items()}, {}
    for layer, module in linears(model).items():
        four = Linear4bit(
            module.in_features, module.out_features, bias=False, quant_type=kind, compress_statistics=nested,
            compute_dtype=torch.bfloat16,
        )  # fmt: skip
        four.load_state_dict({"weight": module.weight.data.clone()})
        four = four.to("cpu")
        if four.weight.quant_state is None:
            four.weight = four.weight._quantize("cpu")
        del state[f"{layer}.weight"]
        state |= {f"{layer}.{k}": v for k, v in four.state_dict().items()}
        decoded = dequantize_4bit(four.weight.data, four.weight.quant_state)
        if kind == "fp4":
            cases.minus_zero(four.weight.data.numpy(), decoded.numpy())
        values[f"{layer}.weight"] = decoded
    save_file({k: v.contiguous() for k, v in state.items()}, path / "model.safetensors", {"format": "pt"})
    keep(name, values, str(next(iter(values.values())).dtype).removeprefix("torch."))


def integer_parameters(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points (out, groups) of a plain asymmetric quantizer, as the packers take them."""
    blocks = w.float().unflatten(1, (-1, GROUP))
    low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    scale = ((high - low) / 15).half().float()
    return scale, torch.round(-low / scale).clamp(1, 15)


def gptq(source: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "qlinear", source / "auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, path = tiny_llama(torch.float16), folder("gptq")
    state, values = {k: v.detach().clone() for k, v in model.state_dict().items()}, {}
    for layer, linear in linears(model).items():
        packed = module.QuantLinear(
            4, GROUP, linear.in_features, linear.out_features, False, weight_dtype=torch.float16
        )
        scale, zero = integer_parameters(linear.weight.data)
        packed.pack(linear, scale, zero, None)
        groups = torch.arange(linear.in_features, dtype=torch.int32) // GROUP
        del state[f"{layer}.weight"]
        state |= {f"{layer}.{k}": getattr(packed, k) for k in ("qweight", "qzeros", "scales")}
        state[f"{layer}.g_idx"] = groups
        values[f"{layer}.weight"] = packed.eval()(torch.eye(linear.in_features, dtype=torch.float16)).T.contiguous()
    save_file({k: v.contiguous() for k, v in state.items()}, path / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict() | {
        "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "desc_act": False}
    }
    (path / "config.json").write_text(json.dumps(config, indent=2, default=str))
    keep("gptq", values, "float16")


def awq(source: Path) -> None:
    for name in ("awq", "awq.utils", "awq.modules"):
        package = types.ModuleType(name)
        package.__path__ = [str(source / name.replace(".", "/"))]
        sys.modules[name] = package
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    model, path = tiny_llama(torch.float16), folder("awq")
    state, values = {k: v.detach().clone() for k, v in model.state_dict().items()}, {}
    for layer, linear in linears(model).items():
        scale, zero = integer_parameters(linear.weight.data)
        packed = WQLinear_GEMM.from_linear(linear, 4, GROUP, False, scale.t().contiguous(), zero.t().contiguous())
        del state[f"{layer}.weight"]
        parts = {k: getattr(packed, k) for k in ("qweight", "qzeros", "scales")}
        state |= {f"{layer}.{k}": v for k, v in parts.items()}
        values[f"{layer}.weight"] = dequantize_gemm(*parts.values(), 4, GROUP).T.contiguous()
    save_file({k: v.contiguous() for k, v in state.items()}, path / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict() | {
        "quantization_config": {
            "quant_method": "awq",
            "bits": 4,
            "group_size": GROUP,
            "version": "gemm",
            "zero_point": True,
        }
    }
    (path / "config.json").write_text(json.dumps(config, indent=2, default=str))
    keep("awq", values, "float16")


def gpt_oss() -> None:
    """Random blocks under its names; decoded by transformers, which turns (experts, rows, K) around."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    path, generator = folder("gpt-oss"), torch.Generator().manual_seed(3)
    state, values = {"model.norm.weight": torch.ones(64, dtype=torch.bfloat16)}, {}
    for part, rows, groups in (("gate_up_proj", 64, 2), ("down_proj", 64, 1)):
        name = f"model.layers.0.mlp.experts.{part}"
        blocks = torch.randint(0, 256, (2, rows, groups, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(110, 130, (2, rows, groups), generator=generator, dtype=torch.uint8)
        state |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        values[name] = convert_moe_packed_tensors(blocks, scales).transpose(1, 2)
    save_file(state, path / "model.safetensors", {"format": "pt"})
    config = {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}
    (path / "config.json").write_text(json.dumps(config))
    keep("gpt-oss", values, "bfloat16")


def ggml() -> None:
    import gguf

    model, path = tiny_llama(torch.float32), folder("gguf")
    writer = gguf.GGUFWriter(str(path / "model.gguf"), "llama")
    values, kinds = {}, ["Q4_0", "Q4_1", "Q8_0", "MXFP4", "BF16", "Q5_0", "Q5_1"]
    for (layer, module), kind in zip(linears(model).items(), kinds, strict=True):
        number = gguf.GGMLQuantizationType[kind]
        name = f"blk.0.{layer.split('.')[-1]}.weight"
        data = gguf.quants.quantize(module.weight.detach().numpy(), number)
        writer.add_tensor(name, data, raw_dtype=number)
        values[name] = torch.from_numpy(gguf.quants.dequantize(data, number))
    rng = np.random.default_rng(4)
    for kind in (
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "IQ4_NL",
        "NVFP4",
    ):  # no encoder in the library: random blocks with sane scales
        number = gguf.GGMLQuantizationType[kind]
        elements, nbytes = gguf.GGML_QUANT_SIZES[number]
        data = rng.integers(0, 256, (4, 512 // elements, nbytes), np.uint8)
        half = rng.uniform(0.01, 0.02, (4, 512 // elements, 2)).astype(np.float16).view(np.uint8)
        if kind == "Q6_K":
            data[..., 208:] = half[..., :2]
        elif kind == "NVFP4":
            data[..., :4] %= 0x7F
        else:
            data[..., : 2 if kind == "IQ4_NL" else 4] = half[..., : 2 if kind == "IQ4_NL" else 4]
        writer.add_tensor(f"random.{kind}", data.reshape(4, -1), raw_dtype=number)
        values[f"random.{kind}"] = torch.from_numpy(gguf.quants.dequantize(data.reshape(4, -1), number))
    writer.add_tensor("output_norm.weight", model.model.norm.weight.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    keep("gguf", values, "float32")


def everything(gptq_source: Path | None, awq_source: Path | None) -> dict[str, Callable[[], None]]:
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

    def preset(scheme: str) -> dict[str, object]:
        return PRESET_SCHEMES[scheme]["weights"].model_dump()

    def nvfp4() -> object:
        from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig

        return NVFP4WeightOnlyConfig()

    def mx(element: torch.dtype) -> Callable[[], object]:
        def make() -> object:
            from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig

            return MXDynamicActivationMXWeightConfig(activation_dtype=element, weight_dtype=element)

        return make

    def plain(config: str) -> Callable[[], object]:
        def make() -> object:
            import torchao.quantization as q

            return getattr(q, config)()

        return make

    group = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
    eight = {"num_bits": 8, "type": "float", "symmetric": True}
    jobs: dict[str, Callable[[], None]] = {
        "original": original,
        "modelopt-nvfp4": lambda: modelopt("modelopt-nvfp4", "NVFP4_DEFAULT_CFG"),
        "modelopt-fp8": lambda: modelopt("modelopt-fp8", "FP8_DEFAULT_CFG"),
        "modelopt-mxfp8": lambda: modelopt("modelopt-mxfp8", "MXFP8_DEFAULT_CFG"),
    }
    for name, weights, form in (
        ("nvfp4", preset("NVFP4"), "nvfp4-pack-quantized"),
        ("mxfp4", preset("MXFP4"), "mxfp4-pack-quantized"),
        ("mxfp6", None, "mxfp6-pack-quantized"),
        ("mxfp8", preset("MXFP8"), "mxfp8-quantized"),
        ("int4", {**group, "symmetric": True}, "pack-quantized"),
        ("int4-zero", {**group, "symmetric": False}, "pack-quantized"),
        ("int8", {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}, "int-quantized"),
        ("fp8", {**eight, "strategy": "channel"}, "float-quantized"),
        ("fp8-tensor", {**eight, "strategy": "tensor"}, "naive-quantized"),
        ("fp8-block", {**eight, "strategy": "block", "block_structure": [128, 128]}, "float-quantized"),
    ):
        if weights is None:
            weights = {**preset("MXFP8"), "num_bits": 6}
        jobs[f"compressed-tensors-{name}"] = lambda n=name, w=weights, f=form: compressed_tensors(
            f"compressed-tensors-{n}", w, f
        )
    jobs |= {
        "torchao-nvfp4": lambda: torchao("torchao-nvfp4", nvfp4),
        "torchao-mxfp8": lambda: torchao("torchao-mxfp8", mx(torch.float8_e4m3fn)),
        "torchao-mxfp4": lambda: torchao("torchao-mxfp4", mx(torch.float4_e2m1fn_x2)),
        "torchao-fp8": lambda: torchao("torchao-fp8", plain("Float8WeightOnlyConfig")),
        "torchao-int8": lambda: torchao("torchao-int8", plain("Int8WeightOnlyConfig")),
        "bitsandbytes-nf4": lambda: bitsandbytes("bitsandbytes-nf4", "nf4", False),
        "bitsandbytes-nf4-nested": lambda: bitsandbytes("bitsandbytes-nf4-nested", "nf4", True),
        "bitsandbytes-fp4": lambda: bitsandbytes("bitsandbytes-fp4", "fp4", False),
        "gpt-oss": gpt_oss,
        "gguf": ggml,
    }
    if gptq_source:
        jobs["gptq"] = lambda: gptq(gptq_source)
    if awq_source:
        jobs["awq"] = lambda: awq(awq_source)
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gptq", type=Path, help="folder of the unpacked auto_gptq wheel")
    parser.add_argument("--awq", type=Path, help="folder of the unpacked autoawq source archive")
    parser.add_argument("--only", help="those whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failed = []
    for name, job in everything(arguments.gptq, arguments.awq).items():
        if arguments.only and arguments.only not in name:
            continue
        try:
            job()
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
            print("FAILED", failed[-1][:400], flush=True)
    packages = ("torch", "torchao", "nvidia-modelopt", "compressed-tensors", "bitsandbytes", "gguf", "transformers")
    versions = {p: importlib.metadata.version(p) for p in packages} | {"auto-gptq": "0.7.1", "autoawq": "0.2.9"}
    (DATA / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
