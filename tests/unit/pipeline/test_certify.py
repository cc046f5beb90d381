"""What voids a certificate is refused, and every call is written down beside the decoder."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.pipeline.test_decoder_artifact import decoder, models, seal_again

import tailguard
from tailguard.artifacts import read_calls, require_sealed
from tailguard.artifacts.manifest import CALLS_NAME
from tailguard.cli import main
from tailguard.data import prompt_id
from tailguard.errors import InputError
from tailguard.pipeline import certify
from tailguard.pipeline.certify import certify_decoder
from tailguard.pipeline.decoder_artifact import DECODER_NAME, DecoderFile
from tailguard.pipeline.seen_prompts import write_seen_prompts

__all__ = ["decoder", "models"]  # fixtures

TAUGHT = "w1 w2 w3"
FRESH = [f"w{k} w{j}" for k in range(6) for j in range(6)]


@pytest.fixture
def certifiable(decoder) -> Path:
    write_seen_prompts(decoder, {prompt_id(TAUGHT)})
    seal_again(decoder)
    return decoder


@pytest.fixture
def no_models(monkeypatch):
    """Refusals come before the models are loaded, which may take minutes."""

    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(certify, "load_decoder", load)


def ask(path: Path, prompts, tail_mass=0.1, budget=None, confidence=0.95, seed=0):
    return certify_decoder(
        path, prompts, tail_mass=tail_mass, budget=budget, confidence=confidence, seed=seed
    )


def test_fresh_prompts_are_certified_and_every_call_is_recorded(certifiable, capsys):
    shown = [ask(certifiable, FRESH, seed=seed) for seed in (0, 1)]
    shown.append(ask(certifiable, FRESH[:35], confidence=0.9))
    assert [each["num_calls"] for each in shown] == [1, 2, 3]
    for each in shown:
        bound, budget = each["risk_upper_bound"], each["budget"]
        assert isinstance(bound, float)
        assert isinstance(budget, float)
        assert bound <= 10.0  # the declared bound
        assert each["bounded"] == (bound <= budget)
        assert each["certified"] is False  # by no judge
    calls = read_calls(certifiable)
    assert [call["seed"] for call in calls] == [0, 1, 0]
    assert [call["confidence"] for call in calls] == [0.95, 0.95, 0.9]
    assert calls[0]["prompts_hash"] == calls[1]["prompts_hash"] != calls[2]["prompts_hash"]
    for call, each in zip(calls, shown, strict=True):
        assert call["version"] == tailguard.__version__
        assert call["risk_upper_bound"] == each["risk_upper_bound"]
    require_sealed(certifiable)  # the record is not part of what is sealed
    with pytest.raises(SystemExit):
        main(["inspect", str(certifiable)])
    inspected = json.loads(capsys.readouterr().out)
    assert inspected["num_calls"] == 3
    assert inspected["calls"] == calls


@pytest.mark.parametrize(
    "again",
    [
        TAUGHT,
        "W1 W2 W3",
        "  w1\tw2\n w3 ",
        "w1 w2 w3?!",
        "w1 \u200bw2 w3",
        "ｗ1 ｗ2 ｗ3",  # full width
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TAUGHT}],
    ],
)
def test_a_prompt_that_took_part_in_any_spelling(certifiable, no_models, again):
    with pytest.raises(InputError, match=r"--prompts: 1 of 36 were used to train or calibrate"):
        ask(certifiable, [*FRESH[:-1], again])
    assert read_calls(certifiable) == []


@pytest.mark.parametrize("again", ["w0 w1", "W0 W1.", "w0\u00a0w1", "w0 w1\ufeff"])
def test_a_prompt_that_is_there_twice_in_any_spelling(certifiable, no_models, again):
    with pytest.raises(InputError, match=r"37 prompts are 36 different ones \(prompt 37 is prompt"):
        ask(certifiable, [*FRESH, again])


def test_one_prompt_two_thousand_times(certifiable, no_models):
    with pytest.raises(InputError, match="2000 prompts are 1 different ones"):
        ask(certifiable, ["w1"] * 2000)


@pytest.mark.parametrize("confidence", [1e-9, 0.0, 0.49, 1.0, 1.5, -0.1, float("nan")])
def test_a_confidence_that_is_none(certifiable, no_models, confidence):
    with pytest.raises(InputError, match=r"--confidence must be at least 0\.5 and below 1"):
        ask(certifiable, FRESH, confidence=confidence)


@pytest.mark.parametrize("tail_mass", [0.0, -0.1, 1.1, float("nan"), float("inf")])
def test_a_tail_mass_that_is_none(certifiable, no_models, tail_mass):
    with pytest.raises(InputError, match="--tail-mass must lie in"):
        ask(certifiable, FRESH, tail_mass=tail_mass)


@pytest.mark.parametrize(("confidence", "needed"), [(0.95, 30), (0.99, 47)])
def test_fewer_prompts_than_can_certify_anything(certifiable, no_models, confidence, needed):
    with pytest.raises(InputError, match=rf"--prompts: 29; on fewer than {needed} nothing can be"):
        ask(certifiable, FRESH[:29], confidence=confidence)


@pytest.mark.parametrize("bound", [float("inf"), float("nan"), 0.0, -5.0])
def test_a_cost_bound_that_was_not_declared(certifiable, no_models, bound):
    content = DecoderFile.read(certifiable / DECODER_NAME)
    replace(content, cost_bound=bound).write(certifiable / DECODER_NAME)
    seal_again(certifiable)
    with pytest.raises(InputError, match=r"decoder\.json: (cost_bound|not a decoder)"):
        ask(certifiable, FRESH)


def test_where_no_call_can_be_recorded_nothing_is_certified(certifiable, no_models):
    os.mkfifo(certifiable / CALLS_NAME)
    with pytest.raises(InputError, match="calls"):
        ask(certifiable, FRESH)


def test_scorers_that_were_changed_since(certifiable, no_models, models):
    scorer = Path(models[1])
    config = (scorer / "config.json").read_text()
    try:
        (scorer / "config.json").write_text(config + " ")
        with pytest.raises(InputError, match="was made on another version of the model"):
            ask(certifiable, FRESH)
    finally:
        (scorer / "config.json").write_text(config)


class SometimesDown:
    """A guard that answers only about the fallback."""

    def score(self, prompts, responses):
        return np.array([[-5.0 if text == "no" else np.nan] for text in responses])


def test_a_scorer_that_is_down_certifies_nothing(certifiable, monkeypatch):
    load = certify.load_decoder

    def with_guard(*arguments: Any, **options: Any):
        decoder: Any = load(*arguments, **options)
        decoder._scorers = replace(decoder._scorers, cost=SometimesDown())
        return decoder

    monkeypatch.setattr(certify, "load_decoder", with_guard)
    found = ask(certifiable, FRESH)
    assert found["abstained"] == 1.0
    assert found["num_unscored"] == len(FRESH)
    assert not found["bounded"]
    assert found["risk_upper_bound"] == 10.0  # and not the −5 of the fallback


@pytest.mark.parametrize("record", ['{"seed": 0}\n{"se', '{"seed": 0}', "[]\n", "\n", "\x00"])
def test_a_damaged_record_is_told_before_the_work(certifiable, no_models, record):
    (certifiable / CALLS_NAME).write_text(record)
    with pytest.raises(InputError, match=r"calls\.jsonl, line \d: not a"):
        ask(certifiable, FRESH)
    assert (certifiable / CALLS_NAME).read_text() == record
