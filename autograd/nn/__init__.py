"""Layers, named as in PyTorch."""

from .attention import MultiheadAttention, SharedSubspace, Threshold, TriVeinAttention
from .linear import GELU, Dropout, Embedding, Linear, ReLU, Sigmoid
from .module import Buffer, Lambda, Module, ModuleList, Sequential, module_path
from .moe import MixtureOfExperts, mix_experts
from .norm import LayerNorm
from .reflection import ConnectivityAnalyzer, MirrorComplexity, Reflection, ShortestPathReflection
from .rnn import GRU, gru_gates

__all__ = [
    "GELU",
    "GRU",
    "Buffer",
    "ConnectivityAnalyzer",
    "Dropout",
    "Embedding",
    "Lambda",
    "LayerNorm",
    "Linear",
    "MirrorComplexity",
    "MixtureOfExperts",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "ReLU",
    "Reflection",
    "Sequential",
    "SharedSubspace",
    "ShortestPathReflection",
    "Sigmoid",
    "Threshold",
    "TriVeinAttention",
    "gru_gates",
    "mix_experts",
    "module_path",
]
