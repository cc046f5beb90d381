"""Every error is one line on standard error, and its exit status says what kind it is."""

import errno
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from tailguard.artifacts import Header, build_artifact, locked
from tailguard.cli import main
from tailguard.errors import InfeasibleError, InputError, InputWarning, ScoreError


@pytest.fixture
def chain(monkeypatch):
    """Put a chain of one's own in the place of the real one, which needs torch and minutes."""

    def put(run_chain):
        fake = types.SimpleNamespace(
            run_chain=run_chain,
            STAGES={},
            quiet_libraries=lambda: None,
            forecast_stages=lambda recipe, inventory, stages: {},
        )
        monkeypatch.setitem(sys.modules, "tailguard.pipeline.chain", fake)
        monkeypatch.setitem(sys.modules, "tailguard.models.quiet", fake)
        monkeypatch.setitem(sys.modules, "tailguard.pipeline.forecast", fake)
        monkeypatch.setattr("tailguard.pipeline.workers.warm_up", lambda: None)

    return put


@pytest.fixture
def command(capfd):
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return run


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\n")
    return str(path)


def raising(error):
    def run_chain(*arguments: object, **options: object) -> None:
        raise error

    return run_chain


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("--x 3: too small;\n give more"), 2, "--x 3: too small; give more"),
        (ScoreError("cost of answer 3 is NaN"), 2, "cost of answer 3 is NaN"),
        (InfeasibleError("the smallest reachable risk is 0.5", 0.5), 3, "reachable risk is 0.5"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 1, "/a/b: the disk is full;"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/a/b"), 1, "/a/b: the disk is full;"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "the disk is full;"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 1, "/a: Permission denied"),
        (OSError("no number"), 1, "no number"),
        (RuntimeError("two\nlines"), 1, "RuntimeError: two lines (this is a fault of tailguard; "),
        (MemoryError(), 1, "MemoryError: "),
        (
            KeyboardInterrupt(),
            1,
            "interrupted; run the same command again to continue where it stopped",
        ),
        (typer.Abort(), 1, "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors(chain, command, recipe, error, status, line):
    chain(raising(error))
    found, out, err = command("bank", recipe)
    *progress, last = err.splitlines()
    assert found == status
    assert last.startswith("tailguard: ")
    assert line in last
    assert progress[0].startswith("a: prompts: 512 train, ")
    assert progress[1:] == ["loading libraries"]
    assert out == ""


@pytest.mark.parametrize("arguments", [["--debug", "bank"], ["bank", "--debug"]])
@pytest.mark.parametrize("error", [InputError("wrong"), RuntimeError("wrong")])
def test_debug_shows_the_traceback(chain, command, recipe, arguments, error):
    chain(raising(error))
    status, _, err = command(*arguments, recipe)
    assert status == getattr(error, "exit_status", 1)
    assert "Traceback (most recent call last)" in err
    assert "in run_chain" in err
    assert err.splitlines()[-1].startswith("tailguard: ")


def test_done(chain, command, recipe, tmp_path):
    def run_chain(recipe: object, root: Path, *, until: str, progress, on_stage):
        progress("sampling", 1, 2)
        progress("sampling", 2, 2)
        on_stage("prepare", root / "prepare-1", True)
        on_stage("bank", root / "bank-1", False)
        return {"prepare": root / "prepare-1", until: root / "bank-1"}

    chain(run_chain)
    status, out, err = command("bank", recipe, "--out", str(tmp_path / "run"))
    assert (status, out) == (0, f"{tmp_path}/run/bank-1\n")
    assert "sampling: 1/2" in err
    assert "prepare-1 (exists; skipped)" in err
    assert "bank-1 (was" not in err


def test_the_run_prints_its_table_and_where_things_are(chain, command, recipe, monkeypatch):
    Path(recipe).write_text("plan: {targets: [{name: a, reduction: 0.5}]}\n")
    rows = [{"policy": "base", "cost": "1.0"}, {"policy": "cvar", "cost": "0.5"}]
    report = types.SimpleNamespace(
        record_rows=lambda evaluation: [evaluation],
        read_verdict=lambda report: "All is kept.",
    )
    table = types.SimpleNamespace(
        table_rows=lambda record: rows if record[0].name == "evaluate" else []
    )
    chain(
        lambda recipe, root, **options: {n: root / n for n in ("evaluate", "report", "calibrate")}
    )
    monkeypatch.setitem(sys.modules, "tailguard.pipeline.stages.report", report)
    monkeypatch.setitem(sys.modules, "tailguard.evaluation.report.table", table)
    status, out, _ = command("run", recipe, "--out", "there")
    assert status == 0
    assert [name in out for name in ("policy", "base", "cvar", "0.5")] == [True] * 4
    assert out.endswith(
        "All is kept.\nreport: there/report/report.html\ndecoder: there/calibrate\n"
    )


def test_the_plan_prints_its_frontier(chain, command, recipe, monkeypatch):
    rows = [{"tail_mass": 0.1, "budget": 0.25}]
    plan = types.SimpleNamespace(frontier_rows=lambda directory: rows)
    chain(lambda recipe, root, **options: {"plan": root / "plan-1"})
    monkeypatch.setitem(sys.modules, "tailguard.pipeline.stages.plan", plan)
    status, out, _ = command("plan", recipe, "--out", "there")
    assert status == 0
    assert "0.25" in out
    assert out.endswith("there/plan-1\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["--bogus"], "No such option: --bogus"),
        (["run"], "Missing argument 'RECIPE.yaml'"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such recipe"),
        (["inspect", "nowhere"], "nowhere: not an artifact"),
        (["generate", "decoder"], "give exactly one of --prompt and --prompts"),
        (["generate", "d", "--prompt", "a", "--prompts", "b"], "give exactly one of"),
        (["generate", "d", "--prompts", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["generate", "d", "--prompt", "a", "--token-cost", "1"], "No such option: --token-cost"),
        (["generate", "d", "--prompt", "a", "--seed", "x"], "Invalid value for '--seed': "),
        (["certify", "d", "--prompts", "a"], "Missing option '--tail-mass'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(command, arguments, line):
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("tailguard: ")
    assert line in err


def test_a_wrong_recipe_is_named_before_anything_is_loaded(command, tmp_path, monkeypatch):
    for module in ("tailguard.pipeline.chain", "torch"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it would fail
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\nbnak: {}\n")
    status, _, err = command("run", str(path))
    assert status == 2
    assert err == (
        f"tailguard: {path}, line 2: unknown key 'bnak'; the nearest valid key is 'bank'\n"
    )
    status, _, err = command("run", str(path), "--set", "bank.num_samples")
    assert (status, err) == (
        2,
        "tailguard: --set bank.num_samples: give key=value, e.g. --set bank.num_samples=32\n",
    )


def test_inspect(command, tmp_path):
    def write(directory: Path) -> dict[str, object]:
        (directory / "payload").write_text("x")
        return {"figure": 0.5}

    path, _ = build_artifact(tmp_path, Header("Plan", "plan", 1, {"seed": 1}), write)
    status, out, _ = command("inspect", str(path))
    assert status == 0
    for shown in ('"kind": "Plan"', '"figure": 0.5', f'"id": "{path.name.partition("-")[2]}"'):
        assert shown in out
    (tmp_path / "run.json").write_text('{"Plan": "plan-1"}')
    assert '"Plan": "plan-1"' in command("inspect", str(tmp_path))[1]


def write_four_megabytes(recipe: object, root: Path, **options: object) -> dict[str, Path]:
    def write(directory: Path) -> dict[str, object]:
        with (directory / "bank").open("wb") as file:
            for _ in range(64):
                file.write(os.urandom(1 << 16))
        return {}

    with locked(root):
        return {"bank": build_artifact(root, Header("SampleBank", "bank", 1), write)[0]}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A real disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(chain, command, recipe, small_disk):
    chain(write_four_megabytes)
    status, _, err = command("bank", recipe, "--out", str(small_disk))
    assert status == 1
    assert err.splitlines()[-1].startswith("tailguard: ")
    assert "the disk is full; free some space and run the same command again" in err
    assert [path.name for path in small_disk.iterdir()] == [".lock"]


def test_a_file_larger_than_allowed(tmp_path, recipe):
    # The same without being root: the system refuses to let a file grow past a limit.
    program = (
        "import resource, sys, types; sys.path.insert(0, sys.argv[1])\n"
        "from test_exit_statuses import write_four_megabytes as run_chain\n"
        "fake = types.SimpleNamespace(run_chain=run_chain, quiet_libraries=lambda: None)\n"
        "fake.forecast_stages, fake.STAGES = lambda *_: {}, {}\n"
        "for name in ('pipeline.chain', 'pipeline.forecast', 'models.quiet'):\n"
        "    sys.modules['tailguard.' + name] = fake\n"
        "from tailguard.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "main(['bank', *sys.argv[2:]])\n"
    )
    out = tmp_path / "run"
    command = [sys.executable, "-c", program, str(Path(__file__).parent), recipe, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "tailguard: File too large"
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_two_runs_in_one_folder(chain, command, recipe, tmp_path):
    chain(write_four_megabytes)
    with locked(tmp_path / "run"):
        status, _, err = command("bank", recipe, "--out", str(tmp_path / "run"))
    assert status == 2
    assert "another tailguard is writing there; wait for it or give another --out" in err


def test_what_is_said_of_the_input_is_one_line(chain, command, recipe):
    def run_chain(*arguments: object, **options: object) -> None:
        warnings.warn(InputWarning("a.jsonl: odd\nbut taken"), stacklevel=1)
        raise InputError("a.jsonl: no more")

    chain(run_chain)
    status, _, said = command("prepare", recipe)
    assert status == 2
    assert "tailguard: warning: a.jsonl: odd but taken" in said.splitlines()
