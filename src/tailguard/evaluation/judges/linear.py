"""An independent judge: a linear Bradley–Terry scorer on frozen sentence embeddings.

It shares neither backbone nor, if it is fitted as it should be, a single pair with the scorers
that a policy was trained or guided by. What such a judge cannot see it cannot judge: its held-out
accuracy is part of its answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from scipy import optimize, special

from tailguard.data import Prompt
from tailguard.errors import InputError
from tailguard.evaluation.judges.embedding import SentenceEncoder
from tailguard.models.tensor_file import read_tensors, write_tensors
from tailguard.scorers.pairs import ResponsePairs
from tailguard.scorers.scorer import require_finite

Kind = Literal["reward", "cost"]
# Half a decade apart: the order of magnitude is what cross-validation can tell.
_RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


@runtime_checkable
class Encoder(Protocol):
    """Texts to vectors; `SentenceEncoder` is one."""

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Embeddings, float64 [n, width]."""
        ...


@dataclass(frozen=True)
class LinearJudge:
    """A linear scorer on embeddings of the answer and of its product with the prompt's.

    Attributes:
        kind: ``reward``, or ``cost`` (larger is worse, above 0 unsafe).
        weight: of the standardised features [features].
        bias: added to every score; fixes the zero of a cost.
        scale: standard deviation of each feature [features].
        encoder: texts to vectors.
    """

    kind: Kind
    weight: np.ndarray
    bias: float
    scale: np.ndarray
    encoder: Encoder

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores, float64 [n, 1].

        Raises:
            InputError: different numbers of prompts and responses.
            ScoreError: a score that is not finite.
        """
        features = pair_features(self.encoder, prompts, responses) / self.scale
        return require_finite((features @ self.weight + self.bias)[:, None], f"judge's {self.kind}")

    def save(self, folder: str | Path) -> None:
        """Write ``judge.safetensors`` and ``judge.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": torch.as_tensor(self.weight), "scale": torch.as_tensor(self.scale)}
        write_tensors(folder / "judge.safetensors", tensors)
        content = {"kind": self.kind, "bias": self.bias}
        (folder / "judge.json").write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, encoder: Encoder | None = None) -> LinearJudge:
        """Read a judge written by `save`.

        Raises:
            InputError: missing or damaged files, or the extra is not installed.
        """
        folder = Path(folder)
        tensors, _ = read_tensors(folder / "judge.safetensors")
        try:
            content: dict[str, Any] = json.loads((folder / "judge.json").read_text("utf-8"))
            return cls(
                kind=content["kind"],
                weight=np.asarray(tensors["weight"]),
                bias=float(content["bias"]),
                scale=np.asarray(tensors["scale"]),
                encoder=encoder or SentenceEncoder(),
            )
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise InputError(f"judge {folder}: cannot be read: {error}") from error


def fit_judge(
    pairs: ResponsePairs,
    held_out: ResponsePairs,
    *,
    kind: Kind,
    encoder: Encoder | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[LinearJudge, dict[str, float]]:
    """Fit a judge on pairs that the scorers did not see.

    Bradley–Terry on the pairs plus, where answers carry signs, the sign loss; the ridge is chosen
    by five-fold cross-validation over prompts.

    Args:
        pairs: to fit on.
        held_out: pairs of other prompts, for the figures.
        kind: ``reward`` or ``cost``; goes into messages and files.
        encoder: texts to vectors; MiniLM by default.
        on_progress: called with (texts embedded, texts in all), for each set of answers.

    Returns:
        the judge, and ``accuracy`` with its standard error over prompts (``accuracy_error``),
        ``sign_accuracy`` where answers carry signs, ``num_pairs`` and ``ridge``.

    Raises:
        InputError: the two sets share a prompt, or the extra is not installed.
    """
    if set(map(str, pairs.prompts)) & set(map(str, held_out.prompts)):
        raise InputError("held_out: shares prompts with pairs; split by prompt")
    encoder = encoder or SentenceEncoder()
    higher, lower = _both_features(encoder, pairs, on_progress)
    scale = np.concatenate([higher, lower]).std(axis=0)
    scale[scale < 1e-9] = 1.0  # a constant feature; dividing by its spread would give NaN
    problem = _Problem(
        higher=higher / scale,
        lower=lower / scale,
        higher_sign=_signs(pairs.higher_sign, len(pairs)),
        lower_sign=_signs(pairs.lower_sign, len(pairs)),
    )
    ridge = _choose_ridge(problem, pairs.prompt_index())
    weight, bias = problem.solve(ridge)
    judge = LinearJudge(kind=kind, weight=weight, bias=bias, scale=scale, encoder=encoder)
    return judge, _figures(judge, held_out) | {"ridge": ridge}


def pair_features(
    encoder: Encoder, prompts: Sequence[Prompt], responses: Sequence[str]
) -> np.ndarray:
    """The answer's embedding beside its product with the prompt's [n, 2 × width].

    Raises:
        InputError: different numbers of prompts and responses.
    """
    if len(prompts) != len(responses):
        raise InputError(
            f"responses: {len(responses)} for {len(prompts)} prompts; give one per prompt"
        )
    answer = encoder.encode(responses)
    return np.concatenate([answer, answer * encoder.encode(_texts(prompts))], axis=1)


@dataclass(frozen=True)
class _Problem:
    """Bradley–Terry and sign loss on standardised features; the last weight is the bias."""

    higher: np.ndarray
    lower: np.ndarray
    higher_sign: np.ndarray
    lower_sign: np.ndarray

    def take(self, rows: np.ndarray) -> _Problem:
        return _Problem(
            self.higher[rows], self.lower[rows], self.higher_sign[rows], self.lower_sign[rows]
        )

    def solve(self, ridge: float) -> tuple[np.ndarray, float]:
        signs = np.concatenate([self.higher_sign, self.lower_sign])
        labelled = np.concatenate([self.higher, self.lower])[signs != 0]
        labelled = signs[signs != 0, None] * np.c_[labelled, np.ones(len(labelled))]
        difference = np.c_[self.higher - self.lower, np.zeros(len(self.higher))]
        width = difference.shape[1]

        def loss(weight: np.ndarray) -> tuple[float, np.ndarray]:
            value = 0.5 * ridge * float(weight[:-1] @ weight[:-1])
            gradient = ridge * np.append(weight[:-1], 0.0)
            # Signs weigh half as much as comparisons, which is also the scorers' default.
            for rows, share in ((difference, 1.0), (labelled, 0.5)):
                if len(rows):
                    margin = rows @ weight
                    value += share * float(np.logaddexp(0.0, -margin).mean())
                    slope = cast(np.ndarray, special.expit(-margin)) @ rows
                    gradient = gradient - share / len(rows) * slope
            return value, gradient

        found: Any = optimize.minimize(loss, np.zeros(width), jac=True, method="L-BFGS-B")
        return found.x[:-1], float(found.x[-1])


def _choose_ridge(problem: _Problem, prompt_index: np.ndarray) -> float:
    """The ridge with the least Bradley–Terry loss on folds of prompts left out."""
    # By prompt: pairs of one prompt in both parts would make every ridge look too good.
    folds = prompt_index % 5
    losses: list[float] = []
    for ridge in _RIDGES:
        total = 0.0
        for fold in np.unique(folds):
            out = folds == fold
            if out.all():  # a single fold leaves nothing to fit on: take the most cautious ridge
                return _RIDGES[-1]
            weight, _ = problem.take(~out).solve(ridge)
            margin = (problem.higher[out] - problem.lower[out]) @ weight
            total += float(np.logaddexp(0.0, -margin).sum())
        losses.append(total)
    return _RIDGES[int(np.argmin(losses))]


def _figures(judge: LinearJudge, held_out: ResponsePairs) -> dict[str, float]:
    higher = judge.score(held_out.prompts, held_out.higher)[:, 0]
    lower = judge.score(held_out.prompts, held_out.lower)[:, 0]
    # A tie is right half of the time, so that a constant judge has accuracy 1/2 and not 0.
    right = np.where(higher == lower, 0.5, higher > lower)
    index = held_out.prompt_index()
    count = np.bincount(index)
    residual = np.bincount(index, weights=right - right.mean())
    figures = {
        "accuracy": float(right.mean()),
        # Summed by prompt: pairs of one prompt are not independent. One prompt says nothing.
        "accuracy_error": float(np.sqrt((residual**2).sum())) / len(right)
        if len(count) > 1
        else float("inf"),
        "num_pairs": float(len(right)),
    }
    signs = np.concatenate(
        [_signs(held_out.higher_sign, len(right)), _signs(held_out.lower_sign, len(right))]
    )
    if signs.any():
        scores = np.concatenate([higher, lower])[signs != 0]
        figures["sign_accuracy"] = float((np.sign(scores) == signs[signs != 0]).mean())
    return figures


def _both_features(
    encoder: Encoder, pairs: ResponsePairs, on_progress: Callable[[int, int], None] | None
) -> tuple[np.ndarray, np.ndarray]:
    prompts = encoder.encode(_texts(pairs.prompts))
    answers = encoder.encode([*pairs.higher, *pairs.lower], on_progress)
    features = np.concatenate([answers, answers * np.tile(prompts, (2, 1))], axis=1)
    return features[: len(pairs)], features[len(pairs) :]


def _signs(signs: Sequence[int] | None, size: int) -> np.ndarray:
    return np.zeros(size, dtype=np.int64) if signs is None else np.asarray(signs, dtype=np.int64)


def _texts(prompts: Sequence[Prompt]) -> list[str]:
    return [
        prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
        for prompt in prompts
    ]
