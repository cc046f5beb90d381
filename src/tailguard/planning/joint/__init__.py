"""Several constraints, or a spectral measure: thresholds form a vector."""
