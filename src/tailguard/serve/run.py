"""Serving a decoder until interrupted."""

from __future__ import annotations

from pathlib import Path

from tailguard.errors import InputError
from tailguard.serve.app import create_app
from tailguard.serve.guarded import GuardedDecoder


def serve_decoder(
    decoder: GuardedDecoder,
    *,
    host: str,
    port: int,
    api_key_file: Path | None = None,
    model_name: str = "tailguard",
) -> None:
    """Serve a decoder with OpenAI's API; returns when interrupted.

    Args:
        decoder: answers every request.
        host: address to listen on.
        port: port to listen on.
        api_key_file: accepted keys, one a line; None to check none.
        model_name: what requests call the model.

    Raises:
        InputError: a key file that cannot be read or holds no key.
    """
    import uvicorn

    keys = None if api_key_file is None else read_api_keys(api_key_file)
    app = create_app(decoder, model_name=model_name, api_keys=keys)
    uvicorn.run(app, host=host, port=port, log_level="info")


def read_api_keys(path: Path) -> list[str]:
    """The keys in a file, one a line; empty lines and those starting with ``#`` are skipped.

    Raises:
        InputError: a file that cannot be read or holds no key.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"api_key_file: {path} cannot be read: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise InputError(f"api_key_file: {path} holds no key; write one a line")
    return keys
