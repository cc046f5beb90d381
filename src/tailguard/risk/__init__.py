"""Risk measures, estimators and bounds: pure functions."""
