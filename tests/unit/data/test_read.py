"""Readers: what they take, and what they say of what they do not take."""

import gzip
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tailguard.data import Preference, read_preferences, read_prompts, read_rows
from tailguard.data.table import write_table
from tailguard.errors import InputError

PAIR = {"prompt": "how", "chosen": "so", "rejected": "no"}


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path):
    return lambda *rows, kind="reward": read_preferences(write(tmp_path / "a.jsonl", *rows), kind)


@pytest.fixture
def message(pairs):
    def read(*rows: Any, kind: str = "reward") -> str:
        with pytest.raises(InputError) as caught:
            pairs(*rows, kind=kind)
        return str(caught.value)

    return read


def test_pairs(pairs):
    labelled = PAIR | {"annotator": "a", "category": 7}
    assert pairs(PAIR, labelled) == [
        Preference("how", "so", "no"),
        Preference("how", "so", "no", annotator="a", category="7"),
    ]


def test_empty_lines_and_byte_order_marks_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(PAIR).encode() + b"\r\n\r\n  \n")
    assert len(read_preferences(path, "reward")) == 1


def test_line_separators_inside_text_do_not_split_it(pairs):
    odd = "a\u2028b\u0085c"
    assert pairs(json.dumps(PAIR | {"prompt": odd}, ensure_ascii=False))[0].prompt == odd


def test_chat_messages(pairs):
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "how"}]
    answers = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    assert pairs({"prompt": chat, **answers}) == [Preference(chat, "chosen", "rejected")]


@pytest.mark.parametrize(
    ("fields", "safe"),
    [
        ({"chosen_safe": True, "rejected_safe": False}, (True, False)),
        ({"chosen_sign": -1, "rejected_sign": 1}, (True, False)),
        ({"chosen_sign": 1.0, "rejected_sign": 1}, (False, False)),
        ({"chosen_safe": None, "rejected_safe": None}, (None, None)),
        ({"chosen_safe": False}, (False, None)),
        ({}, (None, None)),
    ],
)
def test_signs(pairs, fields, safe):
    found = pairs(PAIR | fields, kind="cost")[0]
    assert (found.chosen_safe, found.rejected_safe) == safe


def test_safe_and_unsafe_answers(pairs):
    row = {"prompt": "how", "safe": "no", "unsafe": "so", "annotator": "a", "category": "b"}
    assert pairs(row, kind="cost") == [Preference("how", "no", "so", True, False, "a", "b")]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"prompt": "how", ', "malformed JSON"),
        ("not json", "malformed JSON"),
        ("[1, 2]", "a JSON object is needed, not [1, 2]"),
        ("null", "a JSON object is needed, not null"),
        ('"text"', 'a JSON object is needed, not "text"'),
        ("1" * 5000, "cannot read it"),
        ("[" * 100_000, "cannot read it"),
        ({"chosen": "so", "rejected": "no"}, "no 'prompt'"),
        (PAIR | {"prompt": None}, "no 'prompt'"),
        (PAIR | {"prompt": "  \n"}, "no 'prompt'"),
        (PAIR | {"prompt": 5}, "no 'prompt'"),
        (PAIR | {"prompt": []}, "no 'prompt'"),
        (PAIR | {"prompt": [{"role": "user"}]}, "no 'prompt'"),
        (PAIR | {"prompt": [{"role": "user", "content": ""}]}, "no 'prompt'"),
        (PAIR | {"prompt": ["how"]}, "no 'prompt'"),
        ('{"prompt": "\\ud800", "chosen": "so", "rejected": "no"}', "no 'prompt'"),
        ({"prompt": "how", "rejected": "no"}, "no 'chosen' (the text of an answer)"),
        (PAIR | {"rejected": ""}, "no 'rejected' (the text of an answer)"),
        (PAIR | {"rejected": ["no"]}, "no 'rejected' (the text of an answer)"),
        (PAIR | {"chosen_safe": "yes"}, "give 'chosen_safe' as true or false"),
        (PAIR | {"chosen_safe": 1}, "it is 1"),
        (PAIR | {"rejected_sign": 0}, "'rejected_sign' as -1 (safe) or 1 (unsafe); it is 0"),
        (PAIR | {"rejected_sign": True}, "it is True"),
        (PAIR | {"rejected_sign": "-1"}, "it is '-1'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_rows_are_named_by_line(message, bad, said):
    found = message(PAIR, "", bad, PAIR, kind="cost")
    assert "a.jsonl, line 3: " in found
    assert said in found


def test_bytes_that_are_no_text_are_named_by_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(PAIR).encode() + b'\n{"prompt": "\xff"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: cannot read it"):
        read_rows(tmp_path / "a.jsonl")


@pytest.mark.parametrize("content", ["", "\n\n", "   \n"])
def test_empty_files(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"a\.jsonl: is empty; at least one row is needed"):
        read_rows(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_missing_files(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: no such file; check the path"):
        read_rows(tmp_path / name)


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.txt", "a.tsv", "a.jsonl.zst", "folder"])
def test_other_formats(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    else:
        write(path, PAIR)
    with pytest.raises(InputError, match=r"give \.jsonl, \.jsonl\.gz, \.json or \.parquet"):
        read_rows(path)


def test_a_folder_with_the_name_of_a_file(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(InputError, match=r"a\.jsonl: is not a file; give"):
        read_rows(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
def test_pipes_and_devices_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: (is not a|no such) file"):
        read_rows(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match=f"{name}: (is not a|no such) file"):
        read_rows(tmp_path / name)


def test_a_label_and_a_sign_that_disagree(tmp_path):
    write(tmp_path / "a.jsonl", PAIR | {"chosen_safe": True, "chosen_sign": -1})
    assert read_preferences(tmp_path / "a.jsonl", "cost")[0].chosen_safe is True
    write(tmp_path / "a.jsonl", PAIR | {"chosen_safe": True, "chosen_sign": 1})
    with pytest.raises(InputError, match=r"line 1: give 'chosen_safe' .* it is True and 1"):
        read_preferences(tmp_path / "a.jsonl", "cost")


def test_gzip(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(PAIR).encode()))
    assert read_preferences(path, "reward") == [Preference("how", "so", "no")]


def spoil(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    return {
        "truncated": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
        "not gzip": b'{"prompt": "how"}\n',
        "no checksum": content[:-4],
    }[how]


@pytest.mark.parametrize("how", ["truncated", "flipped", "not gzip", "no checksum"])
def test_spoilt_gzip(tmp_path, how):
    rows = "\n".join(json.dumps(PAIR | {"prompt": str(i**7)}) for i in range(2000))
    (tmp_path / "a.jsonl.gz").write_bytes(spoil(gzip.compress(rows.encode()), how))
    with pytest.raises(InputError, match=r"a\.jsonl\.gz"):
        read_rows(tmp_path / "a.jsonl.gz")


def test_parquet(tmp_path):
    chat = [{"role": "user", "content": "how"}]
    columns = {"chosen": ["so"], "rejected": ["no"], "chosen_safe": [True], "other": [None]}
    write_table(tmp_path / "a.parquet", {"prompt": [chat], **columns})
    found = read_preferences(tmp_path / "a.parquet", "cost")
    assert found == [Preference(chat, "so", "no", chosen_safe=True)]


def test_wrong_parquet_rows_are_named(tmp_path):
    write_table(tmp_path / "a.parquet", {"prompt": ["how", None]})
    with pytest.raises(InputError, match=r"a\.parquet, row 2: no 'prompt'"):
        read_prompts(tmp_path / "a.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 1000])
def test_what_is_not_parquet(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: not parquet"):
        read_rows(tmp_path / "a.parquet")


def test_truncated_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, {"prompt": [str(i) for i in range(5000)]})
    content = path.read_bytes()
    for kept in (content[:-1], content[: len(content) // 2], content[:2000] + content[3000:]):
        path.write_bytes(kept)
        with pytest.raises(InputError, match=r"a\.parquet: not parquet"):
            read_rows(path)


def test_parquet_without_rows(tmp_path):
    write_table(tmp_path / "a.parquet", {"prompt": []})
    with pytest.raises(InputError, match="is empty"):
        read_rows(tmp_path / "a.parquet")


def test_prompts_by_condition(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        {"prompt": "a", "label": "safe", "hard": True},
        {"prompt": "b", "label": "unsafe", "hard": True},
        {"prompt": "c", "label": "safe", "hard": False},
    )
    assert read_prompts(path) == ["a", "b", "c"]
    assert read_prompts(path, {"label": "safe"}) == ["a", "c"]
    assert read_prompts(path, {"label": "safe", "hard": "true"}) == ["a"]
    with pytest.raises(InputError, match=r"a\.jsonl: no row has \{'label': 'sfae'\}"):
        read_prompts(path, {"label": "sfae"})


def test_dataset_names(monkeypatch):
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> list[dict[str, str]]:
        asked.append((name, split))
        return [PAIR]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert read_preferences("owner/pairs", "reward") == [Preference("how", "so", "no")]
    assert read_rows("owner/pairs:test")[0][0] == "owner/pairs:test, row 1"
    assert asked == [("owner/pairs", "train"), ("owner/pairs", "test")]


def test_unknown_dataset_names(monkeypatch):
    def load_dataset(name: str, split: str) -> None:
        raise ValueError("Couldn't find it\nsecond line")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputError, match=r"neither a file nor a dataset \(Couldn't find it\)$"):
        read_rows("owner/nothing")
