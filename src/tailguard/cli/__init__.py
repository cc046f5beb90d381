"""Command line: parse, call, show. Heavy imports stand inside the commands."""

from tailguard.cli.app import main

__all__ = ["main"]
