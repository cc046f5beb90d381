"""Kill every stage of a run at random moments, finish it, and compare with an undisturbed run.

    python benchmarks/kill_each_stage.py recipes/tiny.yaml

`kill_resume.py` kills a whole run as a user starts it, and long stages get most of the kills. Here
each stage gets ten (SIGKILL), one in each tenth of its own time, in processes forked from one that
has loaded the libraries. Before every kill the folder holds what the stages before left; after it,
each folder that looks finished must be sealed and whole; then the stage is finished, and artifacts,
index and payloads must be those of the undisturbed run, with nothing half-written left.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from chain_runs import ChainError, compare, half_written, read_artifacts
from kill_resume import draw_moments

from tailguard.artifacts import read_json, write_json
from tailguard.pipeline.stage_names import STAGE_SUMMARIES

RESULT = Path(__file__).parent / "results" / "kill_each_stage.json"
_POLL_SECONDS = 0.001
_LOADED = (
    *("tailguard.pipeline.chain", "tailguard.training.rloo", "tailguard.cli.app"),
    *(
        "transformers.models.llama.modeling_llama",
        "peft.utils.transformers_weight_conversion",
        "PIL",
    ),
)
_TRIES = 5  # the machine may be faster than when the undisturbed run was timed

Start = Callable[[str, Path], BaseProcess]
"""Starts a stage in a folder."""


@dataclass(frozen=True)
class Kill:
    """One kill of one stage.

    Attributes:
        moment: as a share of the stage's undisturbed time.
        half_written: hidden files and folders that were left.
        sealed: whether the stage's artifact was there already.
        verdict: what the finished artifacts are, beside those of the undisturbed run.
    """

    moment: float
    half_written: int
    sealed: bool
    verdict: str


def starter(recipe: Path, overrides: Sequence[str]) -> Start:
    """How stages are started here: each in a process forked from one that has loaded everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LOADED))

    def start(stage: str, out: Path) -> BaseProcess:
        process = context.Process(target=_run, args=(str(recipe), tuple(overrides), stage, out))
        process.start()
        return process

    return start


def _run(recipe: str, overrides: tuple[str, ...], stage: str, out: Path) -> None:
    from tailguard.cli import main

    sys.stdout = sys.stderr = (out.parent / f"{out.name}.{stage}.log").open("w")
    sets = [part for item in overrides for part in ("--set", item)]
    main([stage, recipe, *sets, "--out", str(out)])


def measure(
    start: Start, folder: Path, num: int, seed: int, only: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, object]]]:
    """Every stage, or some, with `num` kills each; the table is printed on the way.

    Yields:
        The stage, its undisturbed seconds and its kills.
    """
    stages = list(STAGE_SUMMARIES)
    whole = folder / "undisturbed"
    before: dict[str, Path] = {}
    seconds: dict[str, float] = {}
    for stage in stages:
        before[stage] = folder / f"before-{stage}"
        if whole.exists():
            shutil.copytree(whole, before[stage])
        seconds[stage] = _finish(start(stage, whole), stage, whole)
    print(f"{'stage':<12} {'seconds':>8} {'kills':>6} {'half-written':>13} {'sealed':>7}  verdict")
    for number, stage in enumerate(stages):
        after = before[stages[number + 1]] if number + 1 < len(stages) else whole
        if only and stage not in only:
            continue
        generator = random.Random(f"{seed} {stage}")
        kills = [
            _kill(start, stage, before[stage], after, folder / "killed", moment, seconds[stage])
            for moment in draw_moments(num, generator)
        ]
        half = sum(kill.half_written > 0 for kill in kills)
        sealed = sum(kill.sealed for kill in kills)
        verdict = " and ".join(sorted({kill.verdict for kill in kills}))
        row = f"{stage:<12} {seconds[stage]:8.2f} {num:6d} {half:13d} {sealed:7d}  {verdict}"
        print(row, flush=True)
        yield stage, {"seconds": round(seconds[stage], 3), "kills": [asdict(k) for k in kills]}


def _kill(
    start: Start, stage: str, before: Path, after: Path, out: Path, moment: float, seconds: float
) -> Kill:
    """Kill a stage at a moment of its time, finish it, compare."""
    for _ in range(_TRIES):
        shutil.rmtree(out, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, out)
        process = start(stage, out)
        began = _began(process, stage, out)
        while process.is_alive() and time.perf_counter() - began < moment * seconds:
            time.sleep(_POLL_SECONDS)
        if process.is_alive():
            break
        moment *= 0.7
    else:
        raise ChainError(f"{stage}: over before it could be killed; give a longer recipe")
    process.kill()
    process.join()
    sealed = any(name.startswith(f"{stage}-") for name in read_artifacts(out))
    left = len(half_written(out))
    _finish(start(stage, out), stage, out)
    if half_written(out):
        raise ChainError(f"{stage}: left behind {half_written(out)}")
    if read_json(out / "run.json") != read_json(after / "run.json"):
        raise ChainError(f"{stage}: another index than the undisturbed run's")
    verdicts = compare(read_artifacts(after), read_artifacts(out))
    verdict = "same payloads" if set(verdicts.values()) == {"same payload"} else "same figures"
    return Kill(round(moment, 3), left, sealed, verdict)


def _began(process: BaseProcess, stage: str, out: Path) -> float:
    """When its hidden folder appeared, on the clock: it has begun to write."""
    while process.is_alive() and not any(out.glob(f".{stage}-*.partial")):
        time.sleep(_POLL_SECONDS)
    return time.perf_counter()


def _finish(process: BaseProcess, stage: str, out: Path) -> float:
    """Wait for a stage; how long it took from its first write."""
    began = _began(process, stage, out)
    process.join()
    if process.exitcode:
        raise ChainError(
            f"{stage}: ended with status {process.exitcode}: "
            + (out.parent / f"{out.name}.{stage}.log").read_text()[-300:]
        )
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the JSON; status 1 where something is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--stage",
        dest="stages",
        action="append",
        choices=list(STAGE_SUMMARIES),
        help="kill only this one; what the result holds of others is kept; may be repeated",
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    start = starter(options.recipe, options.overrides)
    result: dict[str, object] = {}
    if options.stages and options.result.is_file():
        result = read_json(options.result)
    result |= {"recipe": options.recipe.name, "set": options.overrides, "seed": options.seed}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for stage, found in measure(
                start, Path(folder), options.kills, options.seed, options.stages or ()
            ):
                result |= {stage: found}
                write_json(options.result, result)  # a long run that is stopped has this much
        except ChainError as broken:
            print(f"BROKEN: {broken}", file=sys.stderr)
            return 1
    print(f"wrote {options.result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
