"""Rebuild the sandbox's base policy: `python -m tailguard.lab.sandbox.build [--out FOLDER]`.

Three to five minutes on two cores. The same seed on the same number of threads of the same kind of
processor gives the same weights; the shipped ones are from the default seed on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from tailguard.lab.sandbox import base_policy_path
from tailguard.lab.sandbox.language_model import Teaching, save, teach


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, train, save."""
    parser = argparse.ArgumentParser(description="Rebuild the sandbox's base policy.")
    parser.add_argument("--out", type=Path, default=base_policy_path(), help="folder to write")
    parser.add_argument("--seed", type=int, default=Teaching.seed)
    parser.add_argument("--demonstrations", type=int, default=Teaching.num_demonstrations)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    began = time.monotonic()

    def show(step: int, num_steps: int, loss: float) -> None:
        if step % 50 == 0 or step == num_steps:
            passed = time.monotonic() - began
            sys.stderr.write(f"step {step}/{num_steps}  loss {loss:.4f}  {passed:.0f} s\n")

    teaching = Teaching(seed=options.seed, num_demonstrations=options.demonstrations)
    save(*teach(teaching, show), options.out)
    sys.stderr.write(f"wrote {options.out}\n")


if __name__ == "__main__":
    main()
