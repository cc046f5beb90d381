import numpy as np
import pytest
import torch

from tailguard.errors import InputError
from tailguard.risk import CVaR
from tailguard.values.fit import ValueFitting, fit_process_heads
from tailguard.values.process_heads import ProcessHeads
from tailguard.values.targets import PrefixOutcomes, start_at_marginal, value_losses

LEVELS = torch.tensor([0.1, 0.5, 0.9, 0.95])


def _law(num_prompts, per_prompt, seed, shift=0.0):
    """C = a + s·Exp(1), R = x_2 + noise, with a = x_0 and s = exp(.4 x_1)."""
    g = torch.Generator().manual_seed(seed)
    prompt = torch.randn(num_prompts, 8, generator=g).repeat_interleave(per_prompt, 0)
    hidden = 0.7 * prompt + 0.7 * torch.randn(len(prompt), 8, generator=g) + shift
    start, width = hidden[:, 0], (0.4 * hidden[:, 1]).exp()
    cost = start + width * torch.empty(len(hidden)).exponential_(1.0, generator=g)
    reward = hidden[:, 2] + 0.5 * torch.randn(len(hidden), generator=g)
    index = torch.arange(num_prompts).repeat_interleave(per_prompt)
    return PrefixOutcomes(hidden, reward, cost, index), start, width


def _grid(outcomes, num_thresholds):
    """Thresholds by mass: evenly up to the median, then ever denser into the tail."""
    even = num_thresholds // 3
    tail = 1 - np.geomspace(0.5, max(0.002, 4 / len(outcomes)), num_thresholds - even)
    levels = [*np.linspace(0.01, 0.5, even, endpoint=False), *tail]
    return torch.tensor(np.quantile(outcomes.cost.numpy(), levels)).float()


def _true_hinge(start, width, threshold):
    inside = width * torch.exp(-(threshold - start).clamp(min=0) / width)
    return torch.where(threshold < start, start + width - threshold, inside)


@pytest.fixture(scope="module")
def fitted():
    outcomes, _, _ = _law(300, 30, seed=1)
    grid = _grid(outcomes, 10)
    settings = ValueFitting(num_epochs=20, num_features=16, width=24, batch_size=512)
    heads, metrics = fit_process_heads(
        outcomes, grid, LEVELS, settings=settings, generator=torch.Generator().manual_seed(0)
    )
    return heads, metrics


def _explained(truth, prediction):
    return 1 - (truth - prediction).square().mean(dim=0) / truth.var(dim=0)


def test_a_known_conditional_law_is_recovered(fitted):
    heads, _ = fitted
    fresh, start, width = _law(3000, 1, seed=2)
    prediction = heads.predict(fresh.hidden)
    truth = _true_hinge(start[:, None], width[:, None], heads.thresholds)
    explained = _explained(truth, prediction.hinge.mean(dim=1))
    assert (explained[:6] > 0.85).all()  # up to the 50% tail; the rest is thinner in data
    assert explained[7] > 0.5
    bias = (prediction.hinge.mean(dim=1) - truth).mean(dim=0)
    assert (bias.abs() < 0.05 * truth.std(dim=0)[0]).all()
    quantile = start[:, None] - width[:, None] * torch.log(1 - LEVELS)
    assert (_explained(quantile, prediction.quantiles.mean(dim=1)) > 0.88).all()
    assert _explained(fresh.hidden[:, 2], prediction.reward.mean(dim=1)) > 0.97
    # The penalty in closed form, at a threshold off the grid.
    penalty = prediction.expected_penalty(heads.thresholds, CVaR(0.25), 1.0).mean(dim=1)
    exact = 1.0 + _true_hinge(start, width, torch.tensor(1.0)) / 0.25
    assert _explained(exact, penalty) > 0.85


def test_figures_beat_the_constant_and_coverage_is_near_its_level(fitted):
    _, metrics = fitted
    # The best possible R² of the reward is Var(x_2)/(Var(x_2)+.25) = .797.
    assert 0.72 < metrics["reward_r2"] < 0.86
    assert metrics["pinball_skill"] > 0.2
    assert metrics["hinge_r2"] > 0.1
    assert metrics["coverage_error"] < 0.04
    assert metrics["num_rows"] + metrics["num_validation_rows"] == 9000


def test_members_spread_where_no_prefix_was_seen(fitted):
    heads, _ = fitted
    inside, outside = _law(500, 1, seed=3)[0], _law(500, 1, seed=3, shift=5.0)[0]
    for name in ("reward", "hinge", "quantiles"):
        near = getattr(heads.predict(inside.hidden), name).std(dim=1).mean()
        far = getattr(heads.predict(outside.hidden), name).std(dim=1).mean()
        assert far > 2 * near


def test_fresh_heads_start_near_the_marginal_law():
    outcomes, _, _ = _law(40, 30, seed=4)
    grid = _grid(outcomes, 8)
    heads = ProcessHeads(8, grid, LEVELS, generator=torch.Generator().manual_seed(0))
    start_at_marginal(heads, outcomes)
    with torch.no_grad():
        heads.outer_weight.zero_()
    prediction = heads.predict(outcomes.hidden[:1])
    torch.testing.assert_close(
        prediction.hinge[0, 0], outcomes.hinge(grid).mean(dim=0), rtol=0.02, atol=2e-3
    )
    torch.testing.assert_close(
        prediction.quantiles[0, 0], torch.quantile(outcomes.cost, LEVELS), rtol=1e-3, atol=1e-3
    )
    assert prediction.reward[0, 0] == pytest.approx(float(outcomes.reward.mean()), abs=1e-5)


def test_the_loss_is_least_at_the_mean_hinge_and_the_quantiles():
    """Move any output of the constant predictor off the marginal: the mean loss must rise."""
    outcomes, _, _ = _law(100, 40, seed=5)
    outcomes = PrefixOutcomes(
        torch.zeros_like(outcomes.hidden), outcomes.reward, outcomes.cost, outcomes.prompt_index
    )
    grid = torch.tensor([-1.0, 0.0, 1.0, 3.0])
    heads = ProcessHeads(8, grid, LEVELS, num_members=1, generator=torch.Generator().manual_seed(0))
    start_at_marginal(heads, outcomes)
    with torch.no_grad():
        heads.outer_weight.zero_()
        least = float(value_losses(heads, outcomes).mean())
        for output in range(heads.outer_bias.shape[1]):
            for step in (-0.3, 0.3):
                heads.outer_bias[0, output] += step
                assert float(value_losses(heads, outcomes).mean()) > least
                heads.outer_bias[0, output] -= step


def test_the_fit_is_deterministic_and_reports_progress():
    outcomes, _, _ = _law(20, 10, seed=6)
    grid = _grid(outcomes, 6)

    def run():
        seen = []
        heads, _ = fit_process_heads(
            outcomes,
            grid,
            LEVELS,
            settings=ValueFitting(num_epochs=3),
            generator=torch.Generator().manual_seed(7),
            on_progress=lambda done, total: seen.append((done, total)),
        )
        return heads.predict(outcomes.hidden).hinge, seen

    first, second = run(), run()
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)
    assert first[1] == [(1, 3), (2, 3), (3, 3)]


def test_wrong_rows_are_refused():
    outcomes, _, _ = _law(4, 3, seed=0)
    with pytest.raises(InputError, match="reward: 2 rows for 12"):
        PrefixOutcomes(outcomes.hidden, torch.ones(2), outcomes.cost, outcomes.prompt_index)
    with pytest.raises(InputError, match="cost: holds NaN"):
        PrefixOutcomes(
            outcomes.hidden, outcomes.reward, outcomes.cost * torch.nan, outcomes.prompt_index
        )
    with pytest.raises(InputError, match="one prompt only"):
        fit_process_heads(
            PrefixOutcomes(
                outcomes.hidden, outcomes.reward, outcomes.cost, torch.zeros(12, dtype=torch.long)
            ),
            torch.tensor([0.0, 1.0]),
            LEVELS,
            generator=torch.Generator(),
        )
