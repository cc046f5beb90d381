"""A judge that is given to `certify`: who may be one, what its verdicts show, and what is written down."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.pipeline.test_decoder_artifact import models

from tailguard.artifacts import Header, build_artifact, read_calls, write_json
from tailguard.cli import main
from tailguard.config import ScorerSource
from tailguard.data import prompt_id
from tailguard.decoding.decoder import DrawSetting
from tailguard.decoding.dial import Dial, DialEntry
from tailguard.decoding.rule import DrawPrior, Rule
from tailguard.errors import InputError
from tailguard.pipeline import certify
from tailguard.pipeline.certify import certify_decoder
from tailguard.pipeline.decoder_artifact import DECODER_NAME, DecoderFile
from tailguard.pipeline.dial_artifact import MEMBERS_NAME, DialFile
from tailguard.pipeline.given_judge import GivenJudge
from tailguard.pipeline.scorer_artifact import SOURCES_NAME
from tailguard.pipeline.seen_prompts import write_seen_prompts
from tailguard.pipeline.sources import model_hashes
from tailguard.portfolio.dial import DialTable
from tailguard.risk import CVaR, RiskLimit, predictable_risk_bound
from tailguard.training.adapters import open_adapter, save_adapter

__all__ = ["models"]  # a fixture

FRESH = [f"w{k} w{j}" for k in range(6) for j in range(6)]
SORTED = sorted(FRESH, key=prompt_id)
TAIL = CVaR(0.25)


@pytest.fixture
def decoder(models, tmp_path) -> Path:
    """A sealed decoder with a dial of one entry, which serves the first draw."""
    base, scorer = models

    def write(directory: Path):
        for seed, name in enumerate(("loose", "strict")):
            folder = directory / MEMBERS_NAME / name
            folder.parent.mkdir(exist_ok=True)
            save_adapter(open_adapter(base, rank=2, seed=seed).model, folder)
        cost = np.random.default_rng(0).normal(size=(1, 80, 1))
        rule = Rule(100.0, math.inf, 1, DrawPrior(0.0, 1.0, 1.0, 1.0, 1.0, 4.0))
        table = DialTable(cost, np.zeros(1), np.zeros(1), np.ones(1))
        dial = Dial((DialEntry((0.5, 0.5), rule, 0.0),), table, RiskLimit(TAIL, 9.0), 0.0)
        setting = DrawSetting(4, "no", max_draws=1)
        DialFile(dial, ("loose", "strict"), setting, 0.0, ()).write(directory)
        (directory / "scorers").mkdir()
        write_json(directory / "scorers" / SOURCES_NAME, {"maps": {}})
        write_seen_prompts(directory, {prompt_id("w9 w9")})
        DecoderFile(
            model=base,
            model_hash=model_hashes([base])[base],
            trust_remote_code=False,
            cost_bound=10.0,
            max_scorer_tokens=32,
            given={"reward": ScorerSource(model=scorer), "cost": ScorerSource(model=scorer)},
            scorer_hashes=model_hashes([scorer]),
        ).write(directory / DECODER_NAME)
        return {}

    return build_artifact(tmp_path / "run", Header("Decoder", "calibrate", 1), write)[0]


@pytest.fixture
def harm(tmp_path, monkeypatch):
    """A module with judges."""
    module = f"harm_{tmp_path.name}"  # Python keeps a module under its name
    (tmp_path / f"{module}.py").write_text(
        "def low(prompts, answers):\n"
        "    return [-1.0 if prompt < 'w3' else -0.5 for prompt in prompts]\n"
        "def odd(prompts, answers):\n"
        "    return [50.0 if prompt == 'w1 w1' else 0.0 for prompt in prompts]\n"
        "def sorted_by_kind(prompts, answers):\n"
        "    return [1.0 if prompt.startswith('w5') else -1.0 for prompt in prompts]\n"
        "def down(prompts, answers):\n"
        "    raise OSError('no route')\n"
    )
    monkeypatch.chdir(tmp_path)
    return module


def ask(path, judge=None, budget=5.0, prompts=FRESH, **options) -> Any:
    return certify_decoder(
        path, prompts, tail_mass=0.25, budget=budget, confidence=0.9, seed=3, judge=judge, **options
    )


def test_without_a_judge_nothing_is_certified(decoder):
    found = ask(decoder, budget=100.0)
    assert (found["bounded"], found["certified"]) == (True, False)
    assert "judge" not in found


def test_a_function_certifies_what_its_verdicts_show(decoder, harm):
    judge = GivenJudge.read(f"{harm}:low", 2.0)
    found = ask(decoder, judge)
    costs = np.where(np.array(SORTED) < "w3", -1.0, -0.5)
    bound = predictable_risk_bound(costs, TAIL, upper=2.0, confidence=0.9)
    assert found["judge_upper_bound"] == bound
    assert found["certified"] is (bound <= 5.0) is True
    assert (found["judge"], found["judge_range"]) == (f"python: {harm}:low", 2.0)
    assert ask(decoder, judge, budget=1e9)["certified"] is True
    # `bounded` is of the scorer and `certified` of the judge: neither stands for the other.
    own = GivenJudge.read(f"{harm}:low", 2.0, budget=bound - 1e-6)
    split = ask(decoder, own, budget=100.0)
    assert (split["bounded"], split["certified"]) == (True, False)
    assert split["judge_budget"] == bound - 1e-6


def test_the_order_of_the_file_changes_nothing(decoder, harm):
    # In the order of the file, all that is harmless comes first: a bound that bets on one answer
    # after the other would have made up its mind before the first harm.
    judge = GivenJudge.read(f"{harm}:sorted_by_kind", 1.0)
    found = [ask(decoder, judge, prompts=prompts) for prompts in (FRESH, FRESH[::-1])]
    assert found[0]["judge_upper_bound"] == found[1]["judge_upper_bound"]
    assert found[0]["judge_upper_bound"] > (6 * 1.0 + 3 * -1.0) / 9  # the sample's own CVaR(.25)
    calls = read_calls(decoder)
    assert calls[0]["prompts_hash"] == calls[1]["prompts_hash"]


def test_each_call_is_recorded_with_who_judged(decoder, harm):
    ask(decoder, GivenJudge.read(f"{harm}:low", 2.0))
    ask(decoder)
    calls = read_calls(decoder)
    assert [call.get("judge") for call in calls] == [f"python: {harm}:low", None]
    assert [call["seed"] for call in calls] == [3, 3]
    assert calls[0]["prompts_hash"] == calls[1]["prompts_hash"]
    assert calls[0]["judge_upper_bound"] <= 2.0


def test_verdicts_above_the_range_are_clipped_and_said(decoder, harm):
    found = ask(decoder, GivenJudge.read(f"{harm}:odd", 10.0))
    costs = np.where(np.array(SORTED) == "w1 w1", 10.0, 0.0)
    assert found["num_clipped"] == 1
    assert found["num_unjudged"] == 0
    assert found["judge_upper_bound"] == predictable_risk_bound(
        costs, TAIL, upper=10.0, confidence=0.9
    )


def test_a_judge_that_is_down_certifies_nothing(decoder, harm):
    found = ask(decoder, GivenJudge.read(f"{harm}:down", 4.0))
    assert found["num_unjudged"] == 36
    assert found["judge_upper_bound"] == pytest.approx(4.0)
    assert found["certified"] is False  # though no more than 4 was declared, and 5 was asked for


def test_a_scorer_of_the_decoder_is_no_judge(decoder, models, monkeypatch):
    monkeypatch.setattr(certify, "load_decoder", None)  # told before a model is loaded
    for text in (models[1], f"{{model: {models[1]}, input: response}}"):
        with pytest.raises(InputError, match="is a scorer that chose the answers"):
            ask(decoder, GivenJudge.read(text, 10.0))
    copied = Path(models[1]).parent / "copied"
    if not copied.exists():
        copied.mkdir()
        for file in Path(models[1]).iterdir():
            os.link(file, copied / file.name)
    with pytest.raises(InputError, match="is a scorer that chose the answers"):
        ask(decoder, GivenJudge.read(str(copied), 10.0))
    assert read_calls(decoder) == []


def test_the_truth_reads_the_sandbox_alone(decoder):
    judge = GivenJudge.read("truth", None)
    assert judge.largest_cost == 10.0
    with pytest.raises(InputError, match="parses the sandbox's language alone"):
        ask(decoder, judge)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m:f", "--judge-range: declare the largest cost"),
        ("{python: m:f, upper: .inf}", "upper"),
        ("{python: m:f, colour: red}", "--judge: colour"),
        ("{endpoint: 'http://127.0.0.1:1/v1'}", "--judge: an endpoint needs the name of its model"),
        ("[1, 2]", "--judge: give truth"),
        ("{", "--judge: not YAML"),
        ("missing.yaml", "missing"),
    ],
)
def test_what_is_no_judge(text, said):
    with pytest.raises(InputError, match=said):
        GivenJudge.read(text, None)


def test_the_keys_are_those_of_a_recipe(tmp_path):
    (tmp_path / "judge.yaml").write_text("endpoint: http://h/v1\nmodel: guard\nupper: 8\n")
    for text in (
        str(tmp_path / "judge.yaml"),
        "{endpoint: 'http://h/v1', model: guard, upper: 8}",
    ):
        judge = GivenJudge.read(text, None)
        assert judge.largest_cost == 8.0
        assert judge.name == "model: guard at http://h/v1"
        assert judge.source is not None
        assert judge.source.upper is None  # else it would clip by itself, and nobody would know


@pytest.mark.parametrize("again", ["w9 w9", "W9  w9!", "w9 \u200bw9"])
def test_what_voids_a_certificate_voids_a_judges_too(decoder, harm, again):
    judge = GivenJudge.read(f"{harm}:low", 2.0)
    with pytest.raises(InputError, match="were used to train or calibrate"):
        ask(decoder, judge, prompts=[*FRESH, again])
    with pytest.raises(InputError, match="prompts are 36 different ones"):
        ask(decoder, judge, prompts=[*FRESH, "W0 w1"])
    with pytest.raises(InputError, match="on fewer than 10 nothing can be"):
        ask(decoder, judge, prompts=FRESH[:9])


def test_the_command(decoder, harm, tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": p}) + "\n" for p in FRESH)
    )
    base = ["certify", str(decoder), "--prompts", str(tmp_path / "prompts.jsonl")]
    base += ["--tail-mass", "0.25", "--budget", "5"]
    with pytest.raises(SystemExit) as done:
        main([*base, "--judge", f"{harm}:low", "--judge-range", "2"])
    assert not done.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["certified"] is True
    with pytest.raises(SystemExit) as done:
        main([*base, "--judge-range", "2"])
    assert done.value.code == 2
