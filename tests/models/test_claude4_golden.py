"""Every array of the golden file: a small Claude4 computed by an independent implementation, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vbw_np.engine import F, Tensor, nn, optim
from vbw_np.layers import graph
from vbw_np.models.claude4 import Claude4, Claude4Config

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "claude4_tiny.npz")
CONFIG = Claude4Config(vocab_size=97, d_model=32, heads=4, hidden=64, layers=3, rank=4, dropout=0.0)
ATTENTION = {block: GOLDEN[f"in/reflection_attention/{block}"] for block in (1, 2)}

checked: set[str] = set()


def close(name: str, ours: np.ndarray, rtol: float = 1e-9) -> None:
    """Within 1e-9 of the golden array, relative to its largest entry."""
    golden = GOLDEN[name]
    checked.add(name)
    assert np.shape(ours) == golden.shape, name
    scale = max(float(np.abs(golden).max(initial=0)), 1e-3)
    assert np.abs(ours - golden).max(initial=0) <= rtol * scale, name


def parameters() -> dict[str, np.ndarray]:
    return {name[len("param/") :]: GOLDEN[name] for name in GOLDEN if name.startswith("param/")}


@pytest.fixture
def model() -> Claude4:
    model = Claude4(CONFIG, dtype=np.float64)
    model.load_state_dict(parameters())
    return model


def test_names_and_kinds_are_those_of_the_golden_state_dict(model: Claude4) -> None:
    assert set(model.state_dict()) == set(parameters())
    trained = {name for name, _ in model.named_parameters()}
    assert trained == {name for name in parameters() if f"is_param/{name}" in GOLDEN}
    checked.update(name for name in GOLDEN if name.startswith(("param/", "is_param/", "in/")))


def test_encoder(model: Claude4) -> None:
    x = model.encoder(GOLDEN["in/ids"], GOLDEN["in/image"], GOLDEN["in/audio"])
    close("encoder/text_image_audio", x.data)


def check_part(part: str, module: nn.Module, x: Tensor, out: Tensor, output_name: str) -> None:
    close(output_name, out.data)
    out.backward(GOLDEN["in/cotangent"])
    close(f"{part}/grad_x", x.grad)
    named = dict(module.named_parameters())
    prefix = f"{part}/grad/"
    expected = {name[len(prefix) :] for name in GOLDEN if name.startswith(prefix)}
    assert {name for name, parameter in named.items() if parameter.grad is not None} == expected
    for name in expected:
        close(prefix + name, named[name].grad)


def test_trivein(model: Claude4) -> None:
    attention = model.blocks[0].attn
    x = Tensor(GOLDEN["in/x"], requires_grad=True)
    check_part("trivein", attention, x, attention(x)[0], "trivein/out")


def test_moe(model: Claude4) -> None:
    experts = model.blocks[0].ffn
    x = Tensor(GOLDEN["in/x"], requires_grad=True)
    check_part("moe", experts, x, experts(x), "moe/out")


def test_graph(model: Claude4) -> None:
    attention = GOLDEN["in/attention"]
    reflection = model.blocks[2].reflection
    close("reflection/shortest_distances", reflection.shortest_path_reflection.shortest_distances(attention))
    close("reflection/connectivity", graph.component_sizes(attention, 0.1) / (attention.shape[-1] + 1e-8))


def test_shortest_path_reflection(model: Claude4) -> None:
    module = model.blocks[2].reflection.shortest_path_reflection
    x = Tensor(GOLDEN["in/x"], requires_grad=True)
    check_part("shortest_path", module, x, module(x, GOLDEN["in/attention"]), "shortest_path/out")


def test_reflection(model: Claude4) -> None:
    module = model.blocks[2].reflection
    x = Tensor(GOLDEN["in/x"], requires_grad=True)
    reflected, scores = module(x, GOLDEN["in/attention"])
    close("reflection/connectivity_scores", scores["connectivity"])
    close("reflection/complexity_scores", scores["complexity"])
    close("reflection/feedback_strength", scores["feedback_strength"])
    check_part("reflection", module, x, reflected, "reflection/reflected_states")


def test_whole_model(model: Claude4) -> None:
    ids = GOLDEN["in/ids"]
    logits = model(ids, reflection_attention=ATTENTION)
    close("model/logits", logits.data)
    loss = F.cross_entropy(logits[:, :-1], ids[:, 1:])
    close("model/loss", loss.data)
    loss.backward()
    check_model_gradients(model)


def test_the_loss_that_never_holds_all_logits(model: Claude4) -> None:
    loss = model.loss(GOLDEN["in/ids"], reflection_attention=ATTENTION)
    close("model/loss", loss.data)
    loss.backward()
    check_model_gradients(model)


def check_model_gradients(model: Claude4) -> None:
    named = dict(model.named_parameters())
    expected = {name[len("model/grad/") :] for name in GOLDEN if name.startswith("model/grad/")}
    assert {name for name, parameter in named.items() if parameter.grad is not None} == expected
    for name in expected:
        close(f"model/grad/{name}", named[name].grad)


def test_five_adam_steps(model: Claude4) -> None:
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model.loss(GOLDEN["in/ids"], reflection_attention=ATTENTION)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    close("model/adam_losses", np.array(losses))


def test_no_array_of_the_file_was_left_out() -> None:
    """Runs last in this file; alone, it has nothing to say."""
    if len(checked) < 100:
        pytest.skip("run the whole file")
    assert set(GOLDEN) - checked == set()
