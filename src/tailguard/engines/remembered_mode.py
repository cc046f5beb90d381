"""The self-test's result, kept from one process to the next.

A result belongs to a model's class, config, kind of device, library versions and weights. Weights
are told apart by a few numbers of each tensor: all of them would take longer than the self-test.
Only what passed is kept; a refusal is found anew each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tailguard.engines.single_policy import EngineMode
from tailguard.models.policy import Policy

_NUM_NUMBERS = 8  # of each tensor
_LIBRARIES = ("tailguard", "transformers", "torch", "peft")
# Code of other origin can change while its name and its weights stay.
_KNOWN_ORIGINS = ("transformers.", "peft.")


class Result(NamedTuple):
    """What the self-test found: the mode, and the line that was said with it, if any."""

    mode: EngineMode
    line: str


def recall(policy: Policy) -> Result | None:
    """The result of an earlier process; None where there is none that can be read."""
    file = _file(policy)
    if file is None:
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):
        found: Any = json.loads(file.read_text(encoding="utf-8"))
        mode = EngineMode(cached=found["cached"] is True, padded=found["padded"] is True)
        return Result(mode, str(found["line"]))
    return None


def remember(policy: Policy, result: Result) -> None:
    """Keep a result; without a place to write, the next process tests again."""
    file = _file(policy)
    if file is None:
        return
    content = {"cached": result.mode.cached, "padded": result.mode.padded, "line": result.line}
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as f:
            json.dump(content, f)
        os.replace(f.name, file)


def _file(policy: Policy) -> Path | None:
    """``TAILGUARD_CACHE``, or ``tailguard`` in the user's folder for caches; empty switches it off."""
    default = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get("TAILGUARD_CACHE", f"{default}/tailguard")
    model: Any = policy.model
    changed = "forward" in vars(model)  # by a wrapper, of which we know nothing
    if not folder or changed or not type(model).__module__.startswith(_KNOWN_ORIGINS):
        return None
    return Path(folder).expanduser() / "self_test" / f"{_fingerprint(policy)}.json"


def _fingerprint(policy: Policy) -> str:
    model = policy.model
    config: dict[str, Any] = model.config.to_dict()
    config.pop("_name_or_path", None)
    told = {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "config": config,
        "attention": str(getattr(model.config, "_attn_implementation", "")),
        "device": _kind_of_device(policy.device),
        "versions": {name: _version(name) for name in _LIBRARIES},
        "shapes": [[list(p.shape), str(p.dtype)] for p in model.parameters()],
        "token_ids": [policy.num_token_ids, len(policy.absent_token_ids)],
        "context": policy.context_tokens,
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    samples = [_some_numbers(p.detach()) for p in model.parameters()]
    digest.update(torch.cat(samples).cpu().numpy().tobytes())
    return digest.hexdigest()


def _some_numbers(weights: Tensor) -> Tensor:
    flat = weights.reshape(-1)
    places = torch.linspace(0, max(flat.shape[0] - 1, 0), _NUM_NUMBERS, dtype=torch.float64)
    return flat[places.long().to(flat.device)].double() if flat.shape[0] else flat.double()


def _kind_of_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
