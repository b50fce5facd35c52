"""Llamas from the files that people have: safetensors with a `config.json`, and GGUF."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..checkpoints import Checkpoint, CheckpointError, Weight, find_weights, open_checkpoint
from ..layers.rotary import scaling_factors, to_halves
from .llama import Llama, LlamaConfig

ARCHITECTURES = ("llama",)

SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings",
    "attention_bias", "mlp_bias",
)  # fmt: skip
TRANSFORMERS_DEFAULTS = {
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": False,
}  # fmt: skip
"""What a `config.json` may leave out, where ours is another."""

GGUF_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"


def _check_architecture(name: Any, path: object) -> None:
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} holds a model of the architecture {name!r}; known here: {', '.join(ARCHITECTURES)}"
        )


def config_from_json(settings: Mapping[str, Any], path: object = "config.json") -> LlamaConfig:
    """The configuration that a `config.json` of transformers describes.

    Raises
    ------
    CheckpointError
        Another architecture, an activation or a rotary scaling that is not known, sizes that are missing or do not
        fit each other.
    """
    _check_architecture(settings.get("model_type"), path)
    activation = settings.get("hidden_act", "silu")
    if activation != "silu":
        raise CheckpointError(f"{path}: the activation {activation!r} is not known; known is silu")
    given = TRANSFORMERS_DEFAULTS | {key: settings[key] for key in SIZES if settings.get(key) is not None}
    scaling = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    given["rope_theta"] = scaling.get("rope_theta", given["rope_theta"])
    given.setdefault("num_key_value_heads", given.get("num_attention_heads"))
    return _config(given, scaling, path)


def _config(given: dict[str, Any], scaling: Mapping[str, Any], path: object) -> LlamaConfig:
    needed = SIZES[:5]
    if missing := [key for key in needed if key not in given]:
        raise CheckpointError(f"{path} does not say {', '.join(missing)}")
    try:
        config = LlamaConfig(**given)
        factors = scaling_factors(scaling, config.head_dim, config.rope_theta)
        return LlamaConfig(**given, rope_factors=factors)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is no Llama that can be built: {error}") from None


def config_from_gguf(checkpoint: Checkpoint) -> LlamaConfig:
    """The configuration that a GGUF file describes; query and key rows are taken to be put back (see `load_llama`)."""
    metadata, path = checkpoint.metadata, checkpoint.path
    kind = metadata.get("general.architecture")
    _check_architecture(kind, path)
    given = {key: metadata[f"{kind}.{name}"] for key, name in GGUF_KEYS.items() if f"{kind}.{name}" in metadata}
    given["vocab_size"] = checkpoint["token_embd.weight"].shape[0]
    given["tie_word_embeddings"] = "output.weight" not in checkpoint
    given["attention_bias"] = "blk.0.attn_q.bias" in checkpoint
    given["mlp_bias"] = "blk.0.ffn_gate.bias" in checkpoint
    scaling = {"rope_type": metadata.get(f"{kind}.rope.scaling.type", "none").replace("none", "default")}
    if scaling["rope_type"] != "default":
        scaling["factor"] = metadata.get(f"{kind}.rope.scaling.factor", 1.0)
    given.setdefault("num_key_value_heads", given.get("num_attention_heads"))
    config = _config(given, scaling, path)
    turned = metadata.get(f"{kind}.rope.dimension_count", config.head_dim)
    if turned != config.head_dim:
        raise CheckpointError(f"{path} turns {turned} of {config.head_dim} channels of a head; known is to turn all")
    if ROPE_FACTORS in checkpoint:  # of Llama 3: the factors themselves
        factors = tuple(checkpoint[ROPE_FACTORS].float32().tolist())
        config = LlamaConfig(**given, rope_factors=factors)
    return config


def gguf_name(name: str) -> str:
    """The name in a GGUF file of a parameter: ``model.layers.3.mlp.up_proj.weight`` is ``blk.3.ffn_up.weight``."""
    layer, kind = name.rsplit(".", 1)
    prefix = ""
    if layer.startswith("model.layers."):
        _, _, number, layer = layer.split(".", 3)
        prefix = f"blk.{number}."
    ours = {long: short for short, long in GGUF_NAMES.items()}
    return f"{prefix}{ours[layer]}.{kind}"


def config_of(checkpoint: Checkpoint) -> LlamaConfig:
    """The configuration of the model in a checkpoint; no weight is read.

    Raises
    ------
    CheckpointError
        It is no Llama, or one that cannot be built.
    """
    if checkpoint.kind == "gguf":
        return config_from_gguf(checkpoint)
    if not checkpoint.config:
        raise CheckpointError(f"{checkpoint.path} has no config.json beside it, which says how to build the model")
    return config_from_json(checkpoint.config, checkpoint.folder / "config.json")


def load_llama(source: str | os.PathLike[str] | Checkpoint, dtype: DTypeLike = np.float32) -> Llama:
    """A Llama with the weights of a safetensors folder or a GGUF file, decoded to `dtype`.

    GGUF's query and key rows are put back into transformers' order, so that the same model has the same parameters
    wherever it comes from.

    Parameters
    ----------
    source : path or Checkpoint
        As `checkpoints.open_checkpoint` takes it.
    dtype : float32 or float64

    Raises
    ------
    CheckpointError
        The file is damaged or no Llama, or a tensor is missing, has another shape or is none that is known.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    config = config_of(checkpoint)
    model = Llama(config, seed=None, dtype=dtype)
    rename = gguf_name if checkpoint.kind == "gguf" else str
    slots = {rename(name): (name, parameter) for name, parameter in model.named_parameters()}
    weights = find_weights(checkpoint)  # quantized ones, too, whose parts are several tensors
    check_tensors(checkpoint, weights, {name: parameter.shape for name, (_, parameter) in slots.items()}, rename)
    for stored, (name, parameter) in slots.items():
        parameter.assign(_values(weights[stored].float32(), checkpoint.kind, name, config))
    return model


def check_tensors(
    checkpoint: Checkpoint, weights: Mapping[str, Weight], shapes: Mapping[str, tuple[int, ...]], rename
) -> None:
    """Every weight is there in its shape, and there are no others but what is made anew or the tied head."""
    if missing := [name for name in shapes if name not in weights]:
        raise CheckpointError(f"{checkpoint.path} lacks {len(missing)} tensors of this model: {', '.join(missing[:6])}")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise CheckpointError(f"{checkpoint.path}: {name} has shape {weights[name].shape}, the model {shape}")
    known = {*shapes, ROPE_FACTORS, rename("lm_head.weight")}
    extra = [name for name in weights if name not in known and not name.endswith("rotary_emb.inv_freq")]
    if extra:
        raise CheckpointError(
            f"{checkpoint.path} has tensors that a Llama has no place for: {', '.join(extra[:6])}"
            f"{', ...' if len(extra) > 6 else ''}"
        )


def _values(values: NDArray, kind: str, name: str, config: LlamaConfig) -> NDArray:
    if kind == "gguf":
        if ".q_proj." in name:
            return to_halves(values, config.num_attention_heads)
        if ".k_proj." in name:
            return to_halves(values, config.num_key_value_heads)
    return values


def config_to_json(config: LlamaConfig) -> str:
    """A `config.json` that transformers reads, of a configuration without rotary factors."""
    settings = {key: getattr(config, key) for key in SIZES}
    return json.dumps(settings | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, indent=2)
