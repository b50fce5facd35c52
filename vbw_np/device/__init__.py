"""The virtual device: cards, recipes, BOH, caches, statistics and the trace.

from vbw_np.device import place

device = place(model, "nvfp4")       # every linear layer's weight on a card; nothing else about the model changes
loss = model.loss(ids)
print(device.report())
"""

from .cache import DecodeCache
from .card import Card, StaleWeightError
from .changes import get_recipe
from .codec import decode
from .device import Device, place, release
from .link import Handshake, Link
from .recipe import RECIPES, Operands, Recipe, Schedule
from .report import DeviceReport
from .statistics import Statistics
from .trace import Event, Recorder, Sample, Steps
from .unit import MODES, ComputeUnit, Policy

__all__ = [
    "MODES",
    "RECIPES",
    "Card",
    "ComputeUnit",
    "DecodeCache",
    "Device",
    "DeviceReport",
    "Event",
    "Handshake",
    "Link",
    "Operands",
    "Policy",
    "Recipe",
    "Recorder",
    "Sample",
    "Schedule",
    "StaleWeightError",
    "Statistics",
    "Steps",
    "decode",
    "get_recipe",
    "place",
    "release",
]
