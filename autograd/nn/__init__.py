"""Layers, named as in PyTorch."""

from .linear import GELU, Dropout, Embedding, Linear, ReLU, Sigmoid, check_sizes
from .module import Buffer, Module, ModuleList, Sequential
from .norm import LayerNorm

__all__ = [
    "GELU",
    "Buffer",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "check_sizes",
]
