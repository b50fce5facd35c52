"""What Claude4 is made of besides the usual layers: tri-vein attention, experts, and reflection over a graph."""

from .experts import MixtureOfExperts, mix_experts
from .reflection import ConnectivityAnalyzer, MirrorComplexity, Reflection, ShortestPathReflection
from .tri_vein import SharedSubspace, Threshold, TriVeinAttention

__all__ = [
    "ConnectivityAnalyzer",
    "MirrorComplexity",
    "MixtureOfExperts",
    "Reflection",
    "SharedSubspace",
    "ShortestPathReflection",
    "Threshold",
    "TriVeinAttention",
    "mix_experts",
]
