"""The embedded default: a tiny checkpoint, a few spoken clips, and a training that visibly learns."""
