"""The whole chain on the sandbox, once, and what users then do with it."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tailguard.artifacts import read_json, read_manifest
from tailguard.cli.app import main
from tailguard.config import load_recipe
from tailguard.errors import InputError
from tailguard.pipeline import chain, workers
from tailguard.pipeline.decoder_artifact import load_decoder
from tailguard.pipeline.plan_artifact import read_plan
from tailguard.pipeline.process_heads import hash_of, read_heads
from tailguard.pipeline.scorer_artifact import load_scorer_pair
from tailguard.pipeline.stage import Stage
from tailguard.pipeline.stages.prepare import read_pairs, read_split
from tailguard.pipeline.stages.train import policy_directories
from tailguard.pipeline.stages.train_rounds import held_out_prompts
from tailguard.risk.spelling import spell_measure
from tailguard.scorers.rated import RatedCost
from tailguard.scorers.readings import WorseReading

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny.yaml"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    code = ended.value.code
    return code if isinstance(code, int) else 0


class Recorded(dict[str, Path]):
    """Parents of a stage that remember which of them were looked up."""

    def __init__(self, parents, read: set[str]):
        super().__init__(parents)
        self.read = read

    def __getitem__(self, name: str) -> Path:
        self.read.add(name)
        return super().__getitem__(name)


def recorded(stage: Stage, read: set[str]) -> Stage:
    return replace(
        stage,
        build=lambda work: stage.build(replace(work, parents=Recorded(work.parents, read))),
    )


@pytest.fixture(scope="session")
def read_parents():
    """Stage name → the parents that it read while `folder` was made."""
    return {name: set[str]() for name in chain.STAGES}


@pytest.fixture(scope="session")
def folder(tmp_path_factory, read_parents):
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_threads", lambda _: 1)  # here, where reads are recorded
        for name, stage in chain.STAGES.items():
            patch.setitem(chain.STAGES, name, recorded(stage, read_parents[name]))
        assert run("run", str(RECIPE), "--out", str(out)) == 0
    return out


def artifact(folder: Path, kind: str) -> Path:
    return folder / read_json(folder / "run.json")[kind]


@pytest.mark.slow
class TestChain:
    def test_every_stage_is_sealed(self, folder):
        kinds = {
            read_manifest(folder / name).stage for name in read_json(folder / "run.json").values()
        }
        assert kinds == set(chain.STAGES)
        assert not list(folder.glob(".*.partial"))

    def test_every_parent_is_read(self, folder, read_parents):
        """A parent that is listed and not read would remake the stage for nothing."""
        expected = {name: set(stage.parents) for name, stage in chain.STAGES.items()}
        assert read_parents == expected

    def test_run_again_makes_nothing(self, folder):
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*/manifest.json")}
        assert run("run", str(RECIPE), "--out", str(folder)) == 0
        assert {p: p.stat().st_mtime_ns for p in folder.glob("*/manifest.json")} == before

    def test_the_cost_knows_the_groups_that_judged_its_pairs(self, folder):
        scorers = artifact(folder, "ScorerPair")
        figures = read_manifest(scorers).metrics["cost"]
        pairs = read_pairs(artifact(folder, "PreferenceSet"), "cost", "train")
        counts = Counter(str(pair.annotator) for pair in pairs)
        assert {n: each["num_pairs"] for n, each in figures["raters"].items()} == counts
        reading = load_scorer_pair(scorers, load_recipe(RECIPE).scorers).cost.scorer
        assert isinstance(reading, WorseReading)
        cost = reading.scorer
        assert isinstance(cost, RatedCost)
        assert cost.raters == tuple(sorted(counts))
        prompts, answers = [pair.prompt for pair in pairs[:5]], [pair.chosen for pair in pairs[:5]]
        own = cost.read(prompts, answers).by_rater
        assert own is not None
        assert own.shape == (5, 4, 3)
        assert reading.raters == cost.raters
        # By their pairs, the groups' mean is the population, up to factors that are cut off at 0.
        weights = np.array([counts[name] for name in cost.raters]) / len(pairs)
        np.testing.assert_allclose(own @ weights, reading.scorer.score(prompts, answers), atol=0.05)

    def test_pairs_of_too_few_raters_are_refused_before_the_fit(self, tmp_path, capsys):
        few = ("--set", "data.num_cost_pairs=50")  # some 15 of each group
        assert run("fit-scorers", str(RECIPE), *few, "--out", str(tmp_path / "few")) == 2
        said = capsys.readouterr().err
        assert "scorers.raters: no 'annotator' has 20 of the cost pairs" in said
        assert "cost scorer: " not in said

    def test_prompts_of_splits_are_disjoint(self, folder):
        prepared = artifact(folder, "PreferenceSet")
        splits = [
            set(read_split(prepared, s)) for s in ("train", "calibrate", "certify", "evaluate")
        ]
        assert all(splits)
        assert sum(map(len, splits)) == len(set.union(*splits))

    def test_report_shows_every_policy(self, folder):
        page = (artifact(folder, "Report") / "report.html").read_text()
        record = read_json(artifact(folder, "EvalRecord") / "record.json")
        assert {row["kind"] for row in record["rows"]} == {"base", "trained", "dial"}
        assert all(row["name"].split(" ")[0] in page for row in record["rows"])

    def test_generate_at_two_risk_levels(self, folder, capsys):
        dial = read_json(artifact(folder, "Decoder") / "dial.json")
        shown = [each["limit"] for each in dial["profiles"] if each["raters"] is None]
        levels = [(limit["tail_mass"], limit["budget"]) for limit in shown]
        assert len(set(levels)) == 3  # two and the default
        prompt = "how do i open the safe"
        capsys.readouterr()
        for tail_mass, budget in levels:
            asked = ("--tail-mass", str(tail_mass), "--budget", str(budget), "--json")
            assert run("generate", str(folder), "--prompt", prompt, *asked) == 0
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(answers) == 3
        for answer in answers:
            assert answer["text"]
            assert {
                "abstained",
                "reason",
                "reward",
                "cost",
                "cost_upper_bound",
                "doubt",
                "shift",
                "bounded",
                "certified",
                "num_draws",
                "num_tokens_generated",
                "served",
            } <= set(answer)
            # The scorers of this run were fitted, so that they know what they were fitted on.
            assert 0.0 <= answer["doubt"] <= 1.0
            assert answer["shift"] is not None
        assert [answer["served"]["asked"]["budget"] for answer in answers] == [b for _, b in levels]

    def test_process_heads_are_held_to_their_members(self, folder, tmp_path):
        decoder = artifact(folder, "Decoder")
        content = read_json(artifact(folder, "Portfolio") / "portfolio.json")
        assert content["heads"]["checkpoints"]
        members = {name: decoder / "members" / name for name in content["members"]}
        model_hash = read_json(decoder / "decoder.json")["model_hash"]
        heads = read_heads(decoder / "heads.safetensors", hash_of(model_hash, members))
        assert heads is not None
        assert heads.checkpoints.tolist() == content["heads"]["checkpoints"]
        swapped = dict(zip(members, reversed(members.values()), strict=True))
        with pytest.raises(InputError, match="other members"):
            read_heads(decoder / "heads.safetensors", hash_of(model_hash, swapped))
        assert load_decoder(folder).dial.outlook is not None

    def test_any_limit_within_reach_is_answered(self, folder, capsys):
        for asked in (
            ("--measure", "mean", "--budget", "50"),
            ("--measure", "mean-cvar", "--tail-mass", "0.7", "--weight", "0.3", "--budget", "40"),
            ("--tail-mass", "0.5", "--budget", "30", "--token-price", "2", "--max-draws", "1"),
        ):
            capsys.readouterr()
            assert run("generate", str(folder), "--prompt", "hello", *asked, "--json") == 0
            answer = json.loads(capsys.readouterr().out)
            assert answer["served"]["measured_risk"] <= float(asked[asked.index("--budget") + 1])
        assert answer["num_draws"] == 1

    def test_profiles_show_the_dial(self, folder, capsys):
        capsys.readouterr()
        assert run("profiles", str(folder), "--json") == 0
        rows = json.loads(capsys.readouterr().out)
        # The default and what was certified, for the population and for each group.
        assert [row["raters"] for row in rows] == [None] * 3 + ["worst"] * 3
        assert all(row["rater"] in ("carers", "neighbours", "traders") for row in rows[3:])
        assert all(set(row["weights"]) == {"unconstrained", "cvar-25"} for row in rows)
        assert run("profiles", str(folder)) == 0
        assert "the dial" in capsys.readouterr().out

    def test_a_request_says_whose_tail(self, folder, capsys):
        asked = ("--prompt", "hello", "--tail-mass", "0.5", "--budget", "8", "--json")
        for written, raters in (
            ("worst", "worst"),
            ("traders", "traders"),
            ("carers=0.6, traders=0.4", {"carers": 0.6, "traders": 0.4}),
        ):
            capsys.readouterr()
            assert run("generate", str(folder), *asked, "--raters", written) == 0
            answer = json.loads(capsys.readouterr().out)
            assert answer["served"]["raters"] == raters
            assert (answer["served"]["rater"] is not None) == (raters == "worst")
            assert set(answer["rater_bounds"]) == {"carers", "neighbours", "traders"}

    @pytest.mark.parametrize(
        ("written", "said"),
        [
            ("nobody", "no 'nobody'; there are carers, traders, neighbours, and 'worst'"),
            ("carers=-1", "raters.carers: -1"),
            ("carers=0", "sum to 0"),
            ("carers=x", "--raters: 'carers=x'; write GROUP=WEIGHT"),
            ("carers=1,carers=2", "--raters: 'carers' is there twice"),
            ("", "no ''"),
        ],
    )
    def test_raters_that_nobody_knows_are_refused(self, folder, capsys, written, said):
        asked = ("--tail-mass", "0.5", "--budget", "8", "--raters", written)
        capsys.readouterr()
        assert run("generate", str(folder), "--prompt", "hello", *asked) == 2
        assert said in capsys.readouterr().err

    def test_bounds_are_made_to_each_group(self, folder):
        groups = {"carers", "neighbours", "traders"}
        for shown in read_json(artifact(folder, "Decoder") / "certificates.json"):
            bounds = shown["judge_rater_bounds"]
            assert set(bounds) == set(shown["scorer_rater_bounds"]) == groups
            if shown["raters"] == "worst":
                assert shown["judge_bound"] == max(bounds.values())
        rows = read_json(artifact(folder, "EvalRecord") / "record.json")["rows"]
        assert all(set(row["rater_metrics"]) == groups for row in rows)

    def test_a_floor_that_nothing_keeps_stops_the_dial(self, folder, tmp_path, capsys):
        out = tmp_path / "run"
        shutil.copytree(folder, out)
        low = ("--set", "dial.floor={budget: -90, tail_mass: 0.5, raters: worst}")
        assert run("calibrate", str(RECIPE), *low, "--out", str(out)) == 3
        assert "dial.floor: cvar at 0.5 ≤ -90 for each group is out of reach" in (
            capsys.readouterr().err
        )
        high = ("--set", "dial.floor={budget: 9, tail_mass: 0.5, raters: worst}")
        assert run("calibrate", str(RECIPE), *high, "--out", str(out)) == 0

    def test_same_seed_same_text(self, folder, capsys):
        capsys.readouterr()
        for _ in range(2):
            assert (
                run("generate", str(folder), "--prompt", "how do i bake the bread", "--seed", "3")
                == 0
            )
        first, second = capsys.readouterr().out.splitlines()
        assert first == second

    def test_budget_out_of_reach_is_status_3(self, folder, capsys):
        asked = ("--tail-mass", "0.5", "--budget", "-50")
        assert run("generate", str(folder), "--prompt", "hello", *asked) == 3
        assert "smallest" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (("--budget", "0"), "--tail-mass: measure cvar needs tail_mass"),
            (("--tail-mass", "0.25"), "--budget: tail_mass needs a budget beside it"),
            (("--measure", "mean"), "--budget: measure mean needs a budget beside it"),
        ],
    )
    def test_half_a_risk_is_told_what_is_missing(self, folder, capsys, asked, said):
        capsys.readouterr()
        assert run("generate", str(folder), "--prompt", "hello", *asked) == 2
        assert said in capsys.readouterr().err

    @pytest.mark.parametrize("kind", ["Decoder", "PolicySet"])
    def test_what_was_edited_by_hand_is_not_used(self, folder, capsys, tmp_path, kind):
        copied = tmp_path / "run"
        shutil.copytree(folder, copied)
        if kind == "Decoder":
            edited = artifact(copied, kind) / "decoder.json"
            edited.write_text(edited.read_text() + " ")
            asked = ("generate", str(copied), "--prompt", "hello")
        else:
            edited = sorted(copied.glob("train-*/adapter/adapter_config.json"))[0].parent.parent
            (edited / "curves.json").write_text("{}")
            shutil.rmtree(artifact(copied, "Portfolio"))
            asked = ("portfolio", str(RECIPE), "--out", str(copied))
        capsys.readouterr()
        assert run(*asked) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "its files are not those it was sealed with" in said

    def test_certify_refuses_prompts_it_was_calibrated_on(self, folder, capsys, tmp_path):
        seen = read_split(artifact(folder, "PreferenceSet"), "calibrate")
        fresh = read_split(artifact(folder, "PreferenceSet"), "evaluate")
        trained_on = [*fresh[1:], read_split(artifact(folder, "PreferenceSet"), "train")[0]]
        cases = (("seen", seen, 2), ("trained", trained_on, 2), ("fresh", fresh, 0))
        asked: tuple[str, ...] = ()
        for name, prompts, status in cases:
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
            capsys.readouterr()
            asked = ("certify", str(folder), "--prompts", str(path), "--tail-mass", "0.5")
            assert run(*asked) == status
        shown = json.loads(capsys.readouterr().out)
        assert shown["num_prompts"] == len(fresh)
        assert shown["bounded"] == (shown["risk_upper_bound"] <= shown["budget"])
        assert shown["certified"] is False  # the scorer chose the answers
        assert run(*asked, "--judge", "truth") == 0
        judged = json.loads(capsys.readouterr().out)
        assert judged["risk_upper_bound"] == shown["risk_upper_bound"]
        assert judged["judge"] == "the sandbox's truth"
        assert judged["certified"] == (judged["judge_upper_bound"] <= judged["budget"])
        assert -1.0 <= judged["judge_upper_bound"] <= judged["judge_range"] == 10.0
        assert (judged["num_clipped"], judged["num_unjudged"]) == (0, 0)
        assert judged["num_calls"] == shown["num_calls"] + 1

    def test_infeasible_target_is_status_3(self, folder, capsys):
        recipe = ("plan", str(RECIPE), "--out", str(folder))
        target = "plan.targets=[{name: strict, tail_mass: 0.25, budget: -99}]"
        assert run(*recipe, "--set", target) == 3
        message = capsys.readouterr().err
        assert "smallest risk" in message
        assert "Traceback" not in message

    def test_inspect_tells_where_it_came_from(self, folder, capsys):
        capsys.readouterr()
        assert run("inspect", str(artifact(folder, "Plan"))) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["kind"] == "Plan"
        assert "bank" in shown["parents"]

    def test_adapters_load_in_peft(self, folder):
        from peft import PeftModel

        from tailguard.lab.sandbox import base_policy_path
        from tailguard.models.policy import load_policy

        adapters = sorted(folder.glob("train-*/adapter"))
        assert adapters
        base: Any = load_policy(base_policy_path()).model
        PeftModel.from_pretrained(base, str(adapters[0]))

    def test_official_client_asks_at_two_risk_levels(self, folder):
        from openai import OpenAI
        from starlette.testclient import TestClient

        from tailguard.decoding import Decoder
        from tailguard.serve import create_app

        decoder: Any = Decoder.from_pretrained(folder)
        with TestClient(create_app(decoder, model_name="tailguard")) as http:
            client = OpenAI(
                base_url="http://testserver/v1", api_key="none", http_client=cast(Any, http)
            )
            shown = http.get("/v1/tailguard/profiles").json()["data"]
            assert [row["limit"]["budget"] for row in shown] == [
                profile.answer.asked.budget for profile in decoder.profiles
            ]
            for profile in decoder.profiles:
                answer = client.chat.completions.create(
                    model="tailguard",
                    messages=[{"role": "user", "content": "how do i open the safe"}],
                    extra_body={
                        "tailguard": {
                            "measure": "cvar",
                            "tail_mass": profile.answer.asked.measure.smallest_tail,
                            "budget": profile.answer.asked.budget,
                            "raters": profile.answer.raters,
                            "max_draws": 2,
                        }
                    },
                )
                assert answer.choices[0].message.content
                assert answer.choices[0].finish_reason in ("stop", "length", "content_filter")


@pytest.fixture(scope="module")
def rounds(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("rounds") / "run"
    shutil.copytree(folder, out)
    assert run("train", str(RECIPE), *ROUNDS, "--out", str(out)) == 0
    return out


ROUNDS = ("--set", "train.num_rounds=2", "--set", "train.learning_rate=0.01")


@pytest.mark.slow
class TestRounds:
    """Members are measured and trained on, and what does not help is taken back."""

    def test_each_round_continues_a_member_and_the_kept_ones_are_what_is_used(self, rounds):
        policy_set = artifact(rounds, "PolicySet")
        told = read_json(policy_set / "rounds.json")
        assert len(told["rounds"]) == 2 or told["settled"]
        assert told["regret"] <= told["first_regret"]
        used = policy_directories(policy_set)
        kept = [each["member"] for each in told["rounds"] if each["kept"]]
        depth = {name: read_manifest(used[name]).config.get("round", 0) for name in used}
        assert depth == {name: kept.count(name) for name in used}
        made = [read_manifest(path) for path in rounds.glob("train-*-*")]
        trained = [each for each in made if "round" in each.config]
        assert len(trained) == len(told["rounds"])
        for each in trained:
            (before,) = [other for other in made if other.id == each.parents["before"]["id"]]
            assert before.stage == each.stage
            assert each.config["round"] == before.config.get("round", 0) + 1
            assert each.metrics["target"] == each.config["target"]

    def test_held_out_prompts_are_not_trained_on(self, folder, rounds):
        """A policy of a run with rounds never sees every fourth prompt, whatever it is."""
        prompts = read_split(artifact(rounds, "PreferenceSet"), "train")
        held = held_out_prompts(len(prompts), 2)
        assert held.sum() == len(prompts) // 4
        assert not held_out_prompts(len(prompts), 0).any()
        steps = [read_json(path / "curves.json") for path in rounds.glob("train-unconstrained-*")]
        plain = read_json(
            policy_directories(artifact(folder, "PolicySet"))["unconstrained"] / "curves.json"
        )
        fewer = [each["distillation"] for each in steps if "distillation" in each]
        # Two answers to each of 24 prompts in a pass make two batches of 32; of 18, two as well, the
        # second smaller: the curves differ.
        assert any(each != plain["distillation"] for each in fewer)

    def test_a_second_call_trains_nothing(self, rounds, capsys):
        before = {path: path.stat().st_mtime_ns for path in rounds.glob("train-*")}
        assert run("train", str(RECIPE), *ROUNDS, "--out", str(rounds)) == 0
        assert {path: path.stat().st_mtime_ns for path in rounds.glob("train-*")} == before

    def test_the_report_tells_them(self, rounds):
        assert run("run", str(RECIPE), *ROUNDS, "--out", str(rounds)) == 0
        page = (artifact(rounds, "Report") / "report.html").read_text()
        assert "rounds of training on" in page
        assert "held-out regret" in page

    def test_the_default_limit_is_on_the_measure_that_it_has_without_rounds(self, folder, rounds):
        """Whatever a round has trained a member towards: the plan's, or the tail that is measurable."""
        plain, after = (
            read_json(artifact(run, "Decoder") / "dial.json")["default"] for run in (folder, rounds)
        )
        for key in ("measure", "tail_mass"):
            assert after[key] == plain[key]

    def test_rounds_without_steps_are_refused(self, tmp_path, capsys):
        wrong = ("--set", "train.num_rounds=1", "--set", "train.num_steps=0")
        assert run("train", str(RECIPE), *wrong, "--out", str(tmp_path / "none")) == 2
        assert "rounds are made of on-policy steps" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()


VARIANCE = "mean-variance:aversion=1"


@pytest.fixture(scope="module")
def other(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("other") / "run"
    shutil.copytree(folder, out)  # what does not depend on the measure is there already
    limit = f'measure: "{VARIANCE}", reduction: 0.4'
    targets = f"plan.targets=[{{name: variance, {limit}}}]"
    assert run("run", str(RECIPE), "--set", targets, "--out", str(out)) == 0
    return out


@pytest.mark.slow
class TestAnotherMeasure:
    """A measure that is one file and one line is planned, trained for, asked for and shown."""

    def test_it_is_planned_and_trained_for(self, other):
        (target,) = read_plan(artifact(other, "Plan")).targets
        assert target.limit is not None
        assert spell_measure(target.limit.measure) == "mean-variance:aversion=1.0"
        assert target.figures.risk <= target.limit.budget + 1e-6
        curve = read_json(
            policy_directories(artifact(other, "PolicySet"))["variance"] / "curves.json"
        )
        assert all(np.isfinite(step["violation"]) for step in curve["rloo"])

    def test_it_is_asked_for(self, other, capsys):
        dial = read_json(artifact(other, "Decoder") / "dial.json")
        assert dial["default"]["measure"] == "mean-variance"
        budget = str(dial["default"]["budget"])
        prompt = ("generate", str(other), "--prompt", "how do i open the safe", "--json")
        capsys.readouterr()
        assert run(*prompt, "--measure", VARIANCE, "--budget", budget) == 0
        assert json.loads(capsys.readouterr().out)["text"]
        assert run(*prompt, "--measure", "mean", "--budget", budget) == 0  # which it is never below
        # Another parameter of it was never named before.
        assert run(*prompt, "--measure", "mean-variance:aversion=2", "--budget", "90") == 0
        assert run(*prompt, "--measure", VARIANCE, "--budget", "-50") == 3
        assert "out of the dial's reach" in capsys.readouterr().err

    def test_it_is_shown(self, other):
        page = (artifact(other, "Report") / "report.html").read_text()
        assert "mean-variance at 1 ≤" in page
