"""Tail metrics with intervals, judges, report."""
