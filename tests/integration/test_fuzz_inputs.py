"""The fuzz script: what it draws is refused in one line today, and it sees what is not."""

import importlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tailguard.pipeline import chain

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("fuzz_inputs")


def test_mutated_inputs_are_read_or_refused(script, tmp_path, capsys):
    options = ["--recipes", "80", "--data", "60", "--seed", "7"]
    places = ["--saved", str(tmp_path / "saved"), "--result", str(tmp_path / "result.json")]
    status = script.main([*options, *places])
    assert status == 0, capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    for kind, num in (("recipes", 80), ("data", 60)):
        assert sum(result[kind]["statuses"].values()) == num
        # Some are refused and some are read: else the mutations are too many or too few.
        assert set(result[kind]["statuses"]) == {"0", "2"}
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("fault", [RuntimeError("lost"), KeyError("x"), ValueError("a\nb")])
def test_a_status_that_is_no_answer_is_seen_and_its_input_saved(
    script, tmp_path, monkeypatch, fault
):
    def case(folder: Path, generator: random.Random) -> tuple[list[str], list[Path]]:
        path = folder / "recipe.yaml"
        path.write_text("seed: 3\n")
        return ["prepare", str(path), "--out", str(folder / "out")], [path]

    def broken(*arguments: object, **options: object) -> None:
        raise fault

    monkeypatch.setattr(chain, "run_chain", broken)
    found = script.statuses(case, 2, random.Random(0), tmp_path)
    assert found["statuses"] == {"1": 2}
    assert len(found["failures"]) == 2
    assert (tmp_path / "case-1" / "recipe.yaml").read_text() == "seed: 3\n"


def test_the_same_seed_draws_the_same_inputs(script, tmp_path):
    def drawn(seed: int) -> list[bytes]:
        generator = random.Random(seed)
        made = [script.data_case(tmp_path, generator)[1][0] for _ in range(4)]
        return [path.read_bytes() for path in made]

    assert drawn(1) != drawn(2)
    assert drawn(1)[:1] == drawn(1)[:1]
