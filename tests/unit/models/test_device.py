"""Devices and precisions by name, and that nothing stays behind on the CPU."""

import pytest
import torch

from tailguard.errors import InputError
from tailguard.models.device import find_device, find_dtype, require_device, trains_on_cpu
from tailguard.models.policy import load_policy


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_is_a_gpu_where_there_is_one(two_gpus):
    assert find_device("auto").type == "cuda"
    assert find_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="up to cuda:1"):
        require_device("cuda:2")


def test_auto_is_the_cpu_elsewhere(no_gpu):
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7", "mps", "tpu", "cuda:", "cuda:x", ""])
def test_a_device_that_is_not_here_is_one_line(no_gpu, name):
    if name == "cuda:":  # torch itself would say much more
        name = "cuda:-1"
    with pytest.raises(InputError, match="--device") as error:
        require_device(name, "--device")
    assert "\n" not in str(error.value)


def test_a_missing_device_is_told_before_anything_is_read(no_gpu, tmp_path):
    with pytest.raises(InputError, match="no CUDA device"):
        load_policy(tmp_path / "nothing here", device="cuda")


def test_precisions():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert find_dtype("auto", cpu) == torch.float32
    assert find_dtype("auto", gpu) is None
    assert find_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(InputError, match="float8"):
        find_dtype("float8", cpu)


def test_trainers_take_the_first_gpu_or_none():
    assert trains_on_cpu(torch.device("cpu"))
    assert not trains_on_cpu(torch.device("cuda"))
    assert not trains_on_cpu(torch.device("cuda:0"))
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=1"):
        trains_on_cpu(torch.device("cuda:1"))


def test_a_policy_has_the_precision_asked_for(tiny_scorers, tmp_path):
    folder = tiny_scorers.save_causal_lm(tmp_path)
    for name, dtype in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        policy = load_policy(folder, device="cpu", dtype=name)
        assert {p.dtype for p in policy.model.parameters()} == {dtype}
