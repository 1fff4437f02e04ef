"""Forms in which samples are given. Every form becomes entries, the objects of lines in JSON Lines. Torch-free."""

from higgs_audio_trainer.data.sources.columns import Columns
from higgs_audio_trainer.data.sources.opening import check_local, open_source
from higgs_audio_trainer.data.sources.source import Entry, Source

__all__ = ["Columns", "Entry", "Source", "check_local", "open_source"]
