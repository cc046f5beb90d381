"""A Decoder artifact as one that answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from tailguard.artifacts import Json, find_artifact, read_json, require_sealed, write_json
from tailguard.config import ScorerSource
from tailguard.decoding import Decoder
from tailguard.errors import InputError, first_line
from tailguard.models.device import require_device
from tailguard.pipeline.dial_artifact import open_dial
from tailguard.pipeline.scorer_artifact import Kind, load_scorers, source_hashes
from tailguard.pipeline.sources import model_hashes, model_path

DECODER_NAME = "decoder.json"


@dataclass(frozen=True)
class DecoderFile:
    """What ``decoder.json`` holds.

    Attributes:
        model: the reference policy.
        model_hash: its content hash; another model of the same name is refused.
        trust_remote_code: whether code that comes with it may run.
        cost_bound: declared largest cost, for certificates.
        max_scorer_tokens: longest text that is scored.
        dtype: precision of the policy's weights, as the recipe has it.
        given: the scorers that were given and not fitted, which are in the artifact itself.
        scorer_hashes: given scorer → its content hash; a changed one is refused.
    """

    model: str
    model_hash: str
    trust_remote_code: bool
    cost_bound: float
    max_scorer_tokens: int
    dtype: str = "auto"
    given: dict[Kind, ScorerSource] = field(default_factory=dict[Kind, ScorerSource])
    scorer_hashes: dict[str, str] = field(default_factory=dict[str, str])

    def write(self, path: Path) -> None:
        """Write as JSON."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content["given"] = {k: s.model_dump(exclude_unset=True) for k, s in self.given.items()}
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> DecoderFile:
        """Read what `write` wrote.

        Raises:
            InputError: it is something else.
        """
        content: dict[str, Json] = read_json(path)
        try:
            given = {k: ScorerSource.model_validate(s) for k, s in content.pop("given", {}).items()}
            read = cls(given=given, **content)
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: not a decoder of this version ({first_line(error)})"
            ) from None
        if not 0.0 < read.cost_bound < math.inf:
            raise InputError(f"{path}: cost_bound {read.cost_bound}; no bound was declared")
        return read


def check_decoder(
    path: Path,
    *,
    trust_remote_code: bool = False,
    given: Mapping[Kind, ScorerSource] | None = None,
) -> tuple[Path, DecoderFile]:
    """The folder of a decoder and its file's content, checked without loading a model.

    Args:
        path: of the decoder, or of the folder of its run.
        trust_remote_code: let the code run that its model brings, and its functions and endpoints
            score. A folder comes from anywhere, so what its own file says is only a question.
        dtype: precision of the policy's weights, as the recipe has it.
        given: the scorers that were given when it was made, if the caller knows them.

    Raises:
        InputError: not a decoder, its files were changed, it would run code or send texts away
            and is not trusted, or the reference model or a given scorer that it was made on is missing or was
            changed.
    """
    directory = find_artifact(Path(path), "Decoder")
    require_sealed(directory)
    content = DecoderFile.read(directory / DECODER_NAME)
    if content.trust_remote_code and not trust_remote_code:
        raise InputError(
            f"{directory}: its model {content.model} brings code of its own, which would run here; if"
            " you trust its author, give --trust-remote-code (in Python, trust_remote_code=True)"
        )
    for kind, source in ({} if trust_remote_code or given is not None else content.given).items():
        if source.kind != "model":
            what = f"runs {source.python}" if source.python else f"asks {source.endpoint}"
            raise InputError(
                f"{directory}: its {kind} scorer {what}; if you trust its author, give"
                " --trust-remote-code (in Python, trust_remote_code=True)"
            )
    made_on = {content.model: content.model_hash} | content.scorer_hashes
    for model, found in (model_hashes([content.model]) | source_hashes(content.given)).items():
        if found != made_on.get(model):
            raise InputError(
                f"{directory}: was made on another version of the model {model};"
                " put that version back or run the recipe again"
            )
    return directory, content


def load_decoder(
    path: Path,
    *,
    batch_size: int = 64,
    trust_remote_code: bool = False,
    given: Mapping[Kind, ScorerSource] | None = None,
    device: str = "auto",
    scorer_device: str | None = None,
) -> Decoder:
    """The decoder in an artifact or in a run's folder; arguments as of `tailguard.load_decoder`.

    With ``given`` scorers, those are used and not the ones that the folder names. ``scorer_device``
    is for scorers that stand elsewhere than the policies.

    Raises:
        InputError: as `check_decoder`, or a model in it cannot be read.
    """
    require_device(device)
    directory, content = check_decoder(path, trust_remote_code=trust_remote_code, given=given)
    sources = content.given if given is None else given
    reward, cost = load_scorers(
        directory / "scorers", content.max_scorer_tokens, sources, device=scorer_device or device
    )
    return open_dial(
        directory,
        model_path(content.model),
        (reward, cost),
        model_hash=content.model_hash,
        batch_size=batch_size,
        trust_remote_code=content.trust_remote_code,
        device=device,
        dtype=content.dtype,
    )
