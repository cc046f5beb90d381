"""Reading manifests and finding artifacts."""

from pathlib import Path

import pytest

from tailguard.artifacts import (
    Header,
    build_artifact,
    find_artifact,
    read_json,
    read_manifest,
    write_json,
)
from tailguard.errors import InputError


def make(root: Path, kind: str) -> Path:
    def write(directory: Path) -> dict[str, object]:
        (directory / "payload").write_text(kind)
        return {}

    return build_artifact(root, Header(kind, kind.lower(), 1), write)[0]


def test_found_by_itself_and_in_a_run(tmp_path):
    plan, bank = make(tmp_path, "Plan"), make(tmp_path, "SampleBank")
    write_json(tmp_path / "run.json", {"Plan": plan.name, "SampleBank": bank.name})
    assert find_artifact(plan, "Plan") == plan
    assert find_artifact(tmp_path, "Plan") == plan
    assert find_artifact(tmp_path, "SampleBank") == bank


def test_the_wrong_kind_is_named(tmp_path):
    with pytest.raises(InputError, match="is a Plan, but a Decoder is needed"):
        find_artifact(make(tmp_path, "Plan"), "Decoder")


def test_an_unfinished_run_says_what_to_do(tmp_path):
    write_json(tmp_path / "run.json", {})
    with pytest.raises(InputError, match="no Decoder yet; finish it with `tailguard run`"):
        find_artifact(tmp_path, "Decoder")


def test_neither_artifact_nor_folder(tmp_path):
    with pytest.raises(InputError, match="not an artifact"):
        find_artifact(tmp_path, "Plan")
    with pytest.raises(InputError, match="no such folder"):
        find_artifact(tmp_path / "nowhere", "Plan")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 99}', "not a manifest of schema 1"),
        ("[1]", "not a manifest of schema 1"),
        ('{"schema": 1, "kind": "Plan"}', "stage: Field required"),
        (
            '{"schema":1,"kind":"a","stage":"a","id":"a","payload_hash":"a","hue":"red"}',
            "hue: Unexpected",
        ),
        (
            '{"schema":1,"kind":"a","stage":"a","id":"a","payload_hash":"a","parents":{"b":"../c"}}',
            "parents.b: Input should be a valid dictionary",
        ),
        ("[" * 100_000, "not JSON"),
        ('{"schema": 1, "ki', "not JSON"),
        ("", "not JSON"),
    ],
)
def test_a_broken_manifest_is_wrong_input(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(tmp_path)
    assert "manifest.json" in str(caught.value)


def test_an_index_that_points_at_nothing_is_wrong_input(tmp_path):
    write_json(tmp_path / "run.json", {"Plan": "plan-0000"})
    with pytest.raises(InputError, match="plan-0000: not an artifact"):
        find_artifact(tmp_path, "Plan")


@pytest.mark.parametrize(
    "name",
    ["../elsewhere", "/elsewhere", "a/../../elsewhere", "..", ".", "", "a\0b", 3, None, ["a"]],
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, name):
    """Even where a whole artifact is there."""
    (tmp_path / "run").mkdir()
    artifact, _ = build_artifact(tmp_path, Header("Plan", "plan", 1), lambda directory: {})
    artifact.rename(tmp_path / "elsewhere")
    write_json(tmp_path / "run" / "run.json", {"Plan": name})
    with pytest.raises(InputError, match=r"run\.json: Plan: .* is not a folder beside it"):
        find_artifact(tmp_path / "run", "Plan")


@pytest.mark.parametrize("text", ["[]", "3", '"a"'])
def test_an_index_of_another_shape_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match="not a run's index"):
        find_artifact(tmp_path, "Plan")


def test_json_keeps_what_it_is_given(tmp_path):
    value = {"α": [1, 2.5, None, True, "ν"], "a": {"1": {}}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
