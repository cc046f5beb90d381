"""One call of a model: what goes in under which name, and what comes out."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from tailguard.engines.cache import RowCache
from tailguard.engines.stepping import Reading
from tailguard.errors import InputError
from tailguard.models.library import output_layer_inputs, without_adapter
from tailguard.models.policy import Policy

# What models call their cache, newest name first: transformers 5.24 renamed `past_key_values`, and
# the old name goes in 5.40. A name that a model does not know would vanish in its `**kwargs`, and
# every token would be predicted from one token alone, silently. So the signature decides.
_CACHE_NAMES = ("cache", "past_key_values", "cache_params")


class Forward:
    """The calls of one policy's model.

    Attributes:
        policy: whose model it is.
        takes_cache: whether the model takes a cache under a name that we know.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        # peft's wrapper passes on whatever it is given; the model inside says what it takes.
        parameters = inspect.signature(without_adapter(policy.model).forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._takes_keep = "logits_to_keep" in parameters
        self._cache_name = next((name for name in _CACHE_NAMES if name in parameters), "")
        self.takes_cache = bool(self._cache_name)

    def __call__(
        self,
        token_ids: Tensor,
        num_logits: int,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: RowCache | None = None,
        with_hidden: bool = False,
    ) -> Reading:
        """Read [n, t] tokens; logits at the last ``num_logits`` of them, hidden states at all.

        Args:
            token_ids: what is read.
            num_logits: at how many of the last positions logits are made.
            mask: true where a token counts, the cached ones included; None where all do.
            positions: of the tokens, where the model takes them; None for its own numbering.
            cache: what was read before, and where this goes; None reads from nothing.
            with_hidden: also give what meets the output layer.

        Raises:
            InputError: hidden states are asked for and the model does not show where they meet its
                output layer.
        """
        options: dict[str, Any] = {"attention_mask": mask, "use_cache": cache is not None}
        if cache is not None:
            options[self._cache_name] = cache.past
        if positions is not None and self._takes_positions:
            options["position_ids"] = positions
        model = self.policy.model
        if not with_hidden:
            # Logits over a whole prompt would take more memory than the model.
            if self._takes_keep:
                options["logits_to_keep"] = num_logits
            return Reading(self._logits(model(input_ids=token_ids, **options), num_logits), None)
        # Not `hidden_states[-1]`, which in some models is not what the output layer reads: another
        # norm, a projection or a merge of several streams comes in between.
        with output_layer_inputs(model, num_logits) as met:
            output = model(input_ids=token_ids, **options)
        if len(met) != 1 or met[0].shape[:2] != token_ids.shape:
            raise InputError(
                f"policy: {type(model).__name__} does not show the hidden states that its output"
                " layer reads, which process heads need; set dial.heads to false, or use another"
                " model"
            )
        return Reading(self._logits(output, num_logits), met[0])

    def _logits(self, output: Any, num_logits: int) -> Tensor:
        # Output layers are often wider than the vocabulary, for speed: an id that no token has must
        # never be drawn.
        logits = output.logits[:, -num_logits:, : self.policy.num_token_ids]
        absent = self.policy.absent_token_ids
        if absent:
            logits = logits.clone()
            logits[..., [i for i in absent if i < logits.shape[-1]]] = float("-inf")
        return logits
