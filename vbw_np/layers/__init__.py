"""Layers of single models.

Claude4: tri-vein attention, experts, and reflection over a graph. The Llama family: RMSNorm, rotary positions,
grouped-query attention, SwiGLU.
"""

from .experts import MixtureOfExperts, mix_experts
from .fused_loss import linear_cross_entropy
from .grouped_attention import GroupedQueryAttention
from .reflection import ConnectivityAnalyzer, MirrorComplexity, Reflection, ShortestPathReflection
from .rms_norm import RMSNorm, rms_norm
from .rotary import rotate
from .swiglu import SwiGLU, swiglu
from .tri_vein import SharedSubspace, Threshold, TriVeinAttention

__all__ = [
    "ConnectivityAnalyzer",
    "GroupedQueryAttention",
    "MirrorComplexity",
    "MixtureOfExperts",
    "RMSNorm",
    "Reflection",
    "SharedSubspace",
    "ShortestPathReflection",
    "SwiGLU",
    "Threshold",
    "TriVeinAttention",
    "linear_cross_entropy",
    "mix_experts",
    "rms_norm",
    "rotate",
    "swiglu",
]
