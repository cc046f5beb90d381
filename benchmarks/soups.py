"""What a soup costs: a decoding step with weights by row beside the same model with merged weights.

    python benchmarks/soups.py

Two members of rank 16 on every linear layer of a Llama with random weights, 32 rows, one thread by
default (OMP_NUM_THREADS). All ways take turns in one run, and each round's ratio to the merged model
is one figure: the median is shown. Writes results/soups.json and soups.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tailguard.engines import LogitMix, tested_policy
from tailguard.engines.soup import SoupPolicy
from tailguard.engines.stepping import DecodingPolicy, Rows, Step, inference
from tailguard.lab.sandbox import base_policy_path
from tailguard.models.policy import EncodedPrompts, Policy, load_policy, pad_left
from tailguard.models.quiet import quiet_libraries
from tailguard.models.random_state import seeded

RESULTS = Path(__file__).with_name("results")
POINT = (0.3, 0.7)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--out", type=Path, default=RESULTS / "soups.json")
    arguments = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with tempfile.TemporaryDirectory() as folder:
        ways = build(Path(folder), arguments.hidden)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(arguments.rounds + 1):
            for name, policy in ways.items():
                taken = time_steps(policy, arguments.rows, arguments.tokens)
                if number:  # the first round warms caches
                    seconds[name].append(taken)
    merged = np.array(seconds["merged"])
    rows = {
        name: {
            "milliseconds_per_step": 1000 * float(np.median(found)),
            "times_merged": float(np.median(np.array(found) / merged)),
            "range": [float(x) for x in np.quantile(np.array(found) / merged, [0.1, 0.9])],
        }
        for name, found in seconds.items()
    }
    settings = {k: v for k, v in vars(arguments).items() if k != "out"}
    arguments.out.write_text(json.dumps({"settings": settings, "ways": rows}, indent=1) + "\n")
    lines = ["# What a soup costs", "", f"`python benchmarks/soups.py`: {settings}", ""]
    lines += ["| way | ms per step | times merged | 10–90% of rounds |", "|---|---|---|---|"]
    for name, row in rows.items():
        low, high = row["range"]
        lines.append(
            f"| {name} | {row['milliseconds_per_step']:.2f} | {row['times_merged']:.2f} |"
            f" {low:.2f}–{high:.2f} |"
        )
    text = "\n".join(lines) + "\n"
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def build(folder: Path, hidden: int) -> dict[str, DecodingPolicy]:
    """The same soup in each way."""
    tokenizer = load_policy(base_policy_path()).tokenizer
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=hidden,
        intermediate_size=int(2.75 * hidden),
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    with seeded(0):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(str(folder / "base"))
    adapters = {name: adapter(folder, name) for name in ("loose", "strict")}
    merged = load_policy(folder / "base")
    plain = {name: w.detach().clone() for name, w in merged.model.named_parameters()}
    members = [load_policy(folder / "base", path) for path in adapters.values()]
    for weight, member in zip(POINT, members, strict=True):
        other = dict(member.model.named_parameters())
        for name, w in merged.model.named_parameters():
            w.data += weight * (other[name].detach() - plain[name])
    opened = PeftModel.from_pretrained(load_policy(folder / "base").model, adapters["loose"])
    return {
        "merged": tested_policy(merged),
        "soup, one point": SoupPolicy.load(folder / "base", adapters).at(POINT),
        "soup, a point for each row": Spread(SoupPolicy.load(folder / "base", adapters)),
        "one adapter beside the weights (peft)": tested_policy(Policy(opened, tokenizer)),
        "logit mix of two merged models": LogitMix(members, POINT),
    }


class Spread:
    """Every row at a point of its own."""

    def __init__(self, soup: SoupPolicy) -> None:
        self._soup = soup

    @property
    def members(self) -> tuple[Policy, ...]:
        """The one model."""
        return self._soup.at(POINT).members

    def prefill(
        self, prompts: EncodedPrompts, max_new_tokens: int, *, with_hidden: bool = False
    ) -> tuple[Rows, Step]:
        """See `DecodingPolicy`."""
        shares = np.linspace(-0.5, 1.5, len(prompts.token_ids))
        policy = self._soup.at_rows([(1 - share, share) for share in shares])
        return policy.prefill(prompts, max_new_tokens, with_hidden=with_hidden)


def adapter(folder: Path, name: str) -> Path:
    """A LoRA adapter with random matrices on every linear layer."""
    config = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM.from_pretrained(folder / "base"), config)
    for key, w in model.named_parameters():
        if "lora_B" in key:
            nn.init.normal_(w, std=0.02)
    model.save_pretrained(folder / name)
    return folder / name


def time_steps(policy: DecodingPolicy, num_rows: int, num_tokens: int) -> float:
    """Seconds of one decoding step after a prompt of 32 tokens."""
    rows = [[(7 * i + j) % 200 + 4 for j in range(32)] for i in range(num_rows)]
    member = policy.members[0]
    encoded = pad_left(rows, pad_token_id=member.pad_token_id, device=member.device)
    token_ids = torch.full((num_rows,), 9)
    with inference(policy):
        opened, _ = policy.prefill(encoded, num_tokens)
        started = time.perf_counter()
        for _ in range(num_tokens):
            opened.step(token_ids)
        return (time.perf_counter() - started) / num_tokens


if __name__ == "__main__":
    main()
