"""Demo: a tiny checkpoint, a few spoken clips, and a training with visible progress."""
