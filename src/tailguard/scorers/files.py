"""Classifiers on disk: ordinary model folders, with the heads of our ensembles beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from tailguard.errors import InputError, first_line
from tailguard.models.checkpoint import require_checkpoint
from tailguard.models.device import find_device
from tailguard.models.library import (
    LOAD_ERRORS,
    load_classifier,
    load_config,
    load_tokenizer,
    move_model,
)
from tailguard.models.quiet import quiet_transformers
from tailguard.models.tensor_file import read_tensors, write_tensors
from tailguard.models.tokenizer_check import check_token_ids
from tailguard.scorers.classifier import SequenceClassificationScorer, require_score_layer
from tailguard.scorers.rater_heads import RaterHeads
from tailguard.scorers.shift import ShiftModel

HEADS_FILE = "heads.safetensors"
SHIFT_FILE = "shift.safetensors"
RATERS_FILE = "raters.safetensors"


def load_scorer(
    path: str | Path,
    trust_remote_code: bool = False,
    *,
    label: str | int | None = None,
    input: Literal["pair", "response"] = "pair",
    combine: Literal["worst", "mean"] = "worst",
    allow_pickle: bool = False,
    max_tokens: int | None = None,
    device: str = "auto",
) -> SequenceClassificationScorer:
    """Read a sequence classifier from a folder or by hub name, in float32.

    Args:
        path: a folder in transformers' format, or a hub name.
        trust_remote_code: run code that comes with the model. Off unless asked for.
        label: which of several outputs is scored, by name or number: its log-odds against the others,
            or its logit where the model is a multi-label one.
        input: whether it reads prompt and answer, or the answer alone.
        combine: what counts of an answer that takes several windows: the ``worst`` for a cost, the
            ``mean`` for a reward.
        allow_pickle: read ``pytorch_model.bin`` too. Off unless asked for.
        max_tokens: longest input; by default what model and tokenizer allow.
        device: where to put it; see `tailguard.models.device.find_device`.

    Raises:
        InputError: missing, not a sequence classifier, several outputs and no label, pickled weights,
            a tokenizer or heads that do not fit. One line, naming the path.
    """
    place = find_device(device)
    source = str(path)
    folder = Path(path)
    require_checkpoint(path, "scorer", beside=HEADS_FILE, allow_pickle=allow_pickle)
    try:
        with quiet_transformers():
            config = load_config(source, trust_remote_code=trust_remote_code)
            _require_classifier(config, source)
            # The config is checked first: transformers would load a causal LM as a classifier with
            # a random score.
            model, missing, _ = load_classifier(
                source,
                config=config,
                allow_pickle=allow_pickle,
                trust_remote_code=trust_remote_code,
            )
            model = move_model(model, place)
            tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    except (*LOAD_ERRORS, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"scorer {source}: cannot be read: {first_line(error)}") from error
    if missing:
        raise InputError(
            f"scorer {source}: weights are missing ({', '.join(missing[:3])}); is it a sequence"
            " classifier?"
        )
    heads_path = folder / HEADS_FILE
    heads = _read_heads(heads_path) if heads_path.is_file() else None
    shift_path = folder / SHIFT_FILE
    shift = _read_shift(shift_path) if shift_path.is_file() else None
    try:
        check_token_ids(model, tokenizer, needs_pad=False)
        return SequenceClassificationScorer(
            model,
            tokenizer,
            heads=heads,
            shift=shift,
            label=label,
            input=input,
            combine=combine,
            max_tokens=max_tokens,
        )
    except InputError as error:
        raise type(error)(f"scorer {source}: {error}") from error


def save_scorer(
    scorer: SequenceClassificationScorer,
    path: str | Path,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a scorer as a one-output model folder, with ``heads.safetensors`` for an ensemble.

    The law of the features that it was fitted on goes to ``shift.safetensors``.

    ``score.weight`` becomes the mean of the heads, so that readers who do not know the extra file
    get the ensemble's mean.
    """
    folder = Path(path)
    if scorer.heads is not None:
        with torch.no_grad():
            layer = require_score_layer(scorer.model)
            layer.weight.copy_(scorer.heads.mean(dim=0, keepdim=True))
    with quiet_transformers():
        scorer.model.save_pretrained(str(folder))
        scorer.tokenizer.save_pretrained(str(folder))
    if scorer.heads is not None:
        write_tensors(folder / HEADS_FILE, {"heads": scorer.heads}, metadata)
    else:
        # A scorer saved over an ensemble must not be read with the heads of the old one.
        (folder / HEADS_FILE).unlink(missing_ok=True)
    if scorer.shift is not None:
        arrays = scorer.shift.to_arrays()
        tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
        write_tensors(folder / SHIFT_FILE, tensors, metadata)
    else:
        (folder / SHIFT_FILE).unlink(missing_ok=True)


def save_rater_heads(heads: RaterHeads, path: str | Path) -> None:
    """Write the heads of raters beside the scorer that they belong to."""
    tensors = {name: torch.as_tensor(array) for name, array in heads.to_arrays().items()}
    write_tensors(Path(path) / RATERS_FILE, tensors, {"raters": json.dumps(heads.raters)})


def load_rater_heads(path: str | Path) -> RaterHeads | None:
    """What `save_rater_heads` wrote; None where the scorer knows no raters.

    Raises:
        InputError: it is something else.
    """
    file = Path(path) / RATERS_FILE
    if not file.is_file():
        return None
    tensors, metadata = read_tensors(file)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    try:
        return RaterHeads.from_arrays(json.loads(metadata["raters"]), arrays)
    except (InputError, KeyError, ValueError) as error:
        raise InputError(f"{file}: {first_line(error)}") from None


def _read_heads(path: Path) -> Tensor:
    tensors, _ = read_tensors(path)
    if "heads" not in tensors:
        raise InputError(f"{path}: holds no tensor `heads`")
    return tensors["heads"]


def _read_shift(path: Path) -> ShiftModel:
    tensors, _ = read_tensors(path)
    try:
        return ShiftModel.from_arrays({name: tensor.numpy() for name, tensor in tensors.items()})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _require_classifier(config: Any, source: str) -> None:
    kinds: list[str] = list(getattr(config, "architectures", None) or ["unknown"])
    if all("CausalLM" in kind or "ConditionalGeneration" in kind for kind in kinds):
        raise InputError(f"scorer {source}: is a {kinds[0]}; a scorer is a sequence classifier")
