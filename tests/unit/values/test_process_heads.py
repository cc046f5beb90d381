import numpy as np
import pytest
import torch

from tailguard.errors import InputError
from tailguard.risk import CVaR, Entropic, Mean, MeanCVaR, MonotoneMeanVariance, Spectral
from tailguard.values.process_heads import HeadPrediction, ProcessHeads

GRID = torch.tensor([-1.0, -0.25, 0.5, 2.0, 5.0])
LEVELS = torch.tensor([0.5, 0.9, 0.99])


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _heads(seed=0, scale=4.0, **options):
    heads = ProcessHeads(12, GRID, LEVELS, generator=_generator(seed), **options)
    heads.cost_scale.copy_(torch.tensor([0.3, 1.7]))
    with torch.no_grad():  # far from the start, so that the constraints are put to the test
        for parameter in heads.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=_generator(seed + 1)) * scale)
    return heads


def _hidden(n=200):
    return torch.randn(n, 12, generator=_generator(9)) * 3


def test_hinge_is_valid_and_quantiles_never_cross_at_wild_weights():
    prediction = _heads().predict(_hidden())
    assert prediction.reward.shape == (200, 4)
    assert prediction.hinge.shape == (200, 4, 5)
    assert prediction.quantiles.shape == (200, 4, 3)
    slopes = prediction.hinge.diff(dim=-1) / GRID.diff()
    tolerance = 1e-4 * (1 + prediction.hinge[..., :1])
    assert (prediction.hinge >= 0).all()
    assert (slopes <= 0).all()
    assert (slopes >= -1 - tolerance).all()
    assert (slopes.diff(dim=-1) >= -tolerance).all()
    assert slopes.std() > 0.05
    assert (prediction.quantiles.diff(dim=-1) >= 0).all()


def test_members_are_separate_networks_on_shared_features():
    heads, hidden = _heads(num_members=3), _hidden(7)
    together = heads.predict(hidden)
    features = hidden @ heads.feature_weight.T + heads.feature_bias
    for m in range(3):
        inner = torch.nn.functional.silu(features @ heads.inner_weight[m] + heads.inner_bias[m])
        raw = torch.cat([features, inner], 1) @ heads.outer_weight[m] + heads.outer_bias[m]
        torch.testing.assert_close(together.reward[:, m], raw[:, 0], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(
            together.quantiles[:, m, 0], 0.3 + 1.7 * raw[:, 6], rtol=1e-4, atol=1e-3
        )


def test_half_precision_hidden_states_are_read_in_full_precision():
    heads, hidden = _heads(scale=0.1), _hidden(5)
    half = heads.predict(hidden.bfloat16()).hinge
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, heads.predict(hidden.bfloat16().float()).hinge)


def test_expected_penalty_is_exact_on_the_grid_and_above_the_truth_between():
    # C is uniform on {0, 1, 2, 3}: E(C − ν)₊ by hand.
    cost = torch.tensor([0.0, 1.0, 2.0, 3.0])
    grid = torch.tensor([0.0, 1.5, 3.0])

    def truth(threshold):
        return (cost - threshold).clamp(min=0).mean()

    hinge = torch.stack([truth(v) for v in grid]).expand(2, 3, 3)
    prediction = HeadPrediction(torch.zeros(2, 3), hinge, torch.zeros(2, 3, 1))
    for threshold in (0.0, 1.5, 3.0, -2.0):  # on the grid, and below the least cost
        expected = threshold + truth(threshold) / 0.1
        penalty = prediction.expected_penalty(grid, CVaR(0.1), threshold)
        torch.testing.assert_close(penalty, expected.expand(2, 3))
    for threshold in (0.4, 1.0, 2.2):
        penalty = prediction.expected_penalty(grid, CVaR(0.1), threshold)
        assert (penalty >= threshold + truth(threshold) / 0.1 - 1e-5).all()
    # Above the grid the hinge stays at its last value.
    above = HeadPrediction(torch.zeros(2, 3), hinge + 0.01, torch.zeros(2, 3, 1))
    penalty = above.expected_penalty(grid, CVaR(0.1), 9.0)
    torch.testing.assert_close(penalty, torch.full((2, 3), 9.0 + 0.01 / 0.1))


@pytest.mark.parametrize(
    ("measure", "threshold"),
    [
        (Mean(), 0.0),
        (CVaR(0.2), 1.1),
        (MeanCVaR(0.25, 0.4), 0.7),
        (Entropic(0.8, 3.0), 1.3),
        (Spectral((0.1, 0.5), (0.3, 0.7)), (2.0, 0.5)),
    ],
    ids=repr,
)
def test_hinges_on_a_fine_grid_give_the_penalty_of_any_measure(measure, threshold):
    cost = torch.tensor([0.0, 0.3, 1.0, 2.0, 3.0], dtype=torch.float64)
    grid = torch.linspace(0.0, 3.0, 301, dtype=torch.float64)
    hinge = (cost[:, None] - grid).clamp(min=0).mean(dim=0).expand(1, 1, -1).float()
    prediction = HeadPrediction(torch.zeros(1, 1), hinge, torch.zeros(1, 1, 1))
    found = float(prediction.expected_penalty(grid.float(), measure, threshold))
    truth = float(measure.penalty(cost.numpy(), np.asarray(threshold)).mean())
    assert found == pytest.approx(truth, abs=2e-3)
    assert found >= truth - 1e-4


@pytest.mark.parametrize(
    ("measure", "threshold"),
    [
        (Entropic(0.8, 2.2), 1.3),  # the largest cost lies between two points of the grid
        (Entropic(2.0, 3.0), 0.0),  # on its end
        (Entropic(2.0, 4.5), 0.0),  # beyond
        (Spectral((0.05, 0.5), (0.4, 0.6)), (9.0, 2.0)),  # a threshold above the grid
        (CVaR(0.2), 3.5),
        (MonotoneMeanVariance(2.0), 1.0),
    ],
    ids=repr,
)
def test_hinges_never_understate_the_penalty(measure, threshold):
    grid = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    generator = np.random.default_rng(0)
    for _ in range(200):
        # Curved penalties hold to one length of the grid above it, the others anywhere.
        largest = 20.0 if np.isfinite(measure.largest_slope) else min(6.0, measure.largest_cost)
        cost = generator.uniform(-1.0, largest, size=4)
        hinge = torch.as_tensor(np.maximum(cost[:, None] - grid.numpy(), 0.0).mean(axis=0))
        prediction = HeadPrediction(
            torch.zeros(1, 1), hinge.expand(1, 1, -1).float(), torch.zeros(1, 1, 1)
        )
        found = float(prediction.expected_penalty(grid.float(), measure, threshold))
        truth = float(measure.penalty(cost, np.asarray(threshold)).mean())
        assert found >= truth - 1e-5 * (1.0 + abs(truth))


def test_heads_come_back_from_disk_with_their_hashes(tmp_path):
    heads = _heads(num_members=5, num_features=6, width=3)
    heads.base_hash, heads.policy_hash = "base-1", "policy-2"
    heads.save(tmp_path / "heads.safetensors")
    loaded = ProcessHeads.load(tmp_path / "heads.safetensors")
    hidden = _hidden(4)
    torch.testing.assert_close(loaded.predict(hidden).hinge, heads.predict(hidden).hinge)
    torch.testing.assert_close(loaded.predict(hidden).reward, heads.predict(hidden).reward)
    loaded.require_policy("base-1", "policy-2")
    with pytest.raises(InputError, match="fitted for base base-1, policy policy-2"):
        loaded.require_policy("base-1", "other")


def test_wrong_files_and_sizes_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        ProcessHeads.load(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not tailguard"):
        ProcessHeads.load(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="width 5; these heads read 12"):
        _heads().predict(torch.ones(2, 5))
    with pytest.raises(InputError, match="thresholds"):
        ProcessHeads(4, torch.tensor([1.0, 1.0]), LEVELS)
    with pytest.raises(InputError, match="quantile_levels"):
        ProcessHeads(4, GRID, torch.tensor([0.5, 1.0]))
    with pytest.raises(InputError, match="num_members: 0"):
        ProcessHeads(4, GRID, LEVELS, num_members=0)
