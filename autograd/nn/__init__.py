"""Layers, named as in PyTorch."""

from .module import Buffer, Lambda, Module, ModuleList, Sequential, module_path

__all__ = ["Buffer", "Lambda", "Module", "ModuleList", "Sequential", "module_path"]
