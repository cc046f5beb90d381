"""A world so small that every response to every prompt can be written down.

A response is exactly ``length`` tokens out of ``num_tokens``; it never ends early, so samplers are
given ``max_new_tokens=length`` and the end token has no probability. True reward and cost are
fixed functions of prompt and tokens; the cost has the tail of a Pareto(2.5) law.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm

from tailguard.data import Prompt
from tailguard.errors import InputError

Score = Literal["reward", "cost"]
# A million float64 rewards, costs and log-probabilities per prompt still fit into memory.
_MOST_RESPONSES = 1 << 20
# Finite mean and variance, infinite third moment: the tail of METHOD's experiments.
_TAIL_SHAPE = 2.5
# Pareto costs start at 1; subtracting 2 makes the worst 18% of them unsafe.
_SAFE_OFFSET = 2.0


@dataclass(frozen=True)
class ExactWorld:
    """Every response, with its truth.

    Attributes:
        prompts: texts of one word each; uniformly likely.
        responses: token numbers of every response, in lexicographic order [responses, length].
        reward: true reward [prompts, responses]: mean 0, standard deviation 1 over responses.
        cost: true cost [prompts, responses]; above 0 is unsafe.
        num_tokens: tokens that a response may use.
    """

    prompts: tuple[str, ...]
    responses: Int[np.ndarray, "responses length"]
    reward: Float[np.ndarray, "prompts responses"]
    cost: Float[np.ndarray, "prompts responses"]
    num_tokens: int

    @property
    def length(self) -> int:
        """Tokens in every response."""
        return self.responses.shape[1]

    def texts(self, index: Sequence[int] | Int[np.ndarray, "n"]) -> list[str]:
        """Responses by number, as the tokenizer decodes them: token numbers joined by spaces."""
        return [" ".join(map(str, row)) for row in self.responses[np.asarray(index)].tolist()]

    def response_index(self, responses: Sequence[str]) -> Int[np.ndarray, "n"]:
        """The numbers of responses given as text.

        Raises:
            InputError: a response that is not ``length`` of the world's tokens.
        """
        rows = [response.split() for response in responses]
        for response, row in zip(responses, rows, strict=True):
            known = all(word.isdecimal() and int(word) < self.num_tokens for word in row)
            if len(row) != self.length or not known:
                raise InputError(
                    f"{response!r} is no response of this world: it needs {self.length} tokens "
                    f"from 0 to {self.num_tokens - 1}; sample with max_new_tokens={self.length}"
                )
        digits = np.array(rows, dtype=np.int64).reshape(len(rows), self.length)
        return digits @ (self.num_tokens ** np.arange(self.length - 1, -1, -1))

    def prompt_index(self, prompts: Sequence[Prompt]) -> Int[np.ndarray, "n"]:
        """The numbers of prompts given as text or as chats of one message.

        Raises:
            InputError: a prompt that is not of this world.
        """
        texts = [p if isinstance(p, str) else p[-1]["content"] for p in prompts]
        places = {text: place for place, text in enumerate(self.prompts)}
        for text in texts:
            if text.strip() not in places:
                raise InputError(f"{text!r} is no prompt of this world; they are {self.prompts}")
        return np.array([places[text.strip()] for text in texts], dtype=np.int64)

    def truth(
        self, what: Score, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Float[np.ndarray, "n"]:
        """True reward or cost of responses given as text."""
        table = self.reward if what == "reward" else self.cost
        return table[self.prompt_index(prompts), self.response_index(responses)]


@dataclass(frozen=True)
class TruthScorer:
    """The truth as a scorer: one member, so no spread.

    Attributes:
        world: whose truth it tells.
        what: "reward" or "cost".
    """

    world: ExactWorld
    what: Score

    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Float[np.ndarray, "n 1"]:
        """True scores, [n, 1]."""
        return self.world.truth(self.what, prompts, responses)[:, None]


def truth_function(world: ExactWorld, what: Score) -> Callable[..., list[float]]:
    """The truth as TRL calls it: ``function(prompts=…, completions=…, **columns)``."""

    def true_score(
        prompts: Sequence[Prompt], completions: Sequence[Any], **_: object
    ) -> list[float]:
        texts = [c if isinstance(c, str) else str(c[-1]["content"]) for c in completions]
        return world.truth(what, prompts, texts).tolist()

    true_score.__name__ = f"true_{what}"
    return true_score


def make_exact_world(
    num_tokens: int = 4, length: int = 4, num_prompts: int = 4, *, seed: int = 0
) -> ExactWorld:
    """Draw a world.

    Each score is a sum over positions and over neighbouring tokens, with a part of its own for each
    prompt. The cost maps a normal score s to the Pareto quantile Φ(−s)^(−1/2.5) − 2, and s shares
    some of the reward's terms, so that reward has to be paid for in the tail.

    Args:
        num_tokens: 2 to 10 are sensible; 4 gives 256 responses at length 4.
        length: tokens per response; 8 tokens × length 6 gives 262,144.
        num_prompts: prompts, uniformly likely.
        seed: of the truth.

    Raises:
        InputError: a count below one, fewer than two tokens, or more than a million responses.
    """
    if num_tokens < 2 or length < 1 or num_prompts < 1:
        raise InputError(
            f"a world needs two tokens, one position and one prompt; got num_tokens={num_tokens}, "
            f"length={length}, num_prompts={num_prompts}"
        )
    if num_tokens**length > _MOST_RESPONSES:
        raise InputError(f"{num_tokens}^{length} responses are too many to enumerate")
    generator = np.random.default_rng(seed)
    responses = np.indices((num_tokens,) * length).reshape(length, -1).T
    reward = _token_score(responses, num_tokens, num_prompts, generator)
    own = _token_score(responses, num_tokens, num_prompts, generator)
    # Half of the reward in it: enough correlation that reward has to be paid for in the tail.
    latent = _standardised(0.5 * reward + own)
    cost = norm.sf(latent) ** (-1 / _TAIL_SHAPE) - _SAFE_OFFSET
    prompts = tuple(f"p{x}" for x in range(num_prompts))
    return ExactWorld(prompts, responses, reward, np.asarray(cost), num_tokens)


def _token_score(
    responses: Int[np.ndarray, "responses length"],
    num_tokens: int,
    num_prompts: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "prompts responses"]:
    length = responses.shape[1]
    single = generator.normal(size=(num_prompts, length, num_tokens))
    double = generator.normal(size=(num_prompts, num_tokens, num_tokens))
    score = single[:, np.arange(length), responses].sum(axis=-1)
    score += double[:, responses[:, :-1], responses[:, 1:]].sum(axis=-1)
    return _standardised(score)


def _standardised(
    score: Float[np.ndarray, "prompts responses"],
) -> Float[np.ndarray, "prompts responses"]:
    centred = score - score.mean(axis=1, keepdims=True)
    return centred / centred.std(axis=1, keepdims=True)
