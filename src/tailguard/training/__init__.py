"""Scorers and risk-constrained policies, on top of TRL."""
