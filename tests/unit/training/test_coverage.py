"""What a fresh adapter covers, by an independent walk over many architectures."""

from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from tests.unit.engines.tiny_models import tiny_model
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers.pytorch_utils import Conv1D

from tailguard.errors import InputError
from tailguard.models.quiet import without_announcements
from tailguard.models.random_state import seeded
from tailguard.training.coverage import coverage, lora_config

# Linear layers in a decoder of two layers, less the head, and kinds that take no adapter.
EXPECTED = {
    "gpt2": (8, {}),
    "gpt_neo": (12, {}),
    "gpt_neox": (8, {}),
    "opt": (14, {}),
    "bloom": (8, {}),
    "falcon": (8, {}),
    "mpt": (8, {}),
    "llama": (14, {}),
    "qwen3_moe": (8, {}),
    "qwen2_moe": (16, {}),
    "gemma3_text": (14, {}),
    "phi": (12, {}),
    "phi3": (8, {}),
    "phimoe": (8, {}),
    "deepseek_v3": (16, {}),
    "llama4_text": (14, {}),
    "lfm2": (12, {}),
    "mamba": (2, {"x_proj": 2, "dt_proj": 2, "out_proj": 2}),
    "falcon_h1": (16, {"out_proj": 2}),
    "recurrent_gemma": (13, {}),
}


def adapted(model):
    return {name for name, part in model.named_modules() if isinstance(part, LoraLayer)}


def covered(name):
    model: Any = tiny_model(name)
    return coverage(model)


def linear_layers(model):
    """Matrices that are applied by a call, less the head: by class and name alone."""
    return {
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear | Conv1D)
        and name not in ("lm_head", "embed_out")
        and "router" not in name.lower()
        and "Router" not in type(part).__name__
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_all_linear_layers_of_the_decoder_but_the_head(name, tmp_path):
    count, left_out = EXPECTED[name]
    model: Any = tiny_model(name)
    wanted = {n for n in linear_layers(model) if n.rpartition(".")[2] not in left_out}
    planned = coverage(model)
    assert set(planned.covered) == wanted
    assert len(wanted) == count
    assert planned.to_json()["left_out"] == left_out
    with without_announcements(), seeded(0):
        tuned: Any = get_peft_model(model, lora_config(model, 2))
    prefix = "base_model.model."
    assert adapted(tuned) == {prefix + n for n in wanted}
    assert coverage(tuned) == planned
    # peft alone opens what is saved, as the same policy; every layer of it matters.
    for key, weight in tuned.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(1))
    tuned.save_pretrained(tmp_path)
    with without_announcements():
        opened = PeftModel.from_pretrained(tiny_model(name), tmp_path)
    ids = torch.arange(1, 11)[None]
    with torch.no_grad():
        logits = tuned.eval()(input_ids=ids, use_cache=False).logits
        again = opened(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(again, logits, atol=1e-4, rtol=1e-4)


def test_every_layer_that_is_covered_learns():
    """In Mamba, an adapter around `dt_proj` would be passed by: no gradient, and merged it counts."""
    model: Any = tiny_model("mamba")
    with without_announcements(), seeded(0):
        tuned: Any = get_peft_model(model, lora_config(model, 2))
    tuned(input_ids=torch.arange(1, 9)[None], use_cache=False).logits.square().sum().backward()
    gradients = [w.grad for n, w in tuned.named_parameters() if "lora_B" in n]
    assert gradients
    assert all(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients)


def test_towers_for_images_are_left():
    text = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": 64,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model: Any = Gemma3ForConditionalGeneration(config)
    with without_announcements():
        tuned: Any = get_peft_model(model, lora_config(model, 2))
    names = adapted(tuned)
    assert len(names) == 7
    assert all("language_model" in name for name in names)


def test_the_line_for_people():
    text = covered("llama4_text").describe()
    assert text.startswith("LoRA covers 14 of 14 linear layers of the text decoder, ")
    assert text.endswith(
        "left out: stacks of down_proj in 2 layers, stacks of gate_up_proj in 2 layers"
    )
    assert "left out" not in covered("llama").describe()
    assert covered("llama").weight_share == 1.0


def test_a_model_without_linear_layers_is_refused():
    model: Any = tiny_model("llama", num_hidden_layers=0)
    with pytest.raises(InputError, match="LlamaForCausalLM has no linear layer"):
        coverage(model)
