"""PKU-SafeRLHF's own columns: two numbered answers, and which of them is better and which is safer."""

from __future__ import annotations

from typing import cast

from tailguard.data.rows import Row
from tailguard.errors import InputError

_WINNERS = {"reward": "better_response_id", "cost": "safer_response_id"}


def has_numbered_answers(row: Row) -> bool:
    """Whether the row has these columns."""
    return "response_0" in row and "response_1" in row and "chosen" not in row


def by_numbered_answers(where: str, row: Row, kind: str) -> Row:
    """The row with ``chosen``, ``rejected`` and their safety in the place of numbers.

    Where no verdict of safety is given, a severity of 0 is safe and any other is not.

    Raises:
        InputError: it does not say which answer is better, or safer, with file and line.
    """
    name = _WINNERS[kind]
    winner = row.get(name)
    if isinstance(winner, bool) or winner not in (0, 1):
        raise InputError(f"{where}: give '{name}' as 0 or 1; it is {winner!a}")
    better, worse = (0, 1) if winner == 0 else (1, 0)
    harms = row.get(f"response_{worse}_harm_category")
    return {
        "prompt": row.get("prompt"),
        "chosen": row["response_0" if better == 0 else "response_1"],
        "rejected": row["response_0" if worse == 0 else "response_1"],
        "chosen_safe": _is_safe(where, row, better),
        "rejected_safe": _is_safe(where, row, worse),
        "annotator": row.get("annotator"),
        "category": row.get("category") or _harms(harms),
    }


def _is_safe(where: str, row: Row, number: int) -> bool | None:
    name = f"is_response_{number}_safe"
    safe = row.get(name)
    severity = row.get(f"response_{number}_severity_level")
    if safe is None and isinstance(severity, int) and not isinstance(severity, bool):
        return severity == 0
    if safe is None or isinstance(safe, bool):
        return safe
    raise InputError(f"{where}: give '{name}' as true or false; it is {safe!a}")


def _harms(flags: object) -> str | None:
    """Names of the harms that are flagged."""
    if not isinstance(flags, dict):
        return None
    names = (str(name) for name, flag in cast(Row, flags).items() if flag is True)
    return ", ".join(sorted(names)) or None
