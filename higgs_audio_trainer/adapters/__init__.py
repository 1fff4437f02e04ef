"""What the outputs of a family of models mean: which logits, which labels, the shift between them, the stop tokens."""

from higgs_audio_trainer.adapters.adapter import Adapter, Reading, UnreadableError
from higgs_audio_trainer.adapters.check import MisalignedError, check_adapter
from higgs_audio_trainer.adapters.families import adapter_for

__all__ = ["Adapter", "MisalignedError", "Reading", "UnreadableError", "adapter_for", "check_adapter"]
