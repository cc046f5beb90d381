"""Soups by row against models whose weights hold the sum of the updates."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from tailguard.engines import SamplingLaw, response_log_probs, sample_responses
from tailguard.engines.draws import StartedPrompts
from tailguard.engines.soup import SoupPolicy
from tailguard.engines.stepping import inference
from tailguard.errors import InputError
from tailguard.models.policy import load_policy, pad_left, tokenize_prompts
from tailguard.models.quiet import without_announcements

PROMPTS = ["w1 w2 w3", "w4", "w5 w6"]
POINTS = [(1.0, 0.0), (0.3, 0.7), (-0.5, 1.5), (0.0, 0.0), (2.0, 0.5)]


def save_adapter(base, folder, seed, rank, targets, **options):
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=3 * rank, task_type="CAUSAL_LM", target_modules=targets, **options
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weights, std=0.3)
    with without_announcements():
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tiny_scorers, tmp_path_factory):
    return tiny_scorers.save_causal_lm(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """Two members with other ranks and other layers, one layer in common."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "loose": save_adapter(base, folder / "loose", 0, 2, ["q_proj", "down_proj"]),
        "strict": save_adapter(base, folder / "strict", 1, 3, ["q_proj", "v_proj"]),
    }


@pytest.fixture(scope="module")
def soup(base, adapters):
    return SoupPolicy.load(base, adapters)


def merged(base, adapters, point) -> Any:
    """The base with Σ w_k Δ_k in its weights, each Δ_k by peft's own merge."""
    policy: Any = load_policy(base)
    plain = {name: w.detach().clone() for name, w in policy.model.named_parameters()}
    for weight, folder in zip(point, adapters.values(), strict=True):
        other = dict(cast(Any, load_policy(base, folder)).model.named_parameters())
        for name, w in policy.model.named_parameters():
            w.data += weight * (other[name].detach() - plain[name])
    return policy


def next_logits(policy, rows):
    """Logits after prompts of unlike lengths, then after two more tokens of each."""
    member = policy.members[0]
    encoded = pad_left(rows, pad_token_id=member.pad_token_id, device=member.device)
    with inference(policy):
        opened, first = policy.prefill(encoded, 4)
        second = opened.step(torch.tensor([4, 5, 6, 7, 8][: len(rows)]))
        opened.gather(torch.tensor([2, 0]))
        forked = opened.fork(torch.tensor([1, 1, 0]), 4)
        return first.logits, second.logits, forked.step(torch.tensor([5, 6, 7])).logits


def test_rows_at_unlike_points_are_each_their_merged_model(base, adapters, soup):
    rows = [[4, 5, 6], [7], [5, 9], [4, 4, 8, 9], [6, 5]]
    together = next_logits(soup.at_rows(POINTS), rows)
    taken = (range(5), range(5), [0, 0, 2])  # the rows that gather and fork leave, in their order
    for stage, found in enumerate(together):
        for place, row in enumerate(taken[stage]):
            alone = next_logits(soup.at(POINTS[row]), rows)[stage]
            torch.testing.assert_close(found[place], alone[place], atol=1e-5, rtol=1e-5)
    for number, point in enumerate(POINTS):
        exact = merged(base, adapters, point)
        ids = torch.tensor([rows[number]])
        with torch.no_grad():
            expected = exact.model(input_ids=ids, use_cache=False).logits[0, -1]
        found = together[0][number]
        torch.testing.assert_close(found, expected[: found.shape[0]], atol=1e-4, rtol=1e-4)


def test_everything_that_takes_a_policy_takes_a_point(base, adapters, soup):
    point = (0.25, 0.75)
    exact = merged(base, adapters, point)
    rows = [[4, 5, 6], [7, 8], [9]]
    torch.testing.assert_close(
        response_log_probs(soup.at(point), PROMPTS, rows),
        response_log_probs(exact, PROMPTS, rows),
        atol=1e-4,
        rtol=1e-4,
    )

    def sampled(policy):
        generator = torch.Generator().manual_seed(0)
        return sample_responses(
            policy, PROMPTS, num_samples=3, max_new_tokens=6, generator=generator
        ).texts

    assert sampled(soup.at(point)) == sampled(exact)
    assert sampled(soup.at((0.0, 0.0))) == sampled(load_policy(base))


def test_the_base_is_untouched_outside_of_calls(base, soup):
    soup.at((1.0, 1.0))
    ids = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        found = soup.base.model(input_ids=ids).logits
        torch.testing.assert_close(found, load_policy(base).model(input_ids=ids).logits)


def test_in_double_precision_nothing_is_lost(base, adapters):
    policy: Any = load_policy(base)
    policy.model.to(torch.float64)
    soup = SoupPolicy(policy, adapters)
    point = (0.4, -1.3)
    exact = merged(base, adapters, point)
    plain: Any = load_policy(base)
    plain.model.to(torch.float64)
    # The sum of updates once more, from the adapters' own matrices in float64.
    state = dict(plain.model.named_parameters())
    for weight, folder in zip(point, adapters.values(), strict=True):
        add_update(state, folder, weight)
    ids = torch.tensor([[4, 5, 6]])
    with torch.no_grad(), soup._weights.at(torch.tensor([point], dtype=torch.float64)):
        found = policy.model(input_ids=ids).logits
        torch.testing.assert_close(found, plain.model(input_ids=ids).logits, atol=1e-10, rtol=1e-10)
        loose = exact.model(input_ids=ids).logits.double()
    torch.testing.assert_close(found, loose, atol=1e-4, rtol=1e-4)


def add_update(state, folder, weight):
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    for name, down in tensors.items():
        if ".lora_A." in name:
            key = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            up = tensors[name.replace("lora_A", "lora_B")]
            state[key].data += weight * 3.0 * up.double() @ down.double()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_dora": True}, "uses DoRA"),
        ({"modules_to_save": ["lm_head"]}, "whole trained modules"),
    ],
    ids=["dora", "modules"],
)
def test_what_cannot_be_weighted_is_refused(base, tmp_path, options, said):
    folder = save_adapter(base, tmp_path / "a", 0, 2, ["q_proj"], **options)
    with pytest.raises(InputError, match=said):
        SoupPolicy.load(base, {"a": folder})


@pytest.mark.parametrize("point", [(1.0,), (1.0, 2.0, 3.0), (float("nan"), 0.0)])
def test_wrong_points_are_refused(soup, point):
    with pytest.raises(InputError, match="point"):
        soup.at(point)


class TestDraws:
    def start(self, soup, prompts=PROMPTS, points=POINTS[:3], **options):
        law = SamplingLaw(options.pop("temperature", 1.0))
        return StartedPrompts(soup, prompts, points, max_new_tokens=6, law=law, **options)

    def test_a_draw_is_its_prompts_points_and_seeds(self, soup):
        asked, seeds = [0, 1, 2, 0, 2, 2], [5, 6, 7, 8, 9, 7]
        together = self.start(soup).draw(asked, seeds)
        small = self.start(soup, batch_size=2).draw(asked, seeds)
        assert [d.token_ids for d in together] == [d.token_ids for d in small]
        alone = self.start(soup, [PROMPTS[2]], [POINTS[2]]).draw([0], [9])
        assert alone[0].token_ids == together[4].token_ids
        assert together[2].token_ids == together[5].token_ids  # the same seed again

    def test_their_law_is_the_points_own(self, base, adapters, soup):
        drawn = self.start(soup).draw([0, 1, 2], [1, 2, 3])
        for prompt, point, found in zip(PROMPTS, POINTS, drawn, strict=False):
            exact = response_log_probs(merged(base, adapters, point), [prompt], [found.token_ids])
            assert found.log_prob == pytest.approx(float(exact[0]), abs=1e-4)

    def test_first_tokens_are_as_likely_as_the_model_says(self, soup):
        started = self.start(soup, [PROMPTS[0]], [POINTS[1]])
        first = [d.token_ids[0] for d in started.draw([0] * 4000, list(range(4000)))]
        ids = tokenize_prompts(soup.base, [PROMPTS[0]], 6)
        encoded = pad_left(ids, pad_token_id=0, device=soup.base.device)
        with inference(soup.at(POINTS[1])):
            _, step = soup.at(POINTS[1]).prefill(encoded, 0)
        law = step.logits[0].softmax(-1).numpy()
        seen = np.bincount(first, minlength=len(law)) / 4000
        assert np.abs(seen - law).max() < 5 * np.sqrt(0.25 / 4000)

    def test_wrong_numbers_are_refused(self, soup):
        with pytest.raises(InputError, match="points: 1 for 3 prompts"):
            self.start(soup, points=POINTS[:1])
        with pytest.raises(InputError, match="seeds: 1 for 2 draws"):
            self.start(soup).draw([0, 1], [1])
