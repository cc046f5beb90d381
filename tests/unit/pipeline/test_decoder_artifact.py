"""A decoder on disk: what does not belong together, or would run code, is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tailguard
from tailguard.artifacts import Header, build_artifact, read_json, read_manifest, write_json
from tailguard.artifacts.manifest import write_manifest
from tailguard.artifacts.store import payload_hash
from tailguard.config import PolicySection, Recipe, ScorerSection, ScorerSource
from tailguard.decoding import Decoder, Dial, DialEntry, DrawPrior, DrawSetting, Rule
from tailguard.errors import InputError
from tailguard.pipeline import decoder_artifact
from tailguard.pipeline.decoder_artifact import DECODER_NAME, DecoderFile, check_decoder
from tailguard.pipeline.dial_artifact import MEMBERS_NAME, DialFile
from tailguard.pipeline.scorer_artifact import SOURCES_NAME, source_hashes
from tailguard.pipeline.sources import model_hashes
from tailguard.pipeline.stage import Work, silent
from tailguard.pipeline.stages import evaluate
from tailguard.portfolio.dial import DialTable
from tailguard.risk import CVaR, RiskLimit
from tailguard.training.adapters import open_adapter, save_adapter

MEMBERS = ("one", "two")


@pytest.fixture(scope="module")
def models(tiny_scorers, tmp_path_factory):
    return [
        str(save(tmp_path_factory.mktemp("model")))
        for save in (tiny_scorers.save_causal_lm, tiny_scorers.save_classifier)
    ]


@pytest.fixture
def decoder(models, tmp_path) -> Path:
    """A sealed decoder over the base policy and two adapters of it."""
    return make_decoder(models, tmp_path)


def make_decoder(models, root: Path, given: ScorerSource | None = None) -> Path:
    base, scorer = models

    def write(directory: Path):
        for seed, name in enumerate(MEMBERS):
            model = open_adapter(base, rank=2, seed=seed).model
            save_adapter(model, directory / MEMBERS_NAME / name)
        rule = Rule(100.0, np.inf, 2, DrawPrior(0.0, 1.0, 1.0, 1.0, 1.0, 4.0))
        table = DialTable(np.zeros((1, 100, 1)), np.zeros(1), np.zeros(1), np.ones(1))
        dial = Dial((DialEntry((0.5, 0.5), rule, 0.0),), table, RiskLimit(CVaR(0.1), 1.0), 0.0)
        DialFile(dial, MEMBERS, DrawSetting(4, "no", max_draws=2), 0.0, ()).write(directory)
        (directory / "scorers").mkdir()
        write_json(directory / "scorers" / SOURCES_NAME, {"maps": {}})
        DecoderFile(
            model=base,
            model_hash=model_hashes([base])[base],
            trust_remote_code=False,
            cost_bound=10.0,
            max_scorer_tokens=32,
            given={
                "reward": ScorerSource(model=scorer),
                "cost": given or ScorerSource(model=scorer),
            },
            scorer_hashes=model_hashes([scorer]),
        ).write(directory / DECODER_NAME)
        return {}

    return build_artifact(root, Header("Decoder", "calibrate", 1), write)[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"python": "sent_along:cost"}, "cost scorer runs sent_along:cost"),
        ({"endpoint": "http://there/v1", "model": "m"}, "cost scorer asks http://there/v1"),
    ],
)
def test_a_folder_decides_neither_what_code_runs_nor_where_texts_go(
    models, tmp_path, capsys, given, said
):
    (tmp_path / "sent_along.py").write_text("print('run')\ncost = lambda p, r: [0.0] * len(r)\n")
    source = ScorerSource(**({"folder": str(tmp_path)} if "python" in given else {}), **given)
    folder = make_decoder(models, tmp_path, source)
    with pytest.raises(InputError, match=f"{said}.* --trust-remote-code"):
        tailguard.load_decoder(folder)
    assert capsys.readouterr().out == ""


def test_a_trusted_function_is_the_one_that_the_decoder_was_made_with(models, tmp_path):
    module = tmp_path / "trusted_costs.py"
    module.write_text("cost = lambda prompts, responses: [0.25] * len(responses)\n")
    source = ScorerSource(python="trusted_costs:cost", folder=str(tmp_path))
    folder = make_decoder(models, tmp_path, source)
    content = json.loads((folder / DECODER_NAME).read_text())
    content["scorer_hashes"] |= source_hashes({"cost": source})
    write_json(folder / DECODER_NAME, content)
    seal_again(folder)
    decoder: Any = tailguard.load_decoder(folder, trust_remote_code=True)
    assert decoder.generate(["w1"], max_candidates=1)[0].chosen.cost_upper_bound == 0.25
    module.write_text("cost = lambda prompts, responses: [-9.0] * len(responses)\n")
    with pytest.raises(InputError, match="another version of the model trusted_costs:cost"):
        tailguard.load_decoder(folder, trust_remote_code=True)


def seal_again(directory: Path) -> None:
    manifest = replace(read_manifest(directory), payload_hash=payload_hash(directory))
    write_manifest(directory, manifest)


def test_a_decoder_as_it_was_written_answers(decoder):
    for load in (tailguard.load_decoder, Decoder.from_pretrained):
        loaded: Any = load(decoder, batch_size=4)
        assert loaded.members == MEMBERS
        (answer,) = loaded.generate(["w1 w2"])
        assert (answer.abstained, answer.chosen.num_draws) == (False, 1)


def test_evaluation_puts_scorers_where_the_recipe_puts_them(decoder, models, tmp_path, monkeypatch):
    asked: list[str] = []

    def spy(*_: Any, device: str, **__: Any) -> Any:
        asked.append(device)
        raise InputError("far enough")

    monkeypatch.setattr(decoder_artifact, "load_scorers", spy)
    recipe = Recipe(
        policy=PolicySection(model=models[0], device="cpu"), scorers=ScorerSection(device="cuda:1")
    )
    work = Work(recipe, tmp_path, tmp_path, {"calibrate": decoder}, silent)
    with pytest.raises(InputError, match="far enough"):
        evaluate._dialled(work, 0, ["w1"])
    assert asked == ["cuda:1"]


@pytest.mark.parametrize("edit", ["removed", "edited", "swapped"])
def test_an_adapter_that_was_changed_is_refused(decoder, edit):
    one, two = (decoder / MEMBERS_NAME / name for name in MEMBERS)
    if edit == "removed":
        shutil.rmtree(one)
    elif edit == "edited":
        config = one / "adapter_config.json"
        config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 8'))
    else:
        one.rename(aside := decoder.parent / "aside")
        two.rename(one)
        aside.rename(two)
    with pytest.raises(InputError, match="not those it was sealed with"):
        tailguard.load_decoder(decoder)


def test_a_folder_does_not_decide_that_code_may_run(decoder, monkeypatch):
    content = DecoderFile.read(decoder / DECODER_NAME)
    replace(content, trust_remote_code=True).write(decoder / DECODER_NAME)
    seal_again(decoder)
    for load in (tailguard.load_decoder, Decoder.from_pretrained, check_decoder):
        with pytest.raises(InputError, match=r"brings code of its own.*--trust-remote-code"):
            load(decoder)
    asked: list[object] = []
    open_dial = decoder_artifact.open_dial

    def spy(*arguments: Any, trust_remote_code: bool, **options: Any) -> Any:
        asked.append(trust_remote_code)
        return open_dial(*arguments, trust_remote_code=False, **options)

    monkeypatch.setattr(decoder_artifact, "open_dial", spy)
    tailguard.load_decoder(decoder, trust_remote_code=True)
    assert asked == [True]
    # The flag allows what the folder asks for, and no more.
    content.write(decoder / DECODER_NAME)
    seal_again(decoder)
    tailguard.load_decoder(decoder, trust_remote_code=True)
    assert asked == [True, False]


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: [],
        lambda content: None,
        lambda content: content | {"given": 3},
        lambda content: content | {"given": {"cost": {"modle": "x"}}},
        lambda content: content | {"hue": "red"},
        lambda content: {key: value for key, value in content.items() if key != "model"},
        lambda content: content | {"cost_bound": "ten"},
    ],
)
def test_a_decoder_file_of_another_shape_is_named(decoder, edit):
    write_json(decoder / DECODER_NAME, edit(read_json(decoder / DECODER_NAME)))
    seal_again(decoder)
    with pytest.raises(InputError, match=r"decoder\.json: not a decoder of this version"):
        check_decoder(decoder)
