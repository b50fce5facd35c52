"""The model of the report: its size, its names, its initial values, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vbw_np.engine import Tensor, nn
from vbw_np.models.claude4 import Claude4, Claude4Config
from vbw_np.models.claude4_shapes import state_shapes

SMALL = {"vocab_size": 50, "d_model": 16, "heads": 2, "hidden": 24, "layers": 3, "rank": 2, "experts": 2}


@pytest.fixture(scope="module")
def report_model() -> Claude4:
    return Claude4()


def test_the_reports_parameter_count(report_model: Claude4) -> None:
    assert report_model.num_parameters() == 35_862_532


@pytest.mark.parametrize(
    "changes", [{}, {"layers": 1}, {"layers": 4, "experts": 1}, {"heads": 4, "rank": 5}, {"causal": True},
                {"token_shift": True, "route_out_proj": True, "dropout": 0.0}, {"d_model": 32, "vocab_size": 7}]
)  # fmt: skip
def test_its_shapes_are_known_without_it(changes: dict, report_model: Claude4) -> None:
    config = Claude4Config(**{**SMALL, **changes})
    assert dict(state_shapes(config)) == {name: a.shape for name, a in Claude4(config).state_dict().items()}
    assert dict(state_shapes(Claude4Config())) == {name: a.shape for name, a in report_model.state_dict().items()}


def test_sixty_two_linear_layers(report_model: Claude4) -> None:
    layers = [(name, m) for name, m in report_model.named_modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 62
    assert [name for name, _ in layers[:3]] == ["encoder.image_proj", "encoder.audio_proj", "blocks.0.attn.W_q"]
    assert layers[-1][0] == "output_head" and layers[-1][1].weight.shape == (50_000, 256)


def test_initial_values_follow_pytorchs_defaults(report_model: Claude4) -> None:
    state = report_model.state_dict()
    for name, bound in {
        "encoder.image_proj.weight": 1 / math.sqrt(1024),
        "blocks.0.ffn.experts.0.2.bias": 1 / math.sqrt(1024),
        "output_head.weight": 1 / math.sqrt(256),
        "blocks.1.reflection.shortest_path_reflection.path_encoder.weight_hh_l0": 1 / math.sqrt(256),
        "blocks.1.reflection.shortest_path_reflection.path_attn.in_proj_weight": math.sqrt(6 / (768 + 256)),
    }.items():
        values = state[name]
        assert np.abs(values).max() <= bound
        # uniform: its standard deviation is bound / sqrt 3, known to 5 standard errors
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(values.size))
    assert state["encoder.text_emb.weight"].std() == pytest.approx(1, rel=0.01)
    assert state["blocks.0.attn.subspace.U"].std() == pytest.approx(1 / 8, rel=0.3)
    for name, value in {
        "norm.weight": 1,
        "norm.bias": 0,
        "blocks.1.reflection.shortest_path_reflection.path_attn.in_proj_bias": 0,
        "blocks.1.reflection.shortest_path_reflection.path_attn.out_proj.bias": 0,
    }.items():
        assert (state[name] == value).all()


def test_same_seed_same_model_other_seed_other_model() -> None:
    first, second, third = (Claude4(Claude4Config(**SMALL), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all((first[name] == second[name]).all() for name in first)
    assert (first["output_head.weight"] != third["output_head.weight"]).any()


def test_dropout_while_training_only() -> None:
    model = Claude4(Claude4Config(**SMALL))
    ids = np.arange(12).reshape(2, 6)
    assert (model(ids).data != model(ids).data).any()
    model.eval()
    assert (model(ids).data == model(ids).data).all()


def test_metrics() -> None:
    model = Claude4(Claude4Config(**SMALL)).eval()
    _, metrics = model(np.arange(12).reshape(2, 6), return_metrics=True)
    assert 0 < metrics["connectivity"] <= 1 and 0 < metrics["complexity"] < 1
    # the feedback strength is a sigmoid over (B, T, D): its length lies between 0 and sqrt(B T D)
    assert 0 < metrics["feedback_norm"] < math.sqrt(2 * 6 * 16)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vocab_size": 0}, "vocab_size must be a positive integer, not 0"),
        ({"d_model": 18}, "d_model 18 is not a multiple of 8"),
        ({"heads": 3}, "d_model 16 is not a multiple of heads 3"),
        ({"layers": 0}, "layers must be"),
        ({"dropout": 1.0}, "dropout lies in"),
        ({"rank": 2.5}, "rank must be a positive integer, not 2.5"),
    ],
)
def test_bad_sizes(changes: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Claude4Config(**(SMALL | changes))


def test_bad_input() -> None:
    model = Claude4(Claude4Config(**SMALL))
    with pytest.raises(ValueError, match=r"image features must have shape \(batch, tokens, 1024\), not \(2, 6, 7\)"):
        model(image=np.zeros((2, 6, 7)))
    with pytest.raises(ValueError, match="at least one input"):
        model()
    with pytest.raises(ValueError, match="differ in batch size or length"):
        model(np.zeros((2, 6), int), audio=np.zeros((2, 5, 512)))
    with pytest.raises(IndexError, match="id 50 is outside"):
        model(np.full((2, 6), 50))
    with pytest.raises(ValueError, match="5 nearest of 3"):
        model(np.zeros((1, 3), int))
    with pytest.raises(ValueError, match="at least 2 tokens"):
        model.loss(np.zeros((2, 1), int))


def test_it_learns_a_repeated_batch() -> None:
    from vbw_np.engine import optim

    model = Claude4(Claude4Config(**SMALL))
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    ids = np.random.default_rng(0).integers(0, 50, (2, 8))
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.loss(ids)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3 and losses[-1] < 1


def test_features_reach_the_idle_layers() -> None:
    model = Claude4(Claude4Config(**SMALL))
    logits = model(np.zeros((1, 6), int), np.ones((1, 6, 1024)), np.ones((1, 6, 512)))
    assert isinstance(logits, Tensor) and logits.shape == (1, 6, 50)
    logits.sum().backward()
    assert model.encoder.image_proj.weight.grad is not None
