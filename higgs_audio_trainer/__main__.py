"""Entry point of `python -m higgs_audio_trainer`, the same as the console script."""

from __future__ import annotations

import sys

from higgs_audio_trainer.cli import main

sys.exit(main())
