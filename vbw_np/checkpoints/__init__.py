"""Checkpoints that people have: safetensors and GGUF files, opened lazily, named tensor by tensor.

::

    from vbw_np.checkpoints import open_checkpoint

    model = open_checkpoint("model.safetensors")     # or a .gguf file, a folder of shards, their index
    model.metadata                                   # GGUF's key/value pairs, with the tokenizer
    tensor = model["blk.0.attn_q.weight"]            # a StoredTensor: dtype, shape, where its bytes lie
    tensor.bytes(); tensor.float32()                 # mapped uint8; values

No pickle is ever read.
"""

from __future__ import annotations

from .errors import CheckpointError
from .mapped import MappedFile
from .opening import Checkpoint, open_checkpoint
from .stored import StoredTensor

__all__ = ["Checkpoint", "CheckpointError", "MappedFile", "StoredTensor", "open_checkpoint"]
