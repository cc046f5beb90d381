"""Which file or dataset a name in a recipe means."""

import json
import os
from pathlib import Path

import pytest

from tailguard.config import FileData, Recipe
from tailguard.errors import InputError
from tailguard.pipeline.chain import run_chain
from tailguard.pipeline.sources import data_path, file_hashes, policy_input


def _data(root, *prompts):
    return FileData(source="files", root=str(root), prompts=prompts)


def test_files_hub_names_and_conditions(tmp_path):
    (tmp_path / "here").mkdir()
    data = _data(tmp_path, "a.jsonl")
    assert data_path(data, "a.jsonl.gz?label=safe") == tmp_path / "a.jsonl.gz"
    assert data_path(data, "gone.parquet") == tmp_path / "gone.parquet"
    assert data_path(data, "here") == tmp_path / "here"
    assert data_path(data, "here:test?label=safe") == tmp_path / "here:test"
    assert data_path(data, "org/dataset") == "org/dataset"
    assert data_path(data, "org/dataset:test?label=safe") == "org/dataset:test"


def test_home_is_spelt_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_path(_data(tmp_path), "~/a.jsonl") == tmp_path / "home" / "a.jsonl"


@pytest.mark.parametrize("name", ["mine", "mine:test", "org/mine", "org/mine/part", "mine?x=1"])
def test_a_folder_where_the_command_runs_is_no_dataset_of_the_hub(tmp_path, monkeypatch, name):
    # It would be read, but neither hashed nor found from elsewhere.
    (tmp_path / "here" / "mine").mkdir(parents=True)
    (tmp_path / "here" / "org" / "mine").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match=r"is not in .*root, to which names are relative"):
        data_path(_data(tmp_path / "root"), name)


def test_a_name_that_no_file_can_have(tmp_path):
    with pytest.raises(InputError, match=r"data: 'aaa.*name too long"):
        data_path(_data(tmp_path), "a" * 1000)


def test_a_folders_hash_is_that_of_its_files_whatever_the_split(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "part").write_text("one")
    recipe = Recipe(data=_data(tmp_path, "here:test", "here"))
    before = file_hashes(recipe)
    assert before["here"] == before["here:test"]
    (tmp_path / "here" / "part").write_text("two")
    assert file_hashes(recipe)["here:test"] != before["here:test"]


def test_an_edited_file_has_another_hash_and_a_condition_does_not_hide_it(tmp_path):
    file: Path = tmp_path / "a.jsonl"
    recipe = Recipe(data=_data(tmp_path, "a.jsonl?label=safe", "org/dataset"))
    file.write_text("one")
    before = file_hashes(recipe)
    file.write_text("two")
    after = file_hashes(recipe)
    assert before["a.jsonl?label=safe"] != after["a.jsonl?label=safe"]
    assert before["org/dataset"] == after["org/dataset"] == "hub:org/dataset"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"prompts": ["p.jsonl?label"]}, "'p.jsonl.label': write conditions as .field=value"),
        ({"prompts": ["p.jsonl?a=1&b"]}, "write conditions as .field=value"),
        ({"prompts": ["p.jsonl"], "cost_pairs": ["c.jsonl?a=1"]}, "only prompts can be selected"),
    ],
)
def test_a_condition_that_would_do_nothing_is_refused(tmp_path, data, said):
    for name in ("p", "c"):
        row = {"prompt": "x", "chosen": "y", "rejected": "z", "a": "1"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    files = {"source": "files", "root": str(tmp_path)}
    recipe = Recipe.model_validate({"data": files | data})
    with pytest.raises(InputError, match=said):
        run_chain(recipe, tmp_path / "out", until="prepare")


def test_a_model_that_was_written_over_has_another_hash_in_the_same_process(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    recipe = Recipe.model_validate({"policy": {"model": str(tmp_path)}})
    first = policy_input(recipe)
    assert policy_input(recipe) == first
    weights.write_bytes(b"two")
    os.utime(weights, ns=(1, 1))  # as if it were old
    assert policy_input(recipe) != first
