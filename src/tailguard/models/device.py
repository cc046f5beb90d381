"""Where a model's weights are put, and in what precision.

torch is imported where it is needed, so that a recipe is checked without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from tailguard.errors import InputError

if TYPE_CHECKING:
    import torch

Trainer = TypeVar("Trainer")  # transformers' TrainingArguments or what is made of them
DTYPES = ("float32", "bfloat16", "float16")


def find_device(name: str, parameter: str = "device") -> torch.device:
    """The device of this name; ``auto`` is the first CUDA device, or the CPU where there is none.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        parameter: what messages call it.

    Raises:
        InputError: no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    require_device(name, parameter)
    return torch.device(name)


def require_device(name: str, parameter: str = "device") -> None:
    """Raise `InputError` where there is no such device; arguments as of `find_device`."""
    if name in ("auto", "cpu"):
        return
    import torch

    kind, _, number = name.partition(":")
    if kind not in ("cuda", "mps") or (number and not number.isdecimal()):
        raise InputError(f"{parameter}: {name!r}; give auto, cpu, cuda, cuda:N or mps")
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise InputError(f"{parameter}: mps is not available here; give cpu, cuda or auto")
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        there = {0: "there is no CUDA device", 1: "there is one CUDA device, cuda:0"}
        found = there.get(count, f"there are {count} CUDA devices, up to cuda:{count - 1}")
        raise InputError(f"{parameter}: {name} is not here: {found}; give one that is, or cpu")


def find_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The precision of this name; None, what ``auto`` is on a GPU, for that of the checkpoint.

    On a CPU ``auto`` is float32: half precision is slow there, and lacks kernels in some builds.

    Raises:
        InputError: an unknown name.
    """
    import torch

    if name == "auto":
        return torch.float32 if device.type == "cpu" else None
    if name not in DTYPES:
        raise InputError(f"dtype: {name!r}; give auto, {', '.join(DTYPES)}")
    found: torch.dtype = getattr(torch, name)
    return found


def on_one_device(arguments: Trainer) -> Trainer:
    """The same arguments, for one GPU: where several are visible, trainers would split batches."""
    library: Any = arguments
    library._n_gpu = min(int(library.n_gpu), 1)
    return arguments


def trains_on_cpu(device: torch.device) -> bool:
    """The option ``use_cpu`` of transformers' trainers, which look for a GPU themselves.

    Raises:
        InputError: a GPU other than the first, the only one that they take.
    """
    if device.type == "cuda" and device.index:
        raise InputError(
            f"device: {device}; training runs on the first GPU: give cuda, and"
            f" CUDA_VISIBLE_DEVICES={device.index} in the environment"
        )
    return device.type == "cpu"
