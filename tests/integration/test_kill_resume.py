"""The script that kills runs: harmless on a sound chain, and it sees every way to be unsound."""

import importlib
import json
import random
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tailguard.artifacts import read_manifest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# A chain without torch: four stages of an eighth of a second, the third in two sealed parts.
PROGRAM = textwrap.dedent("""
    import random, sys, time
    from pathlib import Path
    from tailguard.artifacts import Header, build_artifact, locked, write_json

    stage, recipe, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[-1])
    fault = recipe.read_text().strip()

    def numbers(directory):
        for part in range(4):
            (directory / f"part-{part}").write_text(str(part) * 1000)
            ends = time.process_time() + 0.03
            while time.process_time() < ends:
                pass
        noise = random.random()
        if fault in ("other payload", "other figures"):
            (directory / "noise").write_text(str(noise))
        return {"figure": noise if fault == "other figures" else 0.1, "rate_seconds": noise}

    def two_parts(directory):
        for part in "ab":
            build(f"third-{part}", numbers)
        return numbers(directory)

    def build(name, write):
        if fault == "in place":
            path = out / name
            if not (path / "manifest.json").is_file():
                path.mkdir(exist_ok=True)
                numbers(path)
                made = build_artifact(out / "elsewhere", Header(name, name, 1), numbers)[0]
                (made / "manifest.json").replace(path / "manifest.json")
            return
        path, _ = build_artifact(out, Header(name, name, 1, {"fault": fault}), write)
        names[name] = path.name
        write_json(out / "run.json", names)

    names = {}
    with locked(out):
        for name, write in (
            ("first", numbers), ("second", numbers), ("third", two_parts), ("fourth", numbers)
        ):
            build(name, write)
        if fault == "left behind":
            (out / ".fifth.partial").mkdir()
        if fault == "bad end":
            raise SystemExit(5)
""")


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    kill_resume: Any = importlib.import_module("kill_resume")
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setattr(kill_resume, "PROGRAM", (sys.executable, str(tmp_path / "program.py")))
    return kill_resume


@pytest.fixture
def kill(script, tmp_path, capsys):
    def run(fault: str, kills: int = 1) -> tuple[int, str, str]:
        (tmp_path / "recipe").write_text(fault)
        (tmp_path / "runs").mkdir()
        status = script.main(
            [
                *(str(tmp_path / "recipe"), "--kills", str(kills), "--no-edits"),
                *("--keep", str(tmp_path / "runs"), "--result", str(tmp_path / "result.json")),
            ]
        )
        return status, *capsys.readouterr()

    return run


def test_a_sound_chain(kill, tmp_path):
    status, out, err = kill("", kills=4)
    assert (status, err) == (0, "")
    result = json.loads((tmp_path / "result.json").read_text())
    kills = [kill for run in result["runs"] for kill in run]
    assert len(kills) == 4
    assert any(kill["half_written"] for kill in kills)  # it was really at work
    assert any(0 < kill["sealed"] < 6 for kill in kills)  # and went on where it stopped
    assert set(result["artifacts"].values()) == {"same payload"}
    assert len(result["artifacts"]) == 6
    for name in result["artifacts"]:
        assert read_manifest(tmp_path / "runs" / "killed-1" / name)
        assert f"{name} " in out


def test_other_bytes_with_the_same_figures_will_do(kill, tmp_path):
    assert kill("other payload")[0] == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["artifacts"].values()) == {"same figures"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("other figures", "metrics.figure is "),
        ("in place", "looks finished but has no manifest"),
        ("left behind", "left behind: "),
        ("bad end", "ended with status 5"),
    ],
)
def test_unsound_chains_are_seen(kill, tmp_path, fault, said):
    status, _, err = kill(fault)
    assert status == 1
    assert err.startswith("BROKEN: ")
    assert said in err
    assert not (tmp_path / "result.json").exists()


def test_moments_cover_the_run(script):
    moments = script.draw_moments(10, random.Random(3))
    assert [int(10 * moment) for moment in moments] == list(range(10))
    assert moments == script.draw_moments(10, random.Random(3))
    assert moments != script.draw_moments(10, random.Random(4))
