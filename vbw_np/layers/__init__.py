"""Layers that models are made of, beyond those of `autograd.nn`.

`MultiheadAttention` and `GRU`, with PyTorch's parameters. Claude4: tri-vein attention, experts, and reflection over a
graph. The Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
"""

from .attention import MultiheadAttention
from .experts import MixtureOfExperts, mix_experts
from .fused_loss import linear_cross_entropy
from .grouped_attention import GroupedQueryAttention
from .gru import GRU, gru_gates
from .reflection import ConnectivityAnalyzer, MirrorComplexity, Reflection, ShortestPathReflection
from .rms_norm import RMSNorm, rms_norm
from .rotary import rotate
from .swiglu import SwiGLU, swiglu
from .tri_vein import SharedSubspace, Threshold, TriVeinAttention

__all__ = [
    "GRU",
    "ConnectivityAnalyzer",
    "GroupedQueryAttention",
    "MirrorComplexity",
    "MixtureOfExperts",
    "MultiheadAttention",
    "RMSNorm",
    "Reflection",
    "SharedSubspace",
    "ShortestPathReflection",
    "SwiGLU",
    "Threshold",
    "TriVeinAttention",
    "gru_gates",
    "linear_cross_entropy",
    "mix_experts",
    "rms_norm",
    "rotate",
    "swiglu",
]
