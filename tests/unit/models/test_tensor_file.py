"""Tensors on disk."""

import torch

from tailguard.models.tensor_file import read_tensors, write_tensors


def test_the_same_tensors_and_metadata_give_the_same_bytes_and_come_back(tmp_path):
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.int64)}
    metadata = {f"key {k}": f"value {k}" for k in range(8)}
    paths = [tmp_path / f"{k}.safetensors" for k in range(8)]
    for path in paths:
        write_tensors(path, tensors, metadata)
    assert len({path.read_bytes() for path in paths}) == 1
    found, header = read_tensors(paths[0])
    assert header == metadata
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    write_tensors(paths[0], tensors)
    assert read_tensors(paths[0])[1] == {}
