"""Requests for a guard's verdict: over HTTP, again where that may help, and remembered on disk."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, cast

from tailguard.errors import InputError, ScoreError, first_line

_LONGEST_REPLY = 1 << 22  # bytes; a verdict is a few words with their log-probabilities
_PART_BYTES = 1 << 16
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True)
class Retrying:
    """How often, and how far apart, a request is made again.

    Attributes:
        num_tries: at most, the first included.
        first_wait: seconds before the second; doubled with each, up to a minute, with jitter.
            ``Retry-After`` of the server is honoured up to a minute.
        timeout: seconds to wait for a reply.
    """

    num_tries: int = 5
    first_wait: float = 0.5
    timeout: float = 30.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # A redirected request would carry the key to wherever the reply points.
    def redirect_request(self, *args: object, **named: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def post_json(
    url: str, body: Mapping[str, object], *, key: str | None = None, retrying: Retrying
) -> dict[str, Any]:
    """The JSON object that a POST is answered with.

    Args:
        url: where to.
        body: sent as JSON.
        key: sent as a bearer token; it enters no message.
        retrying: what is done about 429, 5xx, broken connections and timeouts.

    Raises:
        InputError: a status that asking again will not change, such as 401 or 404.
        ScoreError: no reply after the last try, or one that is no JSON object.
    """
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    why = ""
    for number in range(retrying.num_tries):
        wait = min(retrying.first_wait * 2**number, _LONGEST_WAIT)
        try:
            with _OPENER.open(request, timeout=retrying.timeout) as reply:
                return _json_object(_read(reply, retrying.timeout), url)
        except urllib.error.HTTPError as error:
            why = f"status {error.code}"
            if error.code not in _AGAIN:
                raise InputError(f"endpoint {url}: {why}: {_told(error)}") from None
            wait = max(wait, _asked_to_wait(error.headers))
        except (OSError, HTTPException) as error:
            why = first_line(error)
        if number + 1 < retrying.num_tries:
            # Jitter: clients that failed together do not come back together.
            time.sleep(wait * (1.0 + 0.25 * random.random()))
    raise ScoreError(f"endpoint {url}: no verdict after {retrying.num_tries} tries ({why})")


def _read(reply: HTTPResponse, seconds: float) -> bytes:
    """A reply that comes within so many seconds, not only each part of it."""
    deadline = time.monotonic() + seconds
    content = b""
    while len(content) <= _LONGEST_REPLY and (part := reply.read1(_PART_BYTES)):
        content += part
        if time.monotonic() > deadline:
            raise TimeoutError(f"the reply took more than {seconds:g} s")
    return content


def _json_object(content: bytes, url: str) -> dict[str, Any]:
    try:
        found: object = json.loads(content) if len(content) <= _LONGEST_REPLY else None
    except (ValueError, RecursionError):  # nested by the thousand
        found = None
    if not isinstance(found, dict):
        raise ScoreError(f"endpoint {url}: the reply is no JSON object")
    return cast("dict[str, Any]", found)


def _told(error: urllib.error.HTTPError) -> str:
    """What a refusal says, in one short line."""
    try:
        return first_line(ValueError(error.read(400).decode("utf-8", "replace")))[:200]
    except (OSError, HTTPException):
        return str(error.reason)


def _asked_to_wait(headers: Message) -> float:
    try:
        return min(max(float(headers.get("Retry-After", "0")), 0.0), _LONGEST_WAIT)
    except ValueError:  # a date; the usual wait will do
        return 0.0


class VerdictCache:
    """Scores on disk by what was asked; several processes may share a folder.

    A file for each score: it is written elsewhere and then named, so that none is read half-written.
    Only numbers are kept, and neither texts nor keys.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def key(*asked: object) -> str:
        """Hash of everything that decides the verdict."""
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> float | None:
        """The score; None where there is none that can be read."""
        try:
            found: object = json.loads(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, float) and abs(found) < float("inf") else None

    def put(self, key: str, score: float) -> None:
        """Keep a score. A disk that is full or read-only only costs the request again."""
        path = self._path(key)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
                file.write(json.dumps(float(score)))
            os.replace(file.name, path)
        except OSError:
            return

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def default_cache_folder() -> Path:
    """``TAILGUARD_CACHE``, else ``tailguard`` in the user's cache folder."""
    if given := os.environ.get("TAILGUARD_CACHE"):
        return Path(given) / "verdicts"
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "tailguard" / "verdicts"
