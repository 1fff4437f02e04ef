"""Fault tests, whose docstrings name the fault and the behaviour that still holds."""

import os

import pytest

#: Faults such as mounts and file attributes need root rights.
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount or set file attributes")
