"""Loading policies, and what they make of prompts."""

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tailguard.errors import InputError
from tailguard.models.policy import (
    Policy,
    encode_prompts,
    load_policy,
    render_prompt,
)

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
    "{% if m['role'] == 'assistant' %}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = ["<pad>", "<end>", "<user>", "<assistant>", "<unk>", "one", "two", "three"]


def make_tokenizer(template: str | None = TEMPLATE):
    core = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer


def make_config(**kwargs):
    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        **kwargs,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    model: Any = LlamaForCausalLM(make_config())
    model.to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def policy(checkpoint):
    return load_policy(checkpoint)


def test_a_checkpoint_loads_ready_to_use(policy):
    assert not policy.model.training
    assert policy.model.dtype == torch.float32
    assert policy.hidden_size == 16
    assert policy.context_tokens == 24
    assert policy.stop_token_ids == (1,)
    assert policy.pad_token_id == 0


def test_every_stop_token_counts(policy):
    model = LlamaForCausalLM(make_config())
    model.generation_config.eos_token_id = [5, 3]
    assert Policy(model, policy.tokenizer).stop_token_ids == (1, 3, 5)


def test_an_adapter_is_merged(checkpoint, policy, tmp_path):
    base = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    tuned.eval().save_pretrained(tmp_path)
    merged = load_policy(checkpoint, tmp_path)
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        expected = tuned(input_ids=ids).logits
        found = merged.model(input_ids=ids).logits
        untuned = policy.model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, untuned, atol=1e-3)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        load_policy(checkpoint, tmp_path)
    with pytest.raises(InputError, match="adapter_config"):
        load_policy(checkpoint, checkpoint)


def one_line(error):
    return "\n" not in str(error.value)


def test_a_missing_folder_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="no such folder") as error:
        load_policy(tmp_path / "nowhere")
    assert one_line(error)
    with pytest.raises(InputError, match=r"config\.json"):
        load_policy(tmp_path)


def test_pickled_weights_are_refused(checkpoint, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    with pytest.raises(InputError) as error:
        load_policy(tmp_path)  # no weights at all
    assert one_line(error)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="safetensors"):
        load_policy(tmp_path)


def test_a_broken_config_is_one_clear_line(checkpoint, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such architecture"}))
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    with pytest.raises(InputError) as error:
        load_policy(tmp_path)
    assert one_line(error)


def test_a_scorer_is_not_a_policy(tmp_path):
    LlamaForSequenceClassification(make_config(num_labels=1)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="lm_head"):
        load_policy(tmp_path)


def test_a_model_that_looks_ahead_is_not_a_policy(tmp_path):
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=24,
    )
    config.is_decoder = False
    model = BertLMHeadModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="not causal"):
        load_policy(tmp_path)


def test_chats_are_rendered_by_the_template():
    tokenizer = make_tokenizer()
    assert render_prompt(tokenizer, "one two") == "<user> one two <assistant>"
    chat = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    assert (
        render_prompt(tokenizer, chat) == "<user> one <assistant> two <end><user> three <assistant>"
    )
    assert len(chat) == 3


def test_without_a_template_text_is_plain():
    tokenizer = make_tokenizer(None)
    assert render_prompt(tokenizer, "one two") == "one two"


def test_a_template_that_refuses_is_reported():
    tokenizer = make_tokenizer("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InputError, match="roles must alternate"):
        render_prompt(tokenizer, "one")


@pytest.mark.parametrize(
    "prompt",
    ["", "  \n", [], [{"role": "user", "content": " "}], [{"role": "user"}], [{"content": "one"}]],
)
def test_empty_and_malformed_prompts_are_refused(policy, prompt):
    with pytest.raises(InputError):
        render_prompt(policy.tokenizer, prompt)
    with pytest.raises(InputError, match=r"prompts\[1\]"):
        encode_prompts(policy, ["one", prompt])


def test_prompts_are_padded_on_the_left(policy):
    encoded = encode_prompts(policy, ["one two three", "one"], 4)
    assert encoded.token_ids.tolist() == [[2, 5, 6, 7, 3], [0, 0, 2, 5, 3]]
    assert encoded.mask.tolist() == [[True] * 5, [False, False, True, True, True]]


def test_a_prompt_must_leave_room(policy):
    fits = "one " * 12  # and two tokens of the template
    assert encode_prompts(policy, [fits], 10).token_ids.shape == (1, 14)
    with pytest.raises(InputError, match=r"prompts\[1\] is too long: 14 .* 24 leaves 13 "):
        encode_prompts(policy, ["one", fits], 11)


def test_no_prompts_are_refused(policy):
    with pytest.raises(InputError, match="empty"):
        encode_prompts(policy, [])
