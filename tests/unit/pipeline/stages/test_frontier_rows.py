"""The table that `tailguard plan` prints."""

import pytest

from tailguard.artifacts import write_json
from tailguard.pipeline.plan_artifact import PLAN_NAME
from tailguard.pipeline.stages.plan import frontier_rows


def point(tail_mass, budget):
    return {
        "tail_mass": tail_mass,
        "budget": budget,
        "reward": 2.0,
        "risk": budget,
        "kl": 0.125,
        "multiplier": 0.75,
        "threshold": 0.5,
        "effective_sample_size": 31.0,
    }


def test_every_tail_mass_begins_with_the_base_policys_own_row(tmp_path):
    write_json(
        tmp_path / PLAN_NAME,
        {
            "kl_coef": 0.25,
            "targets": [],
            "frontier": [point(0.1, 1.5), point(0.1, 0.5), point(1.0, 0.25)],
            "reference": {"reward": 1.234, "cvar_0.1": 1.5, "cvar_1.0": 0.375},
        },
    )
    rows = frontier_rows(tmp_path)
    assert [(row["tail mass α"], row["budget d"]) for row in rows] == [
        ("0.1", "none (base)"),
        ("0.1", "1.5"),
        ("0.1", "0.5"),
        ("1", "none (base)"),
        ("1", "0.25"),
    ]
    assert [row["CVaR"] for row in rows] == ["1.5", "1.5", "0.5", "0.375", "0.25"]
    assert rows[0] == {
        "tail mass α": "0.1",
        "budget d": "none (base)",
        "reward": "1.23",
        "CVaR": "1.5",
        "KL, nats": "0",
        "multiplier λ": "0",
        "threshold ν": "–",
        "effective samples": "all",
    }
    assert all(list(row) == list(rows[0]) for row in rows)
    assert rows[1]["KL, nats"] == "0.125"
    assert float(rows[3]["reward"]) == pytest.approx(1.23)
