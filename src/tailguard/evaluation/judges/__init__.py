"""Who judges: scores that took no part in training or selection."""
