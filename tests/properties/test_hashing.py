"""Laws of hashes: the same content in whatever order, another hash for other content."""

import hashlib
import json
import tempfile
from pathlib import Path

from hypothesis import given, strategies as st

from tailguard.artifacts import content_hash, hash_of

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)
names = st.text("abcxyz0-_", min_size=1, max_size=8)
folders = st.dictionaries(names, st.binary(max_size=40), min_size=1, max_size=5)


def hash_of_folder(files: dict[str, bytes]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return content_hash(Path(folder))


@given(st.dictionaries(st.text(), values), st.randoms())
def test_order_of_keys_does_not_matter(value, random):
    items = list(value.items())
    random.shuffle(items)
    assert hash_of(dict(items)) == hash_of(value)


@given(values, values)
def test_equal_hashes_mean_equal_text(one, other):
    same_text = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (hash_of(one) == hash_of(other)) == same_text


@given(folders, st.randoms())
def test_order_of_files_does_not_matter(files, random):
    items = list(files.items())
    random.shuffle(items)
    assert hash_of_folder(dict(items)) == hash_of_folder(files)


@given(folders, st.data())
def test_any_byte_matters(files, data):
    name = data.draw(st.sampled_from(sorted(files)))
    content = data.draw(st.binary(max_size=40).filter(lambda other: other != files[name]))
    assert hash_of_folder(files | {name: content}) != hash_of_folder(files)


@given(st.binary(max_size=100))
def test_a_file_of_any_length(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        assert content_hash(path) == hashlib.sha256(content).hexdigest()
