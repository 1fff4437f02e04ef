"""Checkpoints on the disk: base checkpoint, processor and model for speech."""
