"""Reports on one to eight logs, as a single HTML file. Torch-free."""

from __future__ import annotations

import higgs_audio_trainer.own_packages  # noqa: F401 - `import sinks` finds our package from here on
