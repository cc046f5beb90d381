"""OpenAI-compatible server over a decoder."""

from tailguard.serve.app import create_app
from tailguard.serve.fail_closed import GuardedAnswer, GuardedDecoder
from tailguard.serve.run import read_api_keys, serve_decoder

__all__ = ["GuardedAnswer", "GuardedDecoder", "create_app", "read_api_keys", "serve_decoder"]
