"""The code of docs/own-arrays.md runs as it stands, and does what the page says."""

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from tailguard.models.random_state import seeded


@pytest.fixture(scope="module")
def page(blocks, tmp_path_factory):
    """The names that the page's code leaves behind, and the folder it ran in."""
    code = [b for b in blocks if b.page == "docs/own-arrays.md" and b.language == "python"]
    assert len(code) == 6
    folder = tmp_path_factory.mktemp("own-arrays")
    names = {"__name__": "own_arrays"}
    with pytest.MonkeyPatch.context() as patch, seeded(0):
        patch.chdir(folder)
        for block in code:
            exec(compile(block.text, str(block), "exec"), names)
    return names, folder


def test_the_bank_is_the_users_own_functions(page):
    names, _ = page
    row, column = 5, 7
    text = names["drawn"].texts[row * names["num_samples"] + column]
    assert names["rewards"][row, column] == names["reward"]("", text)
    assert names["costs"][row, column] == names["cost"]("", text)


def test_the_plan_lowers_the_tail_to_the_budget(page):
    names, _ = page
    weights = names["plan"].weights.ravel() / len(names["prompts"])
    order = np.argsort(-names["costs"], axis=None)
    worst = np.minimum(np.cumsum(weights[order]), 0.25)  # mass of the tail, cost by cost
    tail = float(np.diff(worst, prepend=0.0) @ names["costs"].ravel()[order]) / 0.25
    assert tail == pytest.approx(0.5, abs=1e-6)
    assert names["before"] > 1.0


def test_training_starts_from_the_plans_multiplier(page):
    names, _ = page
    *rows, _summary = names["trainer"].state.log_history
    assert len(rows) == 5
    assert rows[0]["risk/multiplier"] == pytest.approx(names["plan"].multiplier, rel=1e-3)
    assert {row["risk/threshold"] for row in rows} == {names["plan"].threshold}


def test_what_it_saves_is_a_plain_adapter(page):
    names, folder = page
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(names["model_path"])
    adapted = PeftModel.from_pretrained(base, folder / "own-policy" / "adapter")
    updates = [p for name, p in adapted.named_parameters() if "lora_B" in name]
    assert updates
    assert any(float(p.abs().max()) > 0 for p in updates)
