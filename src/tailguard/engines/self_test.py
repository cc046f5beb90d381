"""The self-test at load: in which mode a model may be read, or why not at all.

transformers' models differ in what they do with padding, with caches and with state that they keep
in their own modules, and what goes wrong there is mostly silent. So before a model is decoded from,
a short probe goes through all that the engine does, against plain forwards of the same rows.
"""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

import torch

from tailguard.engines.forward import Forward
from tailguard.engines.probe import Fault, Probe
from tailguard.engines.remembered_mode import Result, recall, remember
from tailguard.engines.single_policy import PREFERRED_MODES, EngineMode, SinglePolicy
from tailguard.engines.stepping import DecodingPolicy, inference
from tailguard.errors import InputError, first_line
from tailguard.models.library import LanguageModel
from tailguard.models.policy import Policy

_log = logging.getLogger(__name__)
_found: WeakKeyDictionary[LanguageModel, EngineMode] = WeakKeyDictionary()


def as_decoding_policy(policy: Policy | DecodingPolicy) -> DecodingPolicy:
    """A plain `Policy` tested and wrapped; anything else as it is."""
    return tested_policy(policy) if isinstance(policy, Policy) else policy


def tested_policy(policy: Policy) -> SinglePolicy:
    """The policy in the cheapest mode in which the engine does what plain forwards do.

    A model is tested once; the result is kept for later processes too (`remembered_mode`).

    Raises:
        InputError: there is none; the message names the architecture, the check and the difference.
        ScoreError: the model's predictions are NaN.
    """
    mode = _found.get(policy.model)
    if mode is None:
        result = recall(policy)
        if result is None:
            result = find_mode(policy)
            remember(policy, result)
        if result.line:
            _log.warning("policy %s: %s", _name(policy), result.line)
        mode = _found[policy.model] = result.mode
    return SinglePolicy(policy, mode)


def find_mode(policy: Policy) -> Result:
    """Run the self-test: the mode, and where it is not the cheapest a line that says what it costs.

    Raises:
        InputError, ScoreError: as `tested_policy`.
    """
    fault: Fault | None = None
    last = Fault("nothing", "")
    with inference(SinglePolicy(policy, EngineMode())):
        try:
            probe = Probe(policy)
        except (InputError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # models raise whatever they like
            raise InputError(
                f"policy {_name(policy)}: a plain forward pass fails ({type(error).__name__}:"
                f" {first_line(error)}); use another model"
            ) from error
        for mode in PREFERRED_MODES:
            if mode.cached and not Forward(policy).takes_cache:
                fault = Fault("one more token", "the model takes no cache under a known name")
                continue
            found = probe.first_fault(SinglePolicy(policy, mode))
            if found is None:
                lines = [] if fault is None else [_price(mode, fault)]
                # Only a cache forgets what is outside a window.
                if mode.cached and probe.untried_window:
                    lines.append(_untried(probe.untried_window))
                return Result(mode, "; ".join(lines))
            fault = fault or found
            last = found
    raise InputError(
        f"policy {_name(policy)} cannot be decoded from: even without a cache and without padding,"
        f" {last.check} gives other predictions than plain forward passes ({last.text}); use"
        " another model"
    )


def _price(mode: EngineMode, fault: Fault) -> str:
    why = f"{fault.check} goes wrong ({fault.text})"
    if mode.cached:
        return (
            f"{why}; prompts of unlike lengths are therefore read and continued apart, one pass for"
            " each length"
        )
    return (
        f"{why}; rows are therefore read without a cache: every token reads its whole row again,"
        " about 100 times the work for an answer of 128 tokens to a prompt of 128"
    )


def _untried(window: int) -> str:
    return (
        f"not tried: rows longer than the model's attention window of {window} tokens, which would"
        " take too long here; shorter rows are as plain forward passes say"
    )


def _name(policy: Policy) -> str:
    path = getattr(policy.model.config, "_name_or_path", "")
    kind = type(policy.model).__name__
    return f"{path} ({kind})" if path else kind
