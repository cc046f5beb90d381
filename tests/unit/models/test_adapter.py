"""Adapters from folders: merged where that changes nothing, whole or refused."""

import json
import logging
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tests.unit.engines.tiny_models import tiny_model

from tailguard.errors import InputError
from tailguard.models.adapter import merge_adapter_folder, merged_difference, open_adapter_folder
from tailguard.models.quiet import without_announcements

TARGETS: Any = {
    "llama": ["q_proj", "down_proj"],
    "zamba2": "all-linear",
    "gpt2": ["c_attn", "c_proj"],
}
# Several blocks that share their matrices, as in the published models.
BLOCKS: Any = {"num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid"] * 3}
IDS = torch.arange(1, 13)[None]


def make(name) -> Any:
    return tiny_model(name, **(BLOCKS if name == "zamba2" else {}))


@pytest.fixture
def save(tmp_path):
    """An adapter of a tiny model whose update is not zero."""

    def save(name):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=TARGETS[name], task_type="CAUSAL_LM")
        if name == "zamba2":
            config.exclude_modules = ["out_proj"]
        with without_announcements():
            tuned: Any = get_peft_model(make(name), config)
        for key, weight in tuned.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.3)
        folder = tmp_path / name
        tuned.save_pretrained(folder)
        return folder

    return save


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def by_peft(name, folder):
    with without_announcements():
        return logits(PeftModel.from_pretrained(make(name), folder))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_merged_it_is_what_peft_opens(save, name, caplog):
    folder = save(name)
    model = merge_adapter_folder(make(name), folder)
    torch.testing.assert_close(logits(model), by_peft(name, folder), atol=1e-4, rtol=1e-4)
    assert not any("lora_" in key for key, _ in model.named_modules())
    assert not any(r.name.startswith("tailguard") for r in caplog.records)


def test_blocks_that_share_weights_are_served_unmerged(save, caplog):
    """Zamba2's blocks share matrices and have adapters of their own: merged, each would have all."""
    folder = save("zamba2")
    expected = by_peft("zamba2", folder)
    with without_announcements():
        wrong = PeftModel.from_pretrained(make("zamba2"), folder).merge_and_unload()
    assert float((logits(wrong) - expected).abs().max()) > 1.0
    with caplog.at_level(logging.WARNING):
        model = merge_adapter_folder(make("zamba2"), folder)
    torch.testing.assert_close(logits(model), expected, atol=1e-3, rtol=1e-3)
    assert type(model).__name__ == "Zamba2ForCausalLM"
    (line,) = (r.getMessage() for r in caplog.records if r.name.startswith("tailguard"))
    assert "stays beside the weights" in line


def test_the_difference_that_is_allowed_follows_the_precision(save):
    folder = save("llama")
    full, allowed = merged_difference(open_adapter_folder(make("llama"), folder))
    assert full < allowed < 0.02
    half_model: Any = tiny_model("llama", dtype=torch.bfloat16)
    half, allowed_half = merged_difference(open_adapter_folder(half_model, folder))
    assert full < half < allowed_half


def change(folder, **tensors):
    """Tensors replaced or added; None removes one."""
    path = folder / "adapter_model.safetensors"
    kept = {k: v for k, v in (load_file(path) | tensors).items() if v is not None}
    save_file(kept, path)


def test_an_adapter_that_is_not_whole_is_refused(save):
    folder = save("llama")
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    first = next(iter(load_file(path)))
    cases = [
        (dict.fromkeys(load_file(path)), "is not whole: tensors of 8 are missing"),
        ({first: None}, "is not whole: tensors of 1 are missing"),
        ({first: torch.zeros(3, 3)}, "cannot be loaded.*size mismatch"),
        ({first: torch.full_like(load_file(path)[first], torch.nan)}, "NaN"),
        ({first.replace("layers.0", "layers.7"): torch.zeros(2, 32)}, "does not fit this model"),
    ]
    for tensors, message in cases:
        path.write_bytes(whole)
        change(folder, **tensors)
        with pytest.raises(InputError, match=message) as error:
            merge_adapter_folder(make("llama"), folder)
        assert "\n" not in str(error.value)
    path.write_bytes(whole[:100])
    with pytest.raises(InputError, match="cannot be loaded"):
        merge_adapter_folder(make("llama"), folder)
    path.unlink()
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors"):
        merge_adapter_folder(make("llama"), folder)


def test_another_models_adapter_is_refused(save):
    folder = save("gpt2")
    with pytest.raises(InputError, match="cannot be loaded: Target modules"):
        merge_adapter_folder(make("llama"), folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "one JSON object"),
        ("[" * 100_000, "cannot be read"),
        ('{"r": 2}', "peft_type=None"),
        ('{"peft_type": "IA3"}', "peft_type='IA3'"),
        ('{"peft_type": "LORA", "task_type": "SEQ_CLS"}', "only LoRA of a causal LM"),
    ],
)
def test_a_config_that_is_none_is_refused(save, text, message):
    folder = save("llama")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        merge_adapter_folder(make("llama"), folder)
    assert "\n" not in str(error.value)


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "some.module"}, "megatron_co"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"a_key_of_a_later_version": 3}, "a_key_of_a_later_version"),
        ({"r": 0}, "r"),
        ({"target_modules": {"a": 1}}, "adapter"),
    ],
)
def test_what_is_no_plain_lora_is_refused(save, fields, message):
    folder = save("llama")
    edit(folder, **fields)
    with pytest.raises(InputError, match=message) as error:
        merge_adapter_folder(make("llama"), folder)
    assert "\n" not in str(error.value)


def test_names_in_a_config_are_never_followed(save):
    """Neither the base it names nor the class it maps to is looked for."""
    folder = save("llama")
    plain = logits(merge_adapter_folder(make("llama"), folder))
    edit(
        folder,
        base_model_name_or_path="nobody/nothing",
        auto_mapping={"base_model_class": "Evil", "parent_library": "evil.library"},
        revision="other",
        init_lora_weights="pissa_niter_16",
    )
    assert torch.equal(logits(merge_adapter_folder(make("llama"), folder)), plain)
