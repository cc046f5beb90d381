"""Architecture × check: what holds for tiny random models of every architecture that we try.

    python benchmarks/models.py

Prints a table and writes ``benchmarks/results/models.md``. Each check is a comparison with plain
forward passes by the self-test's own measure; *read as* is what the engine does about what fails.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any, cast

import peft
import torch
import transformers
from peft import get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from tailguard.engines.forward import Forward
from tailguard.engines.probe import Probe
from tailguard.engines.self_test import find_mode
from tailguard.engines.single_policy import EngineMode, SinglePolicy
from tailguard.errors import InputError
from tailguard.models.adapter import merged_difference
from tailguard.models.policy import Policy
from tailguard.models.quiet import quiet_libraries
from tailguard.training.coverage import coverage, lora_config

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the models are those of the tests
from tests.unit.engines.tiny_models import ARCHITECTURES, VOCAB_SIZE, tiny_model  # noqa: E402

COLUMNS = {
    "a row alone": ("a prompt", "one more token", "several more tokens"),
    "padded": ("prompts of unlike lengths", "one more token in each"),
    "forked, gathered": (
        "several more tokens in forked rows",
        "gathered rows",
        "rows in another order",
        "the rows that were forked",
    ),
    "hidden": ("hidden states of several tokens",),
}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", default=list(ARCHITECTURES), help="architectures")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "models.md")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    quiet_libraries()
    heads = ["architecture", *COLUMNS, "window", "read as", "adapter", "merged"]
    lines = [
        "# Architectures",
        "",
        f"Made by `python benchmarks/models.py` with transformers {transformers.__version__}, torch"
        f" {torch.__version__} and peft {peft.__version__}, on tiny random models in float32 on a"
        " CPU. *Yes*: what plain forward passes say, within rounding. Otherwise how far off, in"
        " spreads of the logits, or the error; what is done about it is under *read as*. *Window*:"
        " whether the checks went beyond a sliding window or chunk. *Adapter*: the share of the"
        " decoder's linear layers and of its weights that a fresh LoRA adapter covers. *Merged*:"
        " whether an adapter may be added to the weights, or stays beside them.",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for name in arguments.only:
        lines.append(f"| {' | '.join(row(name))} |")
        print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(name: str) -> list[str]:
    """The cells of one architecture."""
    policy = Policy(cast(Any, tiny_model(name)), tokenizer())
    with torch.no_grad():
        probe = Probe(policy)
        found = outcomes(probe, SinglePolicy(policy, EngineMode()))
    cells = [cell(found, checks) for checks in COLUMNS.values()]
    window = f"{probe.window} tokens" if probe.window else "–"
    return [type(policy.model).__name__, *cells, window, read_as(policy), *adapter_cells(name)]


def outcomes(probe: Probe, engine: SinglePolicy) -> dict[str, str]:
    """Check → what is wrong, empty where nothing is."""
    if not Forward(engine.policy).takes_cache:
        return {"a prompt": "takes no cache that we know"}
    found = {c: "" if fault is None else fault.text for c, fault in probe.checks(engine)}
    crash = found.pop("reading prompts", None)  # before the first check
    return found if crash is None else {"a prompt": crash}


def cell(found: dict[str, str], checks: tuple[str, ...]) -> str:
    """Of the checks of one column."""
    wrong = [found[check] for check in checks if found.get(check)]
    if wrong:
        return wrong[0].split(",")[0].replace(" of the spread", "")[:70]
    return "yes" if all(check in found for check in checks) else "not reached"


def read_as(policy: Policy) -> str:
    """What the engine does about it."""
    try:
        mode = find_mode(policy).mode
    except InputError as error:
        return f"refused: {error}"
    if not mode.cached:
        return "without a cache"
    return "usual" if mode.padded else "lengths apart"


def adapter_cells(name: str) -> list[str]:
    """Coverage of a fresh adapter, and whether one that moves predictions may be merged."""
    model = cast(Any, tiny_model(name))
    try:
        covers = coverage(model)
        total = len(covers.covered) + len(covers.left_out)
        share = f"{len(covers.covered)}/{total}, {covers.weight_share:.0%}"
        opened = cast(Any, get_peft_model)(model, lora_config(model, 2)).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for key, weight in opened.named_parameters():
                if "lora_B" in key:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
        difference, allowed = merged_difference(opened)
    except Exception as error:  # noqa: BLE001  # whatever it is, it belongs in the table
        return ["", f"{type(error).__name__}: {error}".splitlines()[0][:70]]
    return [share, "yes" if difference <= allowed else f"beside (off by {difference:.2g})"]


def tokenizer() -> PreTrainedTokenizerFast:
    """A word for each id."""
    words = {"<end>": 0, **{f"w{i}": i for i in range(1, VOCAB_SIZE)}}
    core = Tokenizer(WordLevel(words, unk_token="w1"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")


if __name__ == "__main__":
    main()
