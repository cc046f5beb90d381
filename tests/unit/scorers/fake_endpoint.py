"""A guard behind HTTP for tests: its verdict is a function of the text that it is sent."""

import json
import math
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeGuard:
    """What the server was asked, and how it answers.

    Attributes:
        odds: log-odds of unsafe for the last message's text.
        failures: statuses that are given first, one for each request; 0 closes the connection.
        requests: bodies and headers of all requests.
    """

    def __init__(self, odds: Callable[[str], float], failures: Sequence[int] = ()) -> None:
        self.odds = odds
        self.failures = list(failures)
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.reply: dict[str, Any] | None = None
        self.lock = threading.Lock()
        self.url = ""


def verdict(odds: float) -> dict[str, Any]:
    """A reply as Llama Guard gives it: white space, then the word, whose tokens are pieces."""
    unsafe = 1.0 / (1.0 + math.exp(-odds))
    split = [("uns", 0.6 * unsafe), ("Unsafe", 0.4 * unsafe), ("safe", 1.0 - unsafe)]
    top = [{"token": "\n\n", "logprob": -9.0}] + [
        {"token": token, "logprob": math.log(max(mass, 1e-30))} for token, mass in split
    ]
    chosen = "uns" if unsafe > 0.5 else "safe"
    content = [
        {"token": "\n\n", "logprob": 0.0, "top_logprobs": [{"token": "\n\n", "logprob": 0.0}]},
        {"token": chosen, "logprob": 0.0, "top_logprobs": top},
    ]
    if chosen == "uns":
        afe = {"token": "afe", "logprob": 0.0}
        content.append(afe | {"top_logprobs": [afe]})
    return {"choices": [{"message": {"content": chosen}, "logprobs": {"content": content}}]}


@contextmanager
def serve_guard(odds: Callable[[str], float], failures: Sequence[int] = ()) -> Generator[FakeGuard]:
    guard = FakeGuard(odds, failures)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with guard.lock:
                guard.requests.append((body, dict(self.headers)))
                status = guard.failures.pop(0) if guard.failures else 200
            if status == 0:
                self.connection.close()
                return
            shown = guard.reply or verdict(guard.odds(body["messages"][-1]["content"]))
            content = json.dumps(shown if status == 200 else {"error": "no\nnot now"}).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", guard.url + "/elsewhere")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    guard.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield guard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
