"""The families that the trainer knows."""

from __future__ import annotations

from higgs_audio_trainer.families.family import Family
from higgs_audio_trainer.families.tts3.family import HiggsTts3Family
from higgs_audio_trainer.families.v2.family import HiggsAudioV2

#: Families by name, the one of the default checkpoint first.
FAMILIES: dict[str, Family] = {family.name: family for family in (HiggsAudioV2(), HiggsTts3Family())}
DEFAULT_FAMILY = HiggsAudioV2.name
