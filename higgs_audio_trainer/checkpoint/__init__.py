"""Checkpoints on the disk: the base checkpoint, its processor, and a model that speaks, opened from them."""
