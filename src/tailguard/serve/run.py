"""Serving a decoder until interrupted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tailguard.errors import InputError
from tailguard.serve.app import create_app
from tailguard.serve.fail_closed import GuardedDecoder


def serve_decoder(
    load: Callable[[], GuardedDecoder],
    *,
    host: str,
    port: int,
    api_key_file: Path | None = None,
    model_name: str = "tailguard",
) -> None:
    """Serve a decoder with OpenAI's API; returns when interrupted.

    The keys are read and the address is taken first: loading a model can take minutes, in which
    requests are answered with 503.

    Args:
        load: gives the decoder that answers every request.
        host: address to listen on.
        port: port to listen on.
        api_key_file: accepted keys, one per line; None to check none.
        model_name: what requests call the model.

    Raises:
        InputError: a key file that cannot be read or holds no key, or an address that cannot be
            listened on; whatever ``load`` raises.
    """
    import uvicorn

    keys = None if api_key_file is None else read_api_keys(api_key_file)
    with _bound(host, port) as listener:
        app = create_app(None, model_name=model_name, api_keys=keys)
        server = uvicorn.Server(uvicorn.Config(app, log_level="info"))
        failures: list[Exception] = []

        def fill() -> None:
            try:
                app.state.worker.decoder = load()
            except Exception as error:  # noqa: BLE001 - raised below, once the server has ended
                failures.append(error)
                server.should_exit = True

        threading.Thread(target=fill, daemon=True).start()
        with suppress(KeyboardInterrupt):  # the server has ended; so has the command
            server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _bound(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:  # the resolver would take it modulo 65536
        raise InputError(f"--port {port}: cannot listen there; give one of 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # Otherwise a restart within a minute finds the address still taken.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({error}); give another"
        ) from error
    return listener


def read_api_keys(path: Path) -> list[str]:
    """The keys in a file, one per line; empty lines and those starting with ``#`` are skipped.

    Raises:
        InputError: a file that cannot be read or holds no key.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"api_key_file: {path} cannot be read: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise InputError(f"api_key_file: {path} holds no key; write one per line")
    return keys
