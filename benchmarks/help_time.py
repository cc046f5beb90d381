"""How long ``tailguard --help`` takes beyond bare Python, in processor time.

    python benchmarks/help_time.py

Prints the median and quartiles of paired runs and writes ``benchmarks/results/help_time.json``.
Target: a median of at most 0.5 s. Processor time, not wall time, so that a busy machine counts less.
"""

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

HELP = "from tailguard.cli import main; main(['--help'])"
REPEATS = 15
RESULT = Path(__file__).parent / "results" / "help_time.json"


def processor_seconds(program: str) -> float:
    """User and system time of a fresh interpreter that runs the program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run the pairs."""
    extra = [processor_seconds(HELP) - processor_seconds("pass") for _ in range(REPEATS)]
    low, middle, high = statistics.quantiles(extra, n=4)
    print(f"--help takes {middle:.3f} s [{low:.3f}, {high:.3f}] beyond bare Python (target: 0.5)")
    content = {"repeats": REPEATS, "seconds": middle, "quartiles": [low, high], "target": 0.5}
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
