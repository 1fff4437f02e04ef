"""Adapters: the meaning of the outputs of a family of models.

An `Adapter` names the logits, the labels, the shift between the two and the stop tokens. `adapter_for` returns the
adapter of a known model, and `check_adapter` checks an adapter of your own by gradients. The modules in this package
are implementation; import from the package.
"""

from higgs_audio_trainer.adapters.adapter import Adapter, Reading, UnreadableError
from higgs_audio_trainer.adapters.check import MisalignedError, check_adapter
from higgs_audio_trainer.adapters.families import adapter_for

__all__ = ["Adapter", "MisalignedError", "Reading", "UnreadableError", "adapter_for", "check_adapter"]
