"""Parts of a stage in processes of their own: the same results, the same errors, no orphans."""

import os
import signal
import threading

import pytest
import torch

from tailguard.config import Recipe
from tailguard.errors import InfeasibleError, TailguardError
from tailguard.pipeline.side_by_side import map_side_by_side
from tailguard.pipeline.stage import Work


def _square(work, part):
    work.progress("squares", part, 3)
    return part * part + work.recipe.seed, os.getpid(), torch.get_num_threads()


def _fail(work, part):
    if part == "infeasible":
        raise InfeasibleError(f"{part}: nothing reaches it", 0.25)
    if part == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait(600)  # the other part would take long


@pytest.fixture
def seen():
    return []


@pytest.fixture
def work(tmp_path, seen):
    return Work(Recipe(seed=7), tmp_path, tmp_path, {}, lambda *step: seen.append(step))


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def test_results_come_in_order_from_processes_of_one_thread_each(work, seen, two_threads):
    made = map_side_by_side(_square, work, [1, 2, 3])
    assert [value for value, _, _ in made] == [8, 11, 16]
    assert os.getpid() not in {process for _, process, _ in made}
    assert {threads for _, _, threads in made} == {1}
    assert sorted(seen) == [("squares", part, 3) for part in (1, 2, 3)]


def test_one_thread_needs_no_processes(work, seen, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert [process for _, process, _ in map_side_by_side(_square, work, [1, 2])] == [
        os.getpid()
    ] * 2
    assert len(seen) == 2


@pytest.mark.parametrize("parts", [["infeasible", "slow"], ["slow", "infeasible"]])
def test_an_error_comes_back_whole_and_stops_the_other_part(work, two_threads, parts):
    with pytest.raises(InfeasibleError, match="infeasible: nothing reaches it") as caught:
        map_side_by_side(_fail, work, parts)
    assert caught.value.smallest_reachable_risk == 0.25


def test_a_killed_process_is_told_in_a_line(work, two_threads):
    with pytest.raises(TailguardError, match="worker process was killed"):
        map_side_by_side(_fail, work, ["killed", "slow"])
