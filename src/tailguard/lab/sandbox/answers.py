"""Answers: what the sandbox assistant may say, as structure and as text.

An answer is `[TONE] BODY [CLOSING]` where the body refuses, redirects, or helps:
`to VERB OBJECT STEP (JOINT STEP)*` with one to six steps `ACTION THING`. It has 5 to 25 words.
Whether help is welcome, careful or harmful is decided by `truth`, which also reads the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tailguard.lab.sandbox.vocabulary import (
    ALTERNATIVES,
    BOLD_ACTIONS,
    CARE_CLOSINGS,
    DOMAINS,
    JOINTS,
    PLAIN_ACTIONS,
    PLAIN_CLOSINGS,
    POLITE_TONES,
    REDIRECTIONS,
    REFUSALS,
    RUDE_TONES,
)

MAX_STEPS = len(JOINTS) + 1
_TONES = (*POLITE_TONES, *RUDE_TONES)
_CLOSINGS = (*CARE_CLOSINGS, *PLAIN_CLOSINGS)
_ACTIONS = frozenset((*PLAIN_ACTIONS, *BOLD_ACTIONS))
_THINGS = frozenset(thing for domain in DOMAINS.values() for thing in domain.things)
_VERBS = frozenset(verb for domain in DOMAINS.values() for verb in domain.verbs)
_OBJECTS = frozenset(object_ for domain in DOMAINS.values() for object_ in domain.objects)


@dataclass(frozen=True)
class Step:
    """One step of help: `ACTION THING`."""

    action: str
    thing: str

    @property
    def is_bold(self) -> bool:
        """Whether the action is one of `BOLD_ACTIONS`."""
        return self.action in BOLD_ACTIONS


@dataclass(frozen=True)
class Answer:
    """One answer: a refusal, a redirection, or help, never two of them.

    Attributes:
        body: the whole refusal or redirection; empty if the answer helps.
        verb: the deed helped with; empty if the answer does not help.
        object: its object, likewise.
        steps: one to `MAX_STEPS` steps of help, likewise.
        tone: polite or rude words before the body, or empty.
        closing: caring or plain words after it, or empty.
    """

    body: str = ""
    verb: str = ""
    object: str = ""
    steps: tuple[Step, ...] = ()
    tone: str = ""
    closing: str = ""

    @property
    def move(self) -> str:
        """`refuse`, `redirect` or `help`."""
        if self.steps:
            return "help"
        return "refuse" if self.body in REFUSALS else "redirect"

    @property
    def is_rude(self) -> bool:
        """Whether it begins by insulting the user."""
        return self.tone in RUDE_TONES

    @property
    def is_careful(self) -> bool:
        """Whether it ends with a word of care."""
        return self.closing in CARE_CLOSINGS

    @property
    def text(self) -> str:
        """The answer as the assistant writes it."""
        body = self.body
        if self.steps:
            joined = zip(("", *JOINTS), self.steps, strict=False)
            steps = " ".join(f"{joint} {step.action} {step.thing}" for joint, step in joined)
            body = f"to {self.verb} {self.object} {steps.strip()}"
        return " ".join(part for part in (self.tone, body, self.closing) if part)


# Refusals and redirections are whole sentences: one look-up tells them from help.
@cache
def _fixed_bodies() -> frozenset[str]:
    redirections = {f"{start} {end}" for start in REDIRECTIONS for end in ALTERNATIVES}
    return frozenset((*REFUSALS, *redirections))


def _parse_steps(words: list[str]) -> tuple[Step, ...] | None:
    """`ACTION THING (JOINT ACTION THING)*`, at most `MAX_STEPS`, else None."""
    # ACTION THING, then JOINT ACTION THING: 2, 5, 8 … words.
    if len(words) % 3 != 2 or len(words) > 3 * MAX_STEPS - 1:
        return None
    actions, things, joints = words[0::3], words[1::3], words[2::3]
    known = _ACTIONS.issuperset(actions) and _THINGS.issuperset(things)
    if not known or tuple(joints) != JOINTS[: len(joints)]:
        return None
    return tuple(Step(a, t) for a, t in zip(actions, things, strict=True))


def parse_answer(text: str) -> Answer | None:
    """The answer that `text` spells, or None if it is not in the grammar. Never raises."""
    # Samplers differ in white space; what counts is the sequence of words.
    words = " ".join(text.split())
    tone = next((t for t in _TONES if words.startswith(t + " ")), "")
    closing = next((c for c in _CLOSINGS if words.endswith(" " + c)), "")
    end = len(words) - len(closing)
    body = words[len(tone) : end].strip()
    if body in _fixed_bodies():
        return Answer(body=body, tone=tone, closing=closing)
    parts = body.split(" ")
    if parts[0] != "to" or len(parts) < 5 or parts[1] not in _VERBS or parts[2] not in _OBJECTS:
        return None
    steps = _parse_steps(parts[3:])
    if steps is None:
        return None
    return Answer("", parts[1], parts[2], steps, tone, closing)
