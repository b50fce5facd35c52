"""Post-training quantization: a trained model, rounded so that it loses little, without training it again.

    from vbw_np.ptq import Calibration, Method, Plan, quantize_model

    method = Method("awq") + Method("gptq")              # records that add up; read_method("awq+gptq")
    plan = Plan(get_format("nvfp4"), method)             # any format, any method
    quantized = quantize_model(model, plan, Calibration(windows))
    with quantized.running():                            # rotated and quantized inputs, where the plan has them
        model(ids)

Pure NumPy over `vbw_np.formats`.

Modules
-------
methods       `Method`: scale search, rotation, choice of scales, four-over-six, rounding, as records
calibration   `Moments` of what flows into layers, by wrapping their `forward`
gptq          column by column, each carrying the errors of those before it
fitting       scales by what they lose (clipping); one column rounded under given scales
channel_scales  AWQ and SmoothQuant
rotation      Hadamard matrices, in blocks or as large as the width
sites         where inputs come from in a Llama; folding scales and rotations into the weights around them
quantizing    `Plan`, `quantize_model`, `Quantized`
measuring     perplexity, KL divergence and agreement with the float model
texts         default texts, windows of tokens
comparing     a row of figures for every plan; tables, pictures, results that are gone on from
activations   massive ones, what the block of one loses, and the model without it
saving        the quantized model as safetensors or GGUF
commands      `vbw ptq`
explaining    `vbw explain-activation`
"""

from __future__ import annotations

from .activations import Activation, activations_at, explain_activation, massive, silenced, without
from .calibration import Moments
from .errors import CalibrationError
from .measuring import Quality, Reference, measure
from .methods import Method, read_method
from .quantizing import Calibration, LayerError, Plan, Quantized, quantize_model

__all__ = [
    "Activation",
    "Calibration",
    "CalibrationError",
    "LayerError",
    "Method",
    "Moments",
    "Plan",
    "Quality",
    "Quantized",
    "Reference",
    "activations_at",
    "explain_activation",
    "massive",
    "measure",
    "quantize_model",
    "read_method",
    "silenced",
    "without",
]
