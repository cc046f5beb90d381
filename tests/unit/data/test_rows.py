"""Sources of rows: arrays, folders, datasets, and what is damaged in them."""

import json
import shutil
import sys
import types

import datasets
import pyarrow
import pyarrow.parquet as pq
import pytest

from tailguard.data import read_preferences, read_prompts, read_rows
from tailguard.errors import InputError

ROWS = [{"prompt": f"how {k}", "chosen": "so", "rejected": "no"} for k in range(3)]
PROMPTS = [row["prompt"] for row in ROWS]


@pytest.fixture(autouse=True)
def without_bars(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


@pytest.fixture
def saved(tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows.select([2])}).save_to_disk(tmp_path / "two")
    return tmp_path


@pytest.fixture
def refusal():
    def read(source) -> str:
        with pytest.raises(InputError) as caught:
            read_rows(source)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return read


def test_an_array(tmp_path, refusal):
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps(ROWS, indent=1))
    assert read_prompts(path) == PROMPTS
    path.write_text(json.dumps([*ROWS, 5]))
    assert "a.json, item 4: a JSON object is needed, not 5" in refusal(path)
    path.write_text(json.dumps({"data": ROWS}))
    assert "a.json: is no array of objects; give .jsonl" in refusal(path)
    path.write_text("[{]")
    assert "a.json: malformed JSON" in refusal(path)


@pytest.mark.parametrize(
    "row",
    ['{"prompt": "a", "prompt": "b"}', '{"prompt": [{"role": "user", "role": "x"}]}'],
)
def test_a_key_twice(tmp_path, refusal, row):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n' + row)
    assert "a.jsonl, line 2: cannot read it (key '" in refusal(tmp_path / "a.jsonl")


def test_saved_datasets(saved):
    assert read_rows(saved / "one")[2] == (f"{saved / 'one'}, row 3", ROWS[2])
    assert read_prompts(saved / "two") == PROMPTS
    assert read_prompts(f"{saved / 'two'}:test") == PROMPTS[2:]
    assert len(read_preferences(saved / "one", "reward")) == 3


def test_a_single_saved_split_has_no_other(tmp_path, refusal):
    rows = datasets.Dataset.from_list(ROWS, split=datasets.Split.TEST)
    rows.save_to_disk(tmp_path / "a")
    assert read_prompts(f"{tmp_path / 'a'}:test") == read_prompts(tmp_path / "a") == PROMPTS
    assert "a: holds one split and no 'dev'; leave out ':dev'" in refusal(f"{tmp_path / 'a'}:dev")


def test_messages_that_are_saved_as_a_sequence(tmp_path):
    turn = datasets.Sequence(
        {"role": datasets.Value("string"), "content": datasets.Value("string")}
    )
    rows = datasets.Dataset.from_dict(
        {"prompt": [{"role": ["user", "assistant", "user"], "content": ["a", "b", "c"]}]},
        features=datasets.Features({"prompt": turn}),
    )
    rows.save_to_disk(tmp_path / "a")
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert read_prompts(tmp_path / "a") == [[*talk, {"role": "user", "content": "c"}]]


def test_a_path_is_not_looked_up_on_the_hub(monkeypatch, refusal):
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it is an error
    for name in ("/dev/null", "/no/such/place", "./gone", "../gone:test", "~/gone"):
        assert refusal(name).startswith(f"{name}: neither a file nor a folder; check the path")


def test_wrong_rows_of_saved_datasets_are_named(tmp_path):
    datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": None}]).save_to_disk(tmp_path / "a")
    with pytest.raises(InputError, match=r"a, row 2: no 'prompt'"):
        read_prompts(tmp_path / "a")


def test_damaged_saved_datasets(saved, refusal):
    assert "no split 'dev'; there are train, test" in refusal(f"{saved / 'two'}:dev")
    shard = saved / "one" / "data-00000-of-00001.arrow"
    content = shard.read_bytes()
    for damaged in (b"", content[:100], content[: len(content) * 2 // 3], b"x" * 500):
        shard.write_bytes(damaged)
        assert "data-00000-of-00001.arrow: cannot read it" in refusal(saved / "one")
    shard.unlink()
    assert "data-00000-of-00001.arrow" in refusal(saved / "one")
    (saved / "one" / "state.json").write_text('{"_data_files": [{"filename": "../two"}]}')
    assert "state.json: names no file of this folder" in refusal(saved / "one")
    (saved / "one" / "state.json").write_text("{}")
    assert "state.json: has no list '_data_files'" in refusal(saved / "one")
    shutil.rmtree(saved / "two" / "train")
    assert "state.json: no such file" in refusal(saved / "two")


def test_a_folder_laid_out_as_on_the_hub(tmp_path, refusal):
    rows = datasets.Dataset.from_list(ROWS)
    for split, part in (("train", rows), ("test", rows.select([0]))):
        (tmp_path / "pairs" / "data").mkdir(parents=True, exist_ok=True)
        part.to_parquet(tmp_path / "pairs" / "data" / f"{split}-00000-of-00001.parquet")
    assert read_prompts(tmp_path / "pairs") == PROMPTS
    assert read_prompts(f"{tmp_path / 'pairs'}:test") == PROMPTS[:1]
    assert read_prompts(f"{tmp_path / 'pairs'}:train[:67%]") == PROMPTS[:2]
    assert "cannot read the folder as a dataset (Unknown split" in refusal(
        f"{tmp_path / 'pairs'}:dev"
    )


def test_without_the_hub(refusal):
    assert "owner/pairs: neither a file nor a dataset (" in refusal("owner/pairs")
    assert "write a dataset as name, name:split or" in refusal("owner/pairs:a:b:c")


def test_configurations_and_folders_of_datasets(monkeypatch):
    asked = []

    def load_dataset(*names: str, **options: str) -> list[dict[str, str]]:
        asked.append((*names, options))
        return [ROWS[0]]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    names = ("pairs", "owner/pairs", "owner/pairs:english:test", "owner/pairs/harm/base:test[5:]")
    for name in names:
        assert read_rows(name) == [(f"{name}, row 1", ROWS[0])]
    assert asked == [
        ("pairs", {"split": "train"}),
        ("owner/pairs", {"split": "train"}),
        ("owner/pairs", "english", {"split": "test"}),
        ("owner/pairs", {"split": "test[5:]", "data_dir": "harm/base"}),
    ]


def test_a_dataset_that_breaks_off(monkeypatch, refusal):
    def rows(*_: object, **__: object):
        yield ROWS[0]
        raise OSError("connection lost\nsecond line")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=rows))
    assert "pairs, row 2: cannot read it (connection lost)" in refusal("owner/pairs")


def test_bytes_that_are_no_text_are_named_by_row(tmp_path, refusal):
    texts = pyarrow.array([b"fine", b"also", b"not \xff"]).cast(pyarrow.binary())
    column = pyarrow.StringArray.from_buffers(3, *texts.buffers()[1:3])
    pq.write_table(pyarrow.table({"prompt": column}), tmp_path / "a.parquet")
    assert "a.parquet, row 3: cannot read 'prompt' ('utf-8' codec" in refusal(
        tmp_path / "a.parquet"
    )


def test_columns_of_other_types(tmp_path, refusal):
    coded = pyarrow.array(["how", "why"]).dictionary_encode()
    columns = {"prompt": coded, "n": [2**62, None], "x": [float("nan"), 1.0]}
    pq.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert read_prompts(tmp_path / "a.parquet") == ["how", "why"]
    far = pyarrow.array([0, 2**62], pyarrow.int64()).cast(pyarrow.timestamp("us"))
    pq.write_table(pyarrow.table({"prompt": coded, "when": far}), tmp_path / "a.parquet")
    assert "a.parquet, row 2: cannot read 'when'" in refusal(tmp_path / "a.parquet")
    pq.write_table(pyarrow.table([coded, coded], names=["a", "a"]), tmp_path / "a.parquet")
    assert "a.parquet: two columns are called 'a'; keep one" in refusal(tmp_path / "a.parquet")


def test_a_folder_of_the_path_adds_no_column(tmp_path):
    folder = tmp_path / "label=safe"
    folder.mkdir()
    pq.write_table(pyarrow.table({"prompt": ["how"]}), folder / "a.parquet")
    assert read_rows(folder / "a.parquet")[0][1] == {"prompt": "how"}
