"""Loads are counted by hand on small recipes; estimates are arithmetic on them and a probe."""

import math

import pytest

from tailguard.config import Recipe
from tailguard.pipeline.estimate import estimate_stages
from tailguard.pipeline.inventory import take_inventory
from tailguard.pipeline.probe import Probe, Speed, probe_policy
from tailguard.pipeline.workload import Lengths, StageLoad, workload

LENGTHS = Lengths(
    prompt=10.0, answer=20.0, pair_answer={"reward": 30.0, "cost": 50.0}, num_layers=4
)
SMALL = {
    "policy": {"max_new_tokens": 24},
    "data": {
        "source": "sandbox",
        "num_reward_pairs": 100,
        "num_cost_pairs": 100,
        "num_prompts": 6,
        "num_calibration": 5,
        "num_certification": 7,
        "num_evaluation": 8,
    },
    "scorers": {"max_tokens": 40, "num_epochs": 2.0, "batch_size": 10, "num_pairs": 50},
    "bank": {"num_samples": 4, "batch_size": 8},
    "plan": {"targets": [{"name": "a", "reduction": 0.5}, {"name": "b", "measure": "none"}]},
    "train": {"num_steps": 3, "prompts_per_step": 2, "num_generations": 4, "distill_epochs": 1},
    "dial": {"num_draws": 2, "shares": [0.0, 0.5, 1.0], "scales": [1.0], "num_certified": 2},
}


def loads(**sections):
    recipe = Recipe.model_validate(SMALL | sections)
    return workload(recipe, take_inventory(recipe), LENGTHS)


def test_sampling_reads_each_prompt_once_and_draws_in_batches():
    sample = loads()["sample"]
    assert sample.read_tokens == 6 * 10
    assert sample.drawn_tokens == 6 * 4 * 20
    assert sample.draw_steps == 3 * 24  # 2 prompts × 4 answers fill a batch of 8 rows
    assert sample.rows == 8


def test_every_answer_is_read_by_two_scorers():
    # The cost once more, with the prompt withheld.
    assert loads()["bank"].read_tokens == 24 * (2 * 30 + 20)
    short = loads(scorers=SMALL["scorers"] | {"max_tokens": 25})
    assert short["bank"].read_tokens == 24 * (2 * 25 + 20)  # no more than the scorers' window


def test_functions_and_endpoints_run_no_model_of_ours():
    function = {"python": "a:b", "upper": 1.0}
    alone = {"model": "a/c", "input": "response"}
    scorers = SMALL["scorers"] | {"reward_model": function, "cost_model": alone, "pessimism": 0.0}
    assert loads(scorers=scorers)["bank"].read_tokens == 24 * 20
    scorers |= {"cost_model": function}
    assert "bank" not in loads(scorers=scorers)


def test_pairs_are_cut_to_num_pairs_and_the_window():
    fitted = loads()["fit-scorers"]
    # 50 of the pairs of each kind, two answers, both passes: 40 tokens each, for the window cuts 60.
    assert fitted.trained_tokens == 2 * (2 * 50 * 40 * 2 * 3.0)
    assert fitted.optimiser_steps == 2 * (50 * 2 / 10)
    assert fitted.num_parts == 2
    quarter = loads(scorers=SMALL["scorers"] | {"num_trained_layers": 1})["fit-scorers"]
    assert quarter.trained_tokens == fitted.trained_tokens / 2  # 1 + 2/4 of 3


def test_published_scorers_are_not_fitted():
    scorers = SMALL["scorers"] | {"reward_model": "a/r", "cost_model": "a/c", "pessimism": 0.0}
    assert "fit-scorers" not in loads(scorers=scorers)


def test_training_grows_with_targets_steps_and_answers():
    two = loads()["train"]
    assert two.num_parts == 2
    steps = 2 * 3
    answers = steps * 2 * 4
    assert two.draw_steps == steps * 24
    assert two.drawn_tokens == answers * 24
    distilled = 2 * 6 * 4  # no more draws than the bank has samples
    assert two.trained_tokens == (answers + distilled) * 30 * 2.0
    none = loads(train=SMALL["train"] | {"num_steps": 0})["train"]
    assert (none.draw_steps, none.trained_tokens) == (0, distilled * 30 * 2.0)


def test_points_are_drawn_and_limits_certified_and_evaluated():
    made = loads()
    # The base, both ends and the middle; each answer is drawn, and read by the reference too.
    assert made["portfolio"].drawn_tokens == 4 * 5 * 2 * 20
    assert made["portfolio"].num_parts == 4
    assert made["portfolio"].read_tokens == 4 * (5 * 10 + 10 * (2 * 30 + 20) + 10 * 30)
    # Heads are taught on two answers of each planned prompt at five points, where there are enough.
    data = SMALL["data"] | {"num_prompts": 30}
    with_heads, without = (
        loads(data=data, dial=SMALL["dial"] | {"heads": wanted})["portfolio"]
        for wanted in (True, False)
    )
    assert with_heads.drawn_tokens - without.drawn_tokens == 5 * 30 * 2 * 20
    usual = 3  # draws of an answer
    assert made["calibrate"].drawn_tokens == 3 * 7 * usual * 20  # two limits and the default
    evaluated = 8
    # The base and two policies, then the default and two limits.
    assert made["evaluate"].drawn_tokens == evaluated * 20 * 3 + evaluated * usual * 20 * 3
    assert made["evaluate"].num_parts == 6
    capped = loads(evaluate={"num_prompts": 2})["evaluate"]
    assert capped.drawn_tokens == made["evaluate"].drawn_tokens / 4


def test_a_recipe_for_planning_stops_there():
    assert set(loads(plan={})) == {"fit-scorers", "sample", "bank"}


PROBE = Probe(
    lengths=LENGTHS,
    speed=Speed(read=0.001, step=0.1, row=0.01),
    speed_alone=Speed(read=0.004, step=0.1, row=0.01),
    num_threads=4,
    on_cpu=True,
    load_seconds=2.0,
    process_bytes=1e9,
    weight_bytes=4e9,
    cache_bytes=1e5,
    activation_bytes=1e6,
    vocab_size=1000,
)


def test_seconds_are_the_sum_of_what_is_asked():
    load = StageLoad(read_tokens=1000, drawn_tokens=100, draw_steps=10, rows=8, num_models=1)
    (found,) = estimate_stages({"sample": load}, PROBE).values()
    assert found.seconds == pytest.approx(1000 * 0.001 + 10 * 0.1 + 100 * 0.01 + 2.0)
    assert found.num_tokens == 1100
    assert found.num_bytes == pytest.approx(1e9 + 4e9 + 8 * (30 * 1e5 + 3 * 4 * 1000))


def test_parts_side_by_side_share_threads_and_time():
    load = StageLoad(read_tokens=4000, num_parts=4, num_models=1)
    (found,) = estimate_stages({"x": load}, PROBE).values()
    # Four processes of one thread each, four times slower than all threads together.
    assert found.seconds == pytest.approx(4000 * 0.004 / 4 + 2.0)
    assert found.num_bytes == pytest.approx(4 * 5e9)
    (three,) = estimate_stages({"x": StageLoad(read_tokens=4000, num_parts=3)}, PROBE).values()
    assert three.seconds == pytest.approx(4000 * 0.004 / 3)  # one thread stays idle


def test_fewer_threads_are_slower_by_the_law_through_both_ends():
    assert PROBE.speed_of(4) == PROBE.speed
    assert PROBE.speed_of(1).read == pytest.approx(PROBE.speed_alone.read)
    assert PROBE.speed_of(2).read == pytest.approx(math.sqrt(0.001 * 0.004))


def test_the_probe_measures_the_sandbox_policy():
    recipe = Recipe.model_validate(SMALL)
    ticks = iter(range(10**6))
    probe = probe_policy(recipe, take_inventory(recipe), clock=lambda: float(next(ticks)))
    assert probe.lengths.num_layers == 4
    assert 3 < probe.lengths.prompt < 30
    assert 5 < probe.lengths.answer <= 24
    assert set(probe.lengths.pair_answer) == {"reward", "cost"}
    assert probe.weight_bytes == pytest.approx(4 * 1.09e6, rel=0.05)
    assert probe.cache_bytes == 2 * 4 * 128 * 4  # keys and values, layers, width, float32
    assert min(probe.speed.read, probe.speed.step) > 0
