"""Modules: names, state, switches, and the parts whose rules no other file tests."""

from __future__ import annotations

import numpy as np
import pytest

from autograd import Generator, Tensor, gradcheck, graph, nn, optim


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4, rng=0), nn.GELU(), nn.Dropout(0.5), nn.Linear(4, 2, rng=1))


def test_names_are_pytorchs() -> None:
    assert list(small().state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert [name for name, _ in small().named_modules()] == ["", "0", "1", "2", "3"]


def test_loading_names_every_problem_and_changes_nothing() -> None:
    model = small()
    before = {name: value.copy() for name, value in model.state_dict().items()}
    state = {"0.weight": np.ones((9, 9)), "0.bias": np.ones(4), "extra.key": np.ones(1), "3.bias": np.ones(2)}
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(state)
    for part in ("missing: 3.weight", "unexpected: extra.key", "wrong shape: 0.weight (9, 9) for (4, 3)"):
        assert part in str(caught.value)
    for name, value in model.state_dict().items():
        assert (value == before[name]).all()


def test_loading_moves_versions() -> None:
    model = small()
    versions = [p.version for p in model.parameters()]
    model.load_state_dict({name: value.copy() for name, value in model.state_dict().items()})
    assert [p.version for p in model.parameters()] == [v + 1 for v in versions]


def test_train_eval_and_evaluating() -> None:
    model = small()
    model[2].training = False
    with model.evaluating():
        assert not any(module.training for module in model.modules())
    assert model.training and not model[2].training
    model.train()
    assert all(module.training for module in model.modules())


def test_dropout_draws_anew_and_repeats_from_a_saved_state() -> None:
    generator = Generator(7)
    layer = nn.Dropout(0.5, generator)
    x = Tensor(np.ones(64))
    state = generator.state_dict()
    first, second = layer(x).data, layer(x).data
    assert (first != second).any()
    generator.load_state_dict(state)
    assert (layer(x).data == first).all()


def test_a_shared_buffer_has_all_its_names_and_one_value() -> None:
    tau = nn.Threshold()
    first = nn.TriVeinAttention(8, 2, 2, tau)
    second = nn.TriVeinAttention(8, 2, 2, tau)
    both = nn.ModuleList([first, second])
    assert [name for name, _ in both.named_buffers()] == ["0.tau_module.tau", "1.tau_module.tau"]
    tau.tau.data[...] = 0.3
    assert float(both.state_dict()["1.tau_module.tau"]) == pytest.approx(0.3)


def test_tau_follows_the_load_within_its_bounds() -> None:
    tau = nn.Threshold(np.float64)
    assert tau.adapt(1.0) == 0.18
    assert tau.adapt(3.0) == pytest.approx(0.18 * 0.9)
    for _ in range(40):
        tau.adapt(5.0)
    assert float(tau.tau.data) == 0.05
    for _ in range(80):
        tau.adapt(0.0)
    assert float(tau.tau.data) == 0.35


def identity_subspace(heads: int = 2, head_dim: int = 4, **options) -> nn.TriVeinAttention:
    """An attention whose subspace keeps everything, so that every residual is 0."""
    attention = nn.TriVeinAttention(
        heads * head_dim, heads, head_dim, nn.Threshold(np.float64), rng=3, dtype=np.float64, **options
    )
    attention.subspace.U.assign(np.eye(head_dim))
    attention.subspace.V.assign(np.eye(head_dim) * 0.99)  # reconstruct(project(q)) = 0.99 q: a residual of 1%
    return attention


def test_the_correction_starts_at_the_third_steady_call() -> None:
    x = Tensor(np.random.default_rng(0).normal(size=(2, 5, 8)))
    attention = identity_subspace()
    outputs = [attention(x)[0].data for _ in range(4)]
    assert (outputs[0] == outputs[1]).all()
    assert (outputs[2] != outputs[1]).any() and (outputs[2] == outputs[3]).all()
    assert attention.steady_calls == 4

    # By hand: delta (q - k) is added in the full head space, per sample, before W_o.
    def project(layer: nn.Linear) -> np.ndarray:
        return x.data @ layer.weight.data.T + layer.bias.data

    q, k = project(attention.W_q), project(attention.W_k)
    eps = np.linalg.norm((0.01 * q).reshape(2, 5, 2, 4), axis=-1)
    delta = eps.mean(axis=(1, 2)) / 8
    added = (delta[:, None, None] * (q - k)) @ attention.W_o.weight.data.T
    np.testing.assert_allclose(outputs[2] - outputs[1], added, rtol=1e-9, atol=1e-12)


def test_one_restless_call_starts_the_count_again() -> None:
    attention = identity_subspace()
    x = np.random.default_rng(0).normal(size=(1, 5, 8))
    for _ in range(2):
        attention(Tensor(x))
    attention(Tensor(1000 * x))
    assert attention.steady_calls == 0


def test_the_correction_is_differentiated() -> None:
    attention = identity_subspace()

    def corrected(x: Tensor, w_q: Tensor) -> Tensor:
        attention.steady_calls = 5
        attention.W_q.weight = w_q
        return attention(x)[0]

    rng = np.random.default_rng(1)
    gradcheck(corrected, [rng.normal(size=(2, 4, 8)), rng.normal(size=(8, 8))])


def test_causal_attention_leaves_the_correction_out() -> None:
    attention = identity_subspace(causal=True)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 5, 8)))
    outputs = [attention(x)[0].data for _ in range(4)]
    assert all((output == outputs[0]).all() for output in outputs)
    assert np.triu(attention(x)[1].data, 1).max() == 0


def test_components_by_hand() -> None:
    # 0 -> 1 -> 2, 3 -> 2: from 0 all of 0, 1, 2; then 3 finds itself alone, since 2 is taken.
    attention = np.zeros((4, 4))
    attention[0, 1] = attention[1, 2] = attention[3, 2] = 0.5
    assert graph.component_sizes(attention, 0.1).tolist() == [3, 3, 3, 1]
    attention[2, 2] = 0.1  # not above the threshold, and a loop anyway
    assert graph.component_sizes(attention[None], 0.1).tolist() == [[3, 3, 3, 1]]


def test_past_reach_by_hand() -> None:
    attention = np.zeros((4, 4))
    attention[1, 0] = attention[3, 1] = 0.5
    attention[0, 3] = attention[2, 3] = 0.9  # to later nodes: not seen
    assert graph.past_reach(attention, 0.1).tolist() == [1, 2, 1, 3]


def test_shortest_paths_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    distances = rng.exponential(size=(6, 6))
    ours = graph.shortest_paths(distances)
    best = distances.copy()
    for _ in range(6):  # one edge more each time: Bellman and Ford's way, not Floyd and Warshall's
        best = np.minimum(best, (best[:, :, None] + distances[None]).min(axis=1))
    np.testing.assert_allclose(ours, best, rtol=1e-14)


def test_nearest_nodes_repeat_the_farthest_reached() -> None:
    distances = np.where(np.tri(4, dtype=bool), [[1, 0, 0, 0], [2, 1, 0, 0], [3, 1, 2, 0], [1, 1, 0.5, 9]], np.inf)
    assert graph.nearest_nodes(distances, 3).tolist() == [[0, 0, 0], [1, 0, 0], [1, 2, 0], [2, 0, 1]]
    with pytest.raises(ValueError, match="5 nearest of 4"):
        graph.nearest_nodes(distances, 5)


def test_a_packed_weight_can_live_on_a_card_and_gives_the_same() -> None:
    from autograd import functional as F

    class Echo:
        def linear(self, x, weight, bias):
            return F.dense_linear(x, weight, bias)

    attention = nn.MultiheadAttention(16, 8, rng=0, dtype=np.float64)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 5, 16)))
    plain = attention(x, x).data
    attention.in_proj_weight.card = Echo()
    np.testing.assert_allclose(attention(x, x).data, plain, rtol=1e-12)


def test_out_proj_asks_its_card_only_when_told_to() -> None:
    class Deaf:
        def linear(self, x, weight, bias):
            raise AssertionError("asked")

    x = Tensor(np.zeros((1, 3, 16), np.float32))
    for through_device in (False, True):
        attention = nn.MultiheadAttention(16, 8, through_device=through_device)
        attention.out_proj.weight.card = Deaf()
        if through_device:
            with pytest.raises(AssertionError, match="asked"):
                attention(x, x)
        else:
            attention(x, x)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: nn.Linear(0, 3), "in_features must be a positive integer"),
        (lambda: nn.MultiheadAttention(10, 4), "4 heads do not divide a width of 10"),
        (lambda: nn.Dropout(1.0), "not 1.0"),
        (lambda: optim.Adam([]), "at least one parameter"),
        (lambda: optim.Adam([Tensor([1.0])]), "Parameters"),
        (lambda: optim.SGD([nn.Linear(2, 2).weight], lr=-1), "not negative"),
        (lambda: Generator(-1), "non-negative"),
    ],
)
def test_bad_sizes_are_refused(make, complaint: str) -> None:
    with pytest.raises((ValueError, TypeError), match=complaint):
        make()


def test_schedules() -> None:
    factor = optim.warmup_cosine(4, 10, floor=0.1)
    assert [factor(0), factor(3)] == [0.25, 1.0]
    assert factor(10) == pytest.approx(0.1) and factor(50) == pytest.approx(0.1)
    linear = optim.warmup_linear(2, 6)
    assert [linear(0), linear(1), linear(4), linear(6)] == [0.5, 1.0, 0.5, 0.0]
    optimizer = optim.SGD([nn.Linear(2, 2).weight], lr=0.5)
    schedule = optim.LambdaLR(optimizer, linear)
    schedule.step()
    assert optimizer.lr == 0.5 and schedule.last_step == 1
    schedule.load_state_dict({"base_lr": 0.5, "last_step": 4})
    assert optimizer.lr == 0.25
