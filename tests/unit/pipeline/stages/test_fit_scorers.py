from tailguard.pipeline.stages.fit_scorers import _too_few


def test_raters_with_few_pairs_are_told_by_number_and_some_by_name():
    assert _too_few(["many"] * 20 + [None] * 3) == []
    crowd = [f"worker {k:02}" for k in range(30)]
    (line,) = _too_few(["many"] * 20 + crowd)
    assert "30 have fewer than 20 cost pairs" in line
    assert "worker 04, …" in line
    assert "worker 05" not in line
