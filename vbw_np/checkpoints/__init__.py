"""Checkpoints that people have: safetensors and GGUF files, opened lazily, named tensor by tensor.

::

    from vbw_np.checkpoints import open_checkpoint

    model = open_checkpoint("model.safetensors")     # or a .gguf file, a folder of shards, their index
    model.metadata                                   # GGUF's key/value pairs, with the tokenizer
    tensor = model["blk.0.attn_q.weight"]            # a StoredTensor: dtype, shape, where its bytes lie
    tensor.bytes(); tensor.float32()                 # mapped uint8; values

    weights = find_weights(model)                    # who wrote what, tensor by tensor
    weight = weights["model.layers.0.mlp.up_proj.weight"]
    weight.format, weight.producer, weight.bits      # "modelopt-nvfp4", "modelopt", 4.51
    weight.packed(); weight.float32()                # a PackedTensor; its values

No pickle is ever read.
"""

from __future__ import annotations

from .errors import CheckpointError
from .mapped import MappedFile
from .opening import Checkpoint, open_checkpoint
from .producers import find_weights
from .stored import StoredTensor
from .weights import Suspicion, Weight

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "MappedFile",
    "StoredTensor",
    "Suspicion",
    "Weight",
    "find_weights",
    "open_checkpoint",
]
