"""Wrong input through the real commands: the status, one line, and nothing half-written."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tailguard.artifacts import Header, build_artifact
from tailguard.cli import main
from tailguard.config import Recipe
from tailguard.data.table import write_table
from tailguard.errors import InfeasibleError
from tailguard.lab.sandbox import base_policy_path
from tailguard.scorers.files import load_scorer

PAIRS = [{"prompt": f"pair {k}", "chosen": "so", "rejected": "no"} for k in range(40)]
PROMPTS = [{"prompt": f"prompt {k}"} for k in range(30)]
RECIPE = {
    "data": {
        "source": "files",
        "reward_pairs": ["reward.jsonl"],
        "cost_pairs": ["cost.jsonl"],
        "prompts": ["prompts.jsonl"],
        "num_prompts": 10,
        "num_calibration": 10,
        "num_certification": 10,
    }
}


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def command(tmp_path, capfd):
    """Write the recipe and its data, run a stage, give its status and the last line it said."""
    for name, rows in (("reward", PAIRS), ("cost", PAIRS), ("prompts", PROMPTS)):
        (tmp_path / f"{name}.jsonl").write_text(lines(rows))
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))

    def run(stage: str, *overrides: str, out: Path = tmp_path / "out") -> tuple[int, str]:
        sets = [part for item in overrides for part in ("--set", item)]
        with pytest.raises(SystemExit) as caught:
            main([stage, str(tmp_path / "recipe.yaml"), "--out", str(out), *sets])
        assert isinstance(caught.value.code, int)
        said = capfd.readouterr().err
        assert "Traceback" not in said
        return caught.value.code, said.splitlines()[-1]

    return run


def made(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out").glob("*") if path.name != ".lock")


def test_right_input(command, tmp_path):
    assert command("prepare")[0] == 0
    assert [name.partition("-")[0] for name in made(tmp_path)] == ["prepare", "run.json"]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("cost.jsonl", None, "cost.jsonl: no such file"),
        ("cost.jsonl", "", "cost.jsonl: is empty; at least one row is needed"),
        ("cost.jsonl", lines(PAIRS[:4]) + '{"prompt": ', "cost.jsonl, line 5: malformed JSON"),
        ("reward.jsonl", lines([{"chosen": "a", "rejected": "b"}]), "line 1: no 'prompt'"),
        ("reward.jsonl", lines([*PAIRS, {"prompt": "a"}]), "line 41: no 'chosen'"),
        ("prompts.jsonl", lines([*PROMPTS, {"text": "a"}]), "line 31: no 'prompt'"),
        ("prompts.jsonl", lines(PROMPTS[:29]), "only 29 distinct ones are available"),
        ("prompts.jsonl", lines(PROMPTS[:29] + PAIRS), "only 29 distinct ones are available"),
        ("recipe.yaml", "bank: {}\ntrian: {}\n", "line 2: unknown key 'trian'"),
        ("recipe.yaml", "seed: 1\nname: !!float fast\n", "line 2: name: 'fast' is no !!float"),
        ("recipe.yaml", "name: a\nfalse: 1\n", "line 2: the key 'false' is no text"),
        ("recipe.yaml", "train:\n  rank: 99999999999\n", "line 2: train.rank: input should be"),
        (
            "recipe.yaml",
            "scorers: {cost_bound: -0.5}\n",
            "line 1: scorers.cost_bound: input should",
        ),
        (
            "recipe.yaml",
            "scorers:\n  backbone: ~none-such/x\n",
            "line 2: scorers.backbone: there is",
        ),
        ("recipe.yaml", 'policy: {model: "a\\0"}\n', "line 1: policy.model: holds the character"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_wrong_data(command, tmp_path, file, content, said):
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    status, line = command("prepare")
    assert status == 2
    assert line.startswith("tailguard: ")
    assert said in line
    assert made(tmp_path) == []


def signed(k: int, chosen_safe: bool):
    return PAIRS[k] | {"chosen_safe": chosen_safe, "rejected_safe": not chosen_safe}


def test_swapped_labels(command, tmp_path):
    (tmp_path / "cost.jsonl").write_text(lines(signed(k, k < 10) for k in range(40)))
    status, line = command("prepare")
    assert status == 2
    assert "cost.jsonl: of 40 pairs" in line
    assert "30 have the unsafe one as 'chosen', the less harmful (first: line 11)" in line


def test_what_is_odd_in_the_data_is_told(command, tmp_path, capfd):
    (tmp_path / "cost.jsonl").write_text(lines(signed(k, k > 4) for k in range(40)))
    question = "how do i mend a kettle when the handle is broken and the lid is gone"
    prompts = [*PROMPTS, {"prompt": f"{question} now"}]
    (tmp_path / "prompts.jsonl").write_text(lines(prompts))
    (tmp_path / "asked.jsonl").write_text(lines([{"prompt": question}]))
    sets = ["--set", "data.num_certification=11", "--set", "data.evaluation_prompts=[asked.jsonl]"]
    arguments = ["prepare", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), *sets]
    for made_before in (False, True):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        said = capfd.readouterr().err
        assert caught.value.code == 0
        assert ("skipped" in said) == made_before
        notes = [line for line in said.splitlines() if " note: " in line]
        assert any("5 have the unsafe one" in note and "(first: line 1)" in note for note in notes)
        assert any("1 of evaluate are close to" in note for note in notes)


def test_a_truncated_archive(command, tmp_path):
    content = gzip.compress(lines(PAIRS).encode())
    (tmp_path / "cost.jsonl.gz").write_bytes(content[: len(content) // 2])
    status, line = command("prepare", "data.cost_pairs=[cost.jsonl.gz]")
    assert (status, made(tmp_path)) == (2, [])
    assert "cost.jsonl.gz: cannot read it" in line


@pytest.mark.parametrize("key", ["policy.model", "scorers.backbone", "scorers.reward_model"])
def test_a_model_that_is_not_there(command, tmp_path, key):
    status, line = command("fit-scorers", f"{key}=./nowhere")
    assert status == 2
    assert f"{tmp_path / 'nowhere'}: no such folder" in line
    assert not (tmp_path / "out").exists()


@pytest.fixture
def published(tmp_path):
    """A one-output scorer on disk, and pairs that it puts in the right order."""
    path = tmp_path / "published"
    model = save_classifier(path, num_labels=1)
    words = sorted(AutoTokenizer.from_pretrained(base_policy_path()).get_vocab())
    words = [word for word in words if word.isalpha()]
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(words, 6)) for _ in range(80)]
    scorer = load_scorer(path)
    scores = scorer.score([f"pair {k // 2}" for k in range(80)], texts)[:, 0]
    rows = [
        {
            "prompt": f"pair {k}",
            "chosen": texts[max(2 * k, 2 * k + 1, key=lambda i: scores[i])],
            "rejected": texts[min(2 * k, 2 * k + 1, key=lambda i: scores[i])],
        }
        for k in range(40)
    ]
    (tmp_path / "reward.jsonl").write_text(lines(rows))
    return path, model, rows


def save_classifier(path: Path, num_labels: int):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        base_policy_path(), num_labels=num_labels
    )
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(base_policy_path()).save_pretrained(path)
    return model


def published_models(path: Path) -> list[str]:
    models = [f"scorers.{kind}_model={path}" for kind in ("reward", "cost")]
    return [*models, "data.cost_pairs=[]"]


def test_published_scorers_are_taken_as_they_are(command, tmp_path, published):
    assert command("fit-scorers", *published_models(published[0]))[0] == 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("reversed", "reward scorer reads reversed"),
        ("two outputs", "label: none given for 2 outputs; name the one to score: LABEL_0, LABEL_1"),
        ("nan", "are not finite"),
    ],
)
def test_a_published_scorer_that_cannot_be_relied_on(command, tmp_path, published, fault, said):
    path, model, rows = published
    if fault == "reversed":
        swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
        (tmp_path / "reward.jsonl").write_text(lines(swapped))
    elif fault == "two outputs":
        save_classifier(path, num_labels=2)
    else:
        torch.nn.init.constant_(model.score.weight, float("nan"))
        model.save_pretrained(path)
    status, line = command("fit-scorers", *published_models(path))
    assert status == 2
    assert said in line
    assert [name.partition("-")[0] for name in made(tmp_path)] == ["prepare", "run.json"]


def test_a_prompt_longer_than_the_context(command, tmp_path, published):
    (tmp_path / "prompts.jsonl").write_text(lines([{"prompt": f"{p} " * 3000} for p in range(30)]))
    status, line = command("bank", *published_models(published[0]))
    assert status == 2
    assert "is too long: " in line
    assert "shorten the prompt or lower max_new_tokens" in line
    assert "bank" not in {name.partition("-")[0] for name in made(tmp_path)}


def test_edited_data_is_another_artifact(command, tmp_path):
    command("prepare")
    command("prepare")
    assert len(made(tmp_path)) == 2  # one artifact, and the index
    (tmp_path / "cost.jsonl").write_text(lines(PAIRS[:-1]))
    command("prepare")
    assert len(made(tmp_path)) == 3


def test_a_full_disk(command, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("only root may mount a small disk")
    try:
        generator = np.random.default_rng(0)
        rows = [pair | {"chosen": generator.bytes(4000).hex()} for pair in PAIRS]
        (tmp_path / "cost.jsonl").write_text(lines(rows))
        status, line = command("prepare", out=disk)
        assert status == 1
        assert "the disk is full; free some space" in line
        assert [path.name for path in disk.iterdir()] == [".lock"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_infeasible_budget(tmp_path):
    from tailguard.pipeline.stage import silent
    from tailguard.pipeline.stages.plan import STAGE

    def write(directory: Path) -> dict[str, object]:
        generator = np.random.default_rng(0)
        prompts, samples = 16, 32
        write_table(
            directory / "bank.parquet",
            {
                "prompt_index": np.repeat(np.arange(prompts), samples),
                "prompt_id": np.repeat([f"p{k}" for k in range(prompts)], samples),
                "reward": generator.normal(size=prompts * samples),
                "cost": generator.exponential(size=prompts * samples) + 1.0,
            },
        )
        return {}

    bank, _ = build_artifact(tmp_path, Header("SampleBank", "bank", 1), write)
    target = {"name": "safest", "tail_mass": 0.25, "budget": 0.5}  # every cost is above 1
    recipe = Recipe.model_validate({"plan": {"targets": [target], "tail_masses": [0.25]}})
    with pytest.raises(
        InfeasibleError, match=r"'safest' asks for cvar at 0\.25 ≤ 0\.5.*can reach is 1\."
    ) as e:
        STAGE.run(recipe, tmp_path, {"bank": bank}, silent)
    assert e.value.exit_status == 3
    assert 1.0 < e.value.smallest_reachable_risk < 1.5
    assert [path.name for path in tmp_path.iterdir()] == [bank.name]
