"""Dropout and other noise of training, off: the law that is trained is the law that is sampled."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from tailguard.models.library import LanguageModel

_NOISE = ("drop", "jitter")  # dropout, attn_pdrop, layerdrop, router_jitter_noise


def switch_off_dropout(model: LanguageModel) -> None:
    """Every rate of dropout and jitter to 0: of modules, and those that models keep as numbers.

    OPT, for one, has no module of dropout; it calls the function with a number from its config.
    """
    holders: list[Any] = [model.config, model.config.get_text_config()]
    for _, module in model.named_modules():
        holders.append(module)
        if isinstance(module, nn.modules.dropout._DropoutNd):  # pyright: ignore[reportPrivateUsage]
            module.p = 0.0
    for holder in holders:
        values = dict(cast("dict[str, object]", vars(holder)))
        for name, value in values.items():
            if isinstance(value, float) and any(noise in name for noise in _NOISE):
                setattr(holder, name, 0.0)
