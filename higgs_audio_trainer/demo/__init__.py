"""Demo: a tiny checkpoint, a few spoken clips, and a training with visible progress."""

from __future__ import annotations

import higgs_audio_trainer.own_packages  # noqa: F401 - `import sinks` finds our package from here on
