import numpy as np
import pytest

from tailguard.errors import InputError
from tailguard.lab.sandbox import GROUPS, TruthScorer, sample_preferences, split_of

NUM_PAIRS = 1500


def gaps(rows, about):
    """Utility of chosen less that of rejected, to the annotator who judged."""
    prompts = [row["prompt"] for row in rows]
    scorer = TruthScorer(about, by_group=about == "cost")
    chosen = scorer.score(prompts, [row["chosen"] for row in rows])
    rejected = scorer.score(prompts, [row["rejected"] for row in rows])
    group = [GROUPS.index(row["annotator"]) for row in rows]
    pick = (np.arange(len(rows)), group if about == "cost" else np.zeros(len(rows), int))
    return (rejected - chosen)[pick] if about == "cost" else (chosen - rejected)[pick]


@pytest.mark.parametrize(("about", "temperature"), [("reward", 0.4), ("cost", 1.0)])
def test_choices_follow_bradley_terry(about, temperature):
    rng = np.random.default_rng(7)
    gap = gaps(sample_preferences(rng, NUM_PAIRS, about, temperature=temperature), about)
    for low, high in [(0.2, 0.7), (0.7, 1.5), (1.5, 3.0)]:
        near = (np.abs(gap) >= low) & (np.abs(gap) < high)
        expected = np.mean(1 / (1 + np.exp(-np.abs(gap[near]) / temperature)))
        error = 4 * np.sqrt(expected * (1 - expected) / near.sum())
        assert near.sum() > 60
        assert np.mean(gap[near] > 0) == pytest.approx(expected, abs=error)


def test_safety_labels_are_the_group_sign_with_noise():
    rows = sample_preferences(np.random.default_rng(8), NUM_PAIRS, "cost", label_noise=0.04)
    cost = TruthScorer("cost", by_group=True)
    costs = cost.score([r["prompt"] for r in rows], [r["chosen"] for r in rows])
    own = costs[np.arange(NUM_PAIRS), [GROUPS.index(r["annotator"]) for r in rows]]
    wrong = np.mean((own <= 0) != np.array([r["chosen_safe"] for r in rows]))
    assert wrong == pytest.approx(0.04, abs=4 * np.sqrt(0.04 * 0.96 / NUM_PAIRS))


def test_rows_have_the_declared_fields_and_come_from_the_pool():
    rows = sample_preferences(np.random.default_rng(9), 300, "cost", "calibrate")
    again = sample_preferences(np.random.default_rng(9), 300, "cost", "calibrate")
    assert rows == again
    assert {split_of(row["prompt"]) for row in rows} == {"calibrate"}
    assert {row["annotator"] for row in rows} == set(GROUPS)
    assert {"none", "bodily", "manners"} <= {row["category"] for row in rows}
    assert {type(row["chosen_safe"]) for row in rows} == {bool}


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"label_noise": 0.7}, {"wide_share": 2.0}])
def test_bad_arguments_are_named(wrong: dict[str, float]):
    with pytest.raises(InputError, match=next(iter(wrong))):
        sample_preferences(np.random.default_rng(0), 3, "cost", "train", mix=None, **wrong)
