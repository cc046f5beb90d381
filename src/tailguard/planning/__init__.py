"""Sample bank, dual solve, frontier."""
