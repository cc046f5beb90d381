"""Checkpoints that are damaged, of another kind, or that say more than which model they are."""

import json
import logging
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.unit.conftest import make_tokenizer
from tests.unit.engines.test_architectures import WORDS
from tests.unit.engines.tiny_models import VOCAB_SIZE, tiny_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    GenerationConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from tailguard.errors import InputError
from tailguard.models.policy import load_policy


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "model", tiny_model("llama"))


def save(folder, model):
    model.save_pretrained(folder)
    make_tokenizer(WORDS).save_pretrained(folder)
    return folder


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder):
    with pytest.raises(InputError) as caught:
        load_policy(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "float33"}, "float33"),
        ({"hidden_size": 64}, "RuntimeError"),
        ({"hidden_size": "a"}, "hidden_size"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"hidden_act": "nosuch"}, "KeyError: 'nosuch'"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
        ({"num_hidden_layers": 3}, "no weights for 'model.layers.2"),
        ({"model_type": "nosuch"}, "nosuch"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(folder, changes, said):
    edit(folder, "config.json", **changes)
    assert said in refusal(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -100])
def test_a_file_that_was_cut_is_refused_in_one_line(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "cannot be loaded" in refusal(folder)


@pytest.mark.parametrize("text", ["[]", "{"])
def test_a_config_that_is_no_object_is_refused_in_one_line(folder, text):
    (folder / "config.json").write_text(text)
    assert "cannot be loaded" in refusal(folder)


def test_a_missing_shard_is_refused_in_one_line(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    make_tokenizer(WORDS).save_pretrained(tmp_path)
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    assert lost.name in refusal(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    assert "tokenizer" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_decoder_is_refused_by_name(tmp_path, kind):
    sizes: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "d_model": 32}
    layers: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1}
    model: Any = (
        T5ForConditionalGeneration(T5Config(**sizes, num_layers=1, d_ff=32, d_kv=8, num_heads=4))
        if kind == "t5"
        else BartForConditionalGeneration(
            BartConfig(**sizes, **layers, encoder_ffn_dim=32, decoder_ffn_dim=32)
        )
    )
    assert f"{kind} is an encoder-decoder" in refusal(save(tmp_path, model))


def test_a_model_that_writes_no_text_is_refused_by_name(tmp_path):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config={**small, "num_attention_heads": 2, "vocab_size": VOCAB_SIZE},
        vision_config={**small, "num_attention_heads": 2, "image_size": 8, "patch_size": 8},
        projection_dim=16,
    )
    assert "clip is no causal LM" in refusal(save(tmp_path, CLIPModel(config)))


def test_an_adapter_is_no_policy(tmp_path):
    model: Any = cast(Any, get_peft_model)(
        tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj"])
    )
    model.save_pretrained(tmp_path)
    assert "an adapter alone" in refusal(tmp_path)


def test_weights_for_another_program_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "model.gguf")
    assert "GGUF" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_told_as_such(folder, value):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "NaN" in refusal(folder)


def test_weights_that_are_left_over_are_told(folder, caplog):
    edit(folder, "config.json", num_hidden_layers=1)
    with caplog.at_level(logging.WARNING, logger="tailguard"):
        load_policy(folder)
    assert "have no place in LlamaForCausalLM" in caplog.text
    assert "model.layers.1" in caplog.text


@pytest.mark.parametrize("token", ["x", -1, 9999, [0, 9999], True])
def test_an_end_that_the_model_cannot_write_is_refused(folder, token):
    edit(folder, "generation_config.json", eos_token_id=token)
    assert "eos_token_id" in refusal(folder)


def test_what_would_bend_the_law_is_told_and_reaches_no_sampler(folder, caplog):
    bent = {"suppress_tokens": list(range(1, 40)), "no_repeat_ngram_size": 2}
    edit(folder, "generation_config.json", **bent, repetition_penalty=1.3)
    with caplog.at_level(logging.WARNING, logger="tailguard"):
        policy = load_policy(folder)
    assert "repetition_penalty, no_repeat_ngram_size, suppress_tokens" in caplog.text
    # As the trainer calls it: with a config of its own, which the model's would fill up.
    made = cast(Any, policy.model).generate(
        input_ids=torch.tensor([[5, 6]]),
        attention_mask=torch.ones(1, 2, dtype=torch.long),
        generation_config=GenerationConfig(
            max_new_tokens=1,
            do_sample=False,
            output_scores=True,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        ),
    )
    assert torch.equal(made.scores[0], made.logits[0])


def test_what_is_neutral_says_nothing(folder, caplog):
    edit(folder, "generation_config.json", repetition_penalty=1.0, temperature=0.7, num_beams=1)
    with caplog.at_level(logging.WARNING, logger="tailguard"):
        load_policy(folder)
    assert caplog.text == ""
