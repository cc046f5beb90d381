"""One thread that generates, and the queue before it."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tailguard.errors import InputError
from tailguard.serve.fail_closed import GuardedDecoder
from tailguard.serve.failures import not_ready, queue_full

T = TypeVar("T")

_LONGEST_WAIT_SECONDS = 600


class Worker:
    """Runs one job at a time on the decoder, off the event loop.

    Attributes:
        decoder: None while it is still being loaded.
    """

    def __init__(self, decoder: GuardedDecoder | None, *, max_queue: int) -> None:
        """Make the queue.

        Args:
            decoder: asked by every job.
            max_queue: the most jobs that wait, the running one not counted.

        Raises:
            InputError: a negative ``max_queue``.
        """
        if max_queue < 0:
            raise InputError(f"max_queue: {max_queue}; must be at least 0")
        self.decoder = decoder
        self._max_pending = max_queue + 1
        # One: a model is not safe to call from two threads, and a GPU gains nothing.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decoder")
        self._lock = threading.Lock()
        self._num_pending = 0
        # A guess until the first job is done; then a moving average.
        self._seconds_a_job = 1.0
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether a job would be taken, a full queue apart."""
        return self.decoder is not None and not self._closed

    def require_decoder(self) -> GuardedDecoder:
        """The decoder.

        Raises:
            ApiError: 503 while there is none.
        """
        if self.decoder is None or self._closed:
            raise not_ready()
        return self.decoder

    async def run(self, job: Callable[[], T]) -> T:
        """Wait for the job's result; a job that was cancelled while it waited is not started.

        Raises:
            ApiError: 503 when closed, 429 when too many jobs wait.
        """
        self.require_decoder()
        with self._lock:
            if self._num_pending >= self._max_pending:
                raise queue_full(self._wait_seconds())
            self._num_pending += 1
        try:
            future = self._executor.submit(self._timed, job)
        except RuntimeError as error:  # shut down in the meantime
            self._release(None)
            raise not_ready() from error
        future.add_done_callback(self._release)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Take no more jobs, drop those that wait, and let the one that runs end."""
        self._closed = True
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _timed(self, job: Callable[[], T]) -> T:
        started = time.perf_counter()
        try:
            return job()
        finally:
            seconds = time.perf_counter() - started
            self._seconds_a_job += 0.2 * (seconds - self._seconds_a_job)

    def _release(self, _: Future[Any] | None) -> None:
        with self._lock:
            self._num_pending -= 1

    def _wait_seconds(self) -> int:
        expected = math.ceil(self._num_pending * self._seconds_a_job)
        return min(max(expected, 1), _LONGEST_WAIT_SECONDS)
