"""Layers, named as in PyTorch."""

from .attention import MultiheadAttention
from .linear import GELU, Dropout, Embedding, Linear, ReLU, Sigmoid
from .module import Buffer, Module, ModuleList, Sequential
from .norm import LayerNorm
from .rnn import GRU, gru_gates

__all__ = [
    "GELU",
    "GRU",
    "Buffer",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "gru_gates",
]
