"""Kill a run at random moments, restart it, and compare the end with an undisturbed run.

    python benchmarks/kill_resume.py recipes/tiny.yaml --set train.num_steps=2

The run is first done undisturbed in one folder. In another one it is killed (SIGKILL) at ten
moments, one in each tenth of the undisturbed run (by processor time, so that a busy machine does
not shift them), and restarted until it is done.
After every kill, each folder that looks finished must be sealed and whole; in the end nothing
half-written may be left, and every artifact must have the payload hash of the undisturbed one, or
figures within 1e-6 of its. Then raw data and the model are edited, and the ids must follow.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chain_runs import Chain, ChainError, compare, half_written, read_artifacts
from edited_inputs import check_edits

from tailguard.artifacts import write_json

RESULT = Path(__file__).parent / "results" / "kill_resume.json"
PROGRAM = (str(Path(sys.executable).with_name("tailguard")),)


@dataclass(frozen=True)
class Timeline:
    """When an undisturbed run did what, in seconds of processor time.

    Attributes:
        started: when it took hold of its folder: libraries are loaded.
        sealed: folder name of an artifact → when it was sealed.
        ended: when it was over.
    """

    started: float
    sealed: dict[str, float]
    ended: float

    def position(self, done: Iterable[str], spent: float) -> float:
        """Where a run is that found some artifacts done and has spent so many seconds since."""
        resumed_at = max((self.sealed[name] for name in done), default=self.started)
        return spent + resumed_at - self.started


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        moment: as a share of the undisturbed run.
        spent_seconds: of processor time since the latest start.
        sealed: artifacts that were done.
        half_written: hidden folders that were left.
    """

    moment: float
    spent_seconds: float
    sealed: int
    half_written: int


def watch(chain: Chain, out: Path) -> Timeline:
    """Run undisturbed, and note when each artifact was sealed."""
    run = chain.start(out)
    started, ended = None, 0.0
    sealed: dict[str, float] = {}
    for ended in run.poll():
        if started is None and (out / ".lock").exists():
            started = ended
        for manifest in out.glob("[!.]*/manifest.json"):
            sealed.setdefault(manifest.parent.name, ended)
    run.end()
    for name in read_artifacts(out):
        sealed.setdefault(name, ended)
    return Timeline(started or 0.0, sealed, ended)


def kill_until_done(
    chain: Chain, out: Path, timeline: Timeline, moments: Sequence[float]
) -> list[Kill]:
    """Kill the run at moments of its progress, as shares of the whole; then let it finish.

    Where it finishes before its next moment, the moments that are left are not used.
    """
    kills: list[Kill] = []
    for moment in moments:
        done = read_artifacts(out)
        run = chain.start(out)
        for spent in run.poll():
            if timeline.position(done, spent) >= moment * timeline.ended:
                run.kill()
                found = read_artifacts(out)
                kills.append(Kill(moment, round(spent, 2), len(found), len(half_written(out))))
                break
        else:
            run.end()
            return kills
    chain.finish(out)
    return kills


def draw_moments(num: int, generator: random.Random) -> list[float]:
    """One moment in each of ``num`` equal parts of the run, as shares of its duration."""
    return [(k + generator.random()) / num for k in range(num)]


def measure(chain: Chain, folder: Path, num_kills: int, seed: int) -> dict[str, Any]:
    """Everything but the edits; the table is printed on the way."""
    timeline = watch(chain, folder / "undisturbed")
    undisturbed = read_artifacts(folder / "undisturbed")
    print(f"undisturbed: {timeline.ended:.1f} s of processor time, {len(undisturbed)} artifacts")
    generator = random.Random(seed)
    runs: list[list[Kill]] = []
    verdicts: dict[str, str] = {}
    while (left := num_kills - sum(map(len, runs))) > 0:
        out = folder / f"killed-{len(runs) + 1}"
        runs.append(kill_until_done(chain, out, timeline, draw_moments(left, generator)))
        _print_kills(out.name, runs[-1])
        if half_written(out):
            raise ChainError(f"left behind: {half_written(out)}")
        if not runs[-1]:
            raise ChainError(f"{out}: finished before it could be killed; give a longer recipe")
        verdicts = _worse(verdicts, compare(undisturbed, read_artifacts(out)))
    for name, verdict in verdicts.items():
        print(f"{name:<40} sealed at {timeline.sealed[name]:>7.2f} s  {verdict}")
    return {
        "recipe": chain.recipe.name,
        "overrides": list(chain.overrides),
        "seed": seed,
        "undisturbed": asdict(timeline),
        "runs": [[asdict(kill) for kill in kills] for kills in runs],
        "artifacts": verdicts,
    }


def _worse(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """What holds of every run so far."""
    return {name: one[name] if one.get(name) == "same figures" else other[name] for name in other}


def _print_kills(name: str, kills: Sequence[Kill]) -> None:
    print(f"{name}: {len(kills)} kills")
    print("  moment   spent s   sealed   half-written")
    for kill in kills:
        print(
            f"  {kill.moment:6.2f} {kill.spent_seconds:9.2f} {kill.sealed:8d}"
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
