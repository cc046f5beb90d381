"""Independent parts of a stage side by side: a process each, with its share of the threads.

On a small model two threads mostly wait for each other; two processes with a model each do not.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from tailguard.errors import TailguardError
from tailguard.pipeline.stage import Work

Message: TypeAlias = tuple[str, int, int]  # what, done, total
Part = TypeVar("Part")
Made = TypeVar("Made")


@runtime_checkable
class Messages(Protocol):
    """A queue between processes."""

    def put(self, obj: Message) -> None:
        """Add a message."""
        ...

    def get(self, block: bool = True, timeout: float | None = None) -> Message:
        """The next message; raises ``queue.Empty`` where none comes in time."""
        ...


# In a worker: how it tells its parent how far it is. Set once, when the worker starts.
_messages: Messages | None = None


def map_side_by_side(
    function: Callable[[Work, Part], Made], work: Work, parts: Sequence[Part]
) -> list[Made]:
    """``function(work, part)`` of each part, in order.

    As many processes as this one may use threads (``OMP_NUM_THREADS`` limits them); one after the
    other here, where that is one or the work is a GPU's.

    Args:
        function: of a module, so that another process finds it.
        work: of the stage; progress is shown here.
        parts: independent of one another.

    Raises:
        TailguardError: a process was killed; else what ``function`` raises.
    """
    threads = _threads(work)
    jobs = min(len(parts), threads)
    if jobs <= 1:
        return [function(work, part) for part in parts]
    context = _context()
    messages: Messages = context.Queue()
    over = threading.Event()
    listener = threading.Thread(target=_listen, args=(messages, work, over), daemon=True)
    listener.start()
    silent_work = replace(work, progress=_tell)
    pool = ProcessPoolExecutor(jobs, context, _start, (messages, max(1, threads // jobs)))
    try:
        futures = [pool.submit(function, silent_work, part) for part in parts]
        # The pool learns of a process only when it is woken after the process has started; without
        # one more call the last one could be killed unseen, and we would wait for ever.
        pool.submit(int)
        finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in finished:
            future.result()  # the first error ends all
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise TailguardError(
            "a worker process was killed, perhaps because memory ran out; what is finished is kept:"
            " run the same command again, with OMP_NUM_THREADS=1 for one process at a time"
        ) from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        over.set()
        listener.join(timeout=5)  # a worker killed while it wrote may have left half a message


def warm_up() -> None:
    """Start to load libraries for later worker processes, if there will be any; returns at once.

    Nothing is loaded in this process, so it can be called before anything else.
    """
    if os.environ.get("OMP_NUM_THREADS") != "1" and (os.cpu_count() or 1) > 1:
        _context()
        forkserver.ensure_running()


def _threads(work: Work) -> int:
    import torch

    from tailguard.models.device import find_device

    recipe = work.recipe
    kinds = {find_device(name).type for name in (recipe.policy.device, recipe.scorers.device)}
    # One GPU is not faster for being shared, and each process would hold its own copies on it.
    return torch.get_num_threads() if kinds == {"cpu"} else 1


def _context() -> ForkServerContext:
    """Workers are forked from one process that has loaded the libraries and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tailguard.pipeline.chain", "tailguard.training.rloo"])
    return context


def _listen(messages: Messages, work: Work, over: threading.Event) -> None:
    """Show progress. Nothing is ever put in here: a worker that was killed may hold the lock."""
    while True:
        try:
            message = messages.get(timeout=0.1)
        except queue.Empty:
            if over.is_set():
                return
        else:
            work.progress(*message)


def _tell(what: str, done: int, total: int) -> None:
    assert _messages is not None  # _start ran first
    _messages.put((what, done, total))


def _start(messages: Messages, threads: int) -> None:
    """In a new worker: its threads, its way to report progress, and that it ends with its parent."""
    import torch

    from tailguard.models.quiet import quiet_libraries

    global _messages
    _messages = messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    quiet_libraries()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
