"""The output directory of a run: attempts, checkpoints and the lock. Loads no torch."""
