"""Layers, losses and optimizers against figures that PyTorch computed (tools/oracles/torch_layers.py), in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autograd import Parameter, Tensor, nn
from autograd import functional as F
from vbw_np import optim
from vbw_np.layers import GRU, MultiheadAttention, linear_cross_entropy
from vbw_np.layers.attention import attention_weights
from vbw_np.training.clipping import clip_grad_norm_

GOLDEN = np.load(Path(__file__).parents[1] / "oracles" / "torch_layers.npz")


def close(name: str, ours: np.ndarray) -> None:
    golden = GOLDEN[name]
    assert np.shape(ours) == golden.shape
    np.testing.assert_allclose(ours, golden, rtol=1e-11, atol=1e-13)


def check_layer(name: str, module: nn.Module, call=None) -> None:
    state = {key[len(f"{name}/param/") :]: GOLDEN[key] for key in GOLDEN if key.startswith(f"{name}/param/")}
    module.load_state_dict(state)
    arrays = [GOLDEN[f"{name}/in/{i}"] for i in range(9) if f"{name}/in/{i}" in GOLDEN]
    inputs = [Tensor(a, requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]
    out = call(module, *inputs) if call else module(*inputs)
    close(f"{name}/out", out.data)
    out.backward(GOLDEN[f"{name}/cotangent"])
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor):
            close(f"{name}/grad_in/{i}", x.grad)
    for key, parameter in module.named_parameters():
        close(f"{name}/grad/{key}", parameter.grad)


F64 = {"dtype": np.float64}


def test_linear() -> None:
    check_layer("linear", nn.Linear(5, 3, **F64))


def test_layer_norm() -> None:
    check_layer("layer_norm", nn.LayerNorm(6, **F64))


def test_embedding() -> None:
    check_layer("embedding", nn.Embedding(7, 4, **F64))


def test_gelu() -> None:
    check_layer("gelu", nn.GELU())


def test_gru_over_gathered_rows() -> None:
    def run(module: GRU, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return module(x.reshape(batch * length, width), np.arange(batch * length).reshape(batch, length))

    check_layer("gru", GRU(5, 4, **F64), run)


@pytest.mark.parametrize("causal", [False, True])
def test_multihead_attention(causal: bool) -> None:
    check_layer("causal_attention" if causal else "attention", MultiheadAttention(16, 8, causal=causal, **F64))


def test_cross_entropy() -> None:
    logits = Tensor(GOLDEN["cross_entropy/logits"], requires_grad=True)
    loss = F.cross_entropy(logits, GOLDEN["cross_entropy/targets"])
    loss.backward()
    close("cross_entropy/loss", loss.data)
    close("cross_entropy/grad", logits.grad)


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "sgd_nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.1),
    "adam_decay": lambda p: optim.Adam(p, lr=0.1, betas=(0.8, 0.95), weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str) -> None:
    parameter = Parameter(GOLDEN["optim/start"].copy())
    optimizer = OPTIMIZERS[name]([parameter])
    half = optimizer
    for step, gradient in enumerate(GOLDEN["optim/gradients"]):
        if step == 3:  # carry on from saved state, as a resumed run does
            half = OPTIMIZERS[name]([parameter])
            half.load_state_dict(optimizer.state_dict())
        parameter.grad = gradient
        half.step()
    close(f"optim/{name}", parameter.data)


@pytest.mark.parametrize("kind", ["causal", "wide", "boolean", "added"])
def test_attention_under_a_mask(kind: str) -> None:
    """Queries and keys differ in number; the causal mask counts both from the first, as PyTorch's does."""
    q, k, v = (Tensor(GOLDEN[f"attention/{kind}/{name}"], requires_grad=True) for name in "qkv")
    mask = GOLDEN.get(f"attention/{kind}/mask")
    out = attention_weights(q, k, mask is None, mask) @ v
    close(f"attention/{kind}/out", out.data)
    out.backward(GOLDEN[f"attention/{kind}/gradient"])
    for name, tensor in zip("qkv", (q, k, v)):
        close(f"attention/{kind}/grad/{name}", tensor.grad)


def test_ignored_targets_count_neither_above_nor_below() -> None:
    targets = GOLDEN["ignored/targets"]
    logits = Tensor(GOLDEN["ignored/logits"], requires_grad=True)
    loss = F.cross_entropy(logits, targets)
    close("ignored/loss", loss.data)
    loss.backward()
    close("ignored/grad", logits.grad)
    logits.grad = None
    eye = Tensor(np.eye(7, dtype=logits.dtype), requires_grad=True)
    fused = linear_cross_entropy(logits, eye, targets)
    close("ignored/loss", fused.data)
    fused.backward()
    close("ignored/grad", logits.grad)
    again = F.cross_entropy(logits, np.where(targets == -100, 6, targets), ignore_index=6)
    kept = (targets != -100) & (targets != 6)
    assert again.item() == F.cross_entropy(Tensor(logits.data[kept]), targets[kept]).item()


def test_clip_grad_norm() -> None:
    parameters = [Parameter(np.zeros(3)), Parameter(np.zeros((2, 2)))]
    for parameter in parameters:
        parameter.grad = GOLDEN[f"clip/before/{parameter.ndim}"]
    close("clip/norm", np.array(clip_grad_norm_(parameters, 0.5)))
    for parameter in parameters:
        close(f"clip/after/{parameter.ndim}", parameter.grad)
