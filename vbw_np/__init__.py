"""Virtual Blackwell in NumPy: FP4 formats, kernels, cards, models and a training speed test.

    import vbw_np as vbw

    packed = vbw.quantize(w, "nvfp4")           # to the last bit as the definition says
    print(vbw.explain([0.3, -1.2], "nvfp4"))    # one number, from amax to its bits
    device = vbw.place(model, "nvfp4-train")    # a model's weights on virtual cards

Everything in `__all__` is here at once, and loaded when it is first used: importing this loads neither NumPy nor numba.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "BlockFormat": "formats.blocks",
    "Claude4": "models.claude4",
    "Claude4Config": "models.claude4",
    "Device": "device",
    "FORMATS": "formats",
    "PROFILES": "formats.profiles",
    "PackedTensor": "formats.packed",
    "RECIPES": "device",
    "Recipe": "device",
    "Tensor": "engine",
    "TrainConfig": "training.config",
    "Trainer": "training.loop",
    "UserError": "errors",
    "dequantize": "formats",
    "explain": "formats.explain:explain_values",
    "fake_quantize": "formats",
    "generate": "models.generation",
    "get_format": "formats",
    "get_recipe": "device",
    "load_model": "training.loop",
    "nn": "engine",
    "optim": "engine",
    "place": "device",
    "quantize": "formats",
    "step": "steps",
}
"""Where each name lives; after a colon, what it is called there."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load what is asked for; called only for names that are not here yet."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOMES)}")
    room, _, original = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{room}"), original or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
