"""Virtual Blackwell in NumPy: FP4 formats, kernels, cards, models and a training speed test."""

__version__ = "0.1.0"
