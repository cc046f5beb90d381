"""Policies, reward and cost scorers, process heads."""
