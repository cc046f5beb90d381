"""Command line: parse, call, show."""
