"""The script that kills every stage: harmless on sound stages, and it sees unsound ones."""

import importlib
import json
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tailguard.artifacts import Header, build_artifact, locked, write_json

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STAGES = ("first", "second")


def run(stage: str, out: Path, fault: str) -> None:
    """A stage of a twentieth of a second."""

    def write(directory: Path) -> dict[str, object]:
        for part in range(5):
            (directory / str(part)).write_text(str(part))
            time.sleep(0.01)
        noise = random.SystemRandom().random() if fault == "other figures" else 0.5
        (directory / "noise").write_text(str(noise))
        return {"figure": noise}

    with locked(out):
        names = {}
        for name in STAGES[: STAGES.index(stage) + 1]:
            if fault == "in place" and name == stage and not (out / name).exists():
                (out / f".{name}-1.partial").mkdir()
                (out / name).mkdir()
                write(out / name)
            names[name] = build_artifact(out, Header(name, name, 1), write)[0].name
        if fault == "left behind":
            (out / ".third.partial").mkdir()
        write_json(out / "run.json", names)


@pytest.fixture
def script(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module: Any = importlib.import_module("kill_each_stage")
    monkeypatch.setattr(module, "STAGE_SUMMARIES", dict.fromkeys(STAGES, ""))

    def starter(recipe: Path, overrides: list[str]) -> Any:
        def start(stage: str, out: Path) -> Any:
            process = multiprocessing.get_context("fork").Process(
                target=run, args=(stage, out, recipe.name)
            )
            process.start()
            return process

        return start

    monkeypatch.setattr(module, "starter", starter)
    return module


def kill(script: Any, fault: str, result: Path, *options: str) -> int:
    return script.main([fault, "--kills", "2", "--result", str(result), *options])


def test_sound_stages(script, tmp_path, capsys):
    result = tmp_path / "result.json"
    assert kill(script, "none", result) == 0, capsys.readouterr().err
    found = json.loads(result.read_text())
    for stage in STAGES:
        kills = found[stage]["kills"]
        assert len(kills) == 2
        assert {each["verdict"] for each in kills} == {"same payloads"}
        assert any(each["half_written"] for each in kills)  # it was really at work
    (tmp_path / "result.json").write_text(json.dumps(found | {"first": "kept"}))
    assert kill(script, "none", result, "--stage", "second") == 0
    assert json.loads(result.read_text())["first"] == "kept"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("other figures", "metrics.figure is "),
        ("left behind", "left behind"),
        ("in place", "looks finished but has no manifest"),
    ],
)
def test_unsound_stages_are_seen(script, tmp_path, capsys, fault, said):
    assert kill(script, fault, tmp_path / "result.json") == 1
    err = capsys.readouterr().err
    assert err.startswith("BROKEN: ")
    assert said in err
