"""Tokenizers that do not go with their model, found out when a policy is loaded."""

import pytest
import torch
from tests.unit.models.chat_tokenizers import CHATML, INSTRUCTIONS, TEMPLATES, byte_level
from transformers import LlamaConfig, LlamaForCausalLM

from tailguard.engines import response_log_probs, sample_responses
from tailguard.errors import InputError
from tailguard.models.library import special_token_id
from tailguard.models.policy import load_policy, tokenize_prompts


def save(folder, tokenizer, vocab_size, **generation):
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=generation.get("eos_token_id"),
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = generation.get("eos_token_id")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def with_template(template):
    tokenizer = byte_level()
    tokenizer.chat_template = template
    return tokenizer


def test_ids_without_a_token_are_never_drawn(tmp_path):
    tokenizer = byte_level()
    size = len(tokenizer)
    policy = load_policy(save(tmp_path, tokenizer, size + 300))
    drawn = sample_responses(
        policy,
        ["a"],
        num_samples=64,
        max_new_tokens=8,
        generator=torch.Generator().manual_seed(0),
    )
    assert drawn.token_ids.max() < size
    forced = response_log_probs(policy, ["a"] * 64, drawn.token_rows)
    torch.testing.assert_close(forced.float(), drawn.log_probs.float())


@pytest.mark.parametrize("template", [None, *TEMPLATES])
def test_usual_templates_pass(tmp_path, template):
    tokenizer = with_template(template)
    load_policy(save(tmp_path, tokenizer, len(tokenizer)))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ messages[0]['content'] + 1 }}", "fails: TypeError"),
        ("always the same", "leaves out the text of user messages"),
        (CHATML.replace("{% if add_generation_prompt %}", "{% if false %}"), "does not open"),
        ("{% for m in messages %}{{ m['content'][:0] }}{% endfor %}", "leaves out"),
    ],
)
def test_a_template_that_cannot_serve_is_refused_at_load(tmp_path, template, says):
    tokenizer = with_template(template)
    with pytest.raises(InputError, match=says) as error:
        load_policy(save(tmp_path, tokenizer, len(tokenizer)))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path):
    tokenizer = byte_level()
    with pytest.raises(InputError, match="the model has 200 embeddings"):
        load_policy(save(tmp_path, tokenizer, 200))


def test_an_added_token_beyond_the_embeddings_is_refused_where_it_is_read(tmp_path):
    tokenizer = byte_level()
    size = len(tokenizer)
    tokenizer.add_tokens(["picture"])
    policy = load_policy(save(tmp_path, tokenizer, size))
    assert tokenize_prompts(policy, ["a"])
    with pytest.raises(InputError, match=rf"prompts\[0\] holds token {size}"):
        tokenize_prompts(policy, ["a picture"])


def test_answers_must_be_able_to_end(tmp_path):
    tokenizer = with_template(INSTRUCTIONS.replace("{{ eos_token }}", ""))
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end token"):
        load_policy(save(tmp_path / "a", tokenizer, len(tokenizer)))
    policy = load_policy(save(tmp_path / "b", tokenizer, len(tokenizer), eos_token_id=[5]))
    assert policy.stop_token_ids == (5,)
    assert special_token_id(policy.tokenizer, "eos") == 5
