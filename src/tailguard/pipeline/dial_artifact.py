"""The dial in a Decoder artifact: entries, their figures, certificates, and the members' adapters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from tailguard.artifacts import Json, read_json, write_json
from tailguard.decoding.decoder import Decoder, DrawSetting, profile_of
from tailguard.decoding.dial import Dial, DialCertificate, DialEntry, describe_raters_limit
from tailguard.decoding.drawing import Scorers
from tailguard.decoding.outlook import Outlook
from tailguard.decoding.rule import DrawPrior, Rule
from tailguard.decoding.spline_ridge import SplineRidge
from tailguard.decoding.worth import AnswerWorth
from tailguard.engines.soup import SoupPolicy
from tailguard.errors import InputError, first_line
from tailguard.models.tensor_file import read_tensors, write_tensors
from tailguard.pipeline.process_heads import HEADS_NAME, hash_of, read_heads
from tailguard.portfolio.dial import DialTable
from tailguard.portfolio.rater_tails import RatersLimit
from tailguard.risk import RiskLimit
from tailguard.risk.spelling import limit_from_json, limit_to_json
from tailguard.values import ProcessHeads

DIAL_NAME = "dial.json"
TABLE_NAME = "dial.safetensors"
MEMBERS_NAME = "members"
_WORTH = "worth."  # begins the names of the regression's arrays


@dataclass(frozen=True)
class DialFile:
    """What ``dial.json`` and ``dial.safetensors`` hold.

    Attributes:
        dial: entries, figures and certificates.
        members: names of the policies, in the order of an entry's weights.
        setting: how draws are sampled.
        pessimism: κ of u(y).
        largest_shift: beyond which an answer is not served.
        profiles: limits that are shown, and whose.
    """

    dial: Dial
    members: tuple[str, ...]
    setting: DrawSetting
    pessimism: float
    profiles: tuple[RatersLimit, ...]
    largest_shift: float = math.inf

    def write(self, directory: Path) -> None:
        """Write both files."""
        dial = self.dial
        arrays = {k: torch.as_tensor(v) for k, v in dial.table.to_arrays().items()}
        judged = dial.worth.judged
        if judged is not None:
            arrays |= {_WORTH + k: torch.as_tensor(v) for k, v in judged.to_arrays().items()}
        write_tensors(directory / TABLE_NAME, arrays)
        write_json(
            directory / DIAL_NAME,
            {
                "members": list(self.members),
                "setting": asdict(self.setting),
                "pessimism": self.pessimism,
                # JSON has no infinity.
                "largest_shift": self.largest_shift if math.isfinite(self.largest_shift) else None,
                "profiles": [_asked_to_json(asked) for asked in self.profiles],
                "floors": [_asked_to_json(asked) for asked in dial.floors],
                "raters": list(dial.raters),
                "scored_raters": list(dial.scored_raters),
                "raters_measured_by": dial.raters_measured_by,
                "entries": [asdict(entry) for entry in dial.entries],
                "default": limit_to_json(dial.default),
                "token_price": dial.token_price,
                "margin": dial.margin,
                "largest_kl": dial.largest_kl,
                "measured_by": dial.measured_by,
                "excess_threshold": dial.worth.threshold,
                "outlook": None if dial.outlook is None else dial.outlook.to_json(),
                "certificates": [
                    asdict(found) | {"limit": limit_to_json(found.limit)}
                    for found in dial.certificates
                ],
            },
        )

    @classmethod
    def read(cls, directory: Path, heads: ProcessHeads | None = None) -> DialFile:
        """Read what `write` wrote; without its heads, nothing is foreseen of answers under way.

        Raises:
            InputError: it is something else.
        """
        content: dict[str, Json] = read_json(directory / DIAL_NAME)
        tensors, _ = read_tensors(directory / TABLE_NAME)
        arrays = {k: v.numpy() for k, v in tensors.items()}
        judged = {k.removeprefix(_WORTH): v for k, v in arrays.items() if k.startswith(_WORTH)}
        table = {k: v for k, v in arrays.items() if not k.startswith(_WORTH)}
        try:
            threshold = float(content["excess_threshold"])
            lines = content["outlook"]
            outlook: Outlook | None = None
            if heads is not None and lines is not None:
                outlook = Outlook.from_json(heads, threshold, lines)
            dial = Dial(
                entries=tuple(_entry(entry) for entry in content["entries"]),
                table=DialTable.from_arrays(table, content["raters"]),
                default=_limit(content["default"]),
                token_price=float(content["token_price"]),
                certificates=tuple(_certificate(found) for found in content["certificates"]),
                margin=float(content["margin"]),
                largest_kl=float(content["largest_kl"]),
                measured_by=str(content["measured_by"]),
                worth=AnswerWorth(threshold, SplineRidge(**judged) if judged else None),
                outlook=outlook,
                floors=tuple(map(_asked, content["floors"])),
                scored_raters=tuple(content["scored_raters"]),
                raters_measured_by=str(content["raters_measured_by"]),
            )
            return cls(
                dial,
                tuple(content["members"]),
                DrawSetting(**content["setting"]),
                float(content["pessimism"]),
                tuple(map(_asked, content["profiles"])),
                math.inf if content["largest_shift"] is None else float(content["largest_shift"]),
            )
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{directory / DIAL_NAME}: not a dial of this version ({first_line(error)})"
            ) from None


def open_dial(
    directory: Path,
    model: str,
    scorers: tuple[object, object],
    *,
    model_hash: str,
    batch_size: int,
    trust_remote_code: bool,
    device: str,
    dtype: str,
) -> Decoder:
    """The decoder in a folder with a dial.

    Args:
        directory: of the artifact.
        model: path of the base.
        scorers: reward and cost.
        model_hash: of the base.
        batch_size: rows in one forward pass.
        trust_remote_code: let the model's own code run.
        device: where to put the model.
        dtype: precision of its weights.

    Raises:
        InputError: a file is not what it should be, or a model cannot be read.
    """
    made_on = hash_of(model_hash, _members(directory))
    file = DialFile.read(directory, read_heads(directory / HEADS_NAME, made_on))
    folders = {name: directory / MEMBERS_NAME / name for name in file.members}
    soup = SoupPolicy.load(
        model, folders, trust_remote_code=trust_remote_code, device=device, dtype=dtype
    )
    reward, cost = scorers
    return Decoder(
        soup,
        file.dial,
        Scorers(reward, cost, file.pessimism, file.largest_shift),  # pyright: ignore[reportArgumentType]
        file.setting,
        profiles=file.profiles,
        batch_size=batch_size,
    )


def _members(directory: Path) -> dict[str, Path]:
    """The members' folders by name, as ``dial.json`` has them."""
    names: list[str] = read_json(directory / DIAL_NAME)["members"]
    return {name: directory / MEMBERS_NAME / name for name in names}


def described_profiles(file: DialFile) -> list[dict[str, Json]]:
    """The default and the shown limits, with what each gets, as JSON."""
    dial = file.dial
    rows: list[dict[str, Json]] = []
    shown = [RatersLimit(dial.default), *file.profiles]
    for asked in [each for k, each in enumerate(shown) if each not in shown[:k]]:
        profile = profile_of(dial, asked.limit, file.setting, asked.raters)
        weights = dict(zip(file.members, profile.answer.entry.point, strict=True))
        row = profile.to_dict() | {"asked": describe_raters_limit(asked), "weights": weights}
        rows.append(row | {"measured_by": dial.measures(asked.raters)})
    return rows


def described_frontier(file: DialFile, num: int = 12) -> list[dict[str, Json]]:
    """What is served at limits from the strictest to the loosest, at each price of a token, as JSON.

    Limits are on the default's measure; prices are those that were tried.
    """
    dial, table = file.dial, file.dial.table
    risk, error = table.risks(dial.default.measure)
    high = (risk + dial.margin * error)[table.kl <= dial.largest_kl]
    loosest = float((risk + dial.margin * error)[table.reward.argmax()])
    rows: list[dict[str, Json]] = []
    for price in sorted({entry.rule.token_price for entry in dial.entries}):
        for budget in np.linspace(float(high.min()), max(loosest, float(high.min())), num):
            limit = RiskLimit(dial.default.measure, float(budget) + 1e-9)
            found = table.look_up(
                limit,
                token_price=price,
                margin=dial.margin,
                largest_kl=dial.largest_kl,
                floors=dial.floors,
            )
            rows.append(
                {
                    "budget": float(budget),
                    "token_price": price,
                    "risk": found.risk,
                    "reward": float(table.reward[found.entry]),
                    "tokens": float(table.tokens[found.entry]),
                    "withheld": dial.entries[found.entry].withheld,
                }
            )
    return rows


def dial_names(profiles: Sequence[RatersLimit]) -> list[str]:
    """Names of the dial's shown limits in tables: the shortest form in which all differ."""
    for digits in range(2, 12):
        names = [f"dial{_whose(p)} ≤{p.limit.budget:.{digits}f}" for p in profiles]
        if len(set(names)) == len(names):
            return names
    return [f"dial {number + 1}" for number in range(len(profiles))]


def _whose(asked: RatersLimit) -> str:
    return "" if asked.raters is None else f" {asked.raters}"


def _entry(content: dict[str, Json]) -> DialEntry:
    rule = dict(content["rule"])
    prior = DrawPrior(**{name: float(value) for name, value in rule.pop("prior").items()})
    made = Rule(
        level=float(rule["level"]),
        token_price=float(rule["token_price"]),
        max_draws=int(rule["max_draws"]),
        prior=prior,
    )
    point = tuple(map(float, content["point"]))
    withheld, penalty = float(content["withheld"]), float(content["penalty"])
    return DialEntry(point, made, withheld, penalty, str(content["admission"]))


def _certificate(content: dict[str, Json]) -> DialCertificate:
    def bounds(name: str) -> dict[str, float]:
        return {rater: float(bound) for rater, bound in content[name].items()}

    return DialCertificate(
        int(content["entry"]),
        _limit(content["limit"]),
        scorer_bound=float(content["scorer_bound"]),
        judge_bound=float(content["judge_bound"]),
        confidence=float(content["confidence"]),
        num_prompts=int(content["num_prompts"]),
        raters=content["raters"],
        scorer_rater_bounds=bounds("scorer_rater_bounds"),
        judge_rater_bounds=bounds("judge_rater_bounds"),
    )


def _asked_to_json(asked: RatersLimit) -> dict[str, Json]:
    return {"limit": limit_to_json(asked.limit), "raters": asked.raters}


def _asked(content: Json) -> RatersLimit:
    return RatersLimit(_limit(content["limit"]), content["raters"])


def _limit(content: Json) -> RiskLimit:
    limit = limit_from_json(content)
    assert limit is not None  # every dial has limits
    return limit
