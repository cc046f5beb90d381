"""Command line: parse, call, show. Heavy imports are inside the commands."""

from tailguard.cli.app import main

__all__ = ["main"]
