"""One file a stage: reads artifacts, writes one. `chain` has them all in order."""
