"""The chain: stages, workers, and one reader and writer for each kind of artifact."""
