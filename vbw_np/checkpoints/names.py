"""Names of one weight in two worlds: Hugging Face's Llama family and llama.cpp's GGUF."""

from __future__ import annotations

import re

GGUF_TO_HF = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
GGUF_LAYER_TO_HF = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def to_hf(name: str) -> str:
    """Hugging Face's name of a GGUF name; others stay as they are.

    llama.cpp's converter permutes the rows of q and k of Llama models; `pairing` undoes that.
    """
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if match and match[2] in GGUF_LAYER_TO_HF:
        return f"model.layers.{match[1]}.{GGUF_LAYER_TO_HF[match[2]]}.{match[3]}"
    return GGUF_TO_HF.get(name, name)
