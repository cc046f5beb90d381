"""The ten stages, one file each: it reads artifacts and writes one. `chain` runs them in order."""
