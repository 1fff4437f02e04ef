"""What the server of `forks.py` imports; the garbage collectors of its children need not look through it."""

import gc

gc.disable()

import tests.record_training  # noqa: E402, F401

gc.freeze()
gc.enable()
