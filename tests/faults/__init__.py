"""The suite that breaks things: each test's docstring says what is broken and what must still hold."""

import os

import pytest

#: Faults that only root can inject: mounts, file attributes.
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount or set file attributes")
