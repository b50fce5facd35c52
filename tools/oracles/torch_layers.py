"""Build tests/oracles/torch_layers.npz: layers, losses and optimizers computed by PyTorch, in float64.

Run in an environment that has torch: python tools/oracles/torch_layers.py. Last bits differ from CPU to CPU, which the
test's tolerance covers; so `make oracles`, whose arrays come out equal everywhere, does not run it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

OUT = Path(__file__).parents[2] / "tests" / "oracles" / "torch_layers.npz"


def masks_and_ignored(arrays: dict[str, np.ndarray]) -> None:
    """Attention under masks with T != S, and a loss that leaves targets out."""
    boolean = torch.rand(3, 5) < 0.6
    boolean[:, 0] = True
    masks = {"boolean": boolean, "added": torch.randn(2, 1, 3, 5)}
    for kind in ("causal", "wide", *masks):
        shape = (2, 4, 6, 8) if kind == "wide" else (2, 4, 3, 8)
        q, k, v = (torch.randn(*s, requires_grad=True) for s in (shape, (2, 4, 5, 8), (2, 4, 5, 8)))
        mask = masks.get(kind)
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        gradient = torch.randn_like(out)
        out.backward(gradient)
        for name, tensor in {"q": q, "k": k, "v": v}.items():
            arrays[f"attention/{kind}/{name}"] = tensor.detach().numpy()
            arrays[f"attention/{kind}/grad/{name}"] = tensor.grad.numpy()
        arrays[f"attention/{kind}/out"], arrays[f"attention/{kind}/gradient"] = out.detach().numpy(), gradient.numpy()
        if mask is not None:
            arrays[f"attention/{kind}/mask"] = mask.numpy()
    logits = torch.randn(3, 4, 7, requires_grad=True)
    targets = torch.tensor([[0, -100, 3, 6], [-100, -100, 2, 2], [5, 1, -100, 4]])
    loss = nn.functional.cross_entropy(logits.reshape(-1, 7), targets.reshape(-1))
    loss.backward()
    arrays["ignored/logits"], arrays["ignored/targets"] = logits.detach().numpy(), targets.numpy()
    arrays["ignored/loss"], arrays["ignored/grad"] = loss.detach().numpy(), logits.grad.numpy()


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    arrays: dict[str, np.ndarray] = {"versions": np.array([f"torch {torch.__version__}", f"numpy {np.__version__}"])}

    def layer(name: str, module: nn.Module, inputs: list[torch.Tensor], call=None) -> None:
        for i, x in enumerate(inputs):
            arrays[f"{name}/in/{i}"] = x.detach().numpy().copy()
            if x.is_floating_point():
                x.requires_grad_()
        out = call(module, *inputs) if call else module(*inputs)
        cotangent = torch.randn_like(out)
        arrays[f"{name}/out"] = out.detach().numpy()
        arrays[f"{name}/cotangent"] = cotangent.numpy()
        out.backward(cotangent)
        for i, x in enumerate(inputs):
            if x.is_floating_point():
                arrays[f"{name}/grad_in/{i}"] = x.grad.numpy()
        for key, value in module.named_parameters():
            arrays[f"{name}/param/{key}"] = value.detach().numpy().copy()
            arrays[f"{name}/grad/{key}"] = value.grad.numpy()

    layer("linear", nn.Linear(5, 3), [torch.randn(2, 4, 5)])
    layer("layer_norm", nn.LayerNorm(6), [torch.randn(2, 3, 6)])
    layer("embedding", nn.Embedding(7, 4), [torch.tensor([[0, 3, 3], [6, 1, 0]])])
    layer("gelu", nn.GELU(), [torch.linspace(-6, 6, 41)])
    layer("gru", nn.GRU(5, 4, batch_first=True), [torch.randn(3, 5, 5)], lambda m, x: m(x)[1][0])
    layer(
        "attention",
        nn.MultiheadAttention(16, 8, batch_first=True),
        [torch.randn(2, 6, 16), torch.randn(2, 6, 16)],
        lambda m, q, kv: m(q, kv, kv, need_weights=False)[0],
    )
    mask = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
    layer(
        "causal_attention",
        nn.MultiheadAttention(16, 8, batch_first=True),
        [torch.randn(2, 6, 16), torch.randn(2, 6, 16)],
        lambda m, q, kv: m(q, kv, kv, need_weights=False, attn_mask=mask)[0],
    )
    logits, targets = torch.randn(5, 9, requires_grad=True), torch.tensor([0, 8, 3, 3, 1])
    loss = nn.functional.cross_entropy(logits, targets)
    loss.backward()
    arrays["cross_entropy/logits"] = logits.detach().numpy()
    arrays["cross_entropy/targets"] = targets.numpy()
    arrays["cross_entropy/loss"] = loss.detach().numpy()
    arrays["cross_entropy/grad"] = logits.grad.numpy()

    optimizers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
        "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1),
        "adam_decay": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    }
    start = torch.randn(4, 3)
    gradients = torch.randn(6, 4, 3)
    arrays["optim/start"], arrays["optim/gradients"] = start.numpy(), gradients.numpy()
    for name, make in optimizers.items():
        parameter = nn.Parameter(start.clone())
        optimizer = make([parameter])
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        arrays[f"optim/{name}"] = parameter.detach().numpy()
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
        arrays[f"clip/before/{parameter.ndim}"] = parameter.grad.numpy().copy()
    arrays["clip/norm"] = nn.utils.clip_grad_norm_(parameters, 0.5).numpy()
    for parameter in parameters:
        arrays[f"clip/after/{parameter.ndim}"] = parameter.grad.numpy()
    masks_and_ignored(arrays)
    np.savez_compressed(OUT, **arrays)
    print(f"wrote {OUT.name}: {len(arrays)} arrays, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
