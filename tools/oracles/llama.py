"""Build tests/oracles/llama.npz: tiny random Llamas, their logits, loss and gradients, computed by transformers.

Run in an environment that has torch and transformers: python tools/oracles/llama.py

In float64: transformers' norms and its softmax ask for float32 by name, so its module is given a `torch` whose float32
is float64. It makes the tables of rotary positions in float32 all the same; they are kept, so that a test can tell them
from the rest.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

OUT = Path(__file__).parents[2] / "tests" / "oracles" / "llama.npz"
SIZES = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "rms_norm_eps": 1e-5}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
MODELS = {
    "grouped": {"num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 10000.0},
    "own_head": {
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "tie_word_embeddings": False,
        "attention_bias": True, "mlp_bias": True, "rope_theta": 500.0,
    },
    "one_group": {
        "num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True, "rope_theta": 10000.0,
        "rope_scaling": LLAMA3,
    },
    "linear": {
        "num_attention_heads": 3, "num_key_value_heads": 3, "tie_word_embeddings": True, "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
}  # fmt: skip


class Double:
    """torch, with float64 under the name of float32."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


def greedy(model: LlamaForCausalLM, ids: torch.Tensor, count: int = 12) -> torch.Tensor:
    """Always the likeliest token, the whole sequence read anew each time."""
    for _ in range(count):
        with torch.no_grad():
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(dim=-1)], dim=1)
    return ids


def main() -> None:
    modeling_llama.torch = Double()
    versions = [f"{module.__name__} {module.__version__}" for module in (torch, transformers, np)]
    arrays: dict[str, np.ndarray] = {"versions": np.array(versions)}
    for seed, (name, options) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        config = LlamaConfig(**SIZES, **options, max_position_embeddings=64, attn_implementation="eager")
        model = LlamaForCausalLM(config).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # norms and biases, which start at 1 and 0
                    parameter += 0.1 * torch.randn_like(parameter)
                else:
                    parameter *= 10  # 0.02 is so small that nothing but the embedding would matter
                parameter.copy_(parameter.float())  # float32 holds them exactly
        ids = torch.randint(0, config.vocab_size, (2, 13))
        logits = model(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        cos, sin = model.model.rotary_emb(torch.zeros(1, dtype=torch.float64), torch.arange(64)[None])
        options_json = json.dumps(SIZES | options | {"model_type": "llama", "max_position_embeddings": 64})
        arrays |= {
            f"{name}/config": np.array(options_json),
            f"{name}/ids": ids.numpy(),
            f"{name}/logits": logits.detach().numpy(),
            f"{name}/loss": loss.detach().numpy(),
            f"{name}/cos": cos[0].numpy(),
            f"{name}/sin": sin[0].numpy(),
            f"{name}/greedy": greedy(model, ids[:, :5]).numpy(),
        }
        for key, value in model.state_dict().items():
            arrays[f"{name}/param/{key}"] = value.float().numpy()
        for key, value in model.named_parameters():
            arrays[f"{name}/grad/{key}"] = value.grad.numpy()
    np.savez_compressed(OUT, **arrays)
    print(f"wrote {OUT.name}: {len(arrays)} arrays, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
