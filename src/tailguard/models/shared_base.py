"""Several policies of one base, whose weights are held once where copies of them would be large."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tailguard.models.adapter import merge_adapter_folder, open_adapter_folder
from tailguard.models.library import LanguageModel, without_adapter
from tailguard.models.policy import Policy, load_policy

_log = logging.getLogger(__name__)
# Merged copies are faster (on a CPU by a fifth for 8 million weights, by half for fewer), so a
# small base is copied.
LARGEST_COPIES = 10**9
"""Bytes of weights that are held a second time before they are shared."""


def load_policies(
    path: str | Path,
    adapters: Mapping[str, Path | None],
    *,
    trust_remote_code: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    largest_copies: int = LARGEST_COPIES,
) -> dict[str, Policy]:
    """The base with each of several adapters; None is the base itself.

    One adapter is merged. So are several while the copies of the base stay small; beyond that they
    stay beside weights that all policies share, and one line is logged that says so. The models are
    objects of their own in both cases: a call of one changes nothing in another.

    Args:
        path: the base; this and the options as of `load_policy`.
        adapters: name → folder of a peft LoRA adapter.
        trust_remote_code: let the checkpoint's own Python run.
        device: where to put all of them.
        dtype: precision of the base's weights.
        largest_copies: bytes that copies of the base may take, beyond the first.

    Raises:
        InputError: as `load_policy`.
    """
    folders = set(adapters.values())
    only = folders.pop() if len(folders) == 1 else None
    base = load_policy(path, only, trust_remote_code=trust_remote_code, device=device, dtype=dtype)
    if not folders:
        return dict.fromkeys(adapters, base)
    copies = len(folders) * sum(weights.nbytes for weights in base.model.parameters())
    shared = copies > largest_copies
    if shared:
        _log.warning(
            "%d policies hold the weights of %s once, for copies would take %.1f GB: their adapters"
            " stay beside the weights, which takes longer for each token (a fifth on a CPU)",
            len(adapters),
            path,
            copies / 1e9,
        )
    return {
        name: base
        if folder is None
        else replace(base, model=_adapted(base.model, folder, shared=shared))
        for name, folder in adapters.items()
    }


def _adapted(base: LanguageModel, folder: Path, *, shared: bool) -> LanguageModel:
    if not shared:
        return merge_adapter_folder(copy.deepcopy(base), folder).eval()
    # Other module objects around the same matrices. Vectors are copied: an adapter may have biases
    # of its own, which peft writes over those of the base.
    kept = {id(weights): weights for weights in base.parameters() if weights.dim() > 1}
    opened = open_adapter_folder(copy.deepcopy(base, kept), folder)
    return without_adapter(opened).eval()
