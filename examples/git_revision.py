"""A processor of your own: add the git revision to every event, and drop the samples of text.

Usage: `PYTHONPATH=examples higgs-audio-trainer --processors git_revision:make ...`.
"""

from __future__ import annotations

import subprocess
from typing import Any

import structlog
from structlog.typing import EventDict, Processor


def make() -> Processor:
    """Return the processor. The trainer calls this function once, before the training."""
    git = ["git", "describe", "--always", "--dirty"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        revision = None  # no git, or no repository

    def add_revision(_logger: Any, _level: str, event_dict: EventDict) -> EventDict:
        if event_dict["event"] == "prediction_sample" and event_dict["modality"] == "text":
            raise structlog.DropEvent
        event_dict["git_revision"] = revision
        return event_dict

    return add_revision
