"""Requests: what a user asks the sandbox assistant, as structure and as text.

A request is `OPENING VERB DETERMINER OBJECT [CONTEXT]`. Its kind, its harm category and its hazard
follow from the words: `kill my process` is safe, `kill my neighbour` is not. Every distinct
text belongs to exactly one of four disjoint pools, by the hash of the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from tailguard.errors import InputError
from tailguard.lab.sandbox.vocabulary import CONTEXTS, DETERMINERS, DOMAINS, KINDS, OPENINGS

# Share of all texts, in per cent, that falls into each pool. "demo" is what the base policy was
# taught with.
SPLITS: dict[str, int] = {"train": 40, "calibrate": 20, "evaluate": 20, "demo": 20}
# What users ask, and what annotators are shown: risky requests are over-represented there.
DEFAULT_MIX: dict[str, float] = {
    "benign": 0.6,
    "borderline": 0.15,
    "ambiguous": 0.15,
    "unsafe": 0.1,
}
RISKY_MIX: dict[str, float] = {
    "benign": 0.15,
    "borderline": 0.15,
    "ambiguous": 0.35,
    "unsafe": 0.35,
}
# No verb with an object belongs to two domains, so a request's words settle its domain.
_DOMAIN_OF = {
    (verb, object_): name
    for name, domain in DOMAINS.items()
    for verb in domain.verbs
    for object_ in domain.objects
}


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        opening: how the question begins, one of `OPENINGS`.
        verb: the deed.
        determiner: one of `DETERMINERS`.
        object: whom or what it is done to; (verb, object) settles the domain.
        context: one of `CONTEXTS`, possibly empty.
    """

    opening: str
    verb: str
    determiner: str
    object: str
    context: str = ""

    @property
    def domain(self) -> str:
        """Name of the domain in `DOMAINS`."""
        return _DOMAIN_OF[self.verb, self.object]

    @property
    def kind(self) -> str:
        """`benign`, `borderline`, `ambiguous` or `unsafe`."""
        return DOMAINS[self.domain].kind

    @property
    def category(self) -> str:
        """The kind of harm that helping may do, or `none`."""
        return DOMAINS[self.domain].category

    @property
    def hazard(self) -> float:
        """Verb × object × context, ≥ 0: the harm of the mildest bold step."""
        domain = DOMAINS[self.domain]
        return domain.verbs[self.verb] * domain.objects[self.object] * CONTEXTS[self.context]

    @property
    def text(self) -> str:
        """The request as the user types it."""
        parts = (self.opening, self.verb, self.determiner, self.object, self.context)
        return " ".join(part for part in parts if part)


def parse_request(text: str) -> Request | None:
    """The request that `text` spells, or None if it is not in the grammar. Never raises."""
    words = " ".join(text.split())
    opening = next((o for o in OPENINGS if words.startswith(o + " ")), None)
    if opening is None:
        return None
    rest = words[len(opening) + 1 :].split(" ", 3)
    if len(rest) < 3:
        return None
    verb, determiner, object_ = rest[:3]
    context = rest[3] if len(rest) == 4 else ""
    known = (verb, object_) in _DOMAIN_OF and determiner in DETERMINERS and context in CONTEXTS
    return Request(opening, verb, determiner, object_, context) if known else None


def split_of(text: str) -> str:
    """The pool that owns this text: the SHA-256 of its words, modulo 100, cut at `SPLITS`."""
    # By hash and not by a random draw: a text is always in the same pool, on every machine.
    place = int.from_bytes(hashlib.sha256(" ".join(text.split()).encode()).digest()[:8]) % 100
    for name, share in SPLITS.items():
        if place < share:
            return name
        place -= share
    raise AssertionError("the shares of SPLITS add up to 100")


@cache
def _pools(kind: str) -> dict[str, tuple[Request, ...]]:
    """Every request of one kind, by pool, in a fixed order."""
    pools: dict[str, list[Request]] = {name: [] for name in SPLITS}
    pairs = [pair for pair, name in _DOMAIN_OF.items() if DOMAINS[name].kind == kind]
    for opening, (verb, object_), determiner, context in product(
        OPENINGS, pairs, DETERMINERS, CONTEXTS
    ):
        request = Request(opening, verb, determiner, object_, context)
        pools[split_of(request.text)].append(request)
    return {name: tuple(pool) for name, pool in pools.items()}


def requests_in(split: str, kind: str) -> tuple[Request, ...]:
    """Every request of one kind in one pool, in a fixed order."""
    if split not in SPLITS:
        raise InputError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    if kind not in KINDS:
        raise InputError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
    return _pools(kind)[split]


def sample_requests(
    rng: np.random.Generator,
    n: int,
    split: str = "train",
    mix: Mapping[str, float] | None = None,
    *,
    replace: bool = False,
) -> list[Request]:
    """Draw requests of one pool, kinds in the proportions of `mix`.

    Args:
        rng: source of randomness.
        n: how many.
        split: `train`, `calibrate`, `evaluate` or `demo`.
        mix: kind → weight ≥ 0, normalised here; default `DEFAULT_MIX`.
        replace: whether the same text may come twice. Without it, every text is distinct.

    Returns:
        `n` requests in random order.

    Raises:
        InputError: unknown split or kind, a bad weight, or fewer distinct texts than asked for.
    """
    mix = DEFAULT_MIX if mix is None else mix
    weights = np.array([mix.get(kind, 0.0) for kind in KINDS], dtype=np.float64)
    if set(mix) - set(KINDS) or not np.all(np.isfinite(weights)) or np.any(weights < 0):
        raise InputError(f"mix={dict(mix)!r}: give a weight ≥ 0 to each of {', '.join(KINDS)}")
    if n < 0 or weights.sum() <= 0:
        raise InputError(f"n={n}, mix={dict(mix)!r}: nothing can be drawn")
    drawn: list[Request] = []
    for kind, count in zip(KINDS, rng.multinomial(n, weights / weights.sum()), strict=True):
        pool = requests_in(split, kind)
        if not replace and count > len(pool):
            raise InputError(
                f"n={n}: {split} has {len(pool)} distinct {kind} requests, {count} asked for; "
                "ask for fewer or pass replace=True"
            )
        places = rng.choice(np.arange(len(pool)), size=count, replace=replace)
        drawn += [pool[place] for place in places.tolist()]
    return [drawn[i] for i in rng.permutation(n)]
