"""Settings of algorithms from the keys of a recipe's section."""

from dataclasses import dataclass, fields

import pytest

from tailguard.config import Recipe, ScorerSection, TrainSection
from tailguard.pipeline.stage import settings_of
from tailguard.scorers.fit import ScorerTraining
from tailguard.training.distillation import DistillationSettings
from tailguard.training.on_policy import RLOOSettings


@dataclass(frozen=True)
class WithDecay(RLOOSettings):
    weight_decay: float = 0.0


class DecayingTrainSection(TrainSection):
    weight_decay: float = 0.25


def test_a_new_option_needs_the_section_and_the_class_alone():
    found = settings_of(WithDecay, DecayingTrainSection(num_steps=7), seed=3, kl_coef=0.5)
    assert (found.weight_decay, found.num_steps, found.seed, found.kl_coef) == (0.25, 7, 3, 0.5)


def test_keys_of_others_are_left_out_and_what_is_given_counts():
    found = settings_of(DistillationSettings, TrainSection(learning_rate=0.5), learning_rate=0.1)
    assert found.learning_rate == 0.1
    assert found.rank == TrainSection().rank


def test_a_field_that_nobody_has_is_refused():
    with pytest.raises(TypeError, match="no_such_field"):
        settings_of(RLOOSettings, TrainSection(), no_such_field=1)


def test_scorers_are_trained_by_the_keys_of_their_section():
    section = Recipe().scorers
    found = settings_of(ScorerTraining, section)
    shared = {f.name for f in fields(ScorerTraining)} & set(ScorerSection.model_fields)
    assert len(shared) >= 6
    assert all(getattr(found, name) == getattr(section, name) for name in shared)
