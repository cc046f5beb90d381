"""Per-prompt constraints, E_x ρ(C|x) ≤ d: a threshold for each prompt."""
