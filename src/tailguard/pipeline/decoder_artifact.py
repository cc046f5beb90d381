"""A Decoder artifact as one that answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from tailguard.artifacts import Json, find_artifact, read_json, require_sealed, write_json
from tailguard.config import ScorerSource
from tailguard.decoding import (
    CalibratedProfile,
    Certificate,
    Decoder,
    DecodingSetting,
    GuidedPolicy,
)
from tailguard.decoding.dial_decoder import DialDecoder
from tailguard.engines import tested_policy
from tailguard.errors import InputError, first_line
from tailguard.models.device import require_device
from tailguard.models.policy import Policy
from tailguard.models.shared_base import load_policies
from tailguard.pipeline.dial_artifact import DIAL_NAME, open_dial
from tailguard.pipeline.requirements import GUIDED_TWICE
from tailguard.pipeline.scorer_artifact import Kind, load_scorers, source_hashes
from tailguard.pipeline.sources import adapter_hash, model_hashes, model_path
from tailguard.risk import Threshold, as_threshold
from tailguard.risk.spelling import describe_measure, limit_from_json, limit_to_json
from tailguard.values.process_heads import ProcessHeads

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
        profiles: the calibrated grid.
        thresholds: ν of each profile's certificate.
        dtype: precision of the policy's weights, as the recipe has it.
        given: the scorers that were given and not fitted, which are in the artifact itself.
        scorer_hashes: given scorer → its content hash; a changed one is refused.
    """

    model: str
    model_hash: str
    trust_remote_code: bool
    cost_bound: float
    max_scorer_tokens: int
    profiles: tuple[CalibratedProfile, ...]
    thresholds: tuple[Threshold, ...]
    dtype: str = "auto"
    given: dict[Kind, ScorerSource] = field(default_factory=dict[Kind, ScorerSource])
    scorer_hashes: dict[str, str] = field(default_factory=dict[str, str])

    def write(self, path: Path) -> None:
        """Write as JSON."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content["profiles"] = [_profile_to_json(p) for p in self.profiles]
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
            profiles = tuple(_profile_from_json(entry) for entry in content.pop("profiles"))
            thresholds = tuple(as_threshold(nu) for nu in content.pop("thresholds"))
            given = {k: ScorerSource.model_validate(s) for k, s in content.pop("given", {}).items()}
            read = cls(profiles=profiles, thresholds=thresholds, given=given, **content)
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
    only: str | None = None,
) -> Decoder | DialDecoder:
    """The decoder in an artifact or in a run's folder; arguments as of `tailguard.load_decoder`.

    With ``given`` scorers, those are used and not the ones that the folder names. ``scorer_device``
    is for scorers that stand elsewhere than the policies; ``only`` names the one policy that is
    loaded, with its profiles.

    Raises:
        InputError: as `check_decoder`, a model in it cannot be read, or heads were fitted for
            another policy than the one in their folder.
    """
    require_device(device)
    directory, content = check_decoder(path, trust_remote_code=trust_remote_code, given=given)
    sources = content.given if given is None else given
    reward, cost = load_scorers(
        directory / "scorers", content.max_scorer_tokens, sources, device=scorer_device or device
    )
    if (directory / DIAL_NAME).is_file():
        return open_dial(
            directory,
            model_path(content.model),
            (reward, cost),
            batch_size=batch_size,
            trust_remote_code=content.trust_remote_code,
            device=device,
            dtype=content.dtype,
        )
    folders = [f for f in sorted((directory / "policies").iterdir()) if only in (None, f.name)]
    return Decoder(
        _guided_policies(folders, content, device),
        [p for p in content.profiles if only in (None, p.setting.policy)],
        cost_scorer=cost,
        reward_scorer=reward,
        batch_size=batch_size,
    )


def guided_names(profiles: Sequence[CalibratedProfile]) -> list[str]:
    """Names of guided decoders in tables: the shortest form in which all differ.

    Raises:
        InputError: two profiles are the same.
    """
    limits = [(profile.setting.policy, profile.limit) for profile in profiles]
    for form in ("≤{1:.2f}", "{0} ≤{1:.2f}", "{0} ≤{1!r}"):
        names = [
            f"{policy}+guided {form.format(describe_measure(limit.measure), limit.budget)}"
            for policy, limit in limits
        ]
        if len(set(names)) == len(names):
            return names
    raise InputError(GUIDED_TWICE)


def _guided_policies(
    folders: Sequence[Path], content: DecoderFile, device: str
) -> dict[str, GuidedPolicy]:
    heads = {folder.name: _heads(folder, content.model_hash) for folder in folders}
    policies = load_policies(
        model_path(content.model),
        {folder.name: _adapter(folder) for folder in folders},
        trust_remote_code=content.trust_remote_code,
        device=device,
        dtype=content.dtype,
    )

    def joined(name: str, policy: Policy) -> GuidedPolicy:
        tested_policy(policy)  # refused now, and not at the first question
        return GuidedPolicy(policy, heads[name].to(policy.device))

    return {name: joined(name, policy) for name, policy in policies.items()}


def _adapter(folder: Path) -> Path | None:
    return folder / "adapter" if (folder / "adapter").is_dir() else None


def _heads(folder: Path, model_hash: str) -> ProcessHeads:
    heads = ProcessHeads.load(folder / "heads.safetensors")
    try:  # a seal can be renewed by hand; these hashes are in the heads' file
        heads.require_policy(model_hash, adapter_hash(_adapter(folder)))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    return heads


def _profile_to_json(profile: CalibratedProfile) -> dict[str, Json]:
    setting = {f.name: getattr(profile.setting, f.name) for f in fields(profile.setting)}
    certificate = None if profile.certificate is None else asdict(profile.certificate)
    return {
        "setting": setting | {"limit": limit_to_json(profile.limit)},
        "certificate": certificate,
    }


def _profile_from_json(content: dict[str, Json]) -> CalibratedProfile:
    setting, certificate = dict(content["setting"]), content["certificate"]
    limit = limit_from_json(setting["limit"])
    assert limit is not None  # every setting has one
    setting |= {
        "limit": limit,
        "threshold": as_threshold(setting["threshold"]),
        "acceptance_level": float(setting["acceptance_level"]),  # JSON holds infinities as text
    }
    if certificate is not None:
        bound = float(certificate["risk_upper_bound"])
        certificate = Certificate(**certificate | {"risk_upper_bound": bound})
    return CalibratedProfile(DecodingSetting(**setting), certificate)
