"""Logs as data: reading, merging, comparing, validating and summarizing event files. Free of torch."""

from __future__ import annotations

import higgs_audio_trainer.own_packages  # noqa: F401 - `import sinks` finds our package from here on
