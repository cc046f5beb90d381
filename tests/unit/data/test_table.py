"""Columns to parquet and back."""

import numpy as np

from tailguard.data.table import read_table, write_table


def test_what_is_written_is_read(tmp_path):
    columns = {
        "text": ["a", "ν\n", ""],
        "safe": [True, None, False],
        "ids": [[1, 2], [], [3]],
        "score": np.array([0.5, -np.inf, 1e-300]),
    }
    write_table(tmp_path / "a.parquet", columns)
    found = read_table(tmp_path / "a.parquet")
    assert found == {name: list(values) for name, values in columns.items()}


def test_the_same_columns_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_table(tmp_path / name, {"x": np.arange(1000), "y": ["text"] * 1000})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
