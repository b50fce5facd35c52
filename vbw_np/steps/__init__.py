"""The training-step machine: one recorded step, to walk through forwards and backwards.

    import vbw_np as vbw

    steps = vbw.step("nvfp4-train", seed=1)
    print(steps.next())
    print(steps.goto("backward", "second"))

    vbw step --recipe nvfp4-train --html step.html        # the same as a page that plays
"""

from .event import PHASES, Event
from .record import step
from .small_model import SmallModel, batch, token_loss
from .steps import TrainingSteps
from .story import RecordingError
from .values import Value

__all__ = [
    "PHASES",
    "Event",
    "RecordingError",
    "SmallModel",
    "TrainingSteps",
    "Value",
    "batch",
    "step",
    "token_loss",
]
