"""Kill a run at random moments, restart it, and compare the end with an undisturbed run.

    python benchmarks/kill_resume.py recipes/tiny.yaml --set train.num_steps=2

The run is first done undisturbed in one folder. In another one it is killed (SIGKILL) at ten
moments, one in each tenth of the undisturbed run's duration, and restarted until it is done.
After every kill, each folder that looks finished must be sealed and whole; in the end nothing
half-written may be left, and every artifact must have the payload hash of the undisturbed one, or
figures within 1e-6 of its. Then raw data and the model are edited, and the ids must follow.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chain_runs import Chain, ChainError, compare, half_written, read_artifacts
from edited_inputs import check_edits

from tailguard.artifacts import Manifest, write_json

RESULT = Path(__file__).parent / "results" / "kill_resume.json"
PROGRAM = (str(Path(sys.executable).with_name("tailguard")),)


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        moment: aimed at, as a share of the undisturbed run.
        after_seconds: since the latest start.
        sealed: artifacts that were done.
        half_written: hidden folders that were left.
    """

    moment: float
    after_seconds: float
    sealed: int
    half_written: int


@dataclass
class Disturbed:
    """A run that was killed and restarted.

    Attributes:
        out: its folder.
        kills: in order.
        seconds: all attempts together.
    """

    out: Path
    kills: list[Kill] = field(default_factory=lambda: [])
    seconds: float = 0.0


def kill_until_done(
    chain: Chain,
    out: Path,
    undisturbed: dict[str, Manifest],
    duration: float,
    moments: Sequence[float],
) -> Disturbed:
    """Kill the run at moments of its progress, as shares of ``duration``; then let it finish.

    Where it finishes before its next moment, the moments that are left are not used.
    """
    run = Disturbed(out)
    for moment in moments:
        wait = max(0.05, moment * duration - _seconds_done(out, undisturbed))
        started = time.perf_counter()
        with chain.start(out) as process:
            said = ""
            try:
                said = process.communicate(timeout=wait)[1]
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        after = time.perf_counter() - started
        run.seconds += after
        if process.returncode == 0:
            return run
        if process.returncode != -9:
            raise ChainError(
                f"a restarted run ended with status {process.returncode}: {said[-2000:]}"
            )
        run.kills.append(
            Kill(moment, round(after, 2), len(read_artifacts(out)), len(half_written(out)))
        )
    run.seconds += chain.finish(out)[0]
    return run


def _seconds_done(out: Path, undisturbed: dict[str, Manifest]) -> float:
    """How far the run is: what the sealed artifacts took in the undisturbed one."""
    done = read_artifacts(out)
    made_inside = {
        name
        for name in done
        for stage in done.values()
        if stage.stage != done[name].stage and done[name].stage.startswith(stage.stage + "-")
    }
    return sum(
        undisturbed[name].metrics["seconds"]
        for name in done
        if name in undisturbed and name not in made_inside
    )


def draw_moments(num: int, seed: int) -> list[float]:
    """One moment in each of ``num`` equal parts of the run, as shares of its duration."""
    generator = random.Random(seed)
    return [(k + generator.random()) / num for k in range(num)]


def measure(chain: Chain, folder: Path, num_kills: int, seed: int) -> dict[str, Any]:
    """Everything but the edits; the table is printed on the way."""
    duration, _ = chain.finish(folder / "undisturbed")
    undisturbed = read_artifacts(folder / "undisturbed")
    print(f"undisturbed: {duration:.1f} s, {len(undisturbed)} artifacts")
    moments, runs = draw_moments(num_kills, seed), list[Disturbed]()
    verdicts: dict[str, str] = {}
    while moments:
        out = folder / f"killed-{len(runs) + 1}"
        run = kill_until_done(chain, out, undisturbed, duration, moments)
        runs.append(run)
        moments = moments[len(run.kills) :]
        if half_written(out):
            raise ChainError(f"left behind: {half_written(out)}")
        verdicts = compare(undisturbed, read_artifacts(out))
        _print_run(run)
        if not run.kills:
            raise ChainError(f"{out}: finished before it could be killed; give a longer recipe")
    for name, verdict in verdicts.items():
        print(f"{name:<40} {undisturbed[name].metrics['seconds']:>8.2f} s  {verdict}")
    return {
        "recipe": chain.recipe.name,
        "overrides": list(chain.overrides),
        "seed": seed,
        "undisturbed_seconds": round(duration, 2),
        "runs": [
            {"kills": [asdict(kill) for kill in run.kills], "seconds": round(run.seconds, 2)}
            for run in runs
        ],
        "artifacts": verdicts,
    }


def _print_run(run: Disturbed) -> None:
    print(f"{run.out.name}: {len(run.kills)} kills, {run.seconds:.1f} s in all")
    print("  moment   after s   sealed   half-written")
    for kill in run.kills:
        print(
            f"  {kill.moment:6.2f} {kill.after_seconds:9.2f} {kill.sealed:8d}"
            f" {kill.half_written:14d}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the JSON; status 1 where something is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="an empty folder for the runs, kept afterwards")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--no-edits", action="store_true", help="leave out the edited inputs")
    options = parser.parse_args(arguments)
    chain = Chain(PROGRAM, options.recipe, tuple(options.overrides))
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.keep or Path(temporary)
        try:
            result = measure(chain, folder, options.kills, options.seed)
            if not options.no_edits:
                (folder / "edited").mkdir()
                result["edits"] = check_edits(chain, folder / "undisturbed", folder / "edited")
                print(*result["edits"], sep="\n")
        except ChainError as broken:
            print(f"BROKEN: {broken}", file=sys.stderr)
            return 1
    write_json(options.result, result)
    print(f"all {options.kills} kills harmless; wrote {options.result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
