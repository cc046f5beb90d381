"""The law of one token, read off exactly by sweeping the uniform number."""

import pytest
import torch

from tailguard.engines import SamplingLaw, prompt_seeds
from tailguard.engines.sampling_law import uniform_draws
from tailguard.errors import InputError

LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.0, -float("inf")])


def swept(law: SamplingLaw, num: int = 100_000) -> torch.Tensor:
    """The mass of uniform numbers that leads to each token."""
    uniform = (torch.arange(num) + 0.5) / num
    choice = law.choose(LOGITS.expand(num, -1), uniform)
    return torch.bincount(choice.token_ids, minlength=5) / num


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature(temperature):
    expected = (LOGITS / temperature).softmax(0)
    torch.testing.assert_close(swept(SamplingLaw(temperature)), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.05, 1), (0.7, 1), (0.8, 2), (0.9, 3), (0.99, 4), (1.0, 4)]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p, kept):
    probs = LOGITS.softmax(0)
    order = probs.argsort(descending=True)[:kept]
    assert probs[order].sum() >= min(top_p, 0.9999)
    assert probs[order[:-1]].sum() < top_p
    expected = torch.zeros(5)
    expected[order] = probs[order] / probs[order].sum()
    law = SamplingLaw(top_p=top_p)
    torch.testing.assert_close(swept(law), expected, atol=2e-5, rtol=0)
    choice = law.choose(LOGITS[None], torch.tensor([0.5]))
    assert float(choice.log_probs.exp()) == pytest.approx(
        float(expected[choice.token_ids]), rel=1e-5
    )


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24])
def test_extreme_draws_never_take_an_impossible_token(uniform):
    logits = torch.full((1, 3000), -float("inf"))
    logits[0, 1000:2000] = torch.linspace(0, 1, 1000)
    choice = SamplingLaw().choose(logits, torch.tensor([uniform]))
    assert 1000 <= int(choice.token_ids) < 2000
    assert torch.isfinite(choice.log_probs).all()


def test_nan_logits_show_in_the_log_probability():
    logits = torch.stack([LOGITS, torch.full((5,), float("nan"))])
    for law in (SamplingLaw(), SamplingLaw(top_p=0.5), SamplingLaw(temperature=0.0)):
        choice = law.choose(logits, torch.tensor([0.5, 0.5]))
        assert torch.isfinite(choice.log_probs).tolist() == [True, False]
        assert ((choice.token_ids >= 0) & (choice.token_ids < 5)).all()


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SamplingLaw(**wrong)


def test_draws_of_a_prompt_depend_on_its_seed_alone():
    together = uniform_draws([5, 6, 7], 2, 4)
    assert torch.equal(uniform_draws([6], 2, 4)[0], together[1])
    assert ((together >= 0) & (together < 1)).all()
    assert prompt_seeds(3, 5)[:2] == prompt_seeds(3, 2)
    assert len({*prompt_seeds(3, 50), *prompt_seeds(4, 50)}) == 100
    with pytest.raises(InputError, match="seed"):
        prompt_seeds(-1, 2)
